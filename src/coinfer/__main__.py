"""The `coinfer` command, which is also `python -m coinfer`."""

import sys


def main() -> None:
    """Run the command; an interrupt ends it without a traceback, also while it is still being loaded."""
    try:
        from coinfer.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

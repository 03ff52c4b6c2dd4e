"""`coinfer demo site`: a whole site on this machine, beside the comparison of schemes that `coinfer demo` is."""

import inspect
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from coinfer.cli.console import console


def demo_site(
    seconds: Annotated[float, typer.Option(min=2, help="From the first request to the last one.")] = 45.0,
) -> None:
    """Run a site on this machine: controller, three edge servers, two devices, a fault, a policy and its roll-back.

    Example: [bold]coinfer demo site[/bold]
    """
    from coinfer.demo.site import run_site_demo

    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal or a supervisor must not leave the processes running
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    began_s = time.monotonic()
    run_site_demo(
        seconds,
        lambda text: console.print(f"{time.monotonic() - began_s:5.1f} s  {text}", soft_wrap=True, markup=False),
    )


def demo_app(demo: Callable[..., None]) -> typer.Typer:
    """Return `coinfer demo` as a group: alone it is the comparison, and `site` is a command of its own.

    Args:
        demo: the comparison, with its options.
    """

    def alone(context: typer.Context, **options: Any) -> None:
        if context.invoked_subcommand is None:
            demo(**options)

    signature = inspect.signature(demo)
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    setattr(alone, "__signature__", signature.replace(parameters=[first, *signature.parameters.values()]))  # noqa: B010
    alone.__annotations__ = {"context": typer.Context, **demo.__annotations__}
    alone.__doc__ = demo.__doc__
    app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
    app.callback()(alone)
    app.command("site")(demo_site)
    return app

"""The `coinfer` command."""

import sys
from io import TextIOWrapper
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from coinfer.cli import bottleneck, ca, exits, experience, policy, scenario
from coinfer.cli.accuracy import accuracy
from coinfer.cli.controller import controller
from coinfer.cli.demo import demo
from coinfer.cli.demo_site import demo_app
from coinfer.cli.describe import describe
from coinfer.cli.edge import edge
from coinfer.cli.gateway import gateway
from coinfer.cli.infer import infer
from coinfer.cli.plan import plan
from coinfer.cli.profile import profile
from coinfer.cli.simulate import simulate
from coinfer.cli.top import top
from coinfer.cli.train import train
from coinfer.cli.trainer import trainer
from coinfer.cli.watch import watch
from coinfer.errors import UserError
from coinfer.version import __version__

app = typer.Typer(
    name="coinfer",
    help="Collaborative DNN inference: where to cut a network, how many bits to send, which server does the rest.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # its home differs between versions of typer


def _print_version(asked: bool) -> None:
    if asked:
        print(f"coinfer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


for command in (
    describe,
    profile,
    accuracy,
    plan,
    edge,
    controller,
    trainer,
    top,
    gateway,
    infer,
    watch,
    simulate,
    train,
):
    app.command()(command)
app.add_typer(demo_app(demo), name="demo")
app.add_typer(scenario.app, name="scenario")
app.add_typer(exits.app, name="exits")
app.add_typer(ca.app, name="ca")
app.add_typer(experience.app, name="experience")
app.add_typer(policy.app, name="policy")
app.add_typer(bottleneck.app, name="bottleneck")


def main() -> None:
    """Run the command; a user's mistake becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # neither closed nor replaced
            stream.reconfigure(errors="replace")  # a console without the sign ± prints ?
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except (UserError, OSError, UsageError) as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), _line(error)), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _line(error: Exception) -> str:
    """Return what went wrong, for a person."""
    if isinstance(error, UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "coinfer"
        message = cast(typer.BadParameter, error).format_message()
        return f"{message.removesuffix('.')}; see `{command} --help`"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)

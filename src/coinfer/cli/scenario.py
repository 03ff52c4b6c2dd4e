"""`coinfer scenario`: list, show, copy and check the worlds in which policies are tried."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coinfer.cli.console import console
from coinfer.cli.options import (
    Changes,
    ControllerAddress,
    Insecure,
    Limit,
    Shape,
    Site,
    parse_limits,
    parse_shapes,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Worlds to simulate: presets and your own files.")


@app.command("list")
def list_presets() -> None:
    """The presets: the papers' worlds and two of our own.

    Example: [bold]coinfer scenario list[/bold]
    """
    from coinfer.scenario.load import PRESETS, load

    table = Table(box=None, pad_edge=False)
    for column in ("name", "environment", "what it is"):
        table.add_column(column)
    for name in PRESETS:
        spec = load(name).spec
        table.add_row(name, spec.environment, spec.about)
    console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A preset of `coinfer scenario list`.")],
    output: Annotated[Path | None, typer.Option("-o", help="Write it to a file, to edit.")] = None,
) -> None:
    """Print a preset's file; with -o write a copy to edit.

    Example: [bold]coinfer scenario show campus -o mine.yaml[/bold]
    """
    from coinfer.errors import ScenarioError
    from coinfer.files import write_atomic
    from coinfer.scenario.load import preset_text

    text = preset_text(name)
    if output is None:
        console.print(text, end="", markup=False, soft_wrap=True)
        return
    if output.exists():
        what = "folder" if output.is_dir() else "file"
        raise ScenarioError(f"{output}: there is such a {what} already; it is left as it is")
    try:
        write_atomic(output, text)
    except OSError as error:
        raise ScenarioError(f"{output}: cannot write here: {error.strerror}") from None
    console.print(f"wrote {output}; `coinfer scenario check {output}` reads it", soft_wrap=True)


@app.command()
def check(
    scenario: Annotated[str, typer.Argument(help="A file, or a preset.")],
    changes: Changes = None,
    options: Annotated[bool, typer.Option("--options", help="Also list what each network may choose from.")] = False,
) -> None:
    """Read a scenario, compile it, and say what came out; a mistake in it is one line and exit code 2.

    Example: [bold]coinfer scenario check mine.yaml --set arrivals.rate_per_s=40[/bold]
    """
    from coinfer.scenario.compile import compile_scenario, fingerprint
    from coinfer.scenario.load import load, parse_changes
    from coinfer.scenario.report import option_rows, summary

    compiled = compile_scenario(load(scenario, parse_changes(changes or [])))
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in summary(compiled):
        table.add_row(key, value)
    table.add_row("fingerprint", fingerprint(compiled.world)[:16])
    console.print(table)
    if options and compiled.options:
        options_table = Table(box=None, pad_edge=False)
        for column in ("network", "device", "exit", "sends", "bits", "kB", "device ms", "server ms", "accuracy"):
            left = column in {"network", "device", "sends"}
            options_table.add_column(column, justify="left" if left else "right", overflow="fold")
        for row in option_rows(compiled):
            options_table.add_row(*row)
        console.print()
        console.print(options_table)
    for note in compiled.notes:
        console.print(f"[yellow]note:[/yellow] {note}", soft_wrap=True)


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="An ONNX file (several outputs are exits), or a network of the zoo.")],
    output: Annotated[Path, typer.Option("-o", help="Where the network's table goes.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads to measure with.")] = 1,
    shape: Shape = None,
    limit: Limit = None,
) -> None:
    """Measure a network on this machine for scenarios: as `network` of a model, or in `profiles` of a device or server.

    Example: [bold]coinfer scenario profile mymodel.onnx -o mymodel.json[/bold]
    """
    from coinfer.files import check_writable
    from coinfer.graph.open_model import open_model
    from coinfer.graph.zoo import early_exits
    from coinfer.options.network import network_table
    from coinfer.runtime.code_profile import measure_codes
    from coinfer.runtime.profiling import measure_with_codec, samples_for

    graph = (
        early_exits.build(model)
        if model in early_exits.EXITS
        else open_model(model, parse_shapes(shape), limits=parse_limits(limit))
    )
    check_writable(output)
    chains = [graph.pruned((name,)) for name in graph.outputs]
    with console.status(f"measuring {graph.name}") as status:
        tables = []
        for number, chain in enumerate(chains, start=1):
            status.update(f"measuring {graph.name}, exit {number} of {len(chains)}")
            tables.append(measure_with_codec(chain, threads, samples_for(chain)))
        codes = measure_codes(graph, samples_for(graph), time.thread_time if threads == 1 else time.perf_counter)
    table = network_table(graph, tables, codes)
    table.save(output)
    console.print(f"{output}: {graph.name}, {table.whole_s * 1e3:.3g} ms here, {len(chains)} exit(s)", soft_wrap=True)


@app.command("from-site")
def from_site(
    output: Annotated[Path, typer.Option("-o", help="Folder for site.yaml and the tables that it names.")],
    store: Annotated[Path | None, typer.Option(help="File in which the controller keeps the experience.")] = None,
    controller: ControllerAddress = "",
    site: Site = None,
    insecure: Insecure = False,
    last: Annotated[int, typer.Option(min=1, help="Decisions that are looked at; the newest ones.")] = 50_000,
    slot_ms: Annotated[float | None, typer.Option(min=0.1, help="Length of a slot; fitted without it.")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Let the very requests of the log come, each at its moment, not as many.")
    ] = False,
) -> None:
    """Fit a scenario to what a site has measured: its servers, links, arrivals, and what its requests cost.

    Example: [bold]coinfer scenario from-site --store site/controller/state/experience.sqlite -o fitted/[/bold]
    """
    from collections import deque

    from coinfer.site.fitting.evidence import decided
    from coinfer.site.fitting.fit import FitError, fit
    from coinfer.site.fitting.requests import asked, recorded_requests, with_short_slots
    from coinfer.site.fitting.scenario_file import write_scenario
    from coinfer.site.operator import Operator
    from coinfer.site.store import newest_experience

    if (store is None) == (not controller):
        raise typer.BadParameter("expected either --store FILE or --controller HOST:PORT")
    if store is not None:
        records = newest_experience(store, last)
    else:
        with Operator(controller, site, insecure) as operator:
            records = [*deque(operator.experience(), maxlen=last)]
    decisions = decided(records)
    fitted = fit(decisions, slot_ms / 1e3 if slot_ms else None)
    known = [one for one in asked(decisions, fitted.by_server) if one.at_s >= fitted.since_s] if replay else []
    if replay and not known:
        raise FitError("no request of the log can be played again; leave out --replay, or let the site run for longer")
    requests = recorded_requests(fitted, known)
    fitted = with_short_slots(fitted) if replay and not slot_ms else fitted
    path = write_scenario(fitted, output, f"site-{output.resolve().name}", requests)
    for note in fitted.notes:
        console.print(f"[yellow]note:[/yellow] {note}", soft_wrap=True)
    console.print(
        f"{path}: {len(fitted.deciders)} nodes, {len(fitted.servers)} servers, {fitted.rate_per_s:.3g} requests/s "
        f"in {fitted.decisions} decisions; `coinfer simulate {path}` opens it",
        soft_wrap=True,
    )

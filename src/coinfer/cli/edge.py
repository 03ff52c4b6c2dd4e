"""`coinfer edge`: serve networks."""

import os
from pathlib import Path
from typing import Annotated

import typer

from coinfer.addresses import parse_addresses
from coinfer.cli.console import drain_at_eof, interrupted_quietly
from coinfer.cli.options import (
    LIMIT_MIB,
    ControllerAddress,
    Insecure,
    Limit,
    LimitMib,
    NodeName,
    Provider,
    Shape,
    Site,
    Slowdown,
    Threads,
    Traces,
    parse_limits,
    parse_shapes,
    start_traces,
)
from coinfer.runtime.edge import defaults
from coinfer.units import MIB


def edge(
    models: Annotated[list[str] | None, typer.Argument(help="ONNX files or zoo networks to serve.")] = None,
    host: Annotated[str, typer.Option(help="Name or IP address to listen on; :: and 0.0.0.0 are all.")] = defaults.HOST,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = defaults.GRPC_PORT,
    http_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="REST and /metrics; 0 any, -1 none.")
    ] = defaults.HTTP_PORT,
    shape: Shape = None,
    limit: Limit = None,
    threads: Threads = 1,
    workers: Annotated[int, typer.Option(min=1, help="Requests computed at the same time.")] = 1,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused.")] = defaults.QUEUE,
    batch: Annotated[
        int, typer.Option(min=1, help="Requests for one piece that may run together, where that is faster; 1: none.")
    ] = defaults.BATCH,
    memory_mib: Annotated[
        int | None, typer.Option(min=1, help="Load and evict networks as requests come, within so much memory.")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Folder of ONNX files that clients may have loaded and unloaded.")
    ] = None,
    limit_mib: LimitMib = LIMIT_MIB,
    slowdown: Slowdown = 1.0,
    provider: Provider = "cpu",
    peers: Annotated[
        str, typer.Option(help="Edge servers that a route may go on to, host:port,...; `any` allows all.")
    ] = "",
    announce: Annotated[
        bool, typer.Option("--announce", help="Announce it in the local network, for --servers zeroconf.")
    ] = False,
    echo: Annotated[bool, typer.Option("--echo", help="Also serve `echo`, which returns its input.")] = False,
    site: Site = None,
    controller: ControllerAddress = "",
    name: NodeName = "",
    advertise: Annotated[
        str, typer.Option(help="host:port by which other nodes reach this one, if it is not where it listens.")
    ] = "",
    policy: Annotated[
        str,
        typer.Option(help="Actor (.onnx, or `learned`) that chooses servers in a site; a rule without (docs/site.md)."),
    ] = "",
    actor_late_ms: Annotated[
        float, typer.Option(min=0.1, help="An actor of a site that takes longer is not waited for; greedy decides.")
    ] = 5.0,
    state: Annotated[Path | None, typer.Option(help="Folder for what must survive a restart of a site's node.")] = None,
    insecure: Insecure = False,
    traces: Traces = "",
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="Drain when standard input ends, so as to end with who started it.")
    ] = False,
) -> None:
    """Serve networks, whole or any part of them, over gRPC and REST (Open Inference Protocol v2).

    SIGTERM drains: what was admitted is finished first.

    Example: [bold]coinfer edge resnet50 mymodel.onnx --grpc-port 8001[/bold]
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own message says which port is taken
    with interrupted_quietly():
        from coinfer.runtime.edge.server import EdgeSettings, run_edge

    settings = EdgeSettings(
        models=tuple(models or ()),
        host=host,
        grpc_port=grpc_port,
        http_port=None if http_port < 0 else http_port,
        shapes=parse_shapes(shape),
        limits=parse_limits(limit),
        threads=threads,
        workers=workers,
        queue=queue,
        batch=batch,
        memory_mib=memory_mib,
        repository=repository,
        limit_bytes=limit_mib * MIB,
        slowdown=slowdown,
        provider=provider,
        peers=None if peers == "any" else parse_addresses(peers, "--peers"),
        echo=echo,
        announce=announce,
    )
    start_traces(traces, "coinfer-edge")
    if until_eof:
        drain_at_eof()
    agent = None
    if site is not None or controller:
        from coinfer.site.agent.joining import NodeOptions, join_edge

        options = NodeOptions(site, controller, name, state, insecure)
        agent = join_edge(options, host, grpc_port, advertise=advertise, policy=policy, late_s=actor_late_ms / 1e3)
    raise typer.Exit(run_edge(settings, agent))

"""`coinfer gateway`: a device that any client of the Open Inference Protocol can ask."""

import os
from typing import Annotated

import typer

from coinfer.addresses import parse_addresses
from coinfer.cli.options import (
    Accuracy,
    Confidence,
    ConfidenceLoss,
    ControllerAddress,
    Dispatch,
    EnergyMj,
    Goal,
    Insecure,
    Jpeg,
    Limit,
    MinAccuracy,
    NodeName,
    OfferedBits,
    PolicyFile,
    PowerW,
    ProfileFile,
    Provider,
    Servers,
    Shape,
    Site,
    Slowdown,
    Threads,
    TransmitPowerW,
    limit_or_inf,
    parse_bits,
    parse_confidence,
    parse_limits,
    parse_shapes,
)
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.edge import defaults as edge_defaults
from coinfer.runtime.gateway import defaults
from coinfer.units import MESSAGE_BYTES, MIB


def gateway(
    models: Annotated[list[str], typer.Argument(help="ONNX files or zoo networks to serve.")],
    servers: Servers = "",
    site: Site = None,
    controller: ControllerAddress = "",
    name: NodeName = "",
    dispatch: Dispatch = False,
    host: Annotated[
        str, typer.Option(help="Name or IP address to listen on; :: and 0.0.0.0 are all.")
    ] = edge_defaults.HOST,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = edge_defaults.GRPC_PORT,
    http_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="REST and /metrics; 0 any, -1 none.")
    ] = edge_defaults.HTTP_PORT,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests under way at the same time.")
    ] = defaults.CONCURRENCY,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused.")] = defaults.QUEUE,
    limit_mib: Annotated[int, typer.Option(min=1, help="Largest message in MiB.")] = MESSAGE_BYTES // MIB,
    deadline_ms: Annotated[
        float, typer.Option(min=0, help="Milliseconds for requests that bring no deadline; 0 is none.")
    ] = 0.0,
    bits: OfferedBits = None,
    jpeg: Jpeg = None,
    slowdown: Slowdown = DEFAULTS.slowdown,
    threads: Threads = DEFAULTS.threads,
    provider: Provider = DEFAULTS.provider,
    table: ProfileFile = None,
    shape: Shape = None,
    limit: Limit = None,
    goal: Goal = DEFAULTS.objective.goal,
    min_accuracy: MinAccuracy = DEFAULTS.objective.min_accuracy,
    energy_mj: EnergyMj = 0.0,
    power_w: PowerW = DEFAULTS.objective.power_w,
    transmit_power_w: TransmitPowerW = DEFAULTS.objective.transmit_power_w,
    accuracy: Accuracy = None,
    confidence: Confidence = "",
    confidence_loss: ConfidenceLoss = None,
    policy: PolicyFile = None,
    insecure: Insecure = False,
) -> None:
    """Answer whole-network requests of any client (Open Inference Protocol v2) from this device and its edge servers.

    A client changes its address and nothing else. Each request may bring its own deadline, goal and priority, and its
    reply says who computed it. In a site (--site), only its members may ask. SIGTERM drains: what was
    admitted is finished first.

    Example: [bold]coinfer gateway resnet50 --servers 192.168.1.20:8001 --grpc-port 8011 --http-port 8010[/bold]
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own message says which port is taken
    from coinfer.runtime.gateway.server import GatewaySettings, run_gateway

    device = DeviceConfig(
        servers=parse_addresses(servers, "--servers"),
        controller=controller,
        site=site,
        name=name,
        insecure=insecure,
        dispatch=dispatch,
        deadline_s=limit_or_inf(deadline_ms / 1e3),
        objective=Objective(goal, min_accuracy, limit_or_inf(energy_mj / 1e3), power_w, transmit_power_w),
        policy=policy,
        bits=None if bits is None else parse_bits(bits),
        jpeg_quality=jpeg,
        accuracy=accuracy,
        confidence=parse_confidence(confidence),
        confidence_loss=confidence_loss,
        profile=table,
        slowdown=slowdown,
        threads=threads,
        limits=parse_limits(limit),
        provider=provider,
    )
    settings = GatewaySettings(
        models=tuple(models),
        device=device,
        shapes=parse_shapes(shape),
        host=host,
        grpc_port=grpc_port,
        http_port=None if http_port < 0 else http_port,
        concurrency=concurrency,
        queue=queue,
        limit_bytes=limit_mib * MIB,
    )
    security = None
    if site is not None:
        from coinfer.site.certificates.identity import find_identity
        from coinfer.site.certificates.node_security import node_security

        security = node_security(find_identity(site, "device"))
    elif controller:
        from coinfer.site.certificates.plain import check_plain

        check_plain(None, settings.host, insecure, f"--host {host}")
    raise typer.Exit(run_gateway(settings, security))

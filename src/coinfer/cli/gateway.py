"""`coinfer gateway`: a device that any client of the Open Inference Protocol can ask."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from coinfer.cli.device_options import with_device_options
from coinfer.cli.options import LIMIT_MIB, LimitMib
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.edge import defaults as edge_defaults
from coinfer.runtime.gateway import defaults
from coinfer.units import MIB


@with_device_options
def gateway(
    device: DeviceConfig,
    models: Annotated[list[str], typer.Argument(help="ONNX files or zoo networks to serve.")],
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
    limit_mib: LimitMib = LIMIT_MIB,
) -> None:
    """Answer whole-network requests of any client (Open Inference Protocol v2) from this device and its edge servers.

    A client changes its address and nothing else. Each request may bring its own deadline, goal and priority, and its
    reply says who computed it. In a site (--site), only its members may ask. SIGTERM drains: what was
    admitted is finished first.

    Example: [bold]coinfer gateway resnet50 --servers 192.168.1.20:8001 --grpc-port 8011 --http-port 8010[/bold]
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # our own message says which port is taken
    from coinfer.runtime.gateway.server import GatewaySettings, run_gateway

    settings = GatewaySettings(
        models=tuple(models),
        device=replace(device, shapes={}),
        shapes={name: str(sizes) for name, sizes in device.shapes.items()},
        host=host,
        grpc_port=grpc_port,
        http_port=None if http_port < 0 else http_port,
        concurrency=concurrency,
        queue=queue,
        limit_bytes=limit_mib * MIB,
    )
    security = None
    if device.site is not None:
        from coinfer.site.certificates.identity import find_identity
        from coinfer.site.certificates.node_security import node_security

        security = node_security(find_identity(Path(device.site), "device"))
    elif device.controller:
        from coinfer.site.certificates.plain import check_plain

        check_plain(None, settings.host, device.insecure, f"--host {host}")
    raise typer.Exit(run_gateway(settings, security))

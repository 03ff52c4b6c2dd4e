"""From what a user asks for to a node's place in a site: identity, name, folder, controller."""

import socket
from pathlib import Path
from typing import NamedTuple

from coinfer.addresses import parse_address
from coinfer.files import cache_folder
from coinfer.site.agent.dispatcher import LATE_S
from coinfer.site.agent.edge_agent import AgentSettings, EdgeAgent
from coinfer.site.agent.stream import Controller
from coinfer.site.certificates.identity import Identity, find_identity
from coinfer.site.certificates.plain import check_plain_address
from coinfer.site.certificates.roles import NAME, Role, SecurityError, check_name


class NodeOptions(NamedTuple):
    """What a user says of a node's site."""

    site: Path | None = None
    """Folder of the site, or of the node's own certificate; None speaks plain text."""
    controller: str = ""
    """`host:port`; empty if there is none."""
    name: str = ""
    """In a site without certificates; empty for one that is made up."""
    state: Path | None = None
    """Folder for what must survive a restart; None puts it beside the certificate, or into the user's cache."""
    insecure: bool = False
    """Allow plain text beyond this machine."""


class Place(NamedTuple):
    """A node's place in a site."""

    name: str
    state: Path
    controller: Controller | None
    identity: Identity | None


def find_place(options: NodeOptions, role: Role, suffix: str) -> Place:
    """Return a node's place in a site.

    Args:
        options: what the user said.
        role: of the node.
        suffix: makes a name of the machine's unique, such as a port.

    Raises:
        UserError: if address, name or certificates cannot be used.
    """
    identity = None if options.site is None else find_identity(options.site, role)
    controller = None
    if options.controller:
        address = str(parse_address(options.controller, "--controller"))
        check_plain_address(identity, address, options.insecure, "--controller")
        controller = Controller(address, identity)
    if identity is None:
        name = check_name(options.name or _made_up(role, suffix))
        return Place(name, options.state or cache_folder("site") / name, controller, None)
    if options.name not in ("", identity.peer.name):
        raise SecurityError(f"--name {options.name}: the certificate in {identity.folder} is of {identity.peer.name}")
    return Place(identity.peer.name, options.state or identity.folder / "state", controller, identity)


def join_edge(
    options: NodeOptions, host: str, grpc_port: int, *, advertise: str = "", policy: str = "", late_s: float = LATE_S
) -> EdgeAgent:
    """Return the agent of an edge server.

    Args:
        options: what the user said of the site.
        host: on which the server listens.
        grpc_port: the same; 0 for any.
        advertise: address by which others reach it; empty for the one on which it listens.
        policy: file of an actor, or the name of a shipped one; empty for sequential greedy.
        late_s: an actor that has not decided by then is not waited for.

    Raises:
        UserError: if anything of it cannot be used.
    """
    place = find_place(options, "edge", str(grpc_port) if grpc_port else "any")
    address = str(parse_address(advertise, "--advertise")) if advertise else ""
    if place.controller is not None and not address and host in ("0.0.0.0", "::"):
        raise SecurityError(f"--host {host} is no address by which others reach this server; say it with --advertise")
    controller = place.controller.address if place.controller else ""
    return EdgeAgent(AgentSettings(place.name, place.state, controller, place.identity, address, policy, late_s))


def _made_up(role: Role, suffix: str) -> str:
    host = "".join(c if c.isalnum() and c.isascii() else "-" for c in socket.gethostname().lower())[:40].strip("-")
    name = f"{role}-{host}-{suffix}".replace("--", "-")
    return name if NAME.fullmatch(name) else f"{role}-{suffix}"

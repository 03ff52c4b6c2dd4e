"""Connections that say nothing, requests that stop half-way, and callers that never read, while others are served.

All of them come from another address than the well-behaved caller (127.0.0.2), as limits are per address.
"""

import argparse
import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from fault_kinds import targets
from fault_kinds.load import OpenLoad, lost, quantile_ms
from fault_kinds.nodes import Node, nodes

from coinfer.units import MIB

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = struct.pack(">I", 0)[1:] + b"\x04\x00" + struct.pack(">I", 0)
HALF = {
    "grpc": PREFACE + SETTINGS + b"\x00\x00\x40\x01\x04\x00\x00\x00\x01",
    "http": b"POST /v2/models/alexnet-cifar/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n{",
}
"""A request that stops half-way: a header frame without its headers, a body without its end."""
STALLED = {"grpc": PREFACE + SETTINGS, "http": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 3}
"""What asks for much, and then reads nothing."""
OTHER = "127.0.0.2"
RATE = 20.0
SILENT_S = 10.0
"""Goal: silent connections are closed within this time."""


def flood(address: str, count: int, first: bytes) -> list[socket.socket]:
    """Open connections that send something and then nothing more."""
    host, _, port = address.rpartition(":")
    made: list[socket.socket] = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what is not read soon stalls the sender
            one.settimeout(5.0)
            one.bind((OTHER, 0))
            one.connect((host, int(port)))
            one.setblocking(False)
            made.append(one)
            if first:
                one.send(first)
    return made


def still_open(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """Return those that the server has not closed; what they got is read, except by those that never read."""
    poll = select.poll()
    for one in sockets:
        poll.register(one, select.POLLIN | select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    closed = {fd for fd, event in poll.poll(0) if event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)}
    return [one for one in sockets if one.fileno() not in closed]


def measure(node: Node, protocol: str, scale: float, calm_s: float, wait_s: float) -> dict[str, Any]:
    """Return what floods do to a server, and what becomes of them."""
    address = getattr(node, protocol)
    kinds = {"silent": (1000, b""), "half": (1000, HALF[protocol]), "stalled": (100, STALLED[protocol])}
    with targets.CLIENTS[protocol](address) as ask:
        load = OpenLoad(ask, RATE, retry=True)
        time.sleep(calm_s)
        calm, rss = len(load.ended), node.rss_bytes()
        began_s = time.monotonic()
        sockets = {name: flood(address, max(int(count * scale), 1), first) for name, (count, first) in kinds.items()}
        opened = {name: len(held) for name, held in sockets.items()}
        closed_s: dict[str, float | None] = dict.fromkeys(kinds)
        most_rss = rss
        while time.monotonic() < began_s + wait_s:
            time.sleep(0.25)
            most_rss = max(most_rss, node.rss_bytes())
            for name, held in sockets.items():
                if closed_s[name] is None and not still_open(held):
                    closed_s[name] = round(time.monotonic() - began_s, 1)
        left = {name: len(still_open(held)) for name, held in sockets.items()}
        ended = load.stop()
        for held in sockets.values():
            for one in held:
                one.close()
    calm_p99, flood_p99 = (quantile_ms([one.took_s for one in part], 0.99) for part in (ended[:calm], ended[calm:]))
    return {
        "opened": opened,
        "all_closed_after_s": closed_s,
        f"open_after_{wait_s:g}_s": left,
        "others_lost": sum(lost(ended).values()),
        "others_p99_ms": {"calm": calm_p99, "flood": flood_p99},
        "p99_over_calm": round((flood_p99 or 0) / (calm_p99 or 1), 2),
        "rss_growth_mib": round((most_rss - rss) / MIB, 1),
        "logged_errors": node.problems(),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of each flood")


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what floods do to an edge server and to a gateway."""
    found: dict[str, Any] = {}
    with nodes([["edge", targets.MODEL, "--slowdown", "20"], ["gateway", targets.MODEL, "--slowdown", "20"]]) as both:
        for target, node in zip(("edge", "gateway"), both, strict=True):
            for protocol in ("grpc", "http"):
                quick = settings.quick
                name = f"{target}-{protocol}"
                found[name] = measure(node, protocol, *((0.02, 1.0, 1.0) if quick else (1.0, 8.0, settings.seconds)))
                print(f"{name}: {found[name]}", flush=True)
                if quick:
                    return found
    return found

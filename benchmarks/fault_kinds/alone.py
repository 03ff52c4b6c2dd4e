"""All servers are killed at once, and come back later: does the device answer alone, and leave them in peace?

Requests come at half of what the device can do alone; its servers are four times faster. In the place of each dead
server something listens that ends every connection at once, and counts them. Goals: every request is answered; from
2 s on, with a 99th percentile of at most 20 ms more than that of a device that never had servers, and at most one
connection a second to each; servers are used again within 5 s.
"""

import argparse
import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from fault_kinds import targets
from fault_kinds.load import ANSWERED, Ended, OpenLoad, capacity, lost, quantile_ms
from fault_kinds.nodes import Node, nodes
from fault_kinds.suffering import asked, spread

LOAD = 0.5
SERVERS = 3
SLOWDOWN, SERVER_SLOWDOWN = 40.0, 10.0
COUNT, HOLD_S, CALM_S = 5, 60.0, 15.0
ALONE_S = 2.0
"""From then on the device knows that it is alone."""
LONGEST_AGAIN_S = 60.0
"""If no server has answered again by then, none will."""
RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` with which a connection ends by a reset."""


class Knocks:
    """Listens where servers were, and ends every connection at once.

    Args:
        addresses: `host:port` of each.
    """

    def __init__(self, addresses: Sequence[str]):
        self.at_s: list[float] = []
        """When each connection came, to any of them."""
        self._over = threading.Event()
        self._sockets = [socket.create_server(("127.0.0.1", int(one.rpartition(":")[2]))) for one in addresses]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._over.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            for one in select.select(self._sockets, [], [], 0.1)[0]:
                came, _ = one.accept()
                came.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                came.close()
                self.at_s.append(time.monotonic())


def without_servers(target: str, seconds: float) -> tuple[float, float | None]:
    """Return a rate that the device keeps up with alone, and its 99th percentile in ms there."""
    with asked(target, [], SLOWDOWN) as ask:
        rate = LOAD * capacity(ask, min(seconds, 5.0), at_once=1)
        load = OpenLoad(ask, rate, retry=True)
        time.sleep(seconds)
        return rate, quantile_ms([one.took_s for one in load.stop()], 0.99)


class Death(NamedTuple):
    """All servers were gone for a while."""

    gone_s: float
    back_s: float
    knocks_s: list[float]
    """When each connection came meanwhile."""


def die(servers: Sequence[Node], hold_s: float) -> Death:
    """Kill all servers and start them again."""
    for server in servers:
        server.kill()
    gone_s, knocks = time.monotonic(), Knocks([server.grpc for server in servers])
    time.sleep(hold_s)
    knocks.close()
    for server in servers:
        server.launch()
    return Death(gone_s, max(server.wait_ready() for server in servers), knocks.at_s)


def used_since(ended: Sequence[Ended], since_s: float) -> float | None:
    """Return when a server first answered after some time; None if none did."""
    by_servers = (one for one in ended if one.answer.what == ANSWERED and one.answer.node != "device")
    return min((one.done_s for one in by_servers if one.done_s >= since_s), default=None)


def wait_used(load: OpenLoad, since_s: float) -> None:
    """Wait until a server has answered again, for a limited time."""
    while used_since([*load.ended], since_s) is None and time.monotonic() < since_s + LONGEST_AGAIN_S:
        time.sleep(0.1)


def report(ended: Sequence[Ended], deaths: Sequence[Death], hold_s: float) -> dict[str, Any]:
    """Return the figures of a run."""
    alone = [one for one in ended if any(0 <= one.due_s - death.gone_s < hold_s for death in deaths)]
    settled = [one for one in alone if any(ALONE_S <= one.due_s - death.gone_s < hold_s for death in deaths)]
    again = [(used_since(ended, death.back_s), death.back_s) for death in deaths]
    knocks = sum(at_s - death.gone_s >= ALONE_S for death in deaths for at_s in death.knocks_s)
    return {
        "requests": len(ended),
        "lost": sum(lost(ended).values()),
        "ends": lost(ended),
        "told_to_come_again": sum(one.refusals > 0 for one in ended),
        "requests_while_alone": len(alone),
        "not_by_device_then": sum(one.answer.node != "device" for one in settled),
        "alone_p99_ms": quantile_ms([one.took_s for one in alone], 0.99),
        f"alone_p99_from_{ALONE_S:g}_s_ms": quantile_ms([one.took_s for one in settled], 0.99),
        "connections": sum(len(death.knocks_s) for death in deaths),
        "connections_per_s_and_server": round(knocks / len(deaths) / (hold_s - ALONE_S) / SERVERS, 3),
        "never_used_again": sum(used_s is None for used_s, _ in again),
        "used_again_s": spread([used_s - back_s for used_s, back_s in again if used_s is not None]),
    }


def measure(target: str, count: int, hold_s: float, calm_s: float) -> dict[str, Any]:
    """Return the figures of one target."""
    rate, local_p99_ms = without_servers(target, calm_s)
    with contextlib.ExitStack() as stack:
        commands = [["edge", targets.MODEL, "--slowdown", str(SERVER_SLOWDOWN)]] * SERVERS
        servers = stack.enter_context(nodes(commands))
        load = OpenLoad(
            stack.enter_context(asked(target, [server.grpc for server in servers], SLOWDOWN)), rate, retry=True
        )
        deaths = list[Death]()
        for _ in range(count):
            time.sleep(calm_s)
            deaths.append(die(servers, hold_s))
            wait_used(load, deaths[-1].back_s)
        time.sleep(calm_s)
        ended = load.stop()
    return {"rate_per_s": round(rate, 1), "local_p99_ms": local_p99_ms} | report(ended, deaths, hold_s)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--count", type=int, default=COUNT, help="times that all servers die, for each target")
    parser.add_argument("--seconds", type=float, default=HOLD_S, help="for which they are gone")
    parser.add_argument("--targets", nargs="+", default=["device", "gateway-grpc", "gateway-http"])


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each target."""
    found: dict[str, Any] = {}
    for target in settings.targets[: 1 if settings.quick else None]:
        found[target] = measure(
            target, *((1, 3.0, 1.0) if settings.quick else (settings.count, settings.seconds, CALM_S))
        )
        print(f"alone, {target}: {found[target]}", flush=True)
    return found

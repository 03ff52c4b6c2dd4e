"""Servers that answer with errors: half of what is asked of one of them, and then everything of all of them.

Each server stands behind a front that passes requests on, or fails them as the fault says; probes always pass, as of a
server whose engine is broken and whose port is well. Requests come at 70 % of what all answer together. Goals: nothing
is lost; a server that fails half is asked at most 100 times while that lasts, and used again within 10 s; with all
servers failing at most 1.2 attempts are made for each request; in calm at most 5 % of the requests are sent twice.
"""

import argparse
import contextlib
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
from fault_kinds import suffering, targets
from fault_kinds.load import Ended, OpenLoad, capacity
from fault_kinds.nodes import nodes
from fault_kinds.suffering import Fault, Suffered, asked, report, spread, torment

from coinfer.runtime.protocol import protobuf
from coinfer.runtime.transport.base import PING_MODEL
from coinfer.runtime.transport.grpc_transport import SERVICE, client_options, server_options

HALF, ALL = 0.5, 1.0
HOLD_S = 10.0
COUNT = 10
THREADS = 96


class Front(grpc.GenericRpcHandler):
    """A gRPC server in this process that passes requests on to another one, or fails them.

    Args:
        target: `host:port` of the other one.
    """

    def __init__(self, target: str):
        self.share = 0.0
        """Of the requests that fail."""
        self.attempts = 0
        """Requests so far, without probes and preparations."""
        self._rng, self._lock = random.Random(3), threading.Lock()
        self._channel = grpc.insecure_channel(target, client_options(patience_s=targets.PATIENCE_S))
        self._call = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._server = grpc.server(ThreadPoolExecutor(THREADS), [self], options=server_options())
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the one handler for every method that devices call."""
        return grpc.unary_unary_rpc_method_handler(self._infer)

    def close(self) -> None:
        """End all calls."""
        self._server.stop(0).wait()
        self._channel.close()

    def _infer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        request = protobuf.parse_request(message)
        if request.model != PING_MODEL:
            with self._lock:
                self.attempts += not request.warm
                fails = self._rng.random() < self.share
            if fails:
                context.abort(grpc.StatusCode.INTERNAL, "made to fail")
        try:
            return cast(bytes, self._call(message, timeout=context.time_remaining()))
        except grpc.RpcError as error:
            call = cast(grpc.Call, error)
            context.set_trailing_metadata(call.trailing_metadata() or ())
            context.abort(call.code(), call.details() or "")
            raise


class Attempts:
    """How often servers were asked during each fault."""

    def __init__(self, fronts: list[Front]):
        self.in_faults: list[int] = []
        self._fronts = fronts

    def total(self) -> int:
        """Return how often all servers were asked so far."""
        return sum(front.attempts for front in self._fronts)

    def fault(self, everywhere: bool) -> Fault:
        """Return what lets one server fail half, or all of them everything."""

        def victims(index: int) -> list[Front]:
            return self._fronts if everywhere else [self._fronts[index]]

        def begin(index: int) -> None:
            self.in_faults.append(-sum(front.attempts for front in victims(index)))
            for front in victims(index):
                front.share = ALL if everywhere else HALF

        def end(index: int) -> float:
            for front in victims(index):
                front.share = 0.0
            self.in_faults[-1] += sum(front.attempts for front in victims(index))
            return time.monotonic()

        return Fault(begin, end)


def sent_twice(calm: list[Ended], attempts: int) -> float:
    """Return the share of requests that were sent to one more server than the one that answered, of those in calm."""
    needed = sum(one.answer.node != "device" for one in calm)
    return round(max(attempts - needed, 0) / max(len(calm), 1), 4)


def due_in(ended: list[Ended], happened: list[Suffered]) -> list[int]:
    """Return how many requests were due during each fault."""
    return [sum(fault.began_s <= one.due_s < fault.back_s for one in ended) for fault in happened]


def measure_part(
    load: OpenLoad,
    attempts: Attempts,
    names: Sequence[str],
    victims: Sequence[int],
    hold_s: float,
    calm_s: float,
    *,
    everywhere: bool,
) -> dict[str, Any]:
    """Return the figures of one of the two faults; the load is stopped then."""
    time.sleep(calm_s / 4)
    before, asked_before = len(load.ended), attempts.total()
    time.sleep(calm_s)
    calm, twice = load.ended[before:], attempts.total() - asked_before
    attempts.in_faults.clear()
    happened = torment(load, attempts.fault(everywhere), victims, hold_s, hold_s)
    ended = load.stop()[before + len(calm) :]
    due = due_in(ended, happened)
    return {
        "sent_twice_in_calm": sent_twice(calm, twice),
        "attempts_in_a_fault": spread([float(number) for number in attempts.in_faults]),
        "requests_in_a_fault": spread([float(number) for number in due]),
        "attempts_per_request": round(sum(attempts.in_faults) / max(sum(due), 1), 3),
    } | report(calm, ended, happened, names)  # fmt: skip


def measure(target: str, size: int, count: int, hold_s: float, calm_s: float, slowdown: float) -> dict[str, Any]:
    """Return the figures of both faults for one target."""
    commands = [["edge", targets.MODEL, "--slowdown", str(slowdown)]] * size
    found, rng = dict[str, Any](), random.Random(7)
    with nodes(commands) as servers, contextlib.ExitStack() as stack:
        fronts = [Front(server.grpc) for server in servers]
        for front in fronts:
            stack.callback(front.close)
        names, attempts = [front.address for front in fronts], Attempts(fronts)
        ask = stack.enter_context(asked(target, names, slowdown))
        per_s = capacity(ask, min(calm_s, 8.0), at_once=2 * size)
        for part, faults in (("one", count), ("all", max(count // 5, 1))):
            victims = [rng.randrange(size) for _ in range(faults)]
            load = OpenLoad(ask, suffering.LOAD * per_s, retry=True)
            everywhere = part == "all"
            found[part] = measure_part(load, attempts, names, victims, hold_s, calm_s, everywhere=everywhere)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this kind alone takes."""
    parser.add_argument("--count", type=int, default=COUNT, help="times that one server fails; all do a fifth as often")
    parser.add_argument("--slowdown", type=float, default=suffering.SLOWDOWN, help="of servers and device")
    parser.add_argument("--targets", nargs="+", default=["device", "gateway-grpc", "gateway-http"])


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each target."""
    found: dict[str, Any] = {}
    for target in settings.targets[: 1 if settings.quick else None]:
        size, count, hold_s, calm_s = suffering.SERVERS, settings.count, HOLD_S, 10.0
        if settings.quick:
            size, count, hold_s, calm_s = suffering.QUICK_SERVERS, 1, 1.0, 0.5
        found[target] = measure(target, size, count, hold_s, calm_s, settings.slowdown)
        print(f"failing, {target}: {found[target]}", flush=True)
    return found

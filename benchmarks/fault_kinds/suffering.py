"""Servers that are killed, ended in order, frozen, cut off or made slow, one at a time, while requests come at a steady
rate.

The rate is 70 % of what device and servers answer together. A device, or a gateway over gRPC and REST, has to answer
every request: `lost` counts those that got anything but the right answer in the end. A refusal that says "come again"
is none, and is counted apart; the caller comes again, and its latency goes on.

"noticed" is when the last request was due that asked the suffering server in vain, from the beginning of the fault, and
ended before the server was back; "noticed at most" counts those that ended later, too, though they may have asked it
only then. "used again" is the first answer of that server after it is back, and "fair share" the start of the first
second in which it gave 0.8 of its share. A server that is "grey" answers some requests in time and is asked all along.

`restarts` sends SIGTERM to one server after the other. Each has to finish what it admitted, say NOT_SERVING to who
watches its health before it ends, and exit with 0.
"""

import argparse
import contextlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fault_kinds import targets
from fault_kinds.load import Ask, Ended, OpenLoad, capacity, lost, quantile_ms
from fault_kinds.nodes import HealthWatch, Node, Relays, nodes

SERVERS, QUICK_SERVERS = 5, 2
LOAD = 0.7
SLOWDOWN = 100.0
"""Of servers and device: much of a request's time is sleep, so they do not fight for the machine's cores. Below 4 each
request is computed once only, which is less work for this machine, and more requests."""
AFTER_S = 5.0
"""Latency counts as disturbed for so long after a fault began."""
GREY_SHARE = 0.1
"""A grey server runs for this share of the time."""
GRACE_S = 40.0
"""A server that was told to end has done so after this time."""


class Fault(NamedTuple):
    """What a server suffers."""

    begin: Callable[[int], None]
    end: Callable[[int], float]
    """Returns when the server is back, on the monotonic clock."""
    found: Callable[[], dict[str, Any]] = dict
    """Returns figures of this kind alone."""


class Suffered(NamedTuple):
    """One fault of one server."""

    server: int
    began_s: float
    back_s: float


def kills(servers: Sequence[Node], relays: Relays) -> Fault:
    """SIGKILL; the server starts again afterwards."""

    def end(index: int) -> float:
        servers[index].launch()
        return servers[index].wait_ready()

    return Fault(lambda index: servers[index].kill(), end)


def restarts(servers: Sequence[Node], relays: Relays) -> Fault:
    """SIGTERM; the server starts again once it has ended by itself."""
    watches: dict[int, HealthWatch] = {}
    exits, farewells = list[int](), list[bool]()

    def begin(index: int) -> None:
        watches[index] = HealthWatch(servers[index].grpc)
        servers[index].terminate()

    def end(index: int) -> float:
        exits.append(servers[index].wait_ended(GRACE_S))
        farewells.append(watches.pop(index).last() == "NOT_SERVING")
        servers[index].launch()
        return servers[index].wait_ready()

    return Fault(
        begin, end, lambda: {"not_ended_with_0": sum(map(bool, exits)), "not_announced": farewells.count(False)}
    )


def freezes(servers: Sequence[Node], relays: Relays) -> Fault:
    """SIGSTOP and SIGCONT."""
    return Fault(lambda index: servers[index].freeze(), lambda index: servers[index].thaw() or time.monotonic())


def cuts(servers: Sequence[Node], relays: Relays) -> Fault:
    """Nothing passes the link, and nothing says so."""
    return Fault(relays.cut, lambda index: relays.heal(index) or time.monotonic())


def grey(servers: Sequence[Node], relays: Relays) -> Fault:
    """The server runs for a tenth of the time: it answers, ten times slower."""
    over = [threading.Event() for _ in servers]
    threads: dict[int, threading.Thread] = {}

    def stutter(index: int) -> None:
        while not over[index].is_set():
            servers[index].freeze()
            over[index].wait(0.1 * (1 - GREY_SHARE))
            servers[index].thaw()
            over[index].wait(0.1 * GREY_SHARE)

    def begin(index: int) -> None:
        over[index].clear()
        threads[index] = threading.Thread(target=stutter, args=(index,))
        threads[index].start()

    def end(index: int) -> float:
        over[index].set()
        threads[index].join()
        return time.monotonic()

    return Fault(begin, end)


KINDS = {"kills": kills, "restarts": restarts, "freezes": freezes, "cuts": cuts, "grey": grey}
HOLD_S = {"kills": 0.5, "restarts": 0.5, "freezes": 10.0, "cuts": 10.0, "grey": 10.0}
"""How long each lasts; a kill and a restart also for as long as the server ends and starts."""
COUNT = {"kills": 100, "restarts": 100, "freezes": 20, "cuts": 20, "grey": 20}


@contextlib.contextmanager
def asked(target: str, addresses: Sequence[str], slowdown: float) -> Iterator[Ask]:
    """Yield what asks a device or a gateway that has these servers."""
    if target == "device":
        with targets.device(addresses, slowdown) as (ask, _):
            yield ask
        return
    command = ["gateway", targets.MODEL, "--bits", "32", *(["--servers", ",".join(addresses)] if addresses else [])]
    command += ["--slowdown", str(slowdown), "--concurrency", "64", "--queue", "64"]
    with nodes([command]) as (gateway,):
        protocol = target.partition("-")[2]
        with targets.CLIENTS[protocol](getattr(gateway, protocol)) as ask:
            yield ask
        if gateway.problems():
            raise SystemExit(f"the gateway logged errors: {gateway.log()[-2000:]}")


def torment(load: OpenLoad, fault: Fault, victims: Sequence[int], hold_s: float, pause_s: float) -> list[Suffered]:
    """Let one server after the other suffer, and return what happened."""
    count, happened = len(victims), list[Suffered]()
    for number, index in enumerate(victims):
        began_s = time.monotonic()
        fault.begin(index)
        time.sleep(hold_s)
        happened.append(Suffered(index, began_s, fault.end(index)))
        time.sleep(pause_s)
        if number % 10 == 9:
            print(f"{number + 1} of {count}: {len(load.ended):,} ended, not answered {lost(load.ended)}", flush=True)
    return happened


def report(calm: Sequence[Ended], ended: Sequence[Ended], happened: Sequence[Suffered], names: Sequence[str]) -> Any:
    """Return the figures of a run."""
    calm_s = [one.took_s for one in calm]
    disturbed_s = [one.took_s for one in ended if any(0 <= one.due_s - fault.began_s < AFTER_S for fault in happened)]
    noticed, at_most, again, fair = list[float](), list[float](), list[float](), list[float]()
    for fault, following in zip(happened, [*happened[1:], None], strict=True):
        name = names[fault.server]
        vain = [one for one in ended if fault.began_s <= one.due_s < fault.back_s and name in one.answer.fallback]
        noticed.append(max((one.due_s - fault.began_s for one in vain if one.done_s < fault.back_s), default=0.0))
        at_most.append(max((one.due_s - fault.began_s for one in vain), default=0.0))
        until_s = following.began_s if following else ended[-1].done_s
        mine = sorted(one.done_s - fault.back_s for one in ended if one.answer.node == name)
        mine = [s for s in mine if 0 <= s < until_s - fault.back_s]
        if mine:
            again.append(mine[0])
            answers = sum(fault.back_s <= one.done_s < until_s for one in ended)
            fair.append(_fair_share_s(mine, answers, until_s - fault.back_s, len(names)))
    fair = [value for value in fair if value < float("inf")]
    return {
        "faults": len(happened),
        "requests": len(calm) + len(ended),
        "lost": sum(lost(ended).values()) + sum(lost(calm).values()),
        "ends": lost([*calm, *ended]),
        "told_to_come_again": sum(one.refusals > 0 for one in ended),
        "by_device": sum(one.answer.node == "device" for one in ended),
        "calm_ms": {"p50": quantile_ms(calm_s, 0.5), "p99": quantile_ms(calm_s, 0.99)},
        "after_faults_ms": {
            "p50": quantile_ms(disturbed_s, 0.5),
            "p99": quantile_ms(disturbed_s, 0.99),
            "max": quantile_ms(disturbed_s, 1.0),
        },
        "p99_over_calm": round(quantile_ms(disturbed_s, 0.99) / quantile_ms(calm_s, 0.99), 2),
        "noticed_s": spread(noticed),
        "noticed_at_most_s": spread(at_most),
        "used_again_s": spread(again),
        "fair_share_s": spread(fair) | {"of": len(fair)},
    }  # fmt: skip


def _fair_share_s(mine: Sequence[float], all_answers: int, span_s: float, servers: int) -> float:
    """Return the start of the first second in which a server gave 0.8 of a fair share of the answers."""
    needed = max(0.8 * all_answers / span_s / servers, 1.0)
    return next((at_s for at_s in mine if sum(at_s <= other < at_s + 1.0 for other in mine) >= needed), float("inf"))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and largest; nothing of nothing."""
    if not values:
        return {}
    return {"median": round(statistics.median(values), 3), "max": round(max(values), 3)}


def run_one(
    kind: str, target: str, count: int, hold_s: float, pause_s: float, calm_s: float, size: int, slowdown: float
) -> Any:
    """Return the figures of one kind of fault and one target."""
    commands = [["edge", targets.MODEL, "--slowdown", str(slowdown)]] * size
    with nodes(commands) as servers, contextlib.ExitStack() as stack:
        relays = Relays([server.grpc for server in servers])
        stack.callback(relays.close)
        names = relays.addresses if kind == "cuts" else [server.grpc for server in servers]
        ask = stack.enter_context(asked(target, names, slowdown))
        per_s = capacity(ask, min(calm_s, 8.0), at_once=2 * size)
        load = OpenLoad(ask, LOAD * per_s, retry=True)
        time.sleep(calm_s)
        calm = [*load.ended]
        fault, rng = KINDS[kind](servers, relays), random.Random(7)
        victims = [number % size if kind == "restarts" else rng.randrange(size) for number in range(count)]
        happened = torment(load, fault, victims, hold_s, pause_s)
        ended = load.stop()[len(calm) :]
        found = {"rate_per_s": round(load.rate, 1), "capacity_per_s": round(per_s, 1)} | fault.found()
        return found | report(calm, ended, happened, names)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what these kinds take."""
    parser.add_argument(
        "--count", type=int, default=0, help="faults for each target; without, 100 kills or restarts, 20 others"
    )
    parser.add_argument("--pause", type=float, default=4.0, help="seconds from the end of a fault to the next one")
    parser.add_argument("--slowdown", type=float, default=SLOWDOWN, help="of servers and device")
    parser.add_argument("--targets", nargs="+", default=["device", "gateway-grpc", "gateway-http"])


def run(settings: argparse.Namespace) -> Any:
    """Return the figures of one kind of fault for each target."""
    found: dict[str, Any] = {}
    kind = settings.kind
    for target in settings.targets[: 1 if settings.quick else None]:
        count, hold_s, pause_s, calm_s = settings.count or COUNT[kind], HOLD_S[kind], settings.pause, 10.0
        if settings.quick:
            count, hold_s, pause_s, calm_s = (2 if kind == "restarts" else 1), 0.5, 0.5, 0.5
        size = QUICK_SERVERS if settings.quick else SERVERS
        found[target] = run_one(kind, target, count, hold_s, pause_s, calm_s, size, settings.slowdown)
        print(f"{kind}, {target}: {found[target]}", flush=True)
    return found

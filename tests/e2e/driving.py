"""A small network on three edges of different speed, and a device that is asked while they suffer."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tests.e2e.sites import Edge, edges, relative_error, wait_until

from coinfer.graph.zoo import networks
from coinfer.options.compile import compile_options
from coinfer.options.table import Options
from coinfer.profile.table import ProfileTable
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.images import load_images
from coinfer.types import OffloadDecision, OffloadObservation, Policy

GRAPH = networks.build("alexnet-cifar")
PICTURES = [picture for _, picture in load_images()]
REQUESTS = 200
PERIOD_S = 0.02
THREADS = 8
FAST_FIRST = (15.0, 30.0, 40.0)
"""Slow-down of each edge: about 7, 15 and 20 ms for a request, nearly all of it sleep."""
DEVICE_SLOWDOWN = 80.0
LEFT_ALONE = 2 * THREADS + 2
"""At most so many requests a dead edge gets: what is under way when it dies, and until two failures are known."""
RETURN_S = 120.0
"""Only ends a test that has failed; a server that came back is asked after at most 8 s."""


class Answered(NamedTuple):
    request: int
    asked_s: float
    done_s: float
    result: Result


@contextlib.contextmanager
def site(
    table: ProfileTable,
    slowdowns: Sequence[float] = FAST_FIRST,
    *flags: str,
    cut: str = GRAPH.inputs[0],
    device_slowdown: float = DEVICE_SLOWDOWN,
) -> Iterator[tuple[list[Edge], Device]]:
    """Three edges and a device that may send them what crosses `cut`; none may have logged an error in the end."""
    options = options_at(table, cut)
    with edges([GRAPH.name], [("--slowdown", str(slowdown), *flags) for slowdown in slowdowns]) as nodes:
        addresses = [node.address for node in nodes]
        with Device(GRAPH, servers=addresses, profile=table, options=options, slowdown=device_slowdown) as device:
            yield nodes, device
        for node in nodes:
            assert "Traceback" not in node.log()
            assert " ERROR " not in node.log()


def options_at(table: ProfileTable, cut: str = GRAPH.inputs[0]) -> Options:
    """What crosses `cut` is sent, or nothing is."""
    options = compile_options(GRAPH, table)  # with 32 bits alone only cuts that are known as exact would be there
    widest = max((o for o, names in enumerate(options.cuts) if names == (cut,)), key=lambda o: options.bits[o])
    return options.take(np.array([widest, len(options.cuts) - 1]))


def ask(device: Device, request: int = 0, policy: Policy | None = None) -> Answered:
    asked_s = time.monotonic()
    result = device.infer(PICTURES[request % len(PICTURES)], policy=policy)
    return Answered(request, asked_s, time.monotonic(), result)


def drive(
    device: Device,
    actions: Mapping[int, Callable[[], object]],
    count: int = REQUESTS,
    period_s: float = PERIOD_S,
    answered: set[int] | None = None,
    policy: Policy | None = None,
) -> list[Answered]:
    """Asks the device every `period_s`, whatever is still open; `actions` happen just before their request. A request
    that raises ends the test. Requests that have their answer are put into `answered`."""
    answered = set() if answered is None else answered

    def ask_for(request: int) -> Answered:
        found = ask(device, request, policy)
        answered.add(request)
        return found

    began_s = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        asked = []
        for request in range(count):
            time.sleep(max(began_s + request * period_s - time.monotonic(), 0.0))
            actions.get(request, lambda: None)()
            asked.append(pool.submit(ask_for, request))
        return [future.result() for future in asked]


def check(answers: Sequence[Answered], exact: Sequence[np.ndarray], count: int = REQUESTS) -> None:
    """Each request has one answer, and it is the right one."""
    assert [answer.request for answer in answers] == list(range(count))
    wrong = [
        answer.request
        for answer in answers
        if relative_error(answer.result.output, exact[answer.request % len(exact)]) > 1e-4
    ]
    assert not wrong


def assert_none_twice(
    answers: Sequence[Answered], nodes: Sequence[Edge], before: Sequence[int], after: Sequence[int]
) -> None:
    """Each node computed once for each answer that it had a part in, and at most once where it was asked in vain."""
    for node, first, last in zip(nodes, before, after, strict=True):
        parts = sum(node.address in computed_by(answer.result) for answer in answers)
        asked_in_vain = sum(
            node.address in answer.result.fallback
            or node.address in {hop.node for hop in answer.result.route.hops} - computed_by(answer.result)
            for answer in answers
        )
        assert parts <= last - first <= parts + asked_in_vain, (parts, last - first, asked_in_vain)


def computed_by(result: Result) -> set[str]:
    """Nodes that surely computed for an answer: who answered, and on a route over several servers those before it."""
    hops = [hop.node for hop in result.route.hops]
    return {result.executed_on, *(hops if hops[-1] == result.executed_on and not result.fallback else ())}


def by_node(answers: Sequence[Answered]) -> collections.Counter[str]:
    return collections.Counter(answer.result.executed_on for answer in answers)


def fallbacks(answers: Sequence[Answered], node: Edge, since_s: float = 0.0) -> list[Answered]:
    """Requests that this node was asked for in vain, of those that ended after a moment."""
    return [answer for answer in answers if node.address in answer.result.fallback and answer.done_s > since_s]


def latency_s(answers: Sequence[Answered]) -> list[float]:
    return [answer.done_s - answer.asked_s for answer in answers]


def used_again(device: Device, node: Edge) -> float:
    """Waits until a request is answered there; returns how long that took."""
    policy = prefers(device.servers.index(node.address))
    return wait_until(
        lambda: device.infer(PICTURES[0], policy=policy).executed_on == node.address,
        RETURN_S,
        f"{node.address} is used again",
    )


def prefers(server: int) -> Policy:
    """Sends to one server as long as that may be asked; otherwise the device puts its own policy in place."""
    return lambda _: OffloadDecision(np.array([0]), np.array([server]))


class SwitchedPolicy:
    """A policy that a test changes while a device is asked."""

    def __init__(self, policy: Policy):
        self.policy = policy

    def __call__(self, observation: OffloadObservation) -> OffloadDecision:
        return self.policy(observation)

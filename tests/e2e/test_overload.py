"""Three times more than an edge can do: it keeps its goodput, refuses the rest at once, and computes nothing in vain.
Figures are printed; `pytest -rP` shows them."""

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from tests.e2e.driving import GRAPH, PERIOD_S, PICTURES, Answered, check, drive, site
from tests.e2e.sites import edges
from tests.patience import one_round_right, patient_transport, wait_until

from coinfer.profile.table import ProfileTable
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.images import preprocess
from coinfer.runtime.protocol.messages import InferReply, InferRequest, TransportError
from coinfer.runtime.transport.grpc_transport import GrpcTransport

OVERLOADED = (160.0, 60.0, 60.0)
"""About 70 ms for a request on the edge that is overloaded: a capacity that three times of is cheap to ask for, and a
time in which what a busy machine adds counts little."""
QUEUE = 8
DEADLINE_S = 2.0
"""More than a full queue takes."""
PATIENCE_S = 60.0
IDLE_S = 120.0
"""Only ends a test that has failed."""
CALM_S = 2.0
GOODPUT = 0.75
"""Of the calm rate. On a calm machine it is 0.97 and more, an edge that collapses keeps half;
tests/runtime/edge/test_scheduler.py has it exactly."""
ROUNDS = 8
"""The capacity is that of an emulated processor, which follows the machine's moods, and so do the clients: a round in
which other work took the machine away says little. What a busy machine can spoil must come out right in one round of
so many; an edge that collapses (a factor of 2), answers late or is slow to refuse does so in all of them."""
FULL, TOO_LATE = "queue_full", ("hopeless", "expired")
PATIENT, HURRIED = 11, 5
"""Together no more than the queue takes."""


def whole_request(deadline_s: float) -> InferRequest:
    assert GRAPH.image is not None
    tensor = pack(GRAPH.inputs[0], preprocess(PICTURES[0], GRAPH.image), 32)
    return InferRequest(GRAPH.name, (tensor,), GRAPH.outputs, deadline_s=deadline_s)


def wait_until_idle(transport: GrpcTransport, address: str) -> None:
    """Until nothing waits or runs there: neither what a load has left, nor what a device took elsewhere meanwhile."""

    def is_idle() -> bool:
        load = transport.ping(address, PATIENCE_S).result().load
        return load is not None and load.room == QUEUE + 1

    wait_until(is_idle, IDLE_S, f"{address} is idle")


def capacity(transport: GrpcTransport, address: str) -> float:
    """Requests per second with always a few under way and none refused."""
    wait_until_idle(transport, address)
    finished_s: list[float] = []
    until_s = time.monotonic() + CALM_S

    def ask() -> None:
        while time.monotonic() < until_s:
            transport.send(address, whole_request(PATIENCE_S), PATIENCE_S).result()
            finished_s.append(time.monotonic())

    with ThreadPoolExecutor(4) as pool:
        for asking in [pool.submit(ask) for _ in range(4)]:
            asking.result()
    finished_s.sort()
    return (len(finished_s) - 1) / (finished_s[-1] - finished_s[0])


class OpenLoad:
    """Another client, which asks at its rate whatever the answers."""

    def __init__(self, transport: GrpcTransport, address: str, rate: float):
        self._transport, self._address, self._rate = transport, address, rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.began_s = self.ended_s = 0.0
        self.in_time_s: list[float] = []
        """When good answers came."""
        self.refusals: list[tuple[TransportError, float]] = []
        """With the seconds that each took."""
        self.late = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self.ended_s = time.monotonic()

    def goodput(self, others: Sequence[Answered]) -> float:
        """Answers in time per second, those of other clients included."""
        settled_s = self.began_s + 0.5
        good_s = self.in_time_s + [found.done_s for found in others if found.result.executed_on == self._address]
        return sum(settled_s <= at_s <= self.ended_s for at_s in good_s) / (self.ended_s - settled_s)

    def _run(self) -> None:
        self.began_s = time.monotonic()
        sent = 0
        while not self._over.is_set():
            time.sleep(max(self.began_s + sent / self._rate - time.monotonic(), 0.0))
            asked_s, sent = time.monotonic(), sent + 1
            future = self._transport.send(self._address, whole_request(DEADLINE_S), PATIENCE_S)
            future.add_done_callback(lambda done, asked_s=asked_s: self._count(done, asked_s))

    def _count(self, done: Future[InferReply], asked_s: float) -> None:
        now_s, error = time.monotonic(), done.exception()
        if isinstance(error, TransportError):
            self.refusals.append((error, now_s - asked_s))
        elif now_s - asked_s <= DEADLINE_S:
            self.in_time_s.append(now_s)
        else:
            self.late += 1


def test_an_overloaded_edge_keeps_its_goodput_and_the_device_its_answers(table: ProfileTable, exact: list[np.ndarray]):
    with (
        site(table, OVERLOADED, "--queue", str(QUEUE)) as (nodes, device),
        contextlib.closing(patient_transport()) as other,
    ):

        def play() -> list[str]:
            calm = capacity(other, nodes[0].address)
            load = OpenLoad(other, nodes[0].address, 3 * calm)
            answers = drive(device, {50: load.start, 190: load.stop}, period_s=1.5 * PERIOD_S)
            calm = (calm + capacity(other, nodes[0].address)) / 2
            check(answers, exact)
            refusals = {(error.code, error.reason) for error, _ in load.refusals}
            assert refusals <= {("RESOURCE_EXHAUSTED", FULL), *(("DEADLINE_EXCEEDED", why) for why in TOO_LATE)}
            assert all(error.pushback_s and error.pushback_s > 0 for error, _ in load.refusals if error.reason == FULL)
            return shortcomings(load, answers, calm)

        one_round_right(play, ROUNDS)


def shortcomings(load: OpenLoad, answers: Sequence[Answered], calm: float) -> list[str]:
    """What an edge that is asked for three times its calm rate should do better."""
    in_time, took_s = len(load.in_time_s), [took_s for _, took_s in load.refusals]
    full = sum(error.reason == FULL for error, _ in load.refusals)
    share, refused_s = load.goodput(answers) / calm, statistics.median(took_s or [math.inf])
    print(f"overloaded: goodput {share:.3f} of the calm capacity of {calm:.1f}/s")
    print(
        f"overloaded: {in_time} in time, {load.late} late, {len(took_s)} refused, in {refused_s * 1e3:.1f} ms (median)"
    )
    wrong = {
        f"goodput {share:.3f} of the calm rate": share < GOODPUT,
        f"{load.late} of {in_time} admitted answered late": load.late > 0.01 * in_time,
        f"{len(took_s)} refusals for {in_time} answers, two for each are due": len(took_s) <= in_time,
        f"{len(took_s) - full} refused for another reason than a full queue": full < len(took_s),
        f"a refusal takes {refused_s:.3f} s, longer than a place in the queue": refused_s >= 1 / calm,
    }
    return [what for what, is_so in wrong.items() if is_so]


def test_a_deadline_that_cannot_be_held_costs_no_computing(table: ProfileTable):
    with edges([GRAPH.name], [("--slowdown", "40")]) as (node,), contextlib.closing(patient_transport()) as transport:

        def send(count: int, deadline_s: float) -> list[Future[InferReply]]:
            return [transport.send(node.address, whole_request(deadline_s), PATIENCE_S) for _ in range(count)]

        def play() -> list[str]:
            service_s = [send(1, PATIENCE_S)[0].result().server_s for _ in range(5)]
            before = node.served()
            hopeless = refused(send(HURRIED, min(service_s) / 10))
            if hopeless < HURRIED:  # what was measured long ago is believed no more
                return [f"{hopeless} of {HURRIED} refused"]
            assert node.served() == before, "none ran in vain"
            patient, hurried = send(PATIENT, PATIENCE_S), send(HURRIED, min(service_s) * 1.5)
            in_front = sum(not future.done() for future in patient)
            for future in patient:
                assert unpack(future.result().outputs[0]).shape == (1, 10)
            late = refused(hurried)
            assert node.served() - before == PATIENT + HURRIED - late, "none ran in vain"
            return [] if late >= HURRIED - 1 else [f"{late} of {HURRIED} refused behind about {in_front}"]

        one_round_right(play, ROUNDS)


def refused(futures: Sequence[Future[InferReply]]) -> int:
    """How many were refused, all of them for their deadline."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    assert {error.code for error in errors if isinstance(error, TransportError)} <= {"DEADLINE_EXCEEDED"}
    assert {error.reason for error in errors if isinstance(error, TransportError)} <= set(TOO_LATE)
    return len(errors)

"""A device asks a server what to do with a request; if the answer is late, wrong or missing, it decides itself."""

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
from tests.runtime.device.test_device import GRAPH, PICTURES, exact, good_node
from tests.tables import analytic_table

from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.server_choice import ASK_SHARE
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport, WireError
from coinfer.runtime.protocol.task_options import Choice
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import OffloadDecision

Choose = Callable[[InferRequest], Choice | None]
SLOW_S = 1000.0
"""A server says that it takes so long, so that a device predicts minutes and may wait for an answer; nothing does."""


class Site:
    """Two servers in memory; both choose by one function, and note what they were asked."""

    def __init__(self, choose: Choose, service_s: float = SLOW_S):
        self.asked: list[InferRequest] = []
        self.computed: list[InferRequest] = []
        self._choose = choose
        self._good = good_node(service_s)

    def handle(self, request: InferRequest) -> InferReply:
        if request.options is None:
            self.computed += [] if request.warm else [request]
            return self._good(request)
        self.asked.append(request)
        return InferReply(request.model, (), choice=self._choose(request), load=LoadReport(0.0, 0, 8))

    def device(self, **more) -> Device:
        nodes = dict.fromkeys(["a:1", "b:1"], self.handle)
        settings = {"servers": list(nodes), "bits": (32,), "hedge": False, "dispatch_cut": True} | more
        table = analytic_table(GRAPH, whole_s=20 * SLOW_S)
        return Device(GRAPH, profile=table, transport=InMemoryTransport(nodes), **settings)

    def answer(self, **settings) -> Result:
        with self.device() as device:
            result = device.infer(PICTURES[0], **settings)
        np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4)
        return result


def fixed(option: int, node: str) -> Choose:
    return lambda request: Choice(option, node, "a policy")


def test_it_does_what_the_server_says_and_sends_directly_there():
    site = Site(fixed(1, "b:1"))
    with site.device() as device:
        cut, bits = device.options.cuts[1], float(device.options.upload_bits[1])
        result = device.infer(PICTURES[0])
    assert result.executed_on == "b:1"
    assert result.route.hops[0].cut == cut
    assert [len(site.asked), len(site.computed)] == [1, 1]
    sent = site.computed[0]
    assert tuple(tensor.name for tensor in sent.inputs) == cut
    assert not sent.dispatch  # it is where it should be
    question = site.asked[0].options
    assert question is not None
    assert [server.node for server in question.servers] == ["a:1", "b:1"]
    assert [option.cut for option in question.options] == list(device.options.cuts)
    assert question.options[1].upload_bits == bits
    assert question.options[-1].server_s == ()  # sends nothing
    assert all(0 < one < math.inf for one in question.options[1].server_s if one is not None)


def test_it_may_be_told_to_compute_all_itself():
    site = Site(lambda request: Choice(len(request.options.options) - 1, "device", "a policy"))  # pyright: ignore
    assert site.answer().executed_on == "device"
    assert [len(site.asked), len(site.computed)] == [1, 0]


def refuses(request: InferRequest) -> Choice:
    raise WireError("UNIMPLEMENTED", "on purpose", "unoffered")


@pytest.mark.parametrize(
    "choose",
    [
        lambda request: None,
        refuses,
        fixed(0, "c:1"),
        fixed(0, "device"),
        fixed(255, "a:1"),
        lambda request: Choice(len(request.options.options) - 1, "a:1"),
    ],
)
def test_a_wrong_or_missing_choice_leaves_the_device_s_own_and_is_not_asked_for_again(choose: Choose):
    site = Site(choose)
    with site.device() as device:
        own = device.plan().hops
        for _ in range(3):
            result = device.infer(PICTURES[0])
            assert result.route.hops == own
            assert result.fallback == ""
    assert [len(site.asked), len(site.computed)] == [1, 3]
    assert site.computed[0].dispatch  # who computes is still left to the server


def test_an_answer_that_does_not_come_is_not_waited_for_long():
    over = threading.Event()

    def choose_late(request: InferRequest) -> Choice:
        over.wait(60)
        return Choice(1, "b:1")

    site = Site(choose_late, service_s=SLOW_S / 1e3)
    with site.device() as device:
        own = device.plan().hops
        result = device.infer(PICTURES[0])
        over.set()
    assert len(site.asked) == 1
    assert result.route.hops == own


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": Objective("accuracy")},
        {"policy": lambda o: OffloadDecision(np.zeros(1, dtype=int), np.zeros(1, dtype=int))},
        {"exit": 0},
    ],
)
def test_who_has_a_policy_or_an_objective_of_his_own_decides(settings: dict):
    site = Site(fixed(0, "a:1"))
    site.answer(**settings)
    assert site.asked == []


def test_nobody_asks_where_it_would_take_more_than_a_small_share():
    site = Site(fixed(0, "a:1"), service_s=1e-5)
    assert site.answer().predicted_s * ASK_SHARE < 0.003
    assert site.asked == []


def test_without_the_setting_nobody_asks():
    site = Site(fixed(0, "a:1"))
    with site.device(dispatch_cut=False) as device:
        device.infer(PICTURES[0])
    assert site.asked == []

"""Which server is asked after one failed: the head is computed by then, and what was sent is sent again as it is."""

from dataclasses import replace

import numpy as np
import pytest
from tests.runtime.device.planning.test_observation import NOW_S
from tests.tables import analytic_table, made_up_accuracy

from coinfer.graph.zoo import early_exits, networks
from coinfer.policies.onnx import load_policy
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.remaining import remaining
from coinfer.types import DEVICE, OffloadDecision

GRAPH = networks.build("alexnet-cifar")
WHOLE_S = 1.0
PLANNER_CONFIG = DeviceConfig(servers=["a:1", "b:1"], bits=(32,))
PLANNER = Planner(GRAPH, analytic_table(GRAPH, whole_s=WHOLE_S), PLANNER_CONFIG)


def server(rate_bps: float, scale: float) -> est.ServerEstimate:
    known = est.after_reply(est.first_server(rate_bps, NOW_S), 0.0, 4.0, NOW_S)
    return known._replace(scale=scale)


def state(*servers: est.ServerEstimate, backlog_s: float = 0.0) -> DeviceState:
    return DeviceState(NOW_S, servers, 1.0, backlog_s)


def plan_for(cut: tuple[str, ...], at: DeviceState, raw_input: bool = False) -> Plan:
    option = PLANNER.options.cuts.index(cut)
    policy = lambda _: OffloadDecision(np.array([option]), np.array([0]))  # noqa: E731
    return PLANNER.plan(at, np.inf, policy=policy, raw_input=raw_input)


def test_the_faster_of_the_others_is_asked_and_none_twice():
    two = state(server(1e9, 0.1), server(1e9, 0.2))
    plan = plan_for(GRAPH.inputs, two)
    assert plan.server == 0
    assert remaining(PLANNER, plan, two, np.inf, {0}).server == 1
    assert remaining(PLANNER, plan, two, np.inf, {1}).server == 0
    assert remaining(PLANNER, plan, two, np.inf, {0, 1}).server == DEVICE
    full = est.after_refusal(server(1e9, 0.2), 5.0, NOW_S)
    assert remaining(PLANNER, plan, state(server(1e9, 0.1), full), np.inf, {0}).server == DEVICE


@pytest.mark.parametrize(("scale", "chosen"), [(1.5, 1), (1.9, DEVICE)])
def test_the_device_s_queue_holds_up_the_device_only(scale: float, chosen: int):
    """The head is computed: a server begins at once, the device after 0.7 s of other work. Whole on the other server in
    1.5 s, here in 1.7 s."""
    busy = state(server(1e12, 1.0), server(1e12, scale), backlog_s=0.7)
    assert remaining(PLANNER, plan_for(GRAPH.inputs, busy), busy, np.inf, {0}).server == chosen


def test_an_input_is_sent_at_once_while_the_device_computes_for_others():
    """With two seconds of other work the input is not held up, whatever else is predicted of it."""
    idle, busy = state(server(1e12, 0.5)), state(server(1e12, 0.5), backlog_s=2.0)
    assert plan_for(GRAPH.inputs, busy).predicted_s == plan_for(GRAPH.inputs, idle).predicted_s
    assert PLANNER.plan(busy, np.inf).cut == GRAPH.inputs


@pytest.mark.parametrize(
    ("option", "server_index", "said"),
    [
        (np.array([0]), np.array([-2]), "decision.server is -2, expected -1 to 1"),
        (np.array([0]), np.array([2]), "decision.server is 2, expected -1 to 1"),
        (np.array([-1]), np.array([0]), "decision.option is -1, expected 0 to "),
        (np.array([999]), np.array([0]), "decision.option is 999, expected 0 to "),
        (np.array([0.0]), np.array([0]), "decision.option is float64 [1], expected whole numbers [1]"),
        (np.array([0]), np.zeros(5, dtype=int), "decision.server is int64 [5], expected whole numbers [1]"),
    ],
)
def test_a_decision_that_is_none_is_replaced_and_said(
    option: np.ndarray, server_index: np.ndarray, said: str, caplog: pytest.LogCaptureFixture
):
    planner = Planner(GRAPH, analytic_table(GRAPH, whole_s=WHOLE_S), PLANNER_CONFIG)
    two = state(server(1e9, 0.1), server(1e9, 0.2))
    plan = planner.plan(two, np.inf, policy=lambda _: OffloadDecision(option, server_index))
    assert (plan.option, plan.server) == (planner.plan(two, np.inf).option, planner.plan(two, np.inf).server)
    assert said in caplog.text


def test_a_policy_for_any_servers_leaves_a_device_without_servers_to_the_planner(caplog: pytest.LogCaptureFixture):
    table, alone = analytic_table(GRAPH, whole_s=WHOLE_S), DeviceConfig(bits=(32,), policy="learned")
    assert Planner(GRAPH, table, alone).plan(state(), np.inf).server == DEVICE
    for_one_request = load_policy("learned")
    assert (
        Planner(GRAPH, table, replace(alone, policy=None)).plan(state(), np.inf, policy=for_one_request).server
        == DEVICE
    )
    assert caplog.text == ""


@pytest.mark.parametrize(("raw_input", "chosen"), [(False, 1), (True, DEVICE)])
def test_an_array_is_sent_again_as_it_is(raw_input: bool, chosen: int):
    """Four times what a picture's own bytes weigh."""
    option = PLANNER.options.cuts.index(GRAPH.inputs)
    rate_bps = PLANNER.options.upload_bits[option] / (0.5 * WHOLE_S)
    now = state(server(rate_bps, 0.01), server(rate_bps, 0.01))
    assert remaining(PLANNER, plan_for(GRAPH.inputs, now, raw_input), now, np.inf, {0}).server == chosen


EXITS = early_exits.build("alexnet-cifar-exits")


@pytest.mark.parametrize(
    ("left_s", "min_accuracy", "wants_exit"),
    [(np.inf, 0.0, 0), (np.inf, 0.75, 2), (0.6, 0.75, 1), (0.4, 0.75, 0), (0.01, 0.75, 2)],
)
def test_the_device_does_what_is_best_in_the_time_that_is_left(left_s: float, min_accuracy: float, wants_exit: int):
    """A server was asked in vain for the last exit; the exits are right in 70, 74 and 78 % of cases."""
    table, accuracy = analytic_table(EXITS, whole_s=WHOLE_S), made_up_accuracy(EXITS)
    planner = Planner(
        EXITS, table, DeviceConfig(servers=["a:1"], accuracy=accuracy, objective=Objective(min_accuracy=min_accuracy))
    )
    now, options = state(server(1e9, 0.1)), planner.options
    whole_s = {int(e): float(options.device_s[i]) for i, e in enumerate(options.exit) if options.is_local[i]}
    assert whole_s[0] < 0.4 < whole_s[1] < 0.6 < whole_s[2], "of each exit on this device"
    sends = [i for i, cut in enumerate(options.cuts) if cut == EXITS.inputs and options.exit[i] == 2]
    policy = lambda _: OffloadDecision(np.array(sends[:1]), np.array([0]))  # noqa: E731
    best = remaining(planner, planner.plan(now, np.inf, policy=policy), now, left_s, {0})
    assert (best.server, best.exit) == (DEVICE, wants_exit)
    assert best.predicted_s == pytest.approx(whole_s[wants_exit])


def test_what_is_left_after_a_cut_is_finished_from_there_where_that_is_sooner():
    """The tail takes as long as the profile says, not the whole network."""
    now = state(server(1e9, 0.1))
    option = next(i for i, cut in enumerate(PLANNER.options.cuts) if cut != GRAPH.inputs)
    plan = plan_for(PLANNER.options.cuts[option], now)
    best = remaining(PLANNER, plan, now, np.inf)
    assert (best.server, best.from_inputs, best.outputs) == (DEVICE, False, GRAPH.outputs)
    assert best.predicted_s == pytest.approx(plan.tail_s)
    assert plan.tail_s < WHOLE_S

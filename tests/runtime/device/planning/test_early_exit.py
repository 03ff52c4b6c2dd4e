"""Leaving early: entropies, the pieces that a head falls into, and what comes out of a device that does it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.device.test_device import PICTURES, Node
from tests.tables import analytic_table, made_up_accuracy

from coinfer.graph.zoo import early_exits, networks
from coinfer.options.compile import compile_options
from coinfer.profile.accuracy import AccuracyError, AccuracyTable, CascadePoint
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.device.config import DeviceError
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning import early_exit
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.runtime.device.planning.observation import feasible_latency_s
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import preprocess
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import DEVICE, Hop, OffloadDecision, Route

GRAPH = early_exits.build("alexnet-cifar-exits")
TABLE = analytic_table(GRAPH, whole_s=0.05)
EXITS = tuple((name,) for name in GRAPH.outputs)
EXACT = Executor(GRAPH)
CASCADES = (
    CascadePoint(thresholds=(0.0, 0.0), left=(0, 0, 1000), correct=(0, 0, 780)),
    CascadePoint(thresholds=(0.3, 0.4), left=(500, 300, 200), correct=(480, 230, 66)),
    CascadePoint(thresholds=(1.1, 1.1), left=(1000, 0, 0), correct=(700, 0, 0)),
)
ACCURACY = AccuracyTable(**{**made_up_accuracy(GRAPH).model_dump(), "confidence": CASCADES})


def whole(picture: np.ndarray) -> dict[str, np.ndarray]:
    assert GRAPH.image is not None
    return EXACT.run({"input": preprocess(picture, GRAPH.image)}, GRAPH.outputs)[0]


def node(request: InferRequest) -> InferReply:
    load = LoadReport(0.0, 0, 8)
    if request.warm:
        return InferReply(request.model, (), server_s=1e-4, load=load)
    outputs, _ = EXACT.run({tensor.name: unpack(tensor) for tensor in request.inputs}, request.outputs)
    packed = tuple(pack(name, array, request.bits) for name, array in outputs.items())
    return InferReply(request.model, packed, server_s=1e-4, load=load)


def device(nodes: dict[str, Node], **settings) -> Device:
    transport = InMemoryTransport(nodes)
    return Device(GRAPH, servers=list(nodes), profile=TABLE, transport=transport, accuracy=ACCURACY, **settings)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=12))
def test_entropy_is_that_of_the_class_probabilities(logits: list[float]):
    weights = [math.exp(value - max(logits)) for value in logits]
    shares = [weight / sum(weights) for weight in weights]
    expected = -sum(share * math.log(share) for share in shares if share > 0) / math.log(len(logits))
    assert early_exit.entropy(np.array(logits)) == pytest.approx(expected, abs=1e-9)
    assert 0 <= early_exit.entropy(np.array(logits)) <= 1 + 1e-9


def test_a_sure_and_a_clueless_answer():
    assert early_exit.entropy(np.array([[50.0, 0.0, 0.0]])) == pytest.approx(0, abs=1e-9)
    assert early_exit.entropy(np.array([[1.0, 1.0, 1.0]])) == pytest.approx(1)
    assert early_exit.is_confident(np.array([[50.0, 0.0, 0.0]]), 0.01)
    assert not early_exit.is_confident(np.array([[50.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), 0.5), (
        "each of a batch must be sure"
    )
    assert not early_exit.is_confident(np.array([[50.0, 0.0]]), 0.0), "at 0 nobody leaves"


def stages(exit_: int, *cut: str) -> list[tuple[int, tuple[str, ...]]]:
    return [(stage.exit, stage.tap) for stage in early_exit.stages_before(GRAPH, EXITS, exit_, cut)]


def test_exits_lie_before_a_cut_where_their_branch_leaves_the_trunk_before_it():
    assert stages(2, "conv1.relu") == []
    assert stages(2, "pool1") == [(0, ("pool1",))]
    assert stages(2, "conv2.relu") == [(0, ("pool1",))]
    assert stages(2, "pool2") == stages(2, "drop2") == stages(2, "exit3") == [(0, ("pool1",)), (1, ("pool2",))]
    assert stages(1, "exit2") == stages(1, "pool2") == [(0, ("pool1",))]
    assert stages(0, "exit1") == stages(0, "pool1") == [], "its own exit is where it goes anyway"


@pytest.mark.parametrize("name", list(early_exits.EXITS))
def test_steps_compute_every_cut_and_every_exit_without_doing_anything_twice(name: str):
    graph = early_exits.build(name)
    outputs = tuple((output,) for output in graph.outputs)
    cascade = early_exit.ExitCascade(graph, outputs, [0.5] * (len(outputs) - 1))
    for exit_, answer in enumerate(outputs):
        for cut in graph.pruned(answer).useful_cuts():
            steps = list(cascade.segments(exit_, cut.tensors))
            done = [op for inputs, ends in steps for op in graph.needed(inputs, ends)]
            assert len(done) == len(set(done)), "no operation runs twice"
            assert set(graph.needed(graph.inputs, cut.tensors)) <= set(done)
            assert steps[-1][1] == cut.tensors


def test_branches_on_the_way_take_their_time():
    options = compile_options(GRAPH, TABLE, (8,), ACCURACY)
    branches_s = (
        early_exit.ExitCascade(GRAPH, EXITS, (0.5, 0.5)).with_branches(options, TABLE).device_s - options.device_s
    )
    assert (early_exit.ExitCascade(GRAPH, EXITS, ()).with_branches(options, TABLE).device_s == options.device_s).all()
    first_s = TABLE.segment_s(GRAPH, ("pool1",), ("exit1",))
    second_s = TABLE.segment_s(GRAPH, ("pool2",), ("exit2",))
    for (exit_, cut, _), extra_s in zip(options.triples, branches_s, strict=True):
        passed = [exit_ for exit_, _ in stages(exit_, *cut)]
        assert extra_s == pytest.approx(sum((first_s, second_s)[i] for i in passed), abs=1e-9)


def test_stats_are_the_means_of_the_cascade_that_was_measured():
    """By hand: half leave at exit 1, 300 of the other 500 at exit 2; 776 of 1000 right instead of 780."""
    options = compile_options(GRAPH, TABLE, (8,), ACCURACY)
    cascade = early_exit.ExitCascade(GRAPH, EXITS, (0.3, 0.4))
    branched = cascade.with_branches(options, TABLE)
    stats = cascade.stats(branched, TABLE, ACCURACY)
    mean = stats.mean(branched)
    for i, (exit_, cut, _) in enumerate(options.triples):
        passed = [exit_ for exit_, _ in stages(exit_, *cut)]
        continue_share = 1 - sum((0.5, 0.3)[e] for e in passed)
        assert stats.continue_share[i] == pytest.approx(continue_share)
        assert mean.upload_bits[i] == pytest.approx(options.upload_bits[i] * continue_share)
        assert mean.accuracy[i] == pytest.approx(options.accuracy[i] - (0.004 if passed else 0))
    last = len(options.bits) - 1
    first_s = TABLE.segment_s(GRAPH, ("input",), ("exit1", "pool1"))
    second_s = first_s + TABLE.segment_s(GRAPH, ("pool1",), ("exit2", "pool2"))
    whole_s = second_s + TABLE.segment_s(GRAPH, ("pool2",), ("exit3",))
    assert branched.device_s[last] == pytest.approx(whole_s)
    assert mean.device_s[last] == pytest.approx(0.5 * first_s + 0.3 * second_s + 0.2 * whole_s)
    unknown = early_exit.ExitCascade(GRAPH, EXITS, (0.31, 0.4)).stats(branched, TABLE, ACCURACY)
    assert (unknown.continue_share == 1).all(), "never measured: nobody is taken to leave"


def test_leaving_early_is_planned_for():
    """A slow link: sending the picture takes longer than asking the first exit, which answers half of them."""
    with device({}, confidence_loss=0.01, objective=Objective(min_accuracy=0.77)) as ours:
        observation = ours.observe()._replace(uplink_bps=np.array([[3e5]]), server_backlog_s=np.zeros(1))
        observation = observation._replace(uplink_backlog_s=np.zeros((1, 1)))
        observation = observation._replace(
            server_room=np.ones(1), option_server_s=observation.option_device_s[..., None] * 0
        )
        mean = ours.planner.stats.mean_observation(observation)
        option = int(ours.planner.objective_policy(observation).option[0])
        latency_s = feasible_latency_s(mean)[0].min(axis=1)
        accurate = ours.options.accuracy >= 0.77
        assert latency_s[option] == pytest.approx(latency_s[accurate].min())
        plain = int(policy_for(ours.config.objective)(observation).option[0])
        assert latency_s[option] < latency_s[plain], "it would choose otherwise if nobody left early"


def always(option: int, server: int):
    return lambda _: OffloadDecision(np.array([option]), np.array([server]))


def test_a_device_leaves_at_the_first_exit_that_is_sure_and_continue_share_otherwise():
    truth = [whole(picture) for picture in PICTURES]
    entropies = [[float(early_exit.entropy(answers[name])[0]) for name in GRAPH.outputs[:2]] for answers in truth]
    levels = np.quantile(np.array(entropies), 0.5, axis=0)
    left = set()
    with device({"a:1": node}, confidence=levels.tolist(), bits=(32,), hedge=False) as ours:
        triples = ours.options.triples
        sends = next(i for i, (e, cut, _) in enumerate(triples) if e == 2 and cut not in (("input",), ("exit3",)))
        for option, server in ((len(triples) - 1, DEVICE), (sends, 0)):
            passed = [exit_ for exit_, _ in stages(2, *triples[option][1])]
            for picture, answers, of_picture in zip(PICTURES, truth, entropies, strict=True):
                exit_ = next((i for i in passed if of_picture[i] < levels[i]), 2)
                result = ours.infer(picture, policy=always(option, server))
                left.add(exit_)
                assert result.exit == exit_
                assert list(result.outputs) == [GRAPH.outputs[exit_]]
                np.testing.assert_allclose(result.output, answers[GRAPH.outputs[exit_]], rtol=1e-4, atol=1e-5)
                assert (result.sent_bits > 0) == (exit_ == 2 and server == 0)
                assert result.record("s", 0, 0.0, 0.0).exit == exit_
    assert len(left) > 1, "some left early, some did not"


def test_every_option_answers_as_its_exit_does():
    truth = whole(PICTURES[1])
    with device({"a:1": node}, bits=(32,), hedge=False) as ours:
        for option, (exit_, cut, _) in enumerate(ours.options.triples):
            stays = cut == EXITS[exit_]
            result = ours.infer(PICTURES[1], policy=always(option, DEVICE if stays else 0))
            assert (result.exit, result.executed_on) == (exit_, "device" if stays else "a:1")
            assert list(result.outputs) == list(EXITS[exit_])
            np.testing.assert_allclose(result.output, truth[GRAPH.outputs[exit_]], rtol=1e-4, atol=1e-5)
            assert result.outcome.accuracy == ACCURACY.exits[exit_] / 1000


def test_a_given_route_to_an_exit_is_followed_and_a_wrong_one_refused():
    with device({"a:1": node}) as ours:
        result = ours.infer_by_route(
            PICTURES[0], Route((Hop("device", ("pool1",), 32), Hop("a:1", ("exit2",), 32)), 1, 9.0)
        )
        np.testing.assert_allclose(result.output, whole(PICTURES[0])["exit2"], rtol=1e-4, atol=1e-5)
        with pytest.raises(DeviceError, match=r"route ends at \['exit2'\]; expected \['exit3'\]"):
            ours.infer_by_route(PICTURES[0], Route((Hop("device", ("exit2",), 32),), 2, 9.0))
        with pytest.raises(DeviceError, match="route to exit 3; here alexnet-cifar-exits has 0 to 2"):
            ours.infer_by_route(PICTURES[0], Route((Hop("device", ("exit3",), 32),), 3, 9.0))


def test_results_say_which_limit_is_missed_and_no_request_is_lost():
    objective = Objective(min_accuracy=0.9, energy_j=1e-9, power_w=5.0, transmit_power_w=1.0)
    with device({"a:1": node}, bits=(32,), objective=objective, deadline_s=1e-6) as ours:
        results = [ours.infer(picture) for picture in PICTURES]
    assert {result.unmet for result in results} == {("deadline", "accuracy", "energy")}
    for picture, result in zip(PICTURES, results, strict=True):
        expected = whole(picture)[GRAPH.outputs[result.exit]]
        np.testing.assert_allclose(result.output, expected, rtol=1e-4, atol=1e-5)
    with device({"a:1": node}, objective=Objective(min_accuracy=0.78), deadline_s=30.0) as ours:
        result = ours.infer(PICTURES[0])
    assert (result.unmet, result.outcome.accuracy, result.exit) == ((), 0.78, 2)


def test_energy_is_computing_and_sending():
    with device({"a:1": node}, objective=Objective(power_w=4.0, transmit_power_w=2.0)) as ours:
        for option, server in ((0, 0), (len(ours.options.bits) - 1, DEVICE)):
            outcome = ours.infer(PICTURES[0], policy=always(option, server)).outcome
            assert outcome.energy_j == pytest.approx(4 * outcome.device_s + 2 * outcome.upload_s)


def test_thresholds_come_from_the_allowed_loss():
    assert early_exit.thresholds_for(3, None, 0.01, ACCURACY) == (0.3, 0.4)
    assert early_exit.thresholds_for(3, None, 0.0, ACCURACY) == (0.0, 0.0)
    assert early_exit.thresholds_for(3, 0.2, None, ACCURACY) == (0.2, 0.2)
    assert early_exit.thresholds_for(3, [0.1, 0.2], None, ACCURACY) == (0.1, 0.2)
    assert early_exit.thresholds_for(3, None, None, ACCURACY) == ()
    with device({}, confidence_loss=0.5) as ours:
        result = ours.infer(PICTURES[0])
    assert (result.exit, result.outcome.accuracy) == (0, 0.7), "all leave at once; what they were right in"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"confidence": 0.1, "confidence_loss": 0.1}, "confidence and confidence_loss are both given"),
        ({"confidence": 2.0}, r"confidence is \[2\.0, 2\.0\]; expected entropies from 0"),
        ({"confidence": [0.1]}, r"confidence is \[0\.1\]; expected .* 2 or one for all"),
        ({"confidence_loss": -0.1}, r"confidence_loss is -0\.1; expected a share"),
        (
            {"accuracy": None, "confidence": 0.1},
            "an early exit needs a network with several exits and its accuracy table",
        ),
        (
            {"accuracy": None, "objective": Objective(min_accuracy=0.7)},
            "an accuracy objective needs the accuracy table of alexnet-cifar-exits",
        ),
        ({"accuracy": None, "objective": Objective("accuracy")}, "an accuracy objective needs the accuracy table"),
        ({"accuracy": "nowhere.json"}, "nowhere.json: cannot read this accuracy table"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(settings, said):
    with pytest.raises(ValueError, match=said) as found:
        Device(GRAPH, profile=TABLE, **{"accuracy": ACCURACY, **settings})
    assert "\n" not in str(found.value)


def test_an_accuracy_table_of_another_model_is_refused():
    other = networks.build("alexnet-cifar")
    with pytest.raises(AccuracyError, match=r"measured on network 'alexnet-cifar-exits' .*, not on 'alexnet-cifar'"):
        Device(other, profile=analytic_table(other), accuracy=ACCURACY)

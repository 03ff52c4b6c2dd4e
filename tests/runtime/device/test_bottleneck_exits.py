"""A network with exits and a bottleneck: servers answer for the exits behind the code, the device for those before."""

from collections.abc import Callable

import numpy as np
import pytest
from tests.exit_training.bottlenecks import bottleneck_with_exits, profile, stripes, with_accuracy
from tests.runtime.edge.edge_process import in_memory_node
from tests.tables import made_up_accuracy

from coinfer.profile.accuracy import AccuracyTable, CascadePoint
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.early_exit import ExitCascade, Stage, entropy, stages_before
from coinfer.runtime.device.planning.preview import Preview
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise
from coinfer.runtime.protocol.messages import InferRequest
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import Hop, OffloadDecision, OffloadObservation, Route

PICTURES = stripes(8, seed=3).images
GRAPH = with_accuracy(bottleneck_with_exits(), lambda code, output: 90 if code == "code4" else 80)
EXITS = tuple((name,) for name in GRAPH.outputs)
HALF = CascadePoint(thresholds=(0.5, 0.0), left=(500, 0, 500), correct=(400, 0, 380))
ACCURACY = AccuracyTable(**{**made_up_accuracy(GRAPH).model_dump(), "confidence": (HALF,)})


def device(seen: list[InferRequest], **settings) -> Device:
    """A device with a server in memory, whose requests are noted."""
    transport = InMemoryTransport({"a:1": in_memory_node(GRAPH, seen)})
    given = {"profile": profile(GRAPH), "accuracy": ACCURACY, "transport": transport, "hedge": False} | settings
    return Device(GRAPH, servers=["a:1"], **given)


def of_piece(device: Device, cut: str, answer: str) -> Callable[[OffloadObservation], OffloadDecision]:
    """The policy that always sends this for that answer."""
    option = device.options.pieces.index(((cut,), (answer,)))
    return lambda observation: OffloadDecision(np.array([option]), np.array([0]))


def exact(picture: np.ndarray, name: str) -> np.ndarray:
    assert GRAPH.image is not None
    return Executor(GRAPH).run({"input": normalise(picture, GRAPH.image)}, (name,))[0][name]


@pytest.mark.parametrize(("answer", "output", "exit_"), [("/exit2", "exit2", 1), ("", "logits", 2)])
def test_a_server_answers_for_each_exit_behind_the_code(answer, output, exit_):
    seen, name = list[InferRequest](), f"code4/answer{answer}"
    with device(seen) as ours:
        results = [ours.infer(picture, policy=of_piece(ours, "code4", name)) for picture in PICTURES]
        route = Route((Hop("device", ("code4",), 2), Hop("a:1", (name,), 32)), exit_, 1e6)
        results.append(ours.infer_by_route(PICTURES[0], route))
    for picture, result in zip((*PICTURES, PICTURES[0]), results, strict=True):
        assert (result.executed_on, result.fallback, result.exit) == ("a:1", "", exit_)
        assert list(result.outputs) == [output]
        np.testing.assert_allclose(result.output, exact(picture, name), rtol=1e-4, atol=1e-5)
        assert result.outcome.accuracy == ACCURACY.exits[exit_] / 1000, "the code loses nothing"
    assert {request.outputs for request in seen} == {(name,)}


def test_of_one_code_the_earlier_exit_is_sooner_and_the_objective_decides():
    """A slow device and link; the profile has 4 s for exit 2 from a code and 10 s for the last one."""
    known = profile(GRAPH)
    slow = known.model_copy(update={"op_s": tuple(4 * seconds for seconds in known.op_s)})
    for least, answer in ((0.72, "code4/answer/exit2"), (0.75, "code4/answer")):
        objective = Objective(min_accuracy=least)
        with device([], objective=objective, profile=slow) as ours:
            best = Preview(ours.options, objective).best(1000.0)
            assert ours.options.pieces[best] == (("code4",), (answer,))


def test_exits_before_the_encoder_are_stages_before_a_code():
    assert stages_before(GRAPH, EXITS, 2, ("code4",)) == (Stage(0, ("exit1",), ("pool1",), ("head/pool1",)),)
    assert stages_before(GRAPH, EXITS, 1, ("code2",)) == (Stage(0, ("exit1",), ("pool1",), ("head/pool1",)),)
    cascade = ExitCascade(GRAPH, EXITS, (0.5, 0.5))
    assert list(cascade.segments(2, ("code4",))) == [
        (("input",), ("exit1", "pool1")),
        (("head/pool1",), ("code4",)),
    ]


def test_a_device_answers_itself_where_the_exit_before_the_code_is_sure_and_sends_the_code_otherwise():
    sure = [float(entropy(exact(picture, "exit1"))[0]) for picture in PICTURES]
    level, seen = float(np.median(sure)), list[InferRequest]()
    with device(seen, confidence=[level, 0.0]) as ours:
        results = [ours.infer(picture, policy=of_piece(ours, "code4", "code4/answer")) for picture in PICTURES]
    for picture, result, one in zip(PICTURES, results, sure, strict=True):
        leaves = one < level
        assert (result.exit, result.executed_on) == ((0, "device") if leaves else (2, "a:1"))
        expected = exact(picture, "exit1" if leaves else "code4/answer")
        np.testing.assert_allclose(result.output, expected, rtol=1e-4, atol=1e-5)
    assert len(seen) == sum(one >= level for one in sure)
    assert 0 < len(seen) < len(PICTURES)


def test_the_mean_request_pays_for_the_exit_before_the_code_and_often_sends_nothing():
    with device([], confidence=[0.5, 0.0]) as ours, device([]) as plain:
        rows = [one.options.pieces.index((("code4",), ("code4/answer",))) for one in (ours, plain)]
        table = profile(GRAPH)
        branch_s = table.segment_s(GRAPH, ("pool1",), ("exit1",))
        assert branch_s > 0
        alone_s = table.segment_s(GRAPH, ("input",), ("exit1", "pool1"))
        device_s = max(1.0 - table.segment_s(GRAPH, ("input",), ("pool1",)), 0.0) + alone_s
        assert ours.options.device_s[rows[0]] == pytest.approx(device_s)
        assert plain.options.device_s[rows[1]] == 1.0
        assert ours.planner.stats.continue_share[rows[0]] == pytest.approx(0.5)
        assert ours.options.accuracy[rows[0]] == pytest.approx(plain.options.accuracy[rows[1]])

"""A bottleneck of a network with exits answers for every exit behind the tensor that it replaces."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.exit_training.bottlenecks import (
    EXIT_SETTINGS,
    bottleneck_with_exits,
    network_with_exits,
    result_with_exits,
    stripes,
    with_trained,
)

from coinfer.exit_training.bottleneck.places import exits_behind, place_for
from coinfer.exit_training.bottleneck.train import save, train
from coinfer.graph.bottleneck import BottleneckRecord, with_bottleneck, with_record
from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import save_model
from coinfer.graph.zoo import early_exits
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise

GRAPH = network_with_exits()
ANSWERS = {"exit2": "code4/answer/exit2", "logits": "code4/answer"}


def pictures(count: int, seed: int) -> dict[str, np.ndarray]:
    assert GRAPH.image is not None
    return {"input": np.concatenate([normalise(one, GRAPH.image) for one in stripes(count, seed).images])}


def test_exits_behind_a_tensor_follow_from_it_alone():
    assert exits_behind(GRAPH, "pool1") == ("exit1", "exit2", "logits")
    assert exits_behind(GRAPH, "pool2") == ("exit2", "logits")
    assert exits_behind(GRAPH, "conv3.relu") == ("logits",)
    assert exits_behind(early_exits.build("vgg16-cifar-exits"), "pool4") == ("exit4", "exit5")


def test_each_exit_learns_its_own_answers():
    """Without labels, from a network whose exits, not trained, mostly name other classes."""
    settings = replace(EXIT_SETTINGS, epochs=12, learning_rate=1e-2, tail_rate=1.0, label_weight=0.0)
    data, place = stripes(96), place_for(GRAPH, settings, "pool1", "pool2")
    trained = train(GRAPH, place, data, settings)
    assert trained.outputs == ("exit2", "logits")
    executor, test = Executor(with_trained(GRAPH, trained, data)), pictures(80, 1)
    plain = {name: array.argmax(1) for name, array in executor.run(test, tuple(ANSWERS))[0].items()}
    assert (plain["exit2"] == plain["logits"]).mean() < 0.8, "or one answer would do for both"
    for output, name in ANSWERS.items():
        answers = executor.run(test, (name,))[0][name].argmax(1)
        assert (answers == plain[output]).mean() >= 0.9, name


def test_right_answers_are_counted_for_every_code_and_exit(tmp_path):
    graph, data = bottleneck_with_exits(), stripes(40, seed=1)
    path = save(graph, result_with_exits(), "colours", tmp_path)
    loaded = with_bottleneck(GRAPH, path).bottleneck
    assert loaded is not None
    assert graph.bottleneck is not None
    assert (loaded.codes, loaded.source) == (graph.bottleneck.codes, "pool1")
    executor = Executor(graph)
    found, plain = executor.run(pictures(40, 1), tuple(ANSWERS.values()))[0], executor.run(pictures(40, 1))[0]
    for answer in loaded.codes[-1].answers:
        assert answer.accuracy is not None
        assert answer.tensor == ANSWERS[answer.output]
        assert answer.accuracy.plain == (plain[answer.output].argmax(1) == data.labels).sum()
        assert abs(answer.accuracy.correct - (found[answer.tensor].argmax(1) == data.labels).sum()) <= 1
    (of_exit2, _), (_, of_logits) = (
        code["answers"] for code in json.loads((tmp_path / "training.json").read_text())["codes"]
    )
    assert (of_exit2["tensor"], of_logits["tensor"]) == ("code2/answer/exit2", "code4/answer")


def test_a_file_of_format_1_has_the_last_exit_alone(tmp_path):
    """As files were written before bottlenecks knew of exits."""
    bottleneck = bottleneck_with_exits().bottleneck
    assert bottleneck is not None
    codes = [
        code.model_dump(exclude={"answers"})
        | {"answer": code.answers[-1].tensor, "accuracy": code.answers[-1].model_dump()["accuracy"]}
        for code in bottleneck.codes
    ]
    old = {"format": 1, "network": GRAPH.name, "fingerprint": GRAPH.fingerprint, "output": "logits", "codes": codes}
    proto = with_record(bottleneck.graph.proto, BottleneckRecord.model_validate(old))
    next(entry for entry in proto.metadata_props if entry.key == "coinfer.bottleneck").value = json.dumps(old)
    save_model(from_proto(proto, "old", bottleneck.graph.weights), tmp_path / "old.bottleneck.onnx", half=True)
    read = with_bottleneck(GRAPH, tmp_path / "old.bottleneck.onnx").bottleneck
    assert read is not None
    assert (read.outputs, read.source) == (("logits",), "")
    assert [code.answers for code in read.codes] == [code.answers[-1:] for code in bottleneck.codes]
    assert read.code("code4/answer") == read.codes[-1]
    assert read.code("code4/answer/exit2") is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": "conv9"}, "its tensors do not fit"),
        ({"source": "pool2"}, "its tensors do not fit"),
        ({"codes": []}, "no valid bottleneck: codes"),
        ({"format": 3}, "no valid bottleneck: format"),
    ],
)
def test_records_that_do_not_fit_are_refused(tmp_path, change, problem):
    bottleneck = bottleneck_with_exits().bottleneck
    assert bottleneck is not None
    record = BottleneckRecord(network=GRAPH.name, fingerprint=GRAPH.fingerprint, source="pool1", codes=bottleneck.codes)
    proto = with_record(bottleneck.graph.proto, record)
    said = next(entry for entry in proto.metadata_props if entry.key == "coinfer.bottleneck")
    said.value = json.dumps(json.loads(said.value) | change)
    save_model(from_proto(proto, "made", bottleneck.graph.weights), tmp_path / "made.onnx", half=True)
    with pytest.raises(GraphError, match=problem):
        with_bottleneck(GRAPH, tmp_path / "made.onnx")

"""Pieces of networks run as the whole does, and what does not fit is refused with one line."""

import threading
import time

import numpy as np
import pytest

from coinfer.graph.zoo import networks
from coinfer.runtime.executor import Abort, Executor, RequestError, Runner
from coinfer.runtime.piece_memory import PieceMemory
from coinfer.runtime.protocol.messages import WireError

GRAPH = networks.build("resnet32")
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def executor():
    return Executor(GRAPH)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_three_pieces_equal_the_whole(provider, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    executor = Executor(GRAPH, provider=provider)
    whole, compute_s = executor.run({"input": IMAGE})
    cuts = GRAPH.useful_cuts()
    tensors = {"input": IMAGE}
    for cut in (cuts[3], cuts[9]):
        tensors, _ = executor.run(tensors, cut.tensors)
    tail, _ = executor.run(tensors, GRAPH.outputs)
    np.testing.assert_allclose(tail["logits"], whole["logits"], rtol=1e-4, atol=1e-5)
    assert compute_s > 0


def test_a_batch_is_its_rows(executor):
    rows = np.concatenate([IMAGE, IMAGE + 1, IMAGE * 2])
    together = executor.run({"input": rows})[0]["logits"]
    for i in range(3):
        alone = executor.run({"input": rows[i : i + 1]})[0]["logits"]
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_tensors_pass_through_and_unneeded_ones_do_not_disturb(executor):
    last = GRAPH.useful_cuts()[-2].tensors[0]
    tensors, _ = executor.run({"input": IMAGE}, (last, "input"))
    assert tensors["input"] is IMAGE
    answer, _ = executor.run(tensors, ("logits",))
    np.testing.assert_array_equal(answer["logits"], executor.run({last: tensors[last]}, ("logits",))[0]["logits"])
    assert list(executor.run({"input": IMAGE}, ("input",))[0]) == ["input"]


def test_a_piece_is_opened_once_by_many_threads(monkeypatch):
    executor, opened = Executor(GRAPH), []
    original = executor._open
    executor._open = lambda piece: opened.append(piece.name) or original(piece)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(executor.run({"input": IMAGE}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert all(np.array_equal(a[0]["logits"], answers[0][0]["logits"]) for a in answers)
    assert len(answers) == 8


def test_a_failed_opening_is_not_remembered(executor):
    fresh = Executor(GRAPH)
    for _ in range(2):
        with pytest.raises(RequestError):
            fresh.run({}, ("logits",))
    actual, expected = (one.run({"input": IMAGE})[0]["logits"] for one in (fresh, executor))
    np.testing.assert_array_equal(actual, expected)


def test_memory_of_pieces_is_bounded():
    memory = PieceMemory[Runner](1.5 * sum(w.nbytes for w in GRAPH.weights.values()), 64)
    executor = Executor(GRAPH, memory=memory)
    cuts = GRAPH.useful_cuts()
    for cut in cuts[:6]:
        executor.prepare(cut.tensors)
    cached = [cut for cut in cuts[:6] if executor.hold(cut.tensors)]
    assert cached == [cuts[5]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"nope": IMAGE}, (), "input 'nope': resnet32 has no such tensor; it starts at input"),
        ({"input": IMAGE.astype(np.float64)}, (), "input 'input': expected float32, got float64"),
        ({"input": IMAGE[:, :2]}, (), r"expected shape \[N, 3, 32, 32\], got \[1, 2, 32, 32\]"),
        ({"input": IMAGE[0]}, (), r"expected shape \[N, 3, 32, 32\], got \[3, 32, 32\]"),
        ({"input": IMAGE[:0]}, (), r"got \[0, 3, 32, 32\]"),
        ({"input": IMAGE}, ("nope",), "nope"),
        ({}, (), "logits"),
        ({"input": IMAGE, "conv1": np.zeros((2, 16, 32, 32), np.float32)}, (), r"different batch sizes: \[1, 2\]"),
    ],
)
def test_what_does_not_fit_is_named(executor, inputs, outputs, words):
    with pytest.raises(RequestError, match=words) as caught:
        executor.run(inputs, outputs)
    assert "\n" not in str(caught.value)


def test_an_output_that_does_not_follow_is_refused(executor):
    late, early = GRAPH.useful_cuts()[8].tensors, GRAPH.useful_cuts()[2].tensors
    tensor = GRAPH.tensors[late[0]]
    with pytest.raises(RequestError):
        executor.run({late[0]: np.zeros(tensor.shape, np.float32)}, early)


def test_the_slow_processor_takes_its_factor_longer():
    """Than the processor time that the run took here, whatever the machine does meanwhile. Up to a factor of 4 work is
    done once."""
    slow, images = Executor(GRAPH, slowdown=3.0), np.repeat(IMAGE, 4, axis=0)
    slow.prepare(("input",))
    factors = []
    for _ in range(5):
        began_s = time.thread_time()
        took_s = slow.run({"input": images})[1]
        factors.append(took_s / (time.thread_time() - began_s))
    assert max(factors) > 2.5, "all but the little that is not the run's own"


@pytest.mark.parametrize("slowdown", [0.5, float("nan"), float("inf"), -1])
def test_wrong_slowdowns_are_refused(slowdown):
    with pytest.raises(RequestError, match="slowdown"):
        Executor(GRAPH, slowdown=slowdown)


def test_a_run_can_be_aborted(executor):
    before = executor.run({"input": IMAGE})[0]["logits"]
    abort = Abort()
    abort.set()
    with pytest.raises(WireError) as caught:
        executor.run({"input": IMAGE}, (), abort)
    assert caught.value.code == "CANCELLED"
    np.testing.assert_array_equal(executor.run({"input": IMAGE}, (), Abort())[0]["logits"], before)


def test_warm_measures(executor):
    took_s = executor.warm(("input",))
    assert 0 < took_s < 60
    assert executor.warm(("input",)) == took_s, "many devices that join at once do not keep a server busy"
    with pytest.raises(RequestError):
        executor.warm(("nope",))

"""Requests that wait for one piece run as one batch; each gets its own answer, or its own error."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.runtime.edge.edge_process import unencoded

from coinfer.graph.zoo import networks
from coinfer.runtime.batch_profile import BatchProfile
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.edge.served_model import serve_graph
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.executor import Executor
from coinfer.runtime.protocol.messages import InferRequest, WireError, WireTensor, from_array, to_array

GRAPH = networks.build("alexnet-cifar")
INPUT, OUTPUT = GRAPH.inputs[0], GRAPH.outputs[0]
CUT = GRAPH.useful_cuts()[2].tensors
GAINS = BatchProfile(sizes=(1, 2, 4, 8), ratios=(1.0, 1.1, 1.2, 1.4))
RNG = np.random.default_rng(3)
IMAGES = [RNG.standard_normal((1, *GRAPH.tensors[INPUT].shape[1:])).astype(np.float32) for _ in range(24)]


class Counting(Executor):
    """Gains from batches, as it says; remembers how many samples it ran at a time."""

    def __init__(self, fails_together: bool = False):
        super().__init__(GRAPH)
        self.sizes: list[int] = []
        self.fails_together = fails_together

    def batches(self, inputs, outputs=()):
        return GAINS

    def run(self, inputs, outputs=(), abort=None):
        size = next(iter(inputs.values())).shape[0]
        self.sizes.append(size)
        if self.fails_together and size > 1:
            raise RuntimeError("no room for a batch")
        return super().run(inputs, outputs, abort)


def ask(executor: Executor, requests: list[InferRequest]) -> list[Any]:
    """All requests come at once, so that all but the first one wait."""

    for one in requests:
        executor.prepare([tensor.name for tensor in one.inputs], one.outputs)

    async def run():
        service = EdgeService([serve_graph(GRAPH, executor)], queue=64)
        try:
            return await asyncio.gather(*(service.infer(one, unencoded) for one in requests), return_exceptions=True)
        finally:
            service.close()

    return asyncio.run(run())


def alone(image: np.ndarray) -> np.ndarray:
    return Executor(GRAPH).run({INPUT: image})[0][OUTPUT]


def whole(image: np.ndarray, **more) -> InferRequest:
    return InferRequest(GRAPH.name, (from_array(INPUT, image),), **more)


@pytest.fixture(scope="module")
def answers() -> list[np.ndarray]:
    return [alone(image) for image in IMAGES]


def test_each_of_a_batch_gets_its_own_answer_in_its_own_form(answers):
    executor = Counting()
    requests = [whole(image, id=str(k), bits=(None, 32, 16)[k % 3]) for k, image in enumerate(IMAGES)]
    replies = ask(executor, requests)
    assert max(executor.sizes) == 8
    for k, (reply, answer) in enumerate(zip(replies, answers, strict=True)):
        assert reply.id == str(k)
        assert reply.outputs[0].codec == (k % 3 > 0)
        got = unpack(reply.outputs[0])
        np.testing.assert_allclose(got, answer, rtol=0, atol=(1e-3 if k % 3 == 2 else 1e-5) * np.abs(answer).max())
    together = [reply for reply in replies if reply.details.get("batch", 1) > 1]
    assert len(together) >= 8
    assert all(reply.queue_s > 0 for reply in together)


def test_pieces_batch_and_a_bad_request_fails_alone(answers):
    executor = Counting()
    requests = []
    for k, image in enumerate(IMAGES):
        middle, _ = Executor(GRAPH).run({INPUT: image}, CUT)
        tensors = tuple(pack(name, array, 32) for name, array in middle.items())
        if k % 5 == 4:
            damaged = bytes(tensors[0].data)[: len(tensors[0].data) // 2]
            tensors = (WireTensor(tensors[0].name, "UINT8", (len(damaged),), damaged, codec=True), *tensors[1:])
        requests.append(InferRequest(GRAPH.name, tensors, GRAPH.outputs))
    replies = ask(executor, requests)
    assert max(executor.sizes) > 1
    for k, (reply, answer) in enumerate(zip(replies, answers, strict=True)):
        if k % 5 == 4:
            assert isinstance(reply, WireError)
            assert reply.code == "INVALID_ARGUMENT"
        else:
            np.testing.assert_allclose(to_array(reply.outputs[0]), answer, rtol=0, atol=1e-5 * np.abs(answer).max())


def test_if_a_batch_cannot_run_each_runs_alone(answers):
    executor = Counting(fails_together=True)
    replies = ask(executor, [whole(image) for image in IMAGES[:6]])
    assert max(executor.sizes) > 1
    for reply, answer in zip(replies, answers, strict=False):
        np.testing.assert_array_equal(to_array(reply.outputs[0]), answer)
        assert "batch" not in reply.details


def test_batches_of_a_client_run_as_they_came(answers):
    executor = Counting()
    pairs = [np.concatenate(IMAGES[k : k + 2]) for k in range(0, 8, 2)]
    replies = ask(executor, [whole(pair) for pair in pairs])
    assert executor.sizes == [2] * 4
    for k, reply in enumerate(replies):
        np.testing.assert_allclose(to_array(reply.outputs[0]), np.concatenate(answers[2 * k : 2 * k + 2]), atol=1e-3)


def test_a_measured_piece_forms_batches_and_one_that_was_not_does_not(monkeypatch):
    executor = Executor(GRAPH)
    assert executor.batches((INPUT,)).times.limit == 1
    monkeypatch.setattr("coinfer.runtime.executor.measure_batches", lambda *_: GAINS)
    monkeypatch.setattr("coinfer.runtime.executor.batch_cache", lambda *_: NoCache())
    assert executor.measure_batches((INPUT,), (), limit=4).sizes == (1, 2, 4)
    assert executor.batches((INPUT,), (OUTPUT,)).times.limit == 4


class NoCache:
    def get(self, piece):
        return None

    def put(self, piece, profile):
        pass


def test_a_network_without_a_free_batch_says_why_it_is_not_batched(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tensors = {name: replace_axes(tensor) for name, tensor in GRAPH.tensors.items()}
    fixed = Executor(replace(GRAPH, tensors=tensors, axes=()))
    profile = fixed.measure_batches((INPUT,), (), limit=8)
    assert profile.sentence() == f"not batched: the first axis of {INPUT!r} is no batch of any size"
    free = Executor(GRAPH).measure_batches((INPUT,), (), limit=2)
    assert "no batch" not in free.sentence(), "the same file with other sizes is measured by itself"


def replace_axes(tensor):
    return tensor._replace(axes=())

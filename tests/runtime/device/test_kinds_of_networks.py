"""Networks that are cut across several tensors or at integers are answered as they are undivided, over any route."""

import math
from itertools import pairwise

import numpy as np
import pytest
from tests.graph.small_graphs import run
from tests.graph.test_cuts import masked, quantised

from coinfer.graph.ir import ModelGraph
from coinfer.profile.samples import random_samples
from coinfer.runtime.clock import WallClock
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.device.device import Device
from coinfer.runtime.executor import Executor
from coinfer.runtime.profiling import measure_with_codec
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport
from coinfer.runtime.transport.base import InMemoryTransport
from coinfer.types import Hop, OffloadDecision, Route

SERVER = "edge:1"


class Node:
    """Computes what it is asked for, and goes on with the hops that follow."""

    def __init__(self, graph: ModelGraph):
        self.executor = Executor(graph)
        self.pieces: list[tuple[str, ...]] = []

    def __call__(self, request: InferRequest) -> InferReply:
        if request.warm:
            return InferReply(request.model, (), server_s=1e-6, load=LoadReport(0.0, 0, 8))
        values = {tensor.name: unpack(tensor) for tensor in request.inputs}
        self.pieces.append(tuple(values))
        for outputs in (request.outputs, *(hop.cut for hop in request.route)):
            values, _ = self.executor.run(values, outputs)
        answers = tuple(pack(name, array, None) for name, array in values.items())
        return InferReply(request.model, answers, server_s=1e-6, load=LoadReport(0.0, 0, 8))


@pytest.mark.parametrize("build", [masked, quantised])
def test_every_cut_and_every_two_cuts_answer_as_the_whole(build):
    graph = build()
    node = Node(graph)
    (sample,) = random_samples(graph)
    table = measure_with_codec(graph, 1, [sample])
    expected = run(graph, dict(sample), graph.outputs)[graph.outputs[0]]
    cuts = [cut.tensors for cut in graph.useful_cuts()[:-1]]
    end = Hop(SERVER, graph.outputs, 32)
    routes = [(Hop("device", cut, 32), end) for cut in cuts]
    routes += [(Hop("device", one, 32), Hop(SERVER, two, 32), end) for one, two in pairwise(cuts)]
    transport = InMemoryTransport({SERVER: node})
    with Device(graph, servers=[SERVER], profile=table, transport=transport, clock=WallClock()) as device:
        for hops in routes:
            result = device.infer_by_route(dict(sample), Route(hops, 0, math.inf))
            assert result.executed_on == SERVER, result.fallback
            np.testing.assert_array_equal(result.output, expected)
    assert [set(piece) for piece in node.pieces] == [set(hops[0].cut) for hops in routes]


def test_every_option_of_a_batch_is_carried_out():
    graph = masked()
    node = Node(graph)
    table = measure_with_codec(graph, 1, random_samples(graph))
    batch = {name: np.tile(array, (5, 1)) for name, array in random_samples(graph)[0].items()}
    expected = run(graph, batch, graph.outputs)[graph.outputs[0]]

    def choose(option: int):
        return lambda observation: OffloadDecision(option=np.array([option]), server=np.array([0]))

    transport = InMemoryTransport({SERVER: node})
    with Device(graph, servers=[SERVER], profile=table, transport=transport, bits=(32,), clock=WallClock()) as device:
        for option, is_local in enumerate(device.options.is_local.tolist()):
            result = device.infer(batch, policy=choose(option))
            assert result.executed_on == ("device" if is_local else SERVER), result.fallback
            np.testing.assert_array_equal(result.output, expected)
            assert math.isfinite(result.predicted_s)

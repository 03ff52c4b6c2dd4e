"""A network in pieces on a device and real edge servers computes what the whole computes, wherever it is cut."""

import contextlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.e2e.sites import Edge, asked_there, edges, relative_error
from tests.patience import patient_transport
from tests.tables import analytic_table

from coinfer.graph.ir import Cut, ModelGraph
from coinfer.graph.zoo import networks
from coinfer.options.compile import compile_options
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.device.device import Device
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images, preprocess
from coinfer.runtime.protocol.messages import InferReply, InferRequest, TransportError
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.types import Hop, OffloadDecision, Route

pytestmark = pytest.mark.timeout(900)  # three edges with VGG16 take minutes to start on a busy core
EXACT = 1e-4
"""Largest relative error of what is sent with 32 bits."""
SENT_IN_8_BITS = 0.1
PICTURE = load_images()[0][1]
TIMEOUT_S = 200.0
"""Only ends a test that has failed."""
TRIES, AGAIN_S = 30, 0.5
DAGS = ("googlenet", "mobilenetv2", "resnet32")
LARGE_PARAMS = 50e6
"""Networks over this take a second to open a piece: only at useful cuts here, at every third of all in tests/graph."""


@dataclass
class Site:
    """A network on this device and on three edge servers."""

    graph: ModelGraph
    nodes: list[Edge]
    transport: GrpcTransport
    executor: Executor = field(init=False)
    input: dict[str, np.ndarray] = field(init=False)
    whole: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        assert self.graph.image is not None
        self.executor = Executor(self.graph)
        self.input = {self.graph.inputs[0]: preprocess(PICTURE, self.graph.image)}
        self.whole = self.run(self.input, self.graph.outputs)[self.graph.outputs[0]]

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        return self.executor.run(inputs, outputs)[0]

    def send(self, cuts: Sequence[tuple[str, ...]], bits: int = 32) -> Future[InferReply]:
        """Runs the head up to the first cut here and sends the rest on its way: each further cut ends a server's
        part."""
        ends = [*cuts[1:], self.graph.outputs]
        hops = [Hop(node.address, end, bits) for node, end in zip(self.nodes, ends, strict=False)]
        head = self.run(self.input, cuts[0])
        request = InferRequest(
            self.graph.name,
            tuple(pack(name, head[name], bits) for name in cuts[0]),
            outputs=ends[0],
            fingerprint=self.graph.fingerprint,
            route=tuple(hops[1:]),
            bits=bits,
        )
        return self.transport.send(self.nodes[0].address, request, TIMEOUT_S)

    def ask(self, cuts: Sequence[tuple[str, ...]], bits: int = 32) -> InferReply:
        """The reply to `send`. An edge takes the next one for lost that answers no ping for half a second, as it may on
        a busy machine; then it is asked once more when it may have connected again."""
        for _ in range(TRIES - 1):
            try:
                return self.send(cuts, bits).result()
            except TransportError as error:
                if error.code != "UNAVAILABLE":
                    raise
                time.sleep(AGAIN_S)
        return self.send(cuts, bits).result()

    def answer(self, reply: InferReply) -> np.ndarray:
        assert [tensor.name for tensor in reply.outputs] == list(self.graph.outputs)
        return unpack(reply.outputs[0])


LARGE = ("resnet50", "alexnet", "vgg16-cifar", "googlenet")


def zoo() -> list[object]:
    """All networks but vgg16, whose edge servers take 4 GB each."""
    names = [name for name in networks.ZOO if name != "vgg16"]
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


@pytest.fixture(scope="module", params=zoo())
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with edges([request.param], [()] * 3) as nodes, contextlib.closing(patient_transport()) as transport:
        yield Site(networks.build(request.param), nodes, transport)


def test_head_here_and_tail_there_is_the_whole_at_every_single_tensor_cut(site: Site):
    sent: list[tuple[Cut, Future[InferReply]]] = []
    large = site.graph.params > LARGE_PARAMS
    cuts = (site.graph.useful_cuts() if large else site.graph.single_cuts())[:-1]
    for cut in cuts:
        sent.append((cut, site.send([cut.tensors])))
        if len(sent) > 1:  # the edge opens one tail while the device opens the next head
            sent[-2][1].exception()
    wrong = {
        cut.tensors: error
        for cut, future in sent
        if (error := relative_error(site.answer(future.result()), site.whole)) > EXACT
    }
    assert not wrong


@pytest.mark.parametrize("count", [2, 3])
def test_several_cuts_are_a_route_over_several_edges(site: Site, count: int):
    rng = random.Random(count)
    useful = [cut.tensors for cut in site.graph.useful_cuts()[:-1]]
    for _ in range(2):
        cuts = [useful[i] for i in sorted(rng.sample(range(len(useful)), count))]
        reply = site.ask(cuts)
        assert relative_error(site.answer(reply), site.whole) <= EXACT, cuts
        assert [done.node for done in reply.executed] == [node.address for node in site.nodes[:count]]
        assert [done.cut for done in reply.executed] == [*cuts[1:], site.graph.outputs]
        assert reply.forward_s > sum(done.server_s for done in reply.executed[1:]) > 0


@pytest.mark.parametrize("site", DAGS, indirect=True)
def test_a_device_follows_routes_over_several_edges(site: Site):
    rng, table = random.Random(1), analytic_table(site.graph)
    options = compile_options(site.graph, table, (32,))
    options = options.take(np.array([0, len(options.cuts) - 1]))
    addresses = [node.address for node in site.nodes]
    with Device(site.graph, servers=addresses, profile=table, options=options, transport=patient_transport()) as device:
        for count in (1, 2, 3):
            useful = [cut.tensors for cut in site.graph.useful_cuts()[:-1]]
            cuts = [useful[i] for i in sorted(rng.sample(range(len(useful)), count))]
            hops = zip(["device", *addresses], [*cuts, site.graph.outputs], strict=False)
            route = Route(tuple(Hop(node, cut, 32) for node, cut in hops), 0, math.inf)
            for _ in range(TRIES):
                result = device.infer_by_route(PICTURE, route)
                if "UNAVAILABLE" not in result.fallback:  # as in `Site.ask`
                    break
                time.sleep(AGAIN_S)
            assert relative_error(result.output, site.whole) <= EXACT, cuts
            assert (result.executed_on, result.fallback) == (addresses[count - 1], "")
            assert sum(result.outcome[:5]) == pytest.approx(result.outcome.latency_s)


@pytest.mark.parametrize("site", DAGS, indirect=True)
def test_cuts_across_several_tensors(site: Site):
    rng = random.Random(0)
    tried = 0
    while tried < 12:
        cut = _random_cut(site.graph, rng)
        if len(cut.tensors) < 2:
            continue
        tried += 1
        reply = site.ask([cut.tensors])
        assert relative_error(site.answer(reply), site.whole) <= EXACT, cut.tensors
    first, second = sorted((_random_cut(site.graph, rng) for _ in range(2)), key=lambda cut: len(cut.head))
    union = site.graph.cut(first.head | second.head)  # the second may lack operations of the first
    reply = site.ask([first.tensors, union.tensors])
    assert relative_error(site.answer(reply), site.whole) <= EXACT, (first.tensors, union.tensors)


def _random_cut(graph: ModelGraph, rng: random.Random) -> Cut:
    """Operations in a random order that respects what they need, up to a random one."""
    head: set[int] = set()
    for _ in range(rng.randrange(1, len(graph.ops))):
        ready = [
            i
            for i, op in enumerate(graph.ops)
            if i not in head and all(graph.producer.get(name, -1) in head | {-1} for name in op.inputs)
        ]
        head.add(rng.choice(ready))
    return graph.cut(frozenset(head))


def test_eight_bits_lose_what_quantising_loses_and_nothing_more(site: Site):
    useful = [cut.tensors for cut in site.graph.useful_cuts()]
    for cut in (useful[len(useful) // 4], useful[len(useful) * 3 // 4]):
        head = site.run(site.input, cut)
        quantised = {name: unpack(pack(name, tensor, 8)) for name, tensor in head.items()}
        local = site.run(quantised, site.graph.outputs)[site.graph.outputs[0]]
        reply = site.ask([cut], bits=8)
        step = np.ptp(local) / 255  # the reply is quantised too
        found = site.answer(reply)
        assert np.abs(found - local).max() <= 0.51 * step + EXACT * np.abs(local).max(), cut
        assert local[0, found.argmax()] >= local.max() - step, "the same first class, or one within a step of it"
        assert relative_error(found, site.whole) <= SENT_IN_8_BITS, cut


@pytest.mark.parametrize("name", ["resnet32", "alexnet-cifar", "googlenet"])
def test_a_device_cuts_wherever_its_policy_says(name: str):
    graph = networks.build(name)
    assert graph.image is not None
    whole = Executor(graph).run({graph.inputs[0]: preprocess(PICTURE, graph.image)})[0][graph.outputs[0]]
    table = analytic_table(graph)
    options = compile_options(graph, table, (32,))
    patient = {"hedge": False, "transport": patient_transport()}
    with (
        edges([name], [()]) as (edge,),
        Device(graph, servers=[edge.address], profile=table, options=options, **patient) as device,
    ):
        for option, cut in enumerate(options.cuts[:-1]):
            decision = OffloadDecision(np.array([option]), np.array([0]))
            result = asked_there(device, PICTURE, edge.address, policy=lambda _, decision=decision: decision)
            assert result.route.hops[0].cut == cut
            assert relative_error(result.output, whole) <= EXACT, cut
        assert edge.served() >= len(options.cuts) - 1

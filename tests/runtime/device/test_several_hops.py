"""Routes over several servers: which one is taken, what is learned from it, and what becomes of it if it fails.

A weak server is near the device, a strong one behind it; both live in memory, and time hardly passes.
"""

import itertools
import threading

import numpy as np
import pytest
from tests.runtime.device.test_device import EXACT, GRAPH, PICTURES, TABLE, SlowClock, exact

from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.estimate import Work
from coinfer.runtime.device.pair_links import PairLink
from coinfer.runtime.device.planning import several_hops
from coinfer.runtime.device.planning.plan import Part, SeveralHops
from coinfer.runtime.device.planning.several_hops import find_route, hop_times
from coinfer.runtime.protocol.messages import ExecutedHop, InferReply, InferRequest, LoadReport, WireError
from coinfer.runtime.transport.base import PING_MODEL, InMemoryTransport
from coinfer.types import DEVICE, OffloadDecision

NEAR, FAR = "near:1", "far:1"
SPEEDS = {NEAR: 2.0, FAR: 100.0}
"""Over the device, which takes 20 s for the network."""
RATES_BPS = {NEAR: 1e9, FAR: 1e3}
BETWEEN_BPS = 1e8


class Site:
    """Both servers; each computes and forwards as a real one."""

    def __init__(self) -> None:
        self.nodes = {name: lambda request, name=name: self.answer(name, request) for name in SPEEDS}
        self.asked: list[tuple[str, int]] = []
        """Who got a request, with the number of servers after it."""
        self.link_bps: float | None = BETWEEN_BPS
        """None if servers do not forward to each other."""
        self.fails: dict[str, WireError] = {}
        self.holds: threading.Event | None = None

    def answer(self, name: str, request: InferRequest) -> InferReply:
        if request.model == PING_MODEL:
            if self.link_bps is None:
                raise WireError("INVALID_ARGUMENT", "this node does not forward", "route")
            return InferReply(PING_MODEL, (), executed=(ExecutedHop(request.route[0].node, (), 0, 0, self.link_bps),))
        given = tuple(tensor.name for tensor in request.inputs)
        took_s = TABLE.segment_s(GRAPH, given, request.outputs) / SPEEDS[name]
        if request.warm:
            return InferReply(request.model, (), server_s=took_s)
        self.asked.append((name, len(request.route)))
        if name in self.fails:
            raise self.fails[name]
        if self.holds is not None:
            self.holds.wait()
        outputs, _ = EXACT.run({tensor.name: unpack(tensor) for tensor in request.inputs}, request.outputs)
        packed = tuple(pack(key, array, request.bits) for key, array in outputs.items())
        here = ExecutedHop(name, request.outputs, took_s, 0.0)
        reply = InferReply(request.model, packed, server_s=took_s, load=LoadReport(0.0, 0, 8))
        return self.forward(request, reply, here) if request.route else reply

    def forward(self, request: InferRequest, reply: InferReply, here: ExecutedHop) -> InferReply:
        hop = request.route[0]
        onward = request._replace(inputs=reply.outputs, outputs=hop.cut, bits=hop.bits, route=request.route[1:])
        try:
            answer = self.answer(hop.node, onward)
        except WireError as error:
            raise WireError("UNAVAILABLE", f"next hop {hop.node}: {error.message}", "next_hop") from None
        there = ExecutedHop(hop.node, hop.cut, answer.server_s, 0.0, 2 * BETWEEN_BPS)
        return reply._replace(outputs=answer.outputs, forward_s=answer.server_s, executed=(here, there))


@pytest.fixture
def site() -> Site:
    return Site()


def device(site: Site, **settings) -> Device:
    """Opened, with the links of `RATES_BPS` and a route if there is one."""
    ours = Device(
        GRAPH,
        servers=list(site.nodes),
        profile=TABLE,
        transport=InMemoryTransport(site.nodes),
        clock=SlowClock(),
        **{"bits": (32,), "hedge": False} | settings,
    )
    ours.open()
    for index, name in enumerate(ours.servers):
        set_rate(ours, index, RATES_BPS[name])
    if ours._routes is not None:
        ours._routes.update()
    return ours


def set_rate(ours: Device, index: int, rate_bps: float) -> None:
    def change(server):
        return server._replace(
            link=server.link._replace(bits=rate_bps * 1e6, seconds=1e6), link_free_s=0.0, in_flight=0
        )

    ours._parts.client.pool.update(index, change)


def test_a_strong_server_is_reached_through_a_weak_one_that_is_near(site: Site):
    with device(site) as ours:
        alone = OffloadDecision(np.array([0]), np.array([0]))
        one_hop = ours.planner.plan(ours._parts.state(), np.inf)
        assert ours.planner.plan(ours._parts.state(), np.inf, policy=lambda _: alone).predicted_s > 5
        result = ours.infer(PICTURES[0])
        learned, pair = ours._parts.client.pool.estimates()[1], ours._parts.client.pairs.known()[NEAR, FAR]
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-6)
    assert [hop.node for hop in result.route.hops] == ["device", NEAR, FAR]
    assert (result.executed_on, result.fallback, site.asked) == (FAR, "", [(NEAR, 1), (FAR, 0)])
    assert result.predicted_s < one_hop.predicted_s / 5
    piece = result.route.hops[1].cut, GRAPH.outputs
    assert learned.service[Work(piece)].runs == 2, "opened, and measured by the request"
    assert pair.rate_bps == 2 * BETWEEN_BPS, "as the reply says"


def test_the_device_finishes_with_one_server_if_the_next_hop_fails(site: Site):
    with device(site) as ours:
        site.fails[FAR] = WireError("UNAVAILABLE", "it burns")
        result = ours.infer(PICTURES[0])
        assert "it burns" in result.fallback
        assert [hop.node for hop in result.route.hops] == ["device", NEAR, FAR], "what was planned"
        assert (result.executed_on, site.asked) == (NEAR, [(NEAR, 1), (FAR, 0), (NEAR, 0)])
        assert ours._parts.client.pool.estimates()[0].failures == 0, "it did its part"
        np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-6)
        assert len(ours.plan().hops) == 2, "until the link is measured again"
        ours._routes._due_s.clear()
        ours._routes.update()
        assert len(ours.plan().hops) == 3


def test_the_others_finish_if_the_first_hop_fails(site: Site):
    with device(site) as ours:
        site.fails[NEAR] = WireError("INTERNAL", "it burns")
        result = ours.infer(PICTURES[0])
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-6)
    assert result.executed_on in ("device", FAR)
    assert site.asked[:2] != [(NEAR, 1), (NEAR, 0)]
    assert "INTERNAL" in result.fallback


def test_the_device_does_not_wait_for_a_route_that_is_late(site: Site):
    with device(site, hedge=True) as ours:
        site.holds = threading.Event()
        set_rate(ours, 1, 1e-3)
        ours._parts.client._ratios.extend([0.0] * 100)
        result = ours.infer(PICTURES[0], deadline_s=1e-4)
        assert result.executed_on == "device"
        assert "no reply" in result.fallback
        assert (NEAR, FAR) not in ours._parts.client.pairs.known()
        site.holds.set()
    np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-6)


def test_servers_that_do_not_forward_are_used_one_at_a_time(site: Site):
    site.link_bps = None
    with device(site) as ours:
        assert ours._routes._routes == ()
        assert len(ours.plan().hops) == 2


@pytest.mark.parametrize("link_bps", [1e3, 1e8])
def test_several_servers_are_asked_only_where_that_saves_time(site: Site, link_bps: float):
    site.link_bps = link_bps
    with device(site) as ours:
        assert len(ours.plan().hops) == (3 if link_bps > 1e6 else 2)
        assert len(ours.plan(policy=several_hops_stranger).hops) == 1, "who has a policy of his own decides himself"


def several_hops_stranger(observation):
    return OffloadDecision(np.array([observation.option_mask.shape[-1] - 1]), np.array([DEVICE]))


def test_no_route_over_two_servers_is_predicted_to_be_sooner(site: Site):
    """Against all cuts and orders of servers, with codes and queues that `multiway` does not know."""
    with device(site) as ours:
        planner, state = ours.planner, ours._parts.state()
        waits = state.servers[1]._replace(free_s=state.now_s + 0.1, backlog_s=0.1)
        state = state._replace(servers=(state.servers[0], waits))
        links = {(NEAR, FAR): PairLink(2e6, 0.01), (FAR, NEAR): PairLink(3e5, 0.02)}
        observation = planner.observe(state, np.inf)

        def timed(hops: SeveralHops) -> float:
            found = hop_times(hops, observation, state, links, planner.servers, planner.computes)
            return np.inf if found is None else found.predicted_s

        found = find_route(planner, state, links)
        known = planner.at(())
        cuts = [cut.tensors for cut in GRAPH.useful_cuts()[1:-1]]
        every = []
        for option, cut in itertools.product(range(len(planner.options.bits)), cuts):
            start = planner.options.cuts[option]
            if planner.options.upload_bits[option] == 0 or start == cut or not follows(start, cut):
                continue
            ends = [start, cut, GRAPH.outputs]
            for servers in ((0, 1), (1, 0)):
                parts = [
                    Part(
                        server,
                        Work((one, other)),
                        several_hops._service_s(known, one, other, 32),
                        several_hops._sent_bits(known, one, 32),
                        32,
                    )
                    for server, (one, other) in zip(servers, itertools.pairwise(ends), strict=True)
                ]
                every.append(SeveralHops(option, tuple(parts)))
    assert found is not None
    assert len(every) > 50
    assert timed(found) <= min(map(timed, every)) * 1.05


def follows(start, cut) -> bool:
    cuts = [one.tensors for one in GRAPH.useful_cuts()]
    return cuts.index(start) < cuts.index(cut)

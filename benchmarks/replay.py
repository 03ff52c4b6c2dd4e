"""A device among servers without processes: the estimators and the planner of the product, on a virtual clock.

What happens is given: the links' traces, what each piece takes on device and servers, and by how much single runs
differ. A clairvoyant knows the links' whole traces and the typical times; whoever decides as the product does knows
what its own requests and probes have shown. `regret.py` compares them.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import simpy

from coinfer.physics import latency
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast
from coinfer.runtime.device.planning.plan import DeviceState
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.remaining import remaining
from coinfer.runtime.device.processor import scale_factor
from coinfer.runtime.device.request_client import RATIO_WINDOW
from coinfer.runtime.device.server_pool import PROBE_TIMEOUT_S, after_lost_probe, after_pong, is_probe_due, probe_bytes
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.transport.base import Pong
from coinfer.traces import Trace
from coinfer.types import DEVICE, OffloadDecision
from coinfer.units import bits_of_bytes

Events = Generator[Any, Any, Any]
MESSAGE_BITS = bits_of_bytes(300)
"""Of a probe and its answer, without padding."""


class World(NamedTuple):
    """What happens, whoever decides."""

    device_s: np.ndarray
    """[O] head and encoding, typical."""
    server_s: np.ndarray
    """[O, N] decoding and tail, typical."""
    upload_bits: np.ndarray
    """[O] of request and reply together; 0 for what stays."""
    computes: np.ndarray
    """[O] whether the device's processor is used."""
    traces: tuple[Trace, ...]
    """[N]"""
    device_noise: np.ndarray
    """[M] time of single runs over the typical one, in turn."""
    server_noise: np.ndarray
    """[M]"""
    period_s: float
    requests: int
    link_noise: np.ndarray = np.ones(1)
    """[M] time on air of single transfers over what the trace says."""
    round_trip_s: float = 0.001
    burst_bits: float = 25_600.0


class Parts(NamedTuple):
    """The parts of every choice's latency at one moment, true or believed."""

    device_s: np.ndarray
    """[O] until the head is done."""
    link_free_s: np.ndarray
    """[N]"""
    upload_s: np.ndarray
    """[O, N] on air."""
    server_free_s: np.ndarray
    """[N]"""
    service_s: np.ndarray
    """[O, N] with the round trip."""

    def latency_s(self, stays: np.ndarray) -> np.ndarray:
        """Return [O, N + 1] by the formulas of the planner; the last column is the device."""
        ready_s = latency.ready_s(self.device_s[:, None], self.link_free_s, self.upload_s)
        away_s = np.where(stays[:, None], np.inf, latency.end_s(ready_s, self.server_free_s, self.service_s))
        return np.column_stack([away_s, np.where(stays, self.device_s, np.inf)])


class Request(NamedTuple):
    """One request and what it came to."""

    option: int
    server: int
    latency_s: float
    predicted_s: float
    true_s: np.ndarray
    """[O, N + 1] what each choice would take, by the true links and the typical times."""
    believed: Parts | None
    true: Parts | None
    is_hedged: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Return the index of the choice in `true_s`."""
        return self.option, self.server if self.server != DEVICE else self.true_s.shape[1] - 1


class Clock:
    """The time of a simulation, for links."""

    def __init__(self, env: simpy.Environment):
        self.env = env

    def now_s(self) -> float:
        return self.env.now

    def sleep(self, duration_s: float, cancel: Any = None) -> bool:
        raise NotImplementedError("a simulated link is reserved, not waited for")


Decide = Callable[["Replay", int], tuple[int, int, float]]


class Replay:
    """One run of all requests of a world; `requests` holds them in the order in which they were made."""

    def __init__(self, world: World, planner: Planner, decide: Decide, probes: bool = True, explains: bool = True):
        self.explains, self.transfers = explains, 0
        self.world, self.planner, self.decide = world, planner, decide
        self.env = simpy.Environment()
        self.links = [Link(trace, Clock(self.env), world.burst_bits) for trace in world.traces]
        self.device_free_s, self.server_free_s = 0.0, np.zeros(len(world.traces))
        servers = [est.first_server(10e6, 0.0) for _ in world.traces]
        self.known = [est.after_reply(server, 0.0, 8, 0.0) for server in servers]
        self.scale, self.backlog_s = planner_scale(world, planner), 0.0
        self.ratios: deque[float] = deque(maxlen=RATIO_WINDOW)
        self.heard_s, self.pongs = [-math.inf] * len(servers), [0] * len(servers)
        self.found: dict[int, Request] = {}
        self._prepare()
        if probes:
            for n in range(len(servers)):
                self.env.process(self._probes(n))
        self.env.process(self._arrivals())
        self.env.run(until=world.requests * world.period_s + 60.0)
        self.requests = [self.found[i] for i in sorted(self.found)]

    def true_parts(self) -> Parts:
        """Return what each choice would take from now, without the noise of single runs."""
        world, now_s, sends = self.world, self.env.now, self.world.upload_bits > 0
        waits_s = np.where(world.computes, max(self.device_free_s - now_s, 0.0), 0.0)
        device_s = waits_s + world.device_s
        upload_s = np.zeros(world.server_s.shape)
        for n, link in enumerate(self.links):
            for o in np.flatnonzero(sends):
                at_s = now_s + device_s[o]
                upload_s[o, n] = link.arrival_s(world.upload_bits[o], at_s) - at_s
        idle = np.zeros(len(self.links))
        server_free_s = np.maximum(self.server_free_s - now_s, 0.0)
        return Parts(device_s, idle, upload_s, server_free_s, world.server_s + world.round_trip_s)

    def state(self) -> DeviceState:
        """Return what the device believes now."""
        return DeviceState(self.env.now, tuple(self.known), self.scale, self.backlog_s)

    def _prepare(self) -> None:
        """Every server has measured its pieces once, as it does before a device uses it."""
        options = self.planner.options
        for n, server in enumerate(self.known):
            for o, piece in enumerate(options.pieces):
                if self.world.upload_bits[o] > 0:
                    took_s = self.world.server_s[o, n]
                    server = est.after_service(server, est.Work(piece), took_s, self._profiled_s(o), 0.0)
            self.known[n] = server

    def _profiled_s(self, option: int) -> float:
        return self.planner.tail_s[self.planner.options.pieces[option]]

    def _arrivals(self) -> Events:
        yield self.env.timeout(2.0)  # the first probes
        for i in range(self.world.requests):
            self.env.process(self._request(i))
            yield self.env.timeout(self.world.period_s)

    def _compute(self, typical_s: float, number: int) -> Events:
        """The device's processor, first come, first served; the speed is learned."""
        noise = self.world.device_noise
        took_s = typical_s * noise[number % len(noise)]
        expected_s = typical_s * self.scale / planner_scale(self.world, self.planner)
        self.backlog_s += expected_s
        self.device_free_s = max(self.device_free_s, self.env.now) + took_s
        yield self.env.timeout(self.device_free_s - self.env.now)
        self.backlog_s = max(self.backlog_s - expected_s, 0.0)
        if expected_s > 0:
            self.scale *= scale_factor(took_s / expected_s)

    def _request(self, number: int) -> Events:
        world, began_s = self.world, self.env.now
        true, believed = (self.true_parts(), believed_parts(self)) if self.explains else (None, None)
        option, server, predicted_s = self.decide(self, number)
        if world.computes[option]:
            yield from self._compute(world.device_s[option], number)
        else:
            yield self.env.timeout(world.device_s[option])
        is_hedged = False
        if server != DEVICE:
            is_hedged = yield from self._ask(option, server, number)
        stays = world.upload_bits == 0
        took_s = self.env.now - began_s
        true_s = true.latency_s(stays) if true else np.zeros(0)
        self.found[number] = Request(option, server, took_s, predicted_s, true_s, believed, true, is_hedged)

    def _ask(self, option: int, server: int, number: int) -> Events:
        """Send the rest; if the reply is late, start on it here, and ask another server too if that is believed to be
        sooner; what is done first counts."""
        decision = OffloadDecision(np.array([option]), np.array([server]))
        plan, asked = self.planner.plan(self.state(), math.inf, policy=lambda _: decision), {server}
        sent_s, expected_s = self.env.now, self._expected_s(option, server)
        replies = [self.env.process(self._exchange(option, server, number, expected_s))]
        here_s = remaining(self.planner, plan, self.state(), math.inf).predicted_s
        wait_s = forecast.patience_s(forecast.patience(self.ratios), expected_s, here_s, math.inf)
        yield replies[0] | self.env.timeout(wait_s)
        if replies[0].processed:
            return False
        bits, waited_s = self.world.upload_bits[option], self.env.now - sent_s
        self.known[server] = est.after_silence(self.known[server], bits, waited_s, self.env.now)
        other = remaining(self.planner, plan, self.state(), math.inf, asked).server
        if other != DEVICE:
            expected_s = self._expected_s(option, other)
            replies.append(self.env.process(self._exchange(option, other, number, expected_s)))
        tail_s = self._profiled_s(option) * planner_scale(self.world, self.planner)
        yield self.env.any_of([*replies, self.env.process(self._compute(tail_s, number))])
        for reply in replies:
            if reply.is_alive:
                reply.interrupt()
        return True

    def _expected_s(self, option: int, server: int) -> float:
        """Return the expected time until a server's reply to a request that is sent now."""
        known, now_s = self.known[server], self.env.now
        service_s = forecast.service_now_s(known, self._work(option), self._profiled_s(option), now_s)
        on_air_s = self.world.upload_bits[option] / known.link.rate_bps
        ready_s = latency.ready_s(0.0, forecast.link_wait_s(known, now_s), on_air_s)
        wait_s, standing_s = forecast.server_wait_s(known, now_s), forecast.standing_wait_s(known, now_s)
        return latency.end_s(ready_s, wait_s - standing_s, service_s + known.link.round_trip_s + standing_s)

    def _work(self, option: int) -> est.Work:
        return est.Work(self.planner.options.pieces[option])

    def _exchange(self, option: int, server: int, number: int, expected_s: float) -> Events:
        world, sent_s, known = self.world, self.env.now, self.known[server]
        link_wait_s = max(known.link_free_s - sent_s, 0.0)
        bits = world.upload_bits[option]
        service_s = forecast.service_now_s(known, self._work(option), self._profiled_s(option), sent_s)
        self.known[server] = est.after_send(known, bits, service_s, sent_s)
        try:
            yield from self._transmit(server, bits)
        except simpy.Interrupt:
            self.known[server] = est.after_end(self.known[server], self.env.now)
            return
        arrived_s = self.env.now
        took_s = world.server_s[option, server] * world.server_noise[number % len(world.server_noise)]
        start_s = max(self.server_free_s[server], arrived_s)
        self.server_free_s[server] = start_s + took_s
        try:
            yield self.env.timeout(start_s + took_s + world.round_trip_s - arrived_s)
        except simpy.Interrupt:
            self.known[server] = est.after_end(self.known[server], self.env.now)
            return
        now_s = self.env.now
        self.ratios.append((now_s - sent_s) / max(expected_s, 1e-4))
        backlog_s = max(self.server_free_s[server] - now_s, 0.0)
        answered = est.Answered(bits, now_s - sent_s, link_wait_s, start_s - arrived_s, took_s, backlog_s, 8)
        ended = est.after_end(self.known[server], now_s)
        self.known[server] = est.after_answer(ended, self._work(option), answered, self._profiled_s(option), now_s)
        self.heard_s[server] = now_s

    def _transmit(self, n: int, bits: float, timeout_s: float = math.inf) -> Events:
        """Occupy the link until the bits are through, or give back what is unsent; return whether they are through."""
        link, began_s = self.links[n], self.env.now
        self.transfers += 1
        bits = bits * self.world.link_noise[self.transfers % len(self.world.link_noise)]
        arrival_s, end_bits = link._reserve(bits, began_s)  # pyright: ignore[reportPrivateUsage]
        try:
            yield self.env.timeout(min(arrival_s - began_s, timeout_s))
        except simpy.Interrupt:
            link._give_back(bits, end_bits)  # pyright: ignore[reportPrivateUsage]
            raise
        if arrival_s - began_s > timeout_s:
            link._give_back(bits, end_bits)  # pyright: ignore[reportPrivateUsage]
            return False
        return True

    def _probes(self, n: int) -> Events:
        while True:
            if is_probe_due(self.known[n], self.heard_s[n], self.env.now, self.env.now) or self.pongs[n] < 4:
                sent_s, size = self.env.now, probe_bytes(self.known[n], self.pongs[n], self.env.now)
                bits = bits_of_bytes(size) + MESSAGE_BITS
                self.known[n] = est.after_send(self.known[n], bits, 0.0, sent_s)
                if not (yield from self._transmit(n, bits, PROBE_TIMEOUT_S)):
                    ended = est.after_end(self.known[n], self.env.now)
                    self.known[n], self.pongs[n] = after_lost_probe(ended, size, self.env.now), 0
                    continue
                yield self.env.timeout(self.world.round_trip_s)
                now_s, self.pongs[n], self.heard_s[n] = self.env.now, self.pongs[n] + 1, self.env.now
                server = est.after_end(self.known[n], now_s)
                backlog_s = max(self.server_free_s[n] - now_s, 0.0)
                load = type("Load", (), {"backlog_s": backlog_s, "room": 8})
                self.known[n] = after_pong(server, Pong(now_s - sent_s, load), size, now_s)  # type: ignore[arg-type]
            yield self.env.timeout(0.06)


def planner_scale(world: World, planner: Planner) -> float:
    """Return the device's true time over the profiled machine's."""
    return float(world.device_s[-1] / planner.options.device_s[-1])


def believed_parts(replay: Replay) -> Parts:
    """Return what the planner believes of every choice now."""
    o = replay.planner.observe(replay.state(), math.inf)
    device_s = np.where(replay.planner.computes, o.device_backlog_s[0], 0.0) + o.option_device_s[0]
    upload_s = o.option_upload_bits[0][:, None] / o.uplink_bps[0]
    return Parts(device_s, o.uplink_backlog_s[0], upload_s, o.server_backlog_s, o.option_server_s[0])


def by_planner(replay: Replay, _: int) -> tuple[int, int, float]:
    """Decide as the product does."""
    plan = replay.planner.plan(replay.state(), math.inf)
    return plan.option, plan.server, plan.predicted_s


def by_clairvoyant(replay: Replay, _: int) -> tuple[int, int, float]:
    """Decide for each request what is best by the true links and the typical times."""
    latency_s = replay.true_parts().latency_s(replay.world.upload_bits == 0)
    option, place = np.unravel_index(int(latency_s.argmin()), latency_s.shape)
    server = int(place) if place < latency_s.shape[1] - 1 else DEVICE
    return int(option), server, float(latency_s.min())


def by_present_rate(replay: Replay, _: int) -> tuple[int, int, float]:
    """Decide by the links' true rates of the moment and the typical times, without the future."""
    true, now_s = replay.true_parts(), replay.env.now
    rate_bps = np.array([max(link.trace.rate_at(now_s), 1.0) for link in replay.links])
    latency_s = true._replace(upload_s=replay.world.upload_bits[:, None] / rate_bps).latency_s(
        replay.world.upload_bits == 0
    )
    option, place = np.unravel_index(int(latency_s.argmin()), latency_s.shape)
    server = int(place) if place < latency_s.shape[1] - 1 else DEVICE
    return int(option), server, float(latency_s.min())


def always(option: int, server: int) -> Decide:
    """Decide the same for each request."""

    return lambda _replay, _number: (option, server, math.nan)


def shaken(world: World, spread: float, seed: int, count: int = 997) -> World:
    """Return the world with lognormal noise of single runs."""
    rng = np.random.default_rng(seed)
    device, server = np.exp(rng.normal(0, spread, (2, count)))
    return world._replace(device_noise=device, server_noise=server)


def world_of(
    planner: Planner,
    traces: Sequence[Trace],
    device_slowdown: float,
    server_slowdowns: Sequence[float],
    seconds: float,
    period: float = 1.5,
) -> World:
    """Return the world of a device and servers that are so many times slower than the profiled machine."""
    options = planner.options
    device_s = options.device_s * device_slowdown
    server_s = options.server_s[:, :1] * np.array(server_slowdowns)
    period_s = period * float(device_s[-1])
    return World(
        device_s=device_s,
        server_s=server_s,
        upload_bits=options.upload_bits,
        computes=planner.computes,
        traces=tuple(traces),
        device_noise=np.ones(1),
        server_noise=np.ones(1),
        period_s=period_s,
        requests=max(int(seconds / period_s), 5),
    )

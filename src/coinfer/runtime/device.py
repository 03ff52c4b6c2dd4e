"""The weak device: it decides for every request, runs the head, sends the rest, and always answers."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo import open_model
from coinfer.profile.options import Options, compile_options
from coinfer.profile.table import ProfileTable
from coinfer.records import Record
from coinfer.runtime import codec, planner
from coinfer.runtime.allocator import keep_freed_memory
from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.courier import LONGEST_WAIT_S, Answer, Courier, Sent
from coinfer.runtime.executor import Abort, Engine, Executor
from coinfer.runtime.inputs import read_item
from coinfer.runtime.links import Link
from coinfer.runtime.messages import WIRE_BITS, InferRequest, WireTensor
from coinfer.runtime.processor import Processor
from coinfer.runtime.profiling import profile_for, with_jpeg
from coinfer.runtime.rpc import GrpcTransport
from coinfer.runtime.tensors import pack
from coinfer.runtime.transport import ShapedTransport, Transport
from coinfer.runtime.wire import request_bits
from coinfer.types import DEVICE, OffloadObservation, Outcome, Policy, Route, UserError
from coinfer.units import FLOAT32_BITS

FIRST_RATE_BPS = 10e6
"""Believed of a link until the first transfer."""
EARLIEST = 1.25
"""Not before this many times what was predicted, even where the deadline asks for it."""
SLACK_S = 0.02
"""For what no prediction covers."""
MAX_SERVERS_ASKED = 2
"""For one request, before the device answers itself."""


class DeviceError(UserError):
    """A wrong setting or input."""


class Result(NamedTuple):
    """The answer to one request."""

    outputs: dict[str, np.ndarray]
    outcome: Outcome
    """The timing split, seconds; `outcome.latency_s` is the sum of its parts."""
    route: Route
    """What was decided first."""
    executed_on: str
    """`device`, or the address of the server that answered."""
    fallback: str
    """What went wrong with the servers asked before, if anything."""
    predicted_s: float
    """Latency that the planner expected."""
    sent_bits: float
    """All bits of messages sent for it, lost ones included."""

    @property
    def output(self) -> np.ndarray:
        """The first output."""
        return next(iter(self.outputs.values()))

    def record(self, scheme: str, request: int, at_s: float, link_bps: float) -> Record:
        """What the run log keeps of it."""
        kept = {name: getattr(self, name) for name in self._fields if name != "outputs"}
        return Record(scheme=scheme, request=request, at_s=at_s, link_bps=link_bps, **kept)


class _Task(NamedTuple):
    """A request on its way."""

    tensors: Mapping[str, np.ndarray]
    pixels: np.ndarray | None
    began_s: float
    deadline_s: float
    observation: OffloadObservation
    route: Route
    option: int
    predicted_s: float


class Device:
    """A device with edge servers around it. Use it as a context manager.

    Args:
        model: an ONNX file, the name of a zoo network, or a `ModelGraph`.
        servers: `host:port` of edge servers that serve the same network.
        deadline_s: from the call of `infer`; without one the latency alone counts.
        profile: measured table or its file; without one the network is measured here once and remembered.
        policy: decides instead of `planner.least_latency`.
        options: what the policy chooses from; without them, what can be best of all useful cuts at these `bits`.
        bits: allowed bits per element of what is sent; (32,) keeps every answer exact.
        jpeg_quality: send pictures as JPEG of this quality instead of their own bytes.
        links: shapes the way to a server, for runs on one machine.
        slowdown: emulates a processor so many times slower than this one.
        hedge: answer from the device itself when a server is late; it always does when one fails.
        power_w: of the device while it computes, for `Outcome.energy_j`; 0 does not meter it.
        transport: how nodes are reached; gRPC by default.

    Raises:
        UserError: for settings that cannot work, in one line.
    """

    def __init__(
        self,
        model: str | Path | ModelGraph,
        servers: Sequence[str] = (),
        deadline_s: float = math.inf,
        *,
        profile: ProfileTable | str | Path | None = None,
        policy: Policy = planner.least_latency,
        options: Options | None = None,
        bits: Sequence[int] = (32, 16, 8),
        jpeg_quality: int | None = None,
        links: Mapping[str, Link] | None = None,
        slowdown: float = 1.0,
        threads: int = 1,
        engine: Engine = "onnxruntime",
        hedge: bool = True,
        power_w: float = 0.0,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ):
        _check_settings(servers, deadline_s, bits, slowdown)
        self.graph = model if isinstance(model, ModelGraph) else open_model(str(model))
        self.deadline_s = deadline_s
        self.policy = policy
        self.hedge = hedge
        self.power_w = power_w
        self.jpeg_quality = jpeg_quality
        self._clock = clock or WallClock()
        table = profile if isinstance(profile, ProfileTable) else profile_for(self.graph, profile, threads)
        if jpeg_quality is not None:
            table = with_jpeg(self.graph, table, jpeg_quality)
        self._profiled_s = cache(partial(table.segment_s, self.graph))
        self.options = options or planner.prune(compile_options(self.graph, table, bits), slowdown)
        cuts = tuple(dict.fromkeys(self.options.cuts))
        self._tail_s = dict(zip(cuts, table.tail_s(self.graph, cuts).tolist(), strict=True))
        self._executor = Executor(self.graph, threads=threads, slowdown=slowdown, engine=engine)
        self._processor = Processor(self._executor, slowdown)
        way = transport or GrpcTransport()
        way = ShapedTransport(way, links) if links is not None else way
        self._courier = Courier(self.graph, tuple(servers), way, self._clock, FIRST_RATE_BPS, self._tail_s)

    def __enter__(self) -> "Device":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Builds what the planner may choose, here and on the servers, and measures the links once. Servers that do not
        answer are used as soon as they do."""
        keep_freed_memory()
        for cut in self._tail_s:
            for inputs, outputs in ((self.graph.inputs, cut), (cut, self.graph.outputs)):
                if set(inputs) != set(outputs):
                    self._executor.prepare(inputs, outputs)
        self._courier.peers.start()

    def close(self) -> None:
        """Stops the probes and connections; what the device computes is finished first."""
        self._courier.peers.close()
        self._processor.close()
        self._courier.close()

    @property
    def servers(self) -> tuple[str, ...]:
        return self._courier.peers.addresses

    def links_bps(self) -> tuple[float, ...]:
        """Believed rate of each server's link."""
        return tuple(server.link.rate_bps for server in self._courier.peers.now())

    def observe(self, deadline_s: float | None = None) -> OffloadObservation:
        """What a policy would see of a request made now."""
        return planner.observe(
            self.options,
            self._courier.peers.now(),
            self.deadline_s if deadline_s is None else deadline_s,
            self._clock.now_s(),
            device_scale=self._processor.scale,
            device_backlog_s=self._processor.backlog_s,
            device_power_w=self.power_w,
        )

    def plan(self, deadline_s: float | None = None) -> Route:
        """Where a request made now would go; nothing is sent."""
        observation = self.observe(deadline_s)
        option, server, _ = planner.decide(self.policy, observation)
        return self._route(observation, option, server)

    def infer(self, item: Any, deadline_s: float | None = None) -> Result:
        """Answers one request. Safe to call from several threads.

        Args:
            item: a picture (file, PIL image or uint8 [H, W, 3]) where the network takes one; else its input as an
                array, or a mapping of input names to arrays.
            deadline_s: for this request.

        Raises:
            UserError: where the item does not fit the network. A failing server raises nothing: the device answers.
        """
        began_s = self._clock.now_s()
        deadline_s = self.deadline_s if deadline_s is None else deadline_s
        if not deadline_s > 0:
            raise DeviceError(f"deadline_s is {deadline_s}; expected seconds above 0")
        tensors, pixels = self._inputs(item)
        observation = self.observe(deadline_s)
        if pixels is None:
            observation = planner.with_raw_input(observation, self.options, self.graph)
        option, server, predicted_s = planner.decide(self.policy, observation)
        route = self._route(observation, option, server)
        task = _Task(tensors, pixels, began_s, deadline_s, observation, route, option, predicted_s)
        if server == DEVICE:
            outputs = self._compute(tensors, self.graph.outputs).result()
            return self._result(task, Answer(outputs, 0.0), DEVICE, [], 0.0)
        return self._offload(task, server)

    def follow(self, route: Route, item: Any) -> Result:
        """Carries out a given route, through any cuts and over several servers; the device answers where it fails.

        Raises:
            UserError: where the item does not fit the network, or the route starts elsewhere, names an unknown server
                or does not end at the network's outputs.
        """
        began_s = self._clock.now_s()
        servers = self._route_servers(route)
        tensors, pixels = self._inputs(item)
        observation = self.observe(route.deadline_s)
        task = _Task(tensors, pixels, began_s, route.deadline_s, observation, route, 0, math.inf)
        cut = route.hops[0].cut
        at_cut = tensors if set(cut) == set(self.graph.inputs) else self._compute(tensors, cut).result()
        if not servers:
            return self._result(task, Answer(at_cut, 0.0), DEVICE, [], 0.0)
        left_s = began_s + route.deadline_s - self._clock.now_s()
        request = self._request(task, at_cut, servers[0], max(left_s, 0.0))
        sent = self._courier.carry(servers[0], cut, request)
        done, _ = wait((sent.reply,), min(max(left_s, 0.0), LONGEST_WAIT_S))
        answer, reason = self._courier.read(sent) if done else (None, f"{self.servers[servers[0]]}: no reply in time")
        sent.reply.cancel()
        if answer is not None:
            return self._result(task, answer, servers[-1], [], sent.size_bits)
        waited_s = self._clock.now_s() - sent.at_s
        outputs = self._compute(at_cut, self.graph.outputs).result()
        return self._result(task, Answer(outputs, waited_s), DEVICE, [reason], sent.size_bits)

    def _route_servers(self, route: Route) -> list[int]:
        """Indices of the servers of a route, in order."""
        nodes = [hop.node for hop in route.hops]
        unknown = [node for node in nodes[1:] if node not in self.servers]
        if not nodes or nodes[0] != "device" or unknown:
            raise DeviceError(f"route over {nodes}: expected 'device' first, then some of {list(self.servers)}")
        if set(route.hops[-1].cut) != set(self.graph.outputs):
            raise DeviceError(f"route ends at {list(route.hops[-1].cut)}; expected {list(self.graph.outputs)}")
        return [self.servers.index(node) for node in nodes[1:]]

    # --- a request that leaves the device

    def _offload(self, task: _Task, server: int) -> Result:
        """Asks the chosen server, at most one more, and last the device itself."""
        cut = task.route.hops[0].cut
        at_cut = task.tensors
        if set(cut) != set(self.graph.inputs):
            at_cut = self._compute(task.tensors, cut).result()
        reasons: list[str] = []
        sent_bits, waited_s, tried = 0.0, 0.0, set[int]()
        while server != DEVICE:
            tried.add(server)
            useless_s = self._useless_after_s(task, server) if self.hedge else math.inf
            request = self._request(task, at_cut, server, useless_s)
            sent_bits += request_bits(request)
            asked_s = self._clock.now_s()
            answer, reason = self._ask(task, server, at_cut, request)
            if answer is not None:
                reasons += [reason] if reason else []
                answer = answer._replace(upload_s=answer.upload_s + waited_s)
                return self._result(task, answer, DEVICE if reason else server, reasons, sent_bits)
            reasons.append(reason)
            waited_s += self._clock.now_s() - asked_s
            server = self._next_server(task, tried)
        outputs = self._compute(at_cut, self.graph.outputs).result()
        return self._result(task, Answer(outputs, waited_s), DEVICE, reasons, sent_bits)

    def _ask(
        self, task: _Task, server: int, at_cut: Mapping[str, np.ndarray], request: InferRequest
    ) -> tuple[Answer | None, str]:
        """An answer, and why it is not the server's; no answer where the server failed.

        A server that is late runs against the device itself, and the first to finish answers.
        """
        seen = task.observation
        upload_bits = float(seen.option_upload_bits[0, task.option])
        service_s = float(seen.option_server_s[0, task.option, server])
        sent = self._courier.send(server, task.route.hops[0].cut, request, upload_bits, service_s)
        done, _ = wait((sent.reply,), self._patience_s(task, sent) if self.hedge else None)
        if done:
            answer, reason = self._courier.read(sent)
            return answer, f"{self.servers[server]}: {reason}" if reason else ""
        waited_s, abort = self._clock.now_s() - sent.at_s, Abort()
        self._courier.is_late(sent)
        local = self._compute(at_cut, self.graph.outputs, abort)
        racers: list[Future[Any]] = [sent.reply, local]
        wait(racers, return_when=FIRST_COMPLETED)
        if sent.reply.done() and (answer := self._courier.read(sent)[0]):
            abort.set()
            return answer, ""
        outputs = local.result()
        sent.reply.cancel()
        return Answer(outputs, waited_s), f"{self.servers[server]}: no reply after {waited_s:.3f} s"

    def _patience_s(self, task: _Task, sent: Sent) -> float:
        """How long to wait for a server before the device starts on the rest itself: longer than nearly all replies
        take, or less where the device could still hold the deadline."""
        patience_s = self._courier.patience * sent.expected_s + SLACK_S
        tail_s = self._tail_s[sent.cut] * self._processor.scale
        spare_s = task.began_s + task.deadline_s - sent.at_s - tail_s - SLACK_S
        return min(patience_s, spare_s) if spare_s > EARLIEST * sent.expected_s else patience_s

    def _next_server(self, task: _Task, tried: set[int]) -> int:
        """The best other server for the same cut and bits, or the device where its own tail is faster."""
        if len(tried) >= MAX_SERVERS_ASKED:
            return DEVICE
        observation = self.observe()
        room = observation.server_room.copy()
        room[sorted(tried)] = 0
        latency_s = planner.feasible_latency_s(observation._replace(server_room=room))[0, task.option]
        from_cut_s = latency_s[:-1] - observation.option_device_s[0, task.option]
        best = int(np.argmin(from_cut_s))
        local_s = self._tail_s[task.route.hops[0].cut] * self._processor.scale + self._processor.backlog_s
        return best if from_cut_s[best] < local_s else DEVICE

    def _inputs(self, item: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        tensors, pixels = read_item(self.graph, item)
        self._executor.check(tensors)
        return tensors, pixels

    def _compute(
        self, tensors: Mapping[str, np.ndarray], outputs: tuple[str, ...], abort: Abort | None = None
    ) -> Future[dict[str, np.ndarray]]:
        """Queues work for the device itself."""
        profiled_s = self._profiled_s(tuple(tensors), outputs)
        return self._processor.submit(tensors, outputs, profiled_s, abort)

    def _request(self, task: _Task, at_cut: Mapping[str, np.ndarray], server: int, deadline_s: float) -> InferRequest:
        hop, after, *further = task.route.hops
        rate_bps = float(task.observation.uplink_bps[0, server])
        inputs = tuple(self._payload(task, name, at_cut[name], hop.bits, rate_bps) for name in hop.cut)
        return InferRequest(
            model=self.graph.name,
            inputs=inputs,
            outputs=after.cut,
            fingerprint=self.graph.fingerprint,
            route=tuple(further),
            bits=after.bits if further else None,
            deadline_s=deadline_s,
        )

    def _useless_after_s(self, task: _Task, server: int) -> float:
        """The deadline that a server is told: the request's own, or where that cannot be held, the time when the device
        would have answered had the server refused. A late answer is better than a later one."""
        left_s = task.began_s + task.deadline_s - self._clock.now_s()
        upload_s = float(task.observation.option_upload_bits[0, task.option] / task.observation.uplink_bps[0, server])
        tail_s = self._tail_s[task.route.hops[0].cut] * self._processor.scale
        return max(left_s, upload_s + self._processor.backlog_s + tail_s)

    def _payload(self, task: _Task, name: str, tensor: np.ndarray, bits: int, rate_bps: float) -> WireTensor:
        if name in self.graph.inputs and task.pixels is not None and self.graph.image is not None:
            data = codec.encode_image(task.pixels, self.graph.image, self.jpeg_quality, rate_bps=rate_bps)
            return WireTensor(name, "UINT8", (len(data),), data, codec=True)
        return pack(name, tensor, FLOAT32_BITS if name in self.graph.inputs else bits, rate_bps)

    # --- results

    def _route(self, observation: OffloadObservation, option: int, server: int) -> Route:
        deadline_s = float(observation.deadline_s[0])
        return planner.route_of(self.options, option, server, self.servers, self.graph.outputs, deadline_s)

    def _result(self, task: _Task, answer: Answer, server: int, reasons: list[str], sent_bits: float) -> Result:
        latency_s = self._clock.now_s() - task.began_s
        elsewhere_s = answer.upload_s + answer.queue_s + answer.server_s + answer.download_s
        outcome = Outcome(
            device_s=latency_s - elsewhere_s,
            upload_s=answer.upload_s,
            queue_s=answer.queue_s,
            server_s=answer.server_s,
            download_s=answer.download_s,
            latency_s=latency_s,
            energy_j=(latency_s - elsewhere_s) * self.power_w,
            accuracy=1.0,
            admitted=server != DEVICE or not reasons,
            in_time=latency_s <= task.deadline_s,
        )
        executed_on = "device" if server == DEVICE else self.servers[server]
        return Result(answer.outputs, outcome, task.route, executed_on, "; ".join(reasons), task.predicted_s, sent_bits)


def _check_settings(servers: Sequence[str], deadline_s: float, bits: Sequence[int], slowdown: float) -> None:
    if isinstance(servers, str):
        raise DeviceError(f"servers is one string; expected a list such as [{servers!r}]")
    for server in servers:
        host, _, port = str(server).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise DeviceError(f"server {server!r} is no address; expected host:port such as 127.0.0.1:8001")
    if not deadline_s > 0:
        raise DeviceError(f"deadline_s is {deadline_s}; expected seconds above 0")
    if not bits or any(width not in WIRE_BITS for width in bits):
        raise DeviceError(f"bits is {tuple(bits)}; expected some of 32, 16, 12, 8, 4")
    if not slowdown >= 1:
        raise DeviceError(f"slowdown is {slowdown}; expected 1 (this processor) or more")

"""The weak device: it decides for every request, runs the head, sends the rest, and always answers."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.networks import open_model
from coinfer.options.compile import compile_options, exits_of
from coinfer.options.prune import SPEED_RATIOS, prune, useful
from coinfer.options.table import Names, Options, Piece
from coinfer.physics.compute import transmit_j
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.table import ProfileTable
from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.codec import codec
from coinfer.runtime.codec.tensors import pack
from coinfer.runtime.device import early_exit, planner
from coinfer.runtime.device.config import DeviceError, accuracy_of, check_settings
from coinfer.runtime.device.inputs import read_item
from coinfer.runtime.device.message_size import with_messages
from coinfer.runtime.device.objective import Goal, Wish, planned_for
from coinfer.runtime.device.policy_loader import guide
from coinfer.runtime.device.processor import Processor
from coinfer.runtime.device.request_client import LONGEST_WAIT_S, Answer, Courier, Sent
from coinfer.runtime.device.result import Result, Task
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.emulation.slowdown import slowed
from coinfer.runtime.executor import Abort, Engine, Executor
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.profiling import profile_for, with_jpeg
from coinfer.runtime.protocol.messages import InferRequest, WireTensor
from coinfer.runtime.protocol.protobuf import request_bits
from coinfer.runtime.transport.base import ShapedTransport, Transport
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.types import DEVICE, OffloadObservation, Outcome, Policy, Route
from coinfer.units import FLOAT32_BITS

FIRST_RATE_BPS = 10e6
"""Believed of a link until the first transfer."""
EARLIEST = 1.25
"""Not before this many times what was predicted, even where the deadline asks for it."""
SLACK_S = 0.02
"""For what no prediction covers."""
MAX_SERVERS_ASKED = 2
"""For one request, before the device answers itself."""


class Device:
    """A device with edge servers around it. Use it as a context manager.

    Args:
        model: an ONNX file, the name of a zoo network, or a `ModelGraph`.
        servers: `host:port` of edge servers that serve the same network.
        deadline_s: from the call of `infer`; without one the latency alone counts.
        profile: measured table or its file; without one the network is measured here once and remembered.
        policy: decides instead of the planner, which fulfils the wish (`wishes.choose`); a function, or the file of a
            trained one, which must be made for this network's options and so many servers. Where it fails on a request,
            the planner decides.
        options: what the policy chooses from; without them, what can be best of all useful cuts at these `bits`.
        accuracy: measured table or its file, without it the one shipped with the network if any; it makes each output
            of the network an exit.
        goal: what the planner seeks within the limits.
        min_accuracy: limit, 0 to 1.
        energy_j: limit on the device's energy for a request.
        confidence: answer at an exit before the cut where the entropy of its class probabilities, 0 to 1, is below this
            threshold; one for each exit but the last, or one for all.
        confidence_loss: chooses these thresholds from the table, such that so much accuracy is lost at most.
        bits: allowed bits per element of what is sent; (32,) keeps every answer exact.
        jpeg_quality: send pictures as JPEG of this quality instead of their own bytes.
        links: shapes the way to a server, for runs on one machine.
        slowdown: emulates a processor so many times slower than this one.
        hedge: answer from the device itself when a server is late; it always does when one fails.
        power_w: of the device while it computes, for its energy; 0 does not meter it.
        transmit_power_w: of the device while it sends, likewise.
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
        policy: Policy | str | Path | None = None,
        options: Options | None = None,
        bits: Sequence[int] = (32, 16, 8),
        accuracy: AccuracyTable | str | Path | None = None,
        goal: Goal = "latency",
        min_accuracy: float = 0.0,
        energy_j: float = math.inf,
        confidence: float | Sequence[float] | None = None,
        confidence_loss: float | None = None,
        jpeg_quality: int | None = None,
        links: Mapping[str, Link] | None = None,
        slowdown: float = 1.0,
        threads: int = 1,
        engine: Engine = "onnxruntime",
        hedge: bool = True,
        power_w: float = 0.0,
        transmit_power_w: float = 0.0,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ):
        check_settings(servers, deadline_s, bits, slowdown)
        self.graph = model if isinstance(model, ModelGraph) else open_model(str(model))
        self.deadline_s = deadline_s
        self.wish = Wish(goal, min_accuracy, energy_j, power_w, transmit_power_w)
        self.hedge = hedge
        self.jpeg_quality = jpeg_quality
        self._slowdown = slowdown
        self._clock = clock or WallClock()
        table = profile if isinstance(profile, ProfileTable) else profile_for(self.graph, profile, threads)
        if jpeg_quality is not None:
            table = with_jpeg(self.graph, table, jpeg_quality)
        self._profiled_s = cache(partial(table.segment_s, self.graph))
        self.accuracy = accuracy_of(self.graph, accuracy, self.wish)
        self.exits = exits_of(self.graph, self.accuracy)
        thresholds = early_exit.thresholds_for(len(self.exits), confidence, confidence_loss, self.accuracy)
        self._ladder = early_exit.Ladder(self.graph, self.exits, thresholds)
        self.planner = planned_for(self.wish, self._mean if thresholds else None)
        complete = partial(self._complete, table)
        pruned = options or self._pruned(complete(bits), table)
        if isinstance(policy, str | Path):
            self._straight, self.policy = guide(policy, len(servers), pruned, complete)
        else:
            self._straight, self.policy = pruned, policy or self.planner
        self.leaves_early = bool(thresholds)
        self.options = self._ladder.unsure(self._straight, table)
        self._chances = self._ladder.chances(self.options, table, self.accuracy)
        self.options = self.options._replace(accuracy=self._chances.accuracy)
        self._reached_s = partial(self._ladder.reached_s, table=table)
        pieces = tuple(dict.fromkeys(self.options.pieces))
        self._tail_s: dict[Piece, float] = {piece: table.segment_s(self.graph, *piece) for piece in pieces}
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
        for exit_, cut in dict.fromkeys((exit_, cut) for exit_, cut, _ in self.options.triples):
            straight = ((self.graph.inputs, cut), (cut, self.exits[exit_]))
            for inputs, outputs in (*straight, *self._ladder.steps(exit_, cut)):
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
            self.options if self.leaves_early else self._straight,
            self._courier.peers.now(),
            self.deadline_s if deadline_s is None else deadline_s,
            self._clock.now_s(),
            device_scale=self._processor.scale,
            device_backlog_s=self._processor.backlog_s,
            device_power_w=self.wish.compute_power_w,
            energy_j=self.wish.energy_j,
        )

    def plan(self, deadline_s: float | None = None) -> Route:
        """Where a request made now would go; nothing is sent."""
        observation = self.observe(deadline_s)
        option, server, _ = planner.decide(self.policy, observation, self.planner)
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
        option, server, predicted_s = planner.decide(self.policy, observation, self.planner)
        route = self._route(observation, option, server)
        task = Task(tensors, pixels, began_s, deadline_s, observation, route, option, predicted_s)
        at_cut, sure = self._head(task)
        if sure is not None:
            reached_s = self._reached_s(route.exit, task.cut)[sure] * self._processor.scale
            task = task._replace(predicted_s=float(observation.device_backlog_s[0]) + reached_s)
            return self._result(task, Answer(at_cut, 0.0), DEVICE, [], 0.0, exit_=sure)
        if server == DEVICE:
            return self._result(task, Answer(at_cut, 0.0), DEVICE, [], 0.0)
        return self._offload(task, server, at_cut)

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
        task = Task(tensors, pixels, began_s, route.deadline_s, observation, route, 0, math.inf)
        at_cut = self._compute(tensors, task.cut).result()
        if not servers:
            return self._result(task, Answer(at_cut, 0.0), DEVICE, [], 0.0)
        left_s = began_s + route.deadline_s - self._clock.now_s()
        request = self._request(task, at_cut, servers[0], max(left_s, 0.0))
        sent = self._courier.carry(servers[0], (task.cut, task.outputs), request)
        done, _ = wait((sent.reply,), min(max(left_s, 0.0), LONGEST_WAIT_S))
        answer, reason = self._courier.read(sent) if done else (None, f"{self.servers[servers[0]]}: no reply in time")
        sent.reply.cancel()
        if answer is not None:
            return self._result(task, answer, servers[-1], [], sent.size_bits)
        waited_s = self._clock.now_s() - sent.at_s
        outputs = self._compute(at_cut, task.outputs).result()
        return self._result(task, Answer(outputs, waited_s), DEVICE, [reason], sent.size_bits)

    def _route_servers(self, route: Route) -> list[int]:
        """Indices of the servers of a route, in order."""
        nodes = [hop.node for hop in route.hops]
        unknown = [node for node in nodes[1:] if node not in self.servers]
        if not nodes or nodes[0] != "device" or unknown:
            raise DeviceError(f"route over {nodes}: expected 'device' first, then some of {list(self.servers)}")
        if not 0 <= route.exit < len(self.exits):
            raise DeviceError(f"route to exit {route.exit}; here {self.graph.name} has 0 to {len(self.exits) - 1}")
        if set(route.hops[-1].cut) != set(self.exits[route.exit]):
            raise DeviceError(f"route ends at {list(route.hops[-1].cut)}; expected {list(self.exits[route.exit])}")
        return [self.servers.index(node) for node in nodes[1:]]

    # --- the device's own part

    def _complete(self, table: ProfileTable, bits: Sequence[int]) -> Options:
        """All that can be done with these numbers of bits."""
        return with_messages(compile_options(self.graph, table, bits, self.accuracy), self.graph)

    def _pruned(self, options: Options, table: ProfileTable) -> Options:
        """What may be best for the wish, also where exits are left early."""
        if not self._ladder.thresholds:
            return prune(options, "dominated" if self.wish.counts_energy else "hull", speed_ratios=SPEED_RATIOS)
        unsure = self._ladder.unsure(options, table)
        mean = self._ladder.chances(unsure, table, self.accuracy).mean(unsure)
        return options.take(useful(unsure, "dominated", also=(mean,)))

    def _mean(self, observation: OffloadObservation) -> OffloadObservation:
        """The mean request, where exits are left early."""
        return self._chances.expected(observation) if self.leaves_early else observation

    def _head(self, task: Task) -> tuple[dict[str, np.ndarray], int | None]:
        """What crosses the cut; or the outputs of an exit that is sure, and which exit that is."""
        at_hand = task.tensors
        for stage in self._ladder.stages(task.route.exit, task.cut) if self.leaves_early else ():
            computed = self._compute(at_hand, stage.outputs).result()
            if self._ladder.is_sure(stage, computed):
                return {name: computed[name] for name in stage.answer}, stage.exit
            at_hand = {name: computed[name] for name in stage.tap}
        return self._compute(at_hand, task.cut).result(), None

    # --- a request that leaves the device

    def _offload(self, task: Task, server: int, at_cut: Mapping[str, np.ndarray]) -> Result:
        """Asks the chosen server, at most one more, and last the device itself."""
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
        outputs = self._compute(at_cut, task.outputs).result()
        return self._result(task, Answer(outputs, waited_s), DEVICE, reasons, sent_bits)

    def _ask(
        self, task: Task, server: int, at_cut: Mapping[str, np.ndarray], request: InferRequest
    ) -> tuple[Answer | None, str]:
        """An answer, and why it is not the server's; no answer where the server failed.

        A server that is late runs against the device itself, and the first to finish answers.
        """
        seen = task.observation
        upload_bits = float(seen.option_upload_bits[0, task.option])
        service_s = float(seen.option_server_s[0, task.option, server])
        sent = self._courier.send(server, (task.cut, task.outputs), request, upload_bits, service_s)
        done, _ = wait((sent.reply,), self._patience_s(task, sent) if self.hedge else None)
        if done:
            answer, reason = self._courier.read(sent)
            return answer, f"{self.servers[server]}: {reason}" if reason else ""
        waited_s, abort = self._clock.now_s() - sent.at_s, Abort()
        self._courier.is_late(sent)
        local = self._compute(at_cut, task.outputs, abort)
        racers: list[Future[Any]] = [sent.reply, local]
        wait(racers, return_when=FIRST_COMPLETED)
        if sent.reply.done() and (answer := self._courier.read(sent)[0]):
            abort.set()
            return answer, ""
        outputs = local.result()
        sent.reply.cancel()
        return Answer(outputs, waited_s), f"{self.servers[server]}: no reply after {waited_s:.3f} s"

    def _patience_s(self, task: Task, sent: Sent) -> float:
        """How long to wait for a server before the device starts on the rest itself: longer than nearly all replies
        take, or less where the device could still hold the deadline."""
        patience_s = self._courier.patience * sent.expected_s + SLACK_S
        tail_s = self._tail_s[sent.piece] * self._processor.scale
        spare_s = task.began_s + task.deadline_s - sent.at_s - tail_s - SLACK_S
        return min(patience_s, spare_s) if spare_s > EARLIEST * sent.expected_s else patience_s

    def _next_server(self, task: Task, tried: set[int]) -> int:
        """The best other server for the same cut and bits, or the device where its own tail is faster."""
        if len(tried) >= MAX_SERVERS_ASKED:
            return DEVICE
        observation = self.observe()
        room = observation.server_room.copy()
        room[sorted(tried)] = 0
        latency_s = planner.feasible_latency_s(observation._replace(server_room=room))[0, task.option]
        from_cut_s = latency_s[:-1] - observation.option_device_s[0, task.option]
        best = int(np.argmin(from_cut_s))
        local_s = self._tail_s[task.cut, task.outputs] * self._processor.scale + self._processor.backlog_s
        return best if from_cut_s[best] < local_s else DEVICE

    def _inputs(self, item: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        tensors, pixels = read_item(self.graph, item)
        self._executor.check(tensors)
        return tensors, pixels

    def _compute(
        self, tensors: Mapping[str, np.ndarray], outputs: Names, abort: Abort | None = None
    ) -> Future[dict[str, np.ndarray]]:
        """Queues work for the device itself; what is at hand does not wait."""
        if set(outputs) <= set(tensors):
            at_hand: Future[dict[str, np.ndarray]] = Future()
            at_hand.set_result({name: tensors[name] for name in outputs})
            return at_hand
        profiled_s = self._profiled_s(tuple(tensors), outputs)
        return self._processor.submit(tensors, outputs, profiled_s, abort)

    def _request(self, task: Task, at_cut: Mapping[str, np.ndarray], server: int, deadline_s: float) -> InferRequest:
        hop, after, *further = task.route.hops
        rate_bps = float(task.observation.uplink_bps[0, server])
        inputs, _ = slowed(
            lambda: tuple(self._payload(task, name, at_cut[name], hop.bits, rate_bps) for name in hop.cut),
            self._slowdown,
            sleep=self._clock.sleep,
        )
        return InferRequest(
            model=self.graph.name,
            inputs=inputs,
            outputs=after.cut,
            fingerprint=self.graph.fingerprint,
            route=tuple(further),
            bits=after.bits if further else None,
            deadline_s=deadline_s,
        )

    def _useless_after_s(self, task: Task, server: int) -> float:
        """The deadline that a server is told: the request's own, or where that cannot be held, the time when the device
        would have answered had the server refused. A late answer is better than a later one."""
        left_s = task.began_s + task.deadline_s - self._clock.now_s()
        upload_s = float(task.observation.option_upload_bits[0, task.option] / task.observation.uplink_bps[0, server])
        tail_s = self._tail_s[task.cut, task.outputs] * self._processor.scale
        return max(left_s, upload_s + self._processor.backlog_s + tail_s)

    def _payload(self, task: Task, name: str, tensor: np.ndarray, bits: int, rate_bps: float) -> WireTensor:
        if name in self.graph.inputs and task.pixels is not None and self.graph.image is not None:
            data = codec.encode_image(task.pixels, self.graph.image, self.jpeg_quality, rate_bps=rate_bps)
            return WireTensor(name, "UINT8", (len(data),), data, codec=True)
        return pack(name, tensor, FLOAT32_BITS if name in self.graph.inputs else bits, rate_bps)

    # --- results

    def _route(self, observation: OffloadObservation, option: int, server: int) -> Route:
        deadline_s = float(observation.deadline_s[0])
        return planner.route_of(self.options, option, server, self.servers, deadline_s)

    def _result(
        self, task: Task, answer: Answer, server: int, reasons: list[str], sent_bits: float, exit_: int | None = None
    ) -> Result:
        latency_s = self._clock.now_s() - task.began_s
        elsewhere_s = answer.upload_s + answer.queue_s + answer.server_s + answer.download_s
        device_s = latency_s - elsewhere_s
        wish, exit_ = self.wish, task.route.exit if exit_ is None else exit_
        outcome = Outcome(
            device_s=device_s,
            upload_s=answer.upload_s,
            queue_s=answer.queue_s,
            server_s=answer.server_s,
            download_s=answer.download_s,
            latency_s=latency_s,
            energy_j=wish.compute_power_w * device_s + transmit_j(wish.transmit_power_w, answer.upload_s),
            accuracy=self._expected_accuracy(task, exit_, server),
            admitted=server != DEVICE or not reasons,
            in_time=latency_s <= task.deadline_s,
        )
        return Result(
            answer.outputs,
            outcome,
            task.route,
            executed_on="device" if server == DEVICE else self.servers[server],
            fallback="; ".join(reasons),
            predicted_s=task.predicted_s,
            sent_bits=sent_bits,
            exit=exit_,
            unmet=wish.unmet(latency_s, task.deadline_s, outcome.accuracy, outcome.energy_j),
        )

    def _expected_accuracy(self, task: Task, exit_: int, server: int) -> float:
        """Of the exit that answered, with what quantising costs where a server did; for an exit that was sure, of the
        answers it was sure of where that was measured."""
        if self.accuracy is None:
            return 1.0
        if exit_ != task.route.exit:
            point = early_exit.calibrated(self.accuracy, self._ladder.thresholds)
            return point.correct[exit_] / point.left[exit_] if point and point.left[exit_] else self._exact(exit_)
        first = task.route.hops[0]
        if server == DEVICE or task.cut == self.graph.inputs:
            return self._exact(exit_)
        return self.accuracy.accuracy(exit_, first.cut, first.bits)

    def _exact(self, exit_: int) -> float:
        return 1.0 if self.accuracy is None else self.accuracy.accuracy(exit_)

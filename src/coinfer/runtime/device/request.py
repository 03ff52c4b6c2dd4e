"""One request from head to answer: the device's head, the servers that are asked, the device itself if they fail."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Names
from coinfer.physics.compute import transmit_j
from coinfer.runtime.clock import Clock
from coinfer.runtime.device import forecast
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.full_servers import worthwhile_server
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.sized import Sizes
from coinfer.runtime.device.processor import Processor
from coinfer.runtime.device.request_client import (
    MAX_WAIT_S,
    MIN_PUSHBACK_S,
    Answer,
    Failure,
    PendingRequest,
    RequestClient,
    is_done,
)
from coinfer.runtime.device.request_message import request_message
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.slowdown import emulate_slowdown
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import InferRequest
from coinfer.types import DEVICE, Outcome

MIN_PATIENCE = 1.25
"""A server gets at least this many times the predicted time, even if the deadline leaves less."""
SLACK_S = 0.02
"""Allowance for delays that no prediction covers."""
MAX_SERVERS_ASKED = 2
"""Servers that one request asks, and again if they were full, before the device answers itself."""
MAX_ROUNDS = 4
"""A request asks so many times at most; what it sends each time occupies the link."""
Tensors = Mapping[str, np.ndarray]


class DeviceParts(NamedTuple):
    """The parts that all requests of a device share."""

    graph: ModelGraph
    config: DeviceConfig
    planner: Planner
    processor: Processor
    client: RequestClient
    clock: Clock
    record: Callable[[Plan, Result], None] = lambda plan, result: None
    """Called with every request that was answered."""

    def pushback_s(self) -> float:
        """Return after how many seconds a request that is refused now may be taken on: when somebody is free."""
        now_s = self.clock.now_s()
        waits_s = [forecast.server_wait_s(server, now_s) for server in self.client.pool.estimates()]
        return max(min([self.processor.backlog_s, *waits_s]), MIN_PUSHBACK_S)

    def state(self, sizes: Sizes = ()) -> DeviceState:
        """Return what the device believes now.

        Args:
            sizes: of the request that is planned.
        """
        now_s, servers = self.clock.now_s(), self.client.pool.estimates()
        return DeviceState(now_s, servers, self.processor.scale_at(sizes), self.processor.backlog_s)


class Request:
    """Carries out the plan for one request; used once, by one thread.

    Args:
        parts: shared parts of the device.
        plan: the decision about this request.
        tensors: the network's inputs by name.
        pixels: the picture that they were made from, uint8 [height, width, 3], if any.
        began_s: when `infer` was called.
        hedge: run the rest on the device too if a server is late, and take the answer that comes first.
        abort: stops the request once it is set.
    """

    def __init__(
        self,
        parts: DeviceParts,
        plan: Plan,
        tensors: Tensors,
        pixels: np.ndarray | None,
        *,
        began_s: float,
        hedge: bool,
        abort: Abort,
    ):
        self._parts = parts
        self._plan = plan
        self._tensors = tensors
        self._pixels = pixels
        self._began_s = began_s
        self._deadline_s = plan.route.deadline_s
        self._hedge = hedge
        self._abort = abort
        self._failures: list[Failure] = []
        self._sent_bits = 0.0
        self._waited_s = 0.0

    def answer(self) -> Result:
        """Return the answer: run the head, and have the rest computed where the plan says."""
        at_cut, exit_ = self._head()
        if exit_ is not None:
            predicted_s = self._parts.planner.predicted_exit_s(self._plan, exit_, self._scale)
            return self._result(Answer(at_cut), DEVICE, exit_, predicted_s)
        return self._rest(at_cut, self._plan.server)

    def answer_by_route(self, servers: list[int]) -> Result:
        """Return the answer: run the head, and send the rest along the plan's route. If it fails, the device answers.

        Args:
            servers: indices of the route's servers, in order; empty if the route stays on the device.
        """
        at_cut = self._submit(self._tensors, self._plan.cut).result()
        if not servers:
            return self._result(Answer(at_cut), DEVICE)
        left_s = max(self._left_s(), 0.0)
        request = self._message(at_cut, servers[0], left_s)
        pending = self._parts.client.send_untracked(servers[0], self._plan.work, request)
        self._sent_bits += pending.size_bits
        done = is_done(pending.reply, min(left_s, MAX_WAIT_S))
        reply = self._parts.client.read(pending) if done else self._late(pending)
        pending.reply.cancel()
        if isinstance(reply, Answer):
            return self._result(reply, servers[-1])
        self._failures.append(reply)
        self._waited_s += self._parts.clock.now_s() - pending.at_s
        return self._rest(at_cut, DEVICE)

    def _head(self) -> tuple[dict[str, np.ndarray], int | None]:
        """Return what crosses the cut, or the outputs of an exit that is confident and which exit that is."""
        planner, submit = self._parts.planner, self._submit
        tensors = self._tensors
        stages = planner.cascade.stages(self._plan.route.exit, self._plan.cut) if self._plan.early_exit else ()
        for stage in stages:
            computed = submit(tensors, stage.outputs).result()
            if planner.cascade.is_confident(stage, computed):
                return {name: computed[name] for name in stage.answer}, stage.exit
            tensors = {name: computed[name] for name in stage.tap}
        return submit(tensors, self._plan.cut).result(), None

    @property
    def _scale(self) -> float:
        return self._parts.processor.scale_at(self._plan.sizes)

    def _state(self) -> DeviceState:
        return self._parts.state(self._plan.sizes)

    def _submit(self, tensors: Tensors, outputs: Names, abort: Abort | None = None) -> Future[dict[str, np.ndarray]]:
        return self._parts.processor.submit(tensors, outputs, abort or self._abort, self._plan.sizes)

    # --- a request that leaves the device

    def _rest(self, at_cut: Tensors, server: int) -> Result:
        """Ask this server; if it fails, at most one more; last, compute on the device itself.

        Where all that were asked are full and the device has more to do than they, wait until one has room.
        """
        for _ in range(MAX_ROUNDS):
            excluded = set[int]()
            while server != DEVICE:
                excluded.add(server)
                answer, node = self._ask(server, at_cut)
                if answer is not None:
                    return self._result(answer, node)
                server = self._next_server(excluded)
            server = self._wait_for_room() if self._failures and self._failures[-1].is_refusal else DEVICE
            if server == DEVICE:
                break
        outputs = self._submit(at_cut, self._plan.outputs).result()
        return self._result(Answer(outputs), DEVICE)

    def _ask(self, server: int, at_cut: Tensors) -> tuple[Answer | None, int]:
        """Return an answer and the node that gave it; no answer if the server failed.

        A late server races against the device itself, and the first to finish answers.
        """
        client, observation, option = self._parts.client, self._plan.observation, self._plan.option
        request = self._message(at_cut, server, self._useless_after_s(server) if self._hedge else math.inf)
        upload_bits = float(observation.option_upload_bits[0, option])
        service_s = float(observation.option_server_s[0, option, server])
        pending = client.send(
            server,
            self._plan.work,
            request,
            upload_bits=upload_bits,
            service_s=service_s,
            profiled_s=self._plan.tail_s,
        )
        self._abort.on_set(pending.reply.cancel)
        self._sent_bits += pending.size_bits
        done = is_done(pending.reply, self._patience_s(pending) if self._hedge else None)
        if not done:
            return self._race(pending, at_cut)
        reply = client.read(pending)
        if isinstance(reply, Answer):
            return reply, server
        self._failures.append(reply)
        self._waited_s += self._parts.clock.now_s() - pending.at_s
        return None, server

    def _race(self, pending: PendingRequest, at_cut: Tensors) -> tuple[Answer, int]:
        """Start on the rest here while the server is late; return the first answer and the node that gave it."""
        late = self._late(pending)
        self._parts.client.record_silence(pending)
        abort, waited_s = Abort(), self._parts.clock.now_s() - pending.at_s
        self._abort.on_set(abort.set)
        local = self._submit(at_cut, self._plan.outputs, abort)
        racers: list[Future] = [pending.reply, local]
        wait(racers, return_when=FIRST_COMPLETED)
        if pending.reply.done():
            reply = self._parts.client.read(pending)
            if isinstance(reply, Answer):
                abort.set()
                return reply, pending.server
        outputs = local.result()
        pending.reply.cancel()
        self._failures.append(late)
        return Answer(outputs, upload_s=waited_s), DEVICE

    def _late(self, pending: PendingRequest) -> Failure:
        waited_s = self._parts.clock.now_s() - pending.at_s
        return Failure(self._parts.planner.servers[pending.server], f"no reply after {waited_s:.3f} s")

    def _next_server(self, excluded: set[int]) -> int:
        """Return the server to ask now, or `DEVICE`."""
        if len(excluded) >= MAX_SERVERS_ASKED:
            return DEVICE
        return self._parts.planner.next_server(self._plan, self._state(), excluded)

    def _wait_for_room(self) -> int:
        """Wait for a full server and return it, or return `DEVICE` at once if the device is sooner."""
        planner, plan, state = self._parts.planner, self._plan, self._state()
        observation = planner.observe(state, plan.route.deadline_s, raw_input=plan.raw_input, sizes=plan.sizes)
        server, wait_s = worthwhile_server(plan, observation, state, planner.tail_on_device_s(plan, state))
        began_s = self._parts.clock.now_s()
        if server != DEVICE:
            self._parts.clock.sleep(wait_s, self._abort.event)
        self._waited_s += self._parts.clock.now_s() - began_s
        return server

    def _patience_s(self, pending: PendingRequest) -> float:
        """Return how long to wait for a server before the device starts on the rest itself: longer than nearly all
        replies take, or less if the device could still meet the deadline."""
        patience_s = self._parts.client.patience * pending.expected_s + SLACK_S
        tail_s = self._plan.tail_s * self._scale
        spare_s = self._began_s + self._deadline_s - pending.at_s - tail_s - SLACK_S
        return min(patience_s, spare_s) if spare_s > MIN_PATIENCE * pending.expected_s else patience_s

    def _useless_after_s(self, server: int) -> float:
        """Return the deadline for a server: the request's own or, if that cannot be met, when the device would have
        answered had the server refused. A late answer is better than a later one."""
        observation, option = self._plan.observation, self._plan.option
        upload_s = float(observation.option_upload_bits[0, option] / observation.uplink_bps[0, server])
        tail_s = self._parts.planner.tail_on_device_s(self._plan, self._state())
        return max(self._left_s(), upload_s + tail_s)

    def _left_s(self) -> float:
        """Return the time until the deadline."""
        return self._began_s + self._deadline_s - self._parts.clock.now_s()

    def _message(self, at_cut: Tensors, server: int, deadline_s: float) -> InferRequest:
        """Encode what crosses the cut, in the time that the emulated processor takes for it."""
        config, graph, route = self._parts.config, self._parts.graph, self._plan.route
        message, _ = emulate_slowdown(
            lambda: request_message(
                graph,
                route,
                at_cut,
                self._pixels,
                rate_bps=float(self._plan.observation.uplink_bps[0, server]),
                deadline_s=deadline_s,
                jpeg_quality=config.jpeg_quality,
            ),
            config.slowdown,
            sleep=self._parts.clock.sleep,
        )
        return message._replace(dispatch=config.dispatch and not message.route)

    # --- the result

    def _result(self, answer: Answer, node: int, exit_: int | None = None, predicted_s: float | None = None) -> Result:
        """Return the answer of a node with its measures.

        Args:
            answer: outputs and times.
            node: index of the server that answered, or `DEVICE`.
            exit_: index of the exit that answered; None takes the route's.
            predicted_s: latency that was predicted of that exit; None takes the plan's.
        """
        planner, on_device = self._parts.planner, node == DEVICE
        exit_ = self._plan.route.exit if exit_ is None else exit_
        accuracy = planner.expected_accuracy(self._plan.route, exit_, on_device=on_device)
        outcome = self._outcome(answer._replace(upload_s=answer.upload_s + self._waited_s), accuracy, on_device)
        result = Result(
            self._named(answer.outputs),
            outcome,
            self._plan.route,
            executed_on="device" if on_device else planner.servers[node],
            fallback="; ".join(dict.fromkeys(map(str, self._failures))),
            predicted_s=self._plan.predicted_s if predicted_s is None else predicted_s,
            sent_bits=self._sent_bits,
            exit=exit_,
            unmet=self._plan.objective.unmet(outcome.latency_s, self._deadline_s, accuracy, outcome.energy_j),
        )
        self._parts.record(self._plan, result)
        return result

    def _named(self, outputs: Tensors) -> dict[str, np.ndarray]:
        """Return the outputs under the names of the network's own, which a bottleneck answers for."""
        bottleneck = self._parts.graph.bottleneck
        if bottleneck is None:
            return dict(outputs)
        return {bottleneck.output if bottleneck.code(name) else name: value for name, value in outputs.items()}

    def _outcome(self, answer: Answer, accuracy: float, on_device: bool) -> Outcome:
        """Return the times of an answer, what it took of the device's energy, and its expected accuracy."""
        objective = self._plan.objective
        latency_s = self._parts.clock.now_s() - self._began_s
        device_s = latency_s - answer.upload_s - answer.queue_s - answer.server_s - answer.download_s
        refused = bool(self._failures) and all(failure.is_refusal for failure in self._failures)
        return Outcome(
            device_s=device_s,
            upload_s=answer.upload_s,
            queue_s=answer.queue_s,
            server_s=answer.server_s,
            download_s=answer.download_s,
            latency_s=latency_s,
            energy_j=objective.power_w * device_s + transmit_j(objective.transmit_power_w, answer.upload_s),
            accuracy=accuracy,
            admitted=not (on_device and refused),
            in_time=latency_s <= self._deadline_s,
        )

"""One request from head to answer: the device's head, the servers that are asked, the device itself if they fail."""

import math
import secrets
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import wait
from typing import NamedTuple

import numpy as np

from coinfer.options.table import Names
from coinfer.physics.compute import transmit_j
from coinfer.runtime.device.admission import RefusedError, check_turn
from coinfer.runtime.device.exchange import Answer, PendingRequest
from coinfer.runtime.device.forecast import SLACK_S, patience_s
from coinfer.runtime.device.parts import DeviceParts
from coinfer.runtime.device.planning.early_exit import Stage
from coinfer.runtime.device.planning.full_servers import worthwhile_server
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.runtime.device.planning.remaining import remaining
from coinfer.runtime.device.processor_queue import Run
from coinfer.runtime.device.replies import Replies, Reply
from coinfer.runtime.device.request_client import MAX_WAIT_S
from coinfer.runtime.device.request_message import request_message
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.terms import Terms
from coinfer.runtime.emulation.slowdown import emulate_slowdown
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import InferRequest, WireError
from coinfer.types import DEVICE, Hop, Outcome, Route
from coinfer.units import FLOAT32_BITS

MAX_SERVERS_ASKED = 2
"""Servers that one request asks, and again if they were full, before the device answers itself."""
MAX_ROUNDS = 4
"""A request asks so many times at most; what it sends each time occupies the link."""
Tensors = Mapping[str, np.ndarray]


class Computed(NamedTuple):
    """What the device computed."""

    tensors: dict[str, np.ndarray]
    exit: int | None
    """Index of the exit that was confident, whose outputs these are; None if none was."""


class Request:
    """Carries out the plan for one request; used once, by one thread.

    Args:
        parts: shared parts of the device.
        plan: the decision about this request.
        tensors: the network's inputs by name.
        pixels: the picture that they were made from, uint8 [height, width, 3], if any.
        terms: what its caller asks; with `hedge` the rest runs on others too if a server is late.
        began_s: when `infer` was called.
    """

    def __init__(
        self,
        parts: DeviceParts,
        plan: Plan,
        tensors: Tensors,
        pixels: np.ndarray | None,
        terms: Terms,
        began_s: float,
    ):
        self._parts = parts
        self._is_dispatched = parts.config.dispatch and not plan.policy
        """The server that it reaches chooses who computes."""
        self._plan = plan._replace(id=secrets.token_hex(8)) if self._is_dispatched else plan
        self._tensors = tensors
        self._pixels = pixels
        self._began_s = began_s
        self._deadline_s = plan.route.deadline_s
        self._hedge, self._abort, self._is_strict = terms.hedge, terms.abort, terms.is_strict
        self._queued_s = 0.0
        """Waits for the device's processor so far."""
        self._is_overtaken = False
        """Whether others had their turn before, which no prediction knew."""
        self._replies = Replies(parts.client, parts.clock, terms.abort.on_set)

    def answer(self) -> Result:
        """Return the answer: run the head, and have the rest computed where the plan says.

        Raises:
            RefusedError: if an answer after the deadline is of no use, and none comes before.
        """
        try:
            result = self._answer()
        except (RefusedError, WireError) as error:
            self._replies.cancel()
            if isinstance(error, RefusedError) or self._left_s() <= 0:  # what takes too long is stopped from outside
                self._learn(is_kept=False)
            raise
        self._learn(is_kept=result.outcome.in_time)
        return result

    def _learn(self, *, is_kept: bool) -> None:
        if not self._is_overtaken:
            self._parts.promises.learn(self._plan, is_kept=is_kept)

    def _answer(self) -> Result:
        plan, cascade = self._plan, self._parts.planner.cascade
        stages = cascade.stages(plan.route.exit, plan.cut) if plan.early_exit else ()
        head = self._compute(self._tensors, stages, plan.cut)
        assert isinstance(head, Computed)  # no server was asked yet
        if head.exit is not None:
            predicted_s = self._parts.planner.predicted_exit_s(plan, head.exit, self._scale)
            return self._result(Answer(head.tensors), DEVICE, head.exit, predicted_s)
        if plan.server == DEVICE:
            return self._result(Answer(head.tensors), DEVICE)
        return self._rest(head.tensors, plan.server)

    def answer_by_route(self, servers: list[int]) -> Result:
        """Return the answer: run the head, and send the rest along the plan's route. If it fails, the device answers.

        Args:
            servers: indices of the route's servers, in order; empty if the route stays on the device.
        """
        at_cut = self._submit(self._tensors, self._plan.cut).result()
        if not servers:
            return self._result(Answer(at_cut), DEVICE)
        left_s = max(self._left_s(), 0.0)
        request = self._message(at_cut, servers[0], left_s, self._plan.route)
        self._replies.add(self._parts.client.send_untracked(servers[0], self._plan.work, request))
        reply = self._replies.first(min(left_s, MAX_WAIT_S))
        if reply is not None:
            return self._result(reply.answer, servers[-1])
        self._replies.cancel()
        waited_s = self._replies.waited_s
        outputs = self._submit(at_cut, self._plan.outputs).result()
        return self._result(Answer(outputs, upload_s=waited_s), DEVICE)

    def _compute(self, tensors: Tensors, stages: Sequence[Stage], outputs: Names) -> "Computed | Reply":
        """Return what the device computes, or the answer of a server that was asked before and is sooner."""
        abort = Abort()
        self._abort.on_set(abort.set)
        for stage in (*stages, None):
            local = self._submit(tensors, outputs if stage is None else stage.outputs, abort)
            reply = self._replies.first(local=local)
            if reply is not None:
                abort.set()
                return reply
            wait([local])
            self._queued_s += local.waited_s
            self._is_overtaken |= local.is_overtaken
            computed = local.result()
            if stage is None:
                return Computed(computed, None)
            if self._parts.planner.cascade.is_confident(stage, computed):
                return Computed({name: computed[name] for name in stage.answer}, stage.exit)
            tensors = {start: computed[name] for start, name in zip(stage.starts, stage.tap, strict=True)}
        raise AssertionError("the last stage returns")

    @property
    def _scale(self) -> float:
        return self._parts.processor.scale_at(self._plan.sizes)

    def _state(self) -> DeviceState:
        return self._parts.state(self._plan.sizes)

    def _submit(self, tensors: Tensors, outputs: Names, abort: Abort | None = None) -> Run:
        here = not self._replies.pending  # else a server's answer may come first
        abort, sizes = abort or self._abort, self._plan.sizes
        return self._parts.processor.submit(tensors, outputs, abort, sizes, self._check_turn, here=here)

    def _check_turn(self, expected_s: float) -> None:
        if self._is_strict:
            check_turn(self._plan, expected_s, self._left_s(), self._parts.pushback_s())

    # --- a request that leaves the device

    def _rest(self, at_cut: Tensors, server: int) -> Result:
        """Ask this server; if it fails, at most one more; last, compute on the device itself.

        If the plan takes several servers and one of them fails, whoever is asked next is to compute all the rest.
        If one is late, the device begins at once, and another server is asked too if it is predicted to be sooner: the
        first answer counts. Where all that were asked are full and the device has more to do than they, wait until one
        has room.
        """
        for _ in range(MAX_ROUNDS):
            asked = set[int]()
            while server != DEVICE:
                asked.add(server)
                reply = self._ask(server, at_cut)
                if reply is not None:
                    return self._replied(reply)
                if self._replies.failures[-1].is_next_hop:
                    asked.discard(server)  # it did its part
                server = self._next_server(asked)
                if self._replies.pending:
                    if server != DEVICE:
                        self._send(server, at_cut)
                    return self._rest_here(at_cut)
            server = self._wait_for_room() if self._replies.failures[-1].is_refusal else DEVICE
            if server == DEVICE:
                break
        return self._rest_here(at_cut)

    def _ask(self, server: int, at_cut: Tensors) -> Reply | None:
        """Return the answer of this server; None if it failed or is late."""
        pending = self._send(server, at_cut)
        reply = self._replies.first(self._patience_s(pending) if self._hedge else None)
        if reply is None and self._replies.pending:
            self._parts.client.record_silence(pending)
            self._replies.note_late()
        return reply

    def _send(self, server: int, at_cut: Tensors) -> PendingRequest:
        plan, observation, option = self._plan, self._plan.observation, self._plan.option
        several = None if self._replies.has_asked else plan.several
        route = plan.route if several else plan.to_one_server(self._parts.planner.servers[server])
        deadline_s = self._useless_after_s(server)
        pending = self._parts.client.send(
            server,
            several.parts[0].work if several else plan.work,
            self._message(at_cut, server, deadline_s, route),
            upload_bits=float(observation.option_upload_bits[0, option]),
            service_s=several.first_s if several else float(observation.option_server_s[0, option, server]),
            profiled_s=several.parts[0].profiled_s if several else plan.tail_s,
            several=several,
        )
        self._replies.add(pending)
        return pending

    def _next_server(self, asked: Collection[int]) -> int:
        """Return the server that is best now, after these were asked in vain, or `DEVICE`."""
        others = asked if len(asked) < MAX_SERVERS_ASKED else None
        return remaining(self._parts.planner, self._plan, self._state(), self._left_s(), others).server

    def _rest_here(self, at_cut: Tensors) -> Result:
        """Compute on the device what is best in the time that is left; a server that is late may still answer first."""
        plan, cascade, waited_s = self._plan, self._parts.planner.cascade, self._replies.waited_s
        best = remaining(self._parts.planner, plan, self._state(), self._left_s())
        stages = cascade.stages(best.exit, best.outputs) if best.from_inputs and plan.early_exit else ()
        try:
            done = self._compute(self._tensors if best.from_inputs else at_cut, stages, best.outputs)
        except RefusedError:  # who was asked before may still be in time
            reply = self._replies.first(max(self._left_s(), 0.0))
            if reply is None:
                raise
            done = reply
        if isinstance(done, Reply):
            return self._replied(done)
        self._replies.cancel()
        exit_ = best.exit if done.exit is None else done.exit
        route = plan.route._replace(hops=(Hop("device", best.outputs, FLOAT32_BITS),), exit=best.exit)
        return self._result(
            Answer(done.tensors, upload_s=waited_s), DEVICE, exit_, route=route if best.from_inputs else None
        )

    def _replied(self, reply: Reply) -> Result:
        return self._result(reply.answer._replace(upload_s=reply.answer.upload_s + reply.waited_s), reply.server)

    def _wait_for_room(self) -> int:
        """Wait for a full server and return it, or return `DEVICE` at once if the device is sooner."""
        planner, plan, state = self._parts.planner, self._plan, self._state()
        observation = planner.observe(state, plan.route.deadline_s, raw_input=plan.raw_input, sizes=plan.sizes)
        server, wait_s = worthwhile_server(plan, observation, state, planner.tail_on_device_s(plan, state))
        if server != DEVICE:
            self._parts.clock.sleep(wait_s, self._abort.event)
        return server

    def _patience_s(self, pending: PendingRequest) -> float:
        """Return how long to wait for a server before doing something else: longer than nearly all replies take, but
        not so long that the device would be done by now or could not meet the deadline any more."""
        here_s = remaining(self._parts.planner, self._plan, self._state(), self._left_s()).predicted_s
        spare_s = self._began_s + self._deadline_s - pending.at_s - here_s - SLACK_S
        return patience_s(self._parts.client.patience, pending.expected_s, here_s, spare_s)

    def _useless_after_s(self, server: int) -> float:
        """Return the deadline for a server: the request's own or, if that cannot be met, when the device would have
        answered had the server refused. A late answer is better than a later one, unless both are of no use."""
        if self._is_strict or not self._hedge:
            return max(self._left_s(), 0.0) if self._is_strict else math.inf
        observation, option = self._plan.observation, self._plan.option
        upload_s = float(observation.option_upload_bits[0, option] / observation.uplink_bps[0, server])
        tail_s = self._parts.planner.tail_on_device_s(self._plan, self._state())
        return max(self._left_s(), upload_s + tail_s)

    def _left_s(self) -> float:
        """Return the time until the deadline."""
        return self._began_s + self._deadline_s - self._parts.clock.now_s()

    def _message(self, at_cut: Tensors, server: int, deadline_s: float, route: Route) -> InferRequest:
        """Encode what crosses the cut, in the time that the emulated processor takes for it."""
        config, graph = self._parts.config, self._parts.graph
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
        return message._replace(dispatch=self._is_dispatched and not message.route, id=self._plan.id)

    # --- the result

    def _result(
        self,
        answer: Answer,
        node: int,
        exit_: int | None = None,
        predicted_s: float | None = None,
        route: Route | None = None,
    ) -> Result:
        """Return the answer of a node with its measures.

        Args:
            answer: outputs and times.
            node: index of the server that answered, or `DEVICE`.
            exit_: index of the exit that answered; None takes the route's.
            predicted_s: latency that was predicted of that exit; None takes the plan's.
            route: what was done instead of the plan's; None takes that.
        """
        planner, on_device = self._parts.planner, node == DEVICE
        exit_ = self._plan.route.exit if exit_ is None else exit_
        accuracy = planner.expected_accuracy(route or self._plan.route, exit_, on_device=on_device)
        outcome = self._outcome(answer, accuracy, on_device)
        result = Result(
            self._named(answer.outputs),
            outcome,
            self._plan.route,
            executed_on="device" if on_device else planner.servers[node],
            fallback="; ".join(dict.fromkeys(map(str, self._replies.failures))),
            predicted_s=self._plan.predicted_s if predicted_s is None else predicted_s,
            sent_bits=self._replies.sent_bits + self._plan.asked_bits,
            exit=exit_,
            unmet=self._plan.objective.unmet(outcome.latency_s, self._deadline_s, accuracy, outcome.energy_j),
            wait_s=self._queued_s,
        )
        self._parts.record(self._plan, result)
        return result

    def _named(self, outputs: Tensors) -> dict[str, np.ndarray]:
        """Return the outputs under the names of the network's own, which a bottleneck answers for."""
        bottleneck = self._parts.graph.bottleneck
        if bottleneck is None:
            return dict(outputs)
        return {bottleneck.output_of(name): value for name, value in outputs.items()}

    def _outcome(self, answer: Answer, accuracy: float, on_device: bool) -> Outcome:
        """Return the times of an answer, what it took of the device's energy, and its expected accuracy."""
        objective = self._plan.objective
        latency_s = self._parts.clock.now_s() - self._began_s
        device_s = latency_s - answer.upload_s - answer.queue_s - answer.server_s - answer.download_s
        failures = self._replies.failures
        refused = bool(failures) and all(failure.is_refusal for failure in failures)
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

"""Decides where each request runs: from what is believed about links and servers to a route."""

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial

import numpy as np

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.options.compile import exits_of
from coinfer.options.earned import offered_options
from coinfer.options.prune import SPEED_RATIOS, prune, useful_mask
from coinfer.options.table import Names, Options, measured_accuracy
from coinfer.policies.onnx import ExportedPolicy
from coinfer.profile.accuracy import AccuracyTable
from coinfer.profile.sizing import at_sizes, rounded_sizes
from coinfer.profile.table import ProfileTable
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.accuracy_table import accuracy_for
from coinfer.runtime.device.planning.blocks_policy import load_blocks_policy, with_blocks
from coinfer.runtime.device.planning.early_exit import ExitCascade, measured_point, thresholds_for
from coinfer.runtime.device.planning.message_size import with_messages
from coinfer.runtime.device.planning.objective_policy import policy_for
from coinfer.runtime.device.planning.observation import (
    observe,
    policy_choice,
    with_raw_input,
    within_limits,
)
from coinfer.runtime.device.planning.plan import DeviceState, Plan, route_of
from coinfer.runtime.device.planning.policy_loader import fit, load_policy_for
from coinfer.runtime.device.planning.sized import SizedTimes, Sizes, resized
from coinfer.runtime.device.server_list import ServerList
from coinfer.types import DEVICE, OffloadObservation, Policy, Route

_log = logging.getLogger(__name__)
MAX_SIZES = 64
"""Sizes of requests for which options are kept."""


class Planner:
    """A device's options, and the policy that chooses among them. Only caches change, so threads may share it.

    Args:
        graph: the network.
        table: measured times of the network.
        config: the device's settings.
        options: what is chosen from; None takes all that can be best among the useful cuts.

    Raises:
        UserError: if tables, thresholds or a policy do not fit the network.
    """

    def __init__(self, graph: ModelGraph, table: ProfileTable, config: DeviceConfig, options: Options | None = None):
        self.graph = graph
        self.objective = config.objective
        self.bits = config.bits
        """Allowed bits per element of what is sent; None if the planner chooses."""
        self.servers = ServerList(config.servers)
        self.accuracy = accuracy_for(graph, config.accuracy, config.objective)
        self.exits = exits_of(graph, self.accuracy)
        thresholds = thresholds_for(len(self.exits), config.confidence, config.confidence_loss, self.accuracy)
        self.cascade = ExitCascade(graph, self.exits, thresholds)
        self.blocks = load_blocks_policy(config.policy, graph, table, self.exits, len(self.servers), config.bits)
        """A policy that places blocks, which decides instead of `policy`; None if there is none."""
        all_options = partial(_all_options, graph, table, self.accuracy, all_codes=self.objective.counts_accuracy)
        pruned = options or self._prune(all_options(config.bits), table)
        if self.blocks is not None:
            pruned = with_blocks(pruned, self.blocks, all_options((self.blocks.bits,)))
        own = None if self.blocks else config.policy
        self._plain_options, configured = load_policy_for(own, len(self.servers), pruned, all_options)
        branched = self.cascade.with_branches(self._plain_options, table)
        self.stats = self.cascade.stats(branched, table, self.accuracy)
        self.options = branched._replace(accuracy=self.stats.accuracy)
        """The O options that policies choose from."""
        self.computes = np.array([cut != graph.inputs for cut in self.options.cuts])
        """[O] false for options of which the device computes nothing, so that they do not wait for its processor."""
        self.objective_policy = self._policy_for(self.objective, exits_early=bool(thresholds))
        """The planner's own policy."""
        self.policy = configured or self.objective_policy
        """The policy of requests that bring none of their own."""
        self._table = table
        self._widths = tuple(dict.fromkeys((*(config.bits or ()), *self.options.bits.tolist())))
        self.at = lru_cache(MAX_SIZES)(self._at)
        """From the sizes of a request to the options and times for them."""
        self.tail_s = self.at(()).tail_s
        """The profiled machine's time for each piece that a server may compute, for a single small request."""
        self._fitted: dict[ExportedPolicy, ExportedPolicy | None] = {}
        self._reported: set[tuple[str, str]] = set()

    @property
    def exits_early(self) -> bool:
        """Return true if there are thresholds at which the device may answer before the cut."""
        return bool(self.cascade.thresholds)

    def segments(self) -> list[tuple[Names, Names]]:
        """Return inputs and outputs of all segments that the device may run, each once."""
        segments = []
        for exit_, (cut, outputs) in dict.fromkeys(zip(self.options.exit.tolist(), self.options.pieces, strict=True)):
            whole = ((self.graph.inputs, cut), (cut, outputs))
            segments += [*whole, *self.cascade.segments(exit_, cut)]
        return [(inputs, outputs) for inputs, outputs in dict.fromkeys(segments) if set(inputs) != set(outputs)]

    def observe(
        self,
        state: DeviceState,
        deadline_s: float,
        *,
        raw_input: bool = False,
        early_exit: bool = True,
        sizes: Sizes = (),
        energy_j: float | None = None,
    ) -> OffloadObservation[np.ndarray]:
        """Return what a policy sees of one request made at this moment.

        A server takes infinitely long for options whose upload it has refused as too large.

        Args:
            state: what the device believes now.
            deadline_s: of the request, from now; infinite if it has none.
            raw_input: the request's input is no picture.
            early_exit: the request may be answered at an exit before its cut.
            sizes: of the request.
            energy_j: limit on its energy; None takes the device's.
        """
        known = self.at(sizes)
        observation = observe(
            known.options if early_exit and self.exits_early else known.plain,
            state.servers,
            deadline_s,
            state.now_s,
            device_scale=state.scale,
            device_backlog_s=state.backlog_s,
            device_power_w=self.objective.power_w,
            energy_j=self.objective.energy_j if energy_j is None else energy_j,
            sizes=sizes,
        )
        if raw_input:
            observation = with_raw_input(observation, known.options, known.graph)
        return within_limits(observation, state.servers)

    def plan(
        self,
        state: DeviceState,
        deadline_s: float,
        *,
        policy: Policy[np.ndarray] | None = None,
        raw_input: bool = False,
        early_exit: bool = True,
        sizes: Sizes = (),
        objective: Objective | None = None,
        exit_: int | None = None,
    ) -> Plan:
        """Return the decision about one request made at this moment.

        A policy that raises, or chooses what is not possible, is replaced by the planner's own; a log warning says so
        once.

        Args:
            state: what the device believes now.
            deadline_s: of the request, from now; infinite if it has none.
            policy: decides instead of the configured one; None takes that.
            raw_input: the request's input is no picture.
            early_exit: the request may be answered at an exit before its cut.
            sizes: of the request.
            objective: of the request, which the planner then decides about; None takes the device's.
            exit_: the only exit that may answer; None allows all.
        """
        wanted, early_exit = objective or self.objective, early_exit and exit_ is None
        observation = self.observe(
            state, deadline_s, raw_input=raw_input, early_exit=early_exit, sizes=sizes, energy_j=wanted.energy_j
        )
        if exit_ is not None:
            observation = observation._replace(option_mask=observation.option_mask & (self.options.exit == exit_))
        fallback = self.objective_policy
        if objective is not None or not early_exit:
            fallback = self._policy_for(wanted, exits_early=early_exit and self.exits_early)
        configured = fallback if objective is not None or self.policy is self.objective_policy else self.policy
        option, server, predicted_s = self._decide(self._fit(policy or configured) or fallback, observation, fallback)
        route = route_of(self.options, option, server, self.servers, deadline_s)
        tail_s = self.at(sizes).tail_s[self.options.pieces[option]]
        exits_early = early_exit and self.exits_early
        return Plan(observation, option, server, predicted_s, route, raw_input, exits_early, tail_s, wanted, sizes)

    def plan_by_route(self, route: Route, state: DeviceState, *, raw_input: bool, sizes: Sizes = ()) -> Plan:
        """Return the plan of a route that was decided elsewhere; its predicted latency is infinite.

        Args:
            route: hops that start on the device.
            state: what the device believes now.
            raw_input: the request's input is no picture.
            sizes: of the request.
        """
        observation = self.observe(state, route.deadline_s, raw_input=raw_input, early_exit=False, sizes=sizes)
        tail_s = self.profiled_s(route.hops[0].cut, route.hops[-1].cut, sizes)
        return Plan(observation, 0, DEVICE, math.inf, route, raw_input, False, tail_s, self.objective, sizes)

    def profiled_s(self, inputs: Names, outputs: Names, sizes: Sizes) -> float:
        """Return the profiled machine's time to compute some tensors from others.

        Args:
            inputs: names of the tensors that are given.
            outputs: names of the tensors to compute.
            sizes: of the request.
        """
        return self.at(sizes).profiled_s(inputs, outputs)

    def tail_on_device_s(self, plan: Plan, state: DeviceState) -> float:
        """Return the time until the device itself would have computed the rest of a request, its backlog included.

        Args:
            plan: of the request.
            state: what the device believes now.
        """
        return state.backlog_s + plan.tail_s * state.scale

    def predicted_exit_s(self, plan: Plan, exit_: int, scale: float) -> float:
        """Return the latency that the plan predicts for a request that exits before its cut.

        Args:
            plan: of the request.
            exit_: index of the exit that answered.
            scale: device time over the profiled machine's time.
        """
        exit_s = self.cascade.exit_s(plan.route.exit, plan.cut, self.at(plan.sizes).table)
        return float(plan.observation.device_backlog_s[0]) + exit_s[exit_] * scale

    def expected_accuracy(self, route: Route, exit_: int, *, on_device: bool) -> float:
        """Return the expected accuracy of an answer, 0 to 1; 1 without an accuracy table.

        At the route's exit it is that exit's accuracy, reduced by quantising if a server computed it. At an earlier
        exit it is the accuracy of the answers that this exit is confident of, if that was measured.

        Args:
            route: of the request.
            exit_: index of the exit that answered.
            on_device: nothing was sent, or the device computed the rest itself.
        """
        bottleneck = self.graph.bottleneck
        answer = bottleneck.answer(route.hops[-1].cut[0]) if bottleneck and exit_ == route.exit else None
        if answer is not None:
            return max((1.0 if self.accuracy is None else self.accuracy.accuracy(exit_)) - answer.loss, 0.0)
        if self.accuracy is None:
            return 1.0
        if exit_ != route.exit:
            point = measured_point(self.accuracy, self.cascade.thresholds)
            if point and point.left[exit_]:
                return point.correct[exit_] / point.left[exit_]
            return self.accuracy.accuracy(exit_)
        first = route.hops[0]
        if on_device or first.cut == self.graph.inputs:
            return self.accuracy.accuracy(exit_)
        return measured_accuracy(self.accuracy)(exit_, first.cut, first.bits)

    def _policy_for(self, objective: Objective, *, exits_early: bool) -> Policy[np.ndarray]:
        return policy_for(objective, self.stats.mean_observation if exits_early else None, self.computes)

    def _at(self, sizes: Sizes) -> SizedTimes:
        graph, table, plain, options = self.graph, self._table, self._plain_options, self.options
        short = tuple(rounded_sizes(dict(sizes)).items())
        if short != sizes:
            with suppress(GraphError):
                return self.at(short)
        if sizes:
            graph, table = at_sizes(graph, table, dict(sizes))
            plain = resized(plain, _all_options(graph, table, self.accuracy, self._widths))
            options = self.cascade.with_branches(plain, table)._replace(accuracy=options.accuracy)
        tail_s = {piece: table.segment_s(graph, *piece) for piece in dict.fromkeys(options.pieces)}
        return SizedTimes(sizes, graph, table, plain, options, tail_s)

    def _prune(self, options: Options, table: ProfileTable) -> Options:
        """Return the options that may be best for the objective, with early exits or without.

        Args:
            options: all options.
            table: measured times of the network.
        """
        if not self.exits_early:
            counts_energy = (
                self.objective.power_w or self.objective.transmit_power_w
            )  # for some request, if not for all
            rule = "dominated" if counts_energy else "near-best"
            return prune(options, rule, speed_ratios=SPEED_RATIOS)
        branched = self.cascade.with_branches(options, table)
        mean = self.cascade.stats(branched, table, self.accuracy).mean(branched)
        return options.take(useful_mask(branched, "dominated", other_cases=(mean,)))

    def _decide(
        self, policy: Policy[np.ndarray], observation: OffloadObservation[np.ndarray], fallback: Policy[np.ndarray]
    ) -> tuple[int, int, float]:
        """Return option, server and predicted latency.

        A policy that raises or chooses what cannot be done is replaced: inference never fails for a policy.
        """
        try:
            chosen = policy_choice(policy, observation, self.computes)
        except Exception as error:
            self._report(policy, error)
            chosen = policy_choice(fallback, observation, self.computes)
        return chosen if math.isfinite(chosen[2]) else policy_choice(fallback, observation, self.computes)

    def _fit(self, policy: Policy[np.ndarray]) -> Policy[np.ndarray] | None:
        """Return a loaded policy fitted to these options and servers, or None as `fit` does; any other as it is."""
        if not isinstance(policy, ExportedPolicy) or policy is self.policy:
            return policy
        if policy not in self._fitted:
            self._fitted[policy] = fit(policy, self.options.triples, len(self.servers))
        return self._fitted[policy]

    def _report(self, policy: Policy[np.ndarray], error: Exception) -> None:
        """Say once that a policy fails."""
        problem = type(error).__name__
        key = getattr(policy, "__qualname__", type(policy).__name__), problem
        if key not in self._reported:
            self._reported.add(key)
            first_line = str(error).partition("\n")[0]
            _log.warning("a policy failed and the planner decides instead: %s: %s", problem, first_line)


def _all_options(
    graph: ModelGraph,
    table: ProfileTable,
    accuracy: AccuracyTable | None,
    bits: Sequence[int] | None,
    *,
    all_codes: bool = False,
) -> Options:
    """Return all that can be done with these numbers of bits."""
    return with_messages(offered_options(graph, table, bits, accuracy, all_codes=all_codes), graph)

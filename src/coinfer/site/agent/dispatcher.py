"""Collects requests that leave choices open, decides about them together, and learns what came of it."""

import asyncio
import itertools
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from coinfer.physics.latency import offload_ready_s
from coinfer.runtime.protocol.messages import InferRequest, WireError
from coinfer.runtime.protocol.task_options import ON_DEVICE, Choice
from coinfer.runtime.tracing import current
from coinfer.site.agent.actors import FALLBACK, GREEDY, Actor
from coinfer.site.agent.dispatch import (
    Booking,
    Candidate,
    Task,
    allowed_s,
    checked,
    explored,
    observe,
    observe_options,
    option_work,
    sequential_greedy,
)
from coinfer.site.agent.observed import observed
from coinfer.site.agent.serving_plan import RULE, Planned, Pointer, ServingPlanner, serves
from coinfer.site.agent.view import work_key
from coinfer.site.messages import Decision, Observed
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy

Decided = TypeVar("Decided")
WINDOW_S = 0.002
"""Requests wait so long for others while this server is busy; while it is idle none waits."""
MAX_TASKS = 50
"""Requests that are decided together."""
LATE_S = 0.005
"""An actor that has not decided by then is not waited for."""
_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
"""Ids of requests that are told; a client may send any."""
_log = logging.getLogger("coinfer.site")


class _Waiting(NamedTuple):
    task: Task
    inputs: tuple[str, ...]
    arrived_s: float
    chosen: "asyncio.Future[Placement | Choice | None]"
    """None if nothing is possible, or deciding failed."""
    traceparent: str
    request: str
    """Its id."""


class Placement:
    """Where one request goes (`runtime.edge.dispatcher.Assignment`).

    Args:
        node: address of the server; None for the one that was asked.
        on_done: called once with what came of it.
    """

    def __init__(self, node: str | None, on_done: Callable[[bool, float, float], None]):
        self.node = node
        self._on_done = on_done

    def done(self, ok: bool, queue_s: float = 0.0, server_s: float = 0.0) -> None:
        """Tell what came of it; called once.

        Args:
            ok: the request was answered there.
            queue_s: wait for a worker there.
            server_s: time of a worker there, computing and coding.
        """
        self._on_done(ok, queue_s, server_s)


class SiteDispatcher:
    """Decides for requests that reach one edge server (`runtime.edge.dispatcher.Dispatcher`).

    Args:
        candidates: returns what is known of all servers now, this one first.
        is_idle: returns whether this server could begin a request at once.
        choose: returns who decides about the request of an id; where an actor fails, sequential greedy does.
        explore: returns the share of requests that go to a server drawn among the good ones.
        late_s: an actor that has not decided by then is not waited for.
        keep: takes the maker of a decision's record.
        on_choice: called with what goes to which server.
    """

    def __init__(
        self,
        candidates: Callable[[], Sequence[Candidate]],
        is_idle: Callable[[], bool],
        *,
        choose: Callable[[str], Actor] = lambda request: FALLBACK,
        explore: Callable[[], float] = lambda: 0.0,
        late_s: float = LATE_S,
        keep: Callable[[Callable[[], Decision]], None] = lambda make: None,
        on_choice: Callable[[Booking], None] = lambda booking: None,
    ):
        self.decided = 0
        """Requests whose server was chosen, or all that is done, as are the counts that follow."""
        self.by_actor = 0
        self.actor_failures = 0
        """Decisions for which the actor was late or wrong."""
        self._candidates = candidates
        self._is_idle = is_idle
        self._choose, self._explore, self._late_s = choose, explore, late_s
        self._rng = np.random.default_rng()
        self._keep = keep
        self._on_choice = on_choice
        self._pool = ThreadPoolExecutor(1, "coinfer-actor")
        self._planner = ServingPlanner()
        self._running: asyncio.Future[Any] | None = None
        self._waiting: list[_Waiting] = []
        self._alarm: asyncio.TimerHandle | asyncio.Handle | None = None
        self._groups = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported = ""

    def may_be_served(self, request: InferRequest) -> bool:
        """Return true if a server is known that serves the network of a request.

        Args:
            request: as it came.
        """
        task = Task(request.model, request.fingerprint, "", 0, request.deadline_s)
        return any(server.serves(task) for server in self._candidates())

    async def assign(self, request: InferRequest, excluded: frozenset[str]) -> Placement:
        """Return where a request goes; requests that wait together are decided together.

        Args:
            request: as it came.
            excluded: addresses of servers that were asked in vain.
        """
        inputs = tuple(tensor.name for tensor in request.inputs)
        size_bytes = sum(len(tensor.data) for tensor in request.inputs)
        work = work_key(request.model, inputs, request.outputs)
        task = Task(request.model, request.fingerprint, work, size_bytes, request.deadline_s, excluded)
        chosen = await self._wait(task, inputs, request.id)
        return chosen if isinstance(chosen, Placement) else Placement(None, lambda ok, queue_s, server_s: None)

    async def choose(self, request: InferRequest) -> Choice:
        """Return what a device should do with a request; those that wait together are decided together.

        Args:
            request: with the device's options, and no tensors.

        Raises:
            WireError: UNAVAILABLE if none of it is possible as far as is known.
        """
        model, options = request.model, request.options
        task = Task(model, request.fingerprint, "", 0, request.deadline_s, options=options, outputs=request.outputs)
        chosen = await self._wait(task, (), request.id)
        if not isinstance(chosen, Choice):
            raise WireError("UNAVAILABLE", "nothing of what the device could do is possible here", "no_choice")
        return chosen

    async def _wait(self, task: Task, inputs: tuple[str, ...], request: str) -> Placement | Choice | None:
        """Return what is decided about a task once the window is over."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(task, inputs, time.monotonic(), loop.create_future(), current(), request)
        self._waiting.append(waiting)
        if len(self._waiting) >= MAX_TASKS:
            self._begin()
        elif self._alarm is None:
            self._alarm = loop.call_soon(self._begin) if self._is_idle() else loop.call_later(WINDOW_S, self._begin)
        return await waiting.chosen

    def close(self) -> None:
        """Decide no more by the actor."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        waiting, self._waiting = self._waiting, []
        waiting = [one for one in waiting if not one.chosen.done()]  # whoever hung up meanwhile
        if waiting:
            task = asyncio.ensure_future(self._decide(waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _decide(self, waiting: Sequence[_Waiting]) -> None:
        """Have each version decide together about those that are drawn for it, in random order: first about those that
        are here, then about those whose devices ask what to do, and which arrive later."""
        parts: dict[tuple[bool, str], tuple[Actor, list[_Waiting]]] = {}
        try:
            for one in waiting:
                actor, asks = self._choose(one.request), one.task.options is not None
                parts.setdefault((asks, actor.name), (actor, []))[1].append(one)
            order = dict(zip(parts, self._rng.permutation(len(parts)).tolist(), strict=True))
            for key in sorted(parts, key=lambda key: (key[0], order[key])):
                await (self._advise if key[0] else self._place)(*parts[key])
                await asyncio.sleep(0)  # what stays here is in the queue then, where the next ones see it
        except Exception as error:  # no request may hang for it
            _log.error("requests stay where they are, because deciding failed: %s: %s", type(error).__name__, error)
            for one in waiting:
                if not one.chosen.done():
                    one.chosen.set_result(None)

    async def _place(self, actor: Actor, waiting: Sequence[_Waiting]) -> None:
        servers = self._candidates()
        observation = observe([one.task for one in waiting], servers)
        decision, policy = await self._decision(actor, [one.task for one in waiting], servers, observation)
        ready_s = offload_ready_s(observation)
        wished = decision.server
        chosen, probability = wished.tolist(), [1.0] * len(waiting)
        share = self._explore()
        if share > 0:
            chosen, probability = explored(wished, allowed_s(observation), share, self._rng)
        group, at_s = next(self._groups), round(time.time(), 6)
        seen = partial(observed, observation, [server.address for server in servers])
        for index, (one, server) in enumerate(zip(waiting, chosen, strict=True)):
            record = partial(
                self._record, one, servers[server].address, group=group, index=index, server=server,
                policy=policy, probability=probability[index], at_s=at_s, seen=seen if index == 0 else None,
            )  # fmt: skip
            if not one.chosen.done():
                service_s, arrives_s = observation.option_server_s[index, 0, server], ready_s[index, 0, server]
                self._on_choice(_booking(one.task, one.task.work, servers[server], service_s, arrives_s))
                one.chosen.set_result(Placement(servers[server].address if server else None, record))

    async def _advise(self, actor: Actor, waiting: Sequence[_Waiting]) -> None:
        """Tell devices what to do. They send to the chosen server themselves, and tell the site what came of it."""
        servers = self._candidates()
        observation = observe_options([one.task for one in waiting], servers)
        tasks = [one.task for one in waiting]
        (options, chosen), policy = await self._decision(actor, tasks, servers, observation)
        ready_s = offload_ready_s(observation)
        for index, (one, option, server) in enumerate(zip(waiting, options.tolist(), chosen.tolist(), strict=True)):
            address = ON_DEVICE if server == DEVICE else servers[server].address
            service_s = 0.0 if server == DEVICE else float(observation.option_server_s[index, option, server])
            possible = service_s < math.inf and (server == DEVICE or observation.server_room[server] > 0)
            if not one.chosen.done():
                if possible and server != DEVICE:
                    work = option_work(one.task, option)
                    self._on_choice(
                        _booking(one.task, work, servers[server], service_s, ready_s[index, option, server])
                    )
                one.chosen.set_result(Choice(option, address, policy) if possible else None)

    async def _decision(
        self,
        actor: Actor,
        tasks: Sequence[Task],
        servers: Sequence[Candidate],
        observation: OffloadObservation[np.ndarray],
    ) -> tuple[OffloadDecision[np.ndarray], str]:
        """Return the decision of the actor or the rule or, where these make none, sequential greedy's, and who made
        it."""
        self.decided += len(tasks)
        if actor.decide is not None:
            decision = await self._in_time(actor.name, partial(_decide_by, actor.decide, observation))
            if decision is not None:
                self.by_actor += len(tasks)
                return decision, actor.name
        elif (actor.by_demand or actor.pointer) and serves(servers):
            name = actor.name if actor.pointer else RULE
            planned = await self._in_time(name, partial(self._plan, actor.pointer, tasks, servers, observation))
            if planned is not None:
                self._planner.adopt(planned)
                self.by_actor += len(tasks) if actor.pointer else 0
                return planned.decision, name
        return sequential_greedy(observation), GREEDY

    def _plan(
        self,
        pointer: Pointer | None,
        tasks: Sequence[Task],
        servers: Sequence[Candidate],
        observation: OffloadObservation[np.ndarray],
    ) -> Planned:
        planned = self._planner.plan(tasks, servers, time.monotonic(), pointer)
        return planned._replace(decision=checked(planned.decision, observation))

    async def _in_time(self, name: str, decide: Callable[[], Decided]) -> Decided | None:
        """Return a decision; None if it is late, or wrong, or whoever makes it is busy with the last one."""
        if self._running is not None and not self._running.done():
            self.actor_failures += 1
            return None
        self._running = asyncio.get_running_loop().run_in_executor(self._pool, decide)
        self._running.add_done_callback(lambda done: done.cancelled() or done.exception())  # a late error is no matter
        try:
            return await asyncio.wait_for(asyncio.shield(self._running), self._late_s)
        except Exception as error:
            self.actor_failures += 1
            problem = "it was late" if isinstance(error, asyncio.TimeoutError) else f"{type(error).__name__}: {error}"
            if problem != self._reported:
                self._reported = problem
                _log.warning("the actor %s failed and sequential greedy decides: %s", name, problem[:200])
            return None

    def _record(
        self,
        one: _Waiting,
        address: str,
        ok: bool,
        queue_s: float,
        server_s: float,
        *,
        group: int,
        index: int,
        server: int,
        policy: str,
        probability: float,
        at_s: float,
        seen: Callable[[], Observed] | None,
    ) -> None:
        latency_s = time.monotonic() - one.arrived_s

        def make() -> Decision:
            return Decision(
                seq=0,
                at_s=at_s,
                model=one.task.model,
                policy=policy,
                probability=probability,
                group=group,
                task=index,
                server=server,
                executed_on=address,
                cut=", ".join(one.inputs)[:256],
                queue_s=round(queue_s, 6),
                server_s=round(server_s, 6),
                latency_s=round(latency_s, 6),
                in_time=ok and latency_s <= one.task.deadline_s,
                admitted=ok,
                traceparent=one.traceparent,
                request=one.request if _ID.fullmatch(one.request) else "",
                observation=None if seen is None else seen(),
            )

        self._keep(make)


def _booking(task: Task, work: str, server: Candidate, service_s: float, arrives_s: float) -> Booking:
    return Booking(server.address, task.model, work, float(service_s), float(arrives_s), task.deadline_s)


def _decide_by(actor: Policy[np.ndarray], observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
    return checked(actor(observation), observation)


def aged_backlog_s(backlog_s: float, age_s: float) -> float:
    """Return the work that is left of a backlog that was reported a while ago.

    Args:
        backlog_s: as it was reported.
        age_s: of the report.
    """
    return max(backlog_s - (age_s if math.isfinite(age_s) else 0.0), 0.0)

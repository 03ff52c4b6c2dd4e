"""The agent of a device: it finds the edge servers of its site, and reports what became of each request."""

import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.plan import Plan
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.server_pool import ServerPool
from coinfer.runtime.tracing import current
from coinfer.runtime.transport.grpc_transport import PLAIN, Connector
from coinfer.site.agent.actors import Actor, Actors
from coinfer.site.agent.joining import NodeOptions, Place, find_place
from coinfer.site.agent.observed import observed
from coinfer.site.agent.spool import Spool, next_epoch
from coinfer.site.agent.stream import ControllerStream, StreamThread, log
from coinfer.site.agent.view import ServerView, after_view
from coinfer.site.certificates.node_security import edge_connector
from coinfer.site.certificates.roles import SecurityError
from coinfer.site.messages import Decision, Hello, LinkReport, Policies, PolicyFile, Report, View
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation, Policy
from coinfer.version import __version__

FIRST_VIEW_S = 5.0
"""A device waits so long for the site's servers when it is made; later ones are used as soon as they are known."""


class DeviceAgent:
    """Makes a device a member of a site (`runtime.device.membership.Membership`).

    Args:
        place: of the device in its site.
        graph: its network.
        policy: what decides, as its decisions name it.
        dispatch: it leaves the choice of server to the one that it reaches.
        follows: policies of the site may decide in the place of its own.
    """

    def __init__(self, place: Place, graph: ModelGraph, policy: str, dispatch: bool = False, *, follows: bool = False):
        if place.controller is None:
            raise SecurityError("a device of a site needs the address of its controller: controller='HOST:PORT'")
        self.connector: Connector = edge_connector(place.identity) if place.identity else PLAIN
        self._place = place
        self._graph = graph
        self._policy = policy
        self._dispatch = dispatch
        self._follows = follows
        self._actors = Actors(place.state / "policies", Actor(None, policy))
        self._deciding = threading.local()
        """Who decided about the request of each thread."""
        self._clock = WallClock()
        self._epoch = next_epoch(place.state, time.time())
        self._spool = Spool(place.state / "spool", self._epoch)
        self._servers: Mapping[str, ServerView] = {}
        self._known = threading.Event()
        """Set once a server of this network is known."""
        self._pool: ServerPool | None = None
        self._index: dict[str, int] = {}
        """Index of each server in the pool, by name."""
        self._lock = threading.Lock()
        self._answered, self._failed, self._latency_s = 0, 0, 0.0
        self._stream = StreamThread(ControllerStream(self, place.controller, self._spool))
        self._stream.start()
        if not self._known.wait(FIRST_VIEW_S):
            log.warning("no edge server that serves %s is known yet; they are used as soon as they are", graph.name)

    def servers(self) -> tuple[str, ...]:
        """Return the addresses of the servers of this network that are known."""
        return tuple(server.info.address for server in self._fitting().values())

    def start(self, pool: ServerPool) -> None:
        """Keep a device's servers up to date from now on.

        Args:
            pool: of the device.
        """
        with self._lock:
            self._pool = pool
        self._update_pool()

    def policy(self) -> Policy[np.ndarray] | None:
        """Return what decides about the next request of this thread; None for the device's own."""
        self._deciding.name = self._policy
        actor = self._actors.choose()
        return None if actor.decide is None else partial(self._decide_by, actor.decide, actor.name)

    def _decide_by(
        self, decide: Policy[np.ndarray], name: str, observation: OffloadObservation[np.ndarray]
    ) -> OffloadDecision[np.ndarray]:
        decision = decide(observation)
        self._deciding.name = name
        return decision

    def record(self, plan: Plan, result: Result) -> None:
        """Tell the site of a request that was answered.

        Args:
            plan: of the request.
            result: of the request.
        """
        with self._lock:
            self._answered += 1
            self._failed += int(bool(result.fallback))
            self._latency_s += float(result.outcome.latency_s)
        policy = plan.policy or self._deciding.__dict__.pop("name", self._policy)
        if plan.several is not None:  # an option on one server is what the site's policies learn from
            return
        self._spool.add(partial(self._decision, time.time(), current(), policy, plan, result))

    def close(self) -> None:
        """Leave the site."""
        self._stream.close()

    def hello(self) -> Hello:
        """Return who this device is."""
        return Hello(
            name=self._place.name, role="device", epoch=self._epoch, version=__version__, decides=self._follows
        )

    def report(self) -> Report:
        """Return counters and links now."""
        with self._lock:
            counts = (self._answered, self._failed, self._latency_s)
            pool = self._pool
        links: list[LinkReport] = []
        for address, server in zip(pool.addresses, pool.estimates(), strict=False) if pool else ():
            rate = float(f"{server.link.rate_bps:.2g}")
            links.append(LinkReport(to=address, rate_bps=rate, round_trip_s=round(server.link.round_trip_s, 4)))
        return Report(
            received=counts[0],
            success=counts[0],
            failed=counts[1],
            request_s=round(counts[2], 3),
            spooled=self._spool.held,
            dropped=self._spool.dropped,
            links=links[:256],
            policies=self._actors.versions,
            policy_problem=self._actors.problem,
        )

    def on_view(self, view: View) -> None:
        """Take in what the controller says of the edge servers.

        Args:
            view: as it came.
        """
        self._servers = after_view(self._servers, view, self._clock.now_s())
        if self._fitting():
            self._known.set()
        self._update_pool()

    def on_policy(self, message: PolicyFile | Policies) -> None:
        """Take in a version of the site's policy, or who decides from now on.

        Args:
            message: as it came.
        """
        self._actors.on_message(message)

    def _decision(self, at_s: float, traceparent: str, policy: str, plan: Plan, result: Result) -> Decision:
        outcome, first = result.outcome, result.route.hops[0]
        sent = len(result.route.hops) > 1
        dispatched = self._dispatch and sent and not plan.policy
        return Decision(
            seq=0,
            at_s=at_s,
            model=self._graph.name,
            policy=policy,
            option=plan.option,
            server=plan.server if sent else DEVICE,
            executed_on=result.executed_on,
            dispatched=dispatched,
            request=plan.id if dispatched else "",
            cut=", ".join(first.cut)[:256] if sent else "",
            bits=first.bits,
            predicted_s=result.predicted_s if np.isfinite(result.predicted_s) else None,
            device_s=max(float(outcome.device_s), 0.0),
            upload_s=max(float(outcome.upload_s), 0.0),
            queue_s=float(outcome.queue_s),
            server_s=float(outcome.server_s),
            download_s=max(float(outcome.download_s), 0.0),
            latency_s=float(outcome.latency_s),
            in_time=bool(outcome.in_time),
            admitted=bool(outcome.admitted),
            traceparent=traceparent,
            observation=observed(plan.observation, self._addresses(len(plan.observation.server_room))),
        )

    def _addresses(self, servers: int) -> tuple[str, ...]:
        """Return the addresses of the servers of an observation; those that joined since are left out."""
        return tuple(self._pool.addresses[:servers]) if self._pool else ()

    def _fitting(self) -> dict[str, ServerView]:
        """Return the servers that serve this network, by name."""
        mine = self._graph.fingerprint
        return {
            name: server
            for name, server in self._servers.items()
            if any(model.fingerprint == mine for model in server.info.models)
        }

    def _update_pool(self) -> None:
        with self._lock:
            pool = self._pool
            if pool is None:
                return
            fitting = self._fitting()
            for name, server in fitting.items():
                index = self._place_in(pool, name, server.info.address)
                pool.admit(index)
                pool.update(
                    index,
                    partial(est.after_report, backlog_s=server.backlog_s, room=server.room, at_s=server.at_s),
                )
            for name in self._index.keys() & self._servers.keys() - fitting.keys():
                pool.withdraw(self._index[name])

    def _place_in(self, pool: ServerPool, name: str, address: str) -> int:
        """Return the index of a server, which is added unless the device knows it, by its name or its address."""
        index = self._index.get(name)
        if index is None:
            taken, known = self._index.values(), enumerate(pool.addresses)
            unnamed = (n for n, one in known if one == address and n not in taken)
            place = next(unnamed, None)
            index = self._index[name] = pool.add(address) if place is None else place
        if pool.addresses[index] != address:
            pool.move(index, address)
        return index


def join_device(config: DeviceConfig, graph: ModelGraph) -> DeviceAgent:
    """Return a device's place in the site that its settings name.

    Args:
        config: settings of the device.
        graph: its network.

    Raises:
        UserError: if address, name or certificate cannot be used.
    """
    site = None if config.site is None else Path(config.site)
    options = NodeOptions(site, config.controller, config.name, None, config.insecure)
    own = "planner" if config.policy is None else "function"
    policy = str(config.policy) if isinstance(config.policy, str | Path) else own
    follows = config.policy is None and config.objective == Objective() and not config.dispatch
    place = find_place(options, "device", graph.name.lower())
    return DeviceAgent(place, graph, policy, config.dispatch, follows=follows)

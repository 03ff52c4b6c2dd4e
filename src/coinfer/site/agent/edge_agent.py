"""The agent of an edge server: it reports load, links and service times, and knows the other servers."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.link_estimate import first_link
from coinfer.runtime.edge.security import Security
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.protocol.messages import LoadReport
from coinfer.runtime.transport.grpc_transport import PLAIN, GrpcTransport
from coinfer.site.agent.actors import FALLBACK, SEQUENTIAL_ONLY, Actor, Actors, open_actor
from coinfer.site.agent.dispatch import UNKNOWN_S, Booking, Candidate, SentTask
from coinfer.site.agent.dispatcher import LATE_S, SiteDispatcher, aged_backlog_s
from coinfer.site.agent.links import FIRST_RATE_BPS, PeerLinks
from coinfer.site.agent.serving_report import ServingReporter
from coinfer.site.agent.serving_state import Told
from coinfer.site.agent.spool import Spool, next_epoch
from coinfer.site.agent.stream import Controller, ControllerStream, log
from coinfer.site.agent.view import ServerView, after_view, work_key
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.node_security import node_security
from coinfer.site.messages import (
    MAX_SERVED,
    Decision,
    Hello,
    Policies,
    PolicyFile,
    Report,
    ServedName,
    View,
    WorkReport,
)
from coinfer.version import __version__

SLOW_INTERVAL_S = 1.0
"""Links and service times are reported this often at most."""
MAX_WORKS = 64
SEQUENTIAL = "sequential-greedy"
MAX_SENT = 256
MAX_BOOKED_S = 5.0
"""What a device says that it will send counts for no longer, and for no more work."""


class AgentSettings(NamedTuple):
    """Who an edge server is in its site."""

    name: str
    state: Path
    """Folder for what must survive a restart."""
    controller: str = ""
    """`host:port`; empty if there is none."""
    identity: Identity | None = None
    advertise: str = ""
    """Address by which others reach this server; empty for the one that it listens on."""
    policy: str = ""
    """File of an actor, or the name of a shipped one, that decides who computes until the controller names another;
    empty for the rule that fits what the servers do, `sequential-greedy` for that one in any case."""
    late_s: float = LATE_S
    """An actor that has not decided by then is not waited for."""


class EdgeAgent:
    """Makes an edge server a member of a site (`runtime.edge.agent.Agent`).

    Args:
        settings: who it is.
    """

    def __init__(self, settings: AgentSettings):
        self.servers: Mapping[str, ServerView] = {}
        """What is known of the site's edge servers, this one among them, by name."""
        self._settings = settings
        self._security = None if settings.identity is None else node_security(settings.identity)
        self._epoch = next_epoch(settings.state, time.time())
        self._clock = WallClock()
        self._spool = Spool(settings.state / "spool", self._epoch)
        self._transport = GrpcTransport(connector=self._security.connector if self._security else PLAIN)
        self._links = PeerLinks(self._transport, self._clock)
        self._service: EdgeService | None = None
        self._serving: ServingReporter | None = None
        self._stream: ControllerStream | None = None
        self.actors = Actors(settings.state / "policies", *_deciders(settings.policy))
        """Who decides."""
        self.dispatcher: SiteDispatcher | None = None
        """Decides for requests that leave the choice of server to this one; there once the server has started."""
        self._sent: deque[tuple[float, Booking]] = deque(maxlen=MAX_SENT)
        """When a request gets to its server: what no report knows of yet."""
        self._slow_s = 0.0
        self._leaving: set[str] = set()
        """Networks that are served a moment longer, and of which others hear no more."""
        self._told_of_limit = False

    @property
    def security(self) -> Security | None:
        """Return how the server's connections are secured; None for plain text."""
        return self._security

    @property
    def address(self) -> str:
        """Return the address by which others reach this server."""
        assert self._service is not None
        return self._settings.advertise or self._service.address

    def start(self, service: EdgeService) -> None:
        """Join the site.

        Args:
            service: of the server; its address is known.
        """
        self._service, self._serving = service, ServingReporter(service)
        self._serving.load(self._clock.now_s())  # what the hello tells
        self.dispatcher = service.dispatcher = SiteDispatcher(
            self.candidates,
            lambda: service.scheduler.state.free_workers > 0,
            choose=self.actors.choose,
            explore=lambda: self.actors.explore,
            late_s=self._settings.late_s,
            keep=self._spool.add if self._settings.controller else _keep_nothing,
            on_choice=self._note,
        )
        if service.repository is not None:
            service.repository.before_removal = self._take_leave
            service.repository.on_change.append(lambda name, _: self._leaving.discard(name))
        if self._settings.controller:
            controller = Controller(self._settings.controller, self._settings.identity)
            self._stream = ControllerStream(self, controller, self._spool)
            self._stream.start()

    async def close(self) -> None:
        """Leave the site."""
        if self.dispatcher is not None:
            self.dispatcher.close()
        if self._stream is not None:
            await self._stream.close()
        self._transport.close()

    def hello(self) -> Hello:
        """Return who this server is."""
        assert self._service is not None
        return Hello(
            name=self._settings.name,
            role="edge",
            epoch=self._epoch,
            address=self.address,
            models=self._served_names(),
            workers=self._service.scheduler.state.workers,
            version=__version__,
            serving=self._serving.profile if self._serving else None,
        )

    def report(self) -> Report:
        """Return load and counters now; links and service times once in a while."""
        assert self._service is not None
        service, metrics = self._service, self._service.metrics
        self._links.probe()
        load = service.scheduler.load()
        stats = list(metrics.models.values())
        now_s = self._clock.now_s()
        slow = now_s - self._slow_s >= SLOW_INTERVAL_S
        if slow:
            self._slow_s = now_s
        return Report(
            backlog_s=round(load.backlog_s, 4),
            queued=load.queued,
            room=load.room,
            pieces=len(service.scheduler.state.service),
            received=sum(one.received for one in stats),
            success=sum(one.success for one in stats),
            failed=sum(sum(one.failures.values()) for one in stats),
            forwarded=metrics.forwarded,
            request_s=round(sum(one.request_s for one in stats), 3),
            spooled=self._spool.held,
            dropped=self._spool.dropped,
            links=self._links.reports() if slow else None,
            works=self._works() if slow else None,
            serving=self._serving.load(now_s) if self._serving else None,
            policies=self.actors.versions,
            policy_problem=self.actors.problem,
        )

    def on_view(self, view: View) -> None:
        """Take in what the controller says of the edge servers.

        Args:
            view: as it came.
        """
        self.servers = after_view(self.servers, view, self._clock.now_s())
        if view.names is not None or view.servers:
            self._links.follow({server.info.address for server in self.servers.values()} - {self.address})

    def on_policy(self, message: PolicyFile | Policies) -> None:
        """Take in a version of the site's policy, or who decides from now on.

        Args:
            message: as it came.
        """
        self.actors.on_message(message)

    def candidates(self) -> list[Candidate]:
        """Return what is known of all servers now, this one first."""
        assert self._service is not None
        load, now_s = self._service.scheduler.load(), self._clock.now_s()
        coming = self._sent_since(self.address, now_s, now_s)
        backlog_s = self._own_backlog_s(load) + sum(one.service_s for one in coming)
        room, works = max(load.room - len(coming), 0), self._own_works()
        own = Candidate(
            self.address,
            self._served(),
            {work: service_s + load_s for work, (service_s, load_s) in works.items()},
            backlog_s,
            room,
            0.0,
            services={work: service_s for work, (service_s, _) in works.items()},
            told=self._told(now_s),
            sent=coming,
        )
        others = [server for server in self.servers.values() if server.info.address != self.address]
        oldest_s = min((server.at_s for server in others), default=now_s)
        self._sent = deque((one for one in self._sent if one[0] > oldest_s), MAX_SENT)  # all have reported since
        return [own, *(self._candidate(server, now_s) for server in others)]

    def _served(self) -> dict[str, tuple[str, ...]]:
        """Return the fingerprints of what others may ask for, by name; what is about to go is not among it."""
        assert self._service is not None
        models = self._service.models.items()
        return {name: model.fingerprints for name, model in models if name not in self._leaving}

    def _served_names(self) -> tuple[ServedName, ...]:
        """Return the same for the site, which hears of a limited number."""
        served = self._served().items()
        names = tuple(ServedName(name=name, fingerprint=mark) for name, marks in served for mark in marks)
        if len(names) > MAX_SERVED and not self._told_of_limit:
            self._told_of_limit = True
            log.warning("the site hears of %d of the %d networks that are served here", MAX_SERVED, len(names))
        return names[:MAX_SERVED]

    async def _take_leave(self, name: str) -> None:
        """Tell the site that a network goes, and wait until nobody asks for it any more."""
        self._leaving.add(name)
        try:
            await asyncio.sleep(0.0 if self._stream is None else self._stream.settle_s)
        except BaseException:
            self._leaving.discard(name)
            raise

    def _own_backlog_s(self, load: LoadReport) -> float:
        """Return the work that waits here; a job whose kind was never run takes a guess, and not nothing."""
        assert self._service is not None
        state = self._service.scheduler.state
        jobs = [*(run.job for run in state.running), *state.waiting, *state.arriving]
        unknown = sum(job.kind not in state.service for job in jobs)
        return max(load.backlog_s, unknown * UNKNOWN_S / state.workers)

    def _candidate(self, server: ServerView, now_s: float) -> Candidate:
        address = server.info.address
        age_s = now_s - server.at_s
        sent = self._sent_since(address, server.at_s, now_s)
        link = self._links.link(address) or first_link(FIRST_RATE_BPS, now_s)
        return Candidate(
            address,
            server.models,
            server.works,
            aged_backlog_s(server.backlog_s, age_s) + sum(one.service_s for one in sent),
            max(server.room - len(sent), 0),
            age_s,
            link.rate_bps,
            link.round_trip_s,
            server.services,
            Told(server.profile, server.serving) if server.profile and server.serving else None,
            sent,
        )

    def _told(self, now_s: float) -> Told | None:
        """Return how this server batches and loads, as the others would hear it now."""
        assert self._serving is not None
        load, profile = self._serving.load(now_s), self._serving.profile
        return Told(profile, load) if profile and load else None

    def _note(self, booking: Booking) -> None:
        """Remember what was given to a server, until it reports it itself."""
        arrives_s, service_s = min(booking.arrives_s, MAX_BOOKED_S), min(booking.service_s, MAX_BOOKED_S)
        now_s = self._clock.now_s()
        kept = booking._replace(service_s=service_s, deadline_s=booking.deadline_s + now_s)
        self._sent.append((now_s + arrives_s, kept))

    def _sent_since(self, address: str, since_s: float, now_s: float) -> tuple[SentTask, ...]:
        """Return what gets to a server later than a moment."""
        return tuple(
            SentTask(one.model, one.work, one.service_s, at_s - now_s, one.deadline_s - now_s)
            for at_s, one in self._sent
            if one.address == address and at_s > since_s
        )

    def _own_works(self) -> dict[str, tuple[float, float]]:
        """Return how long each kind of work takes, and what must be loaded before takes now."""
        assert self._service is not None
        found: dict[str, tuple[float, float]] = {}
        for kind, times in self._service.scheduler.state.service.items():
            match kind:
                case (str(model), tuple(inputs), tuple(outputs), False, ()):
                    found[work_key(model, inputs, outputs)] = times.typical_s, self._load_s(model, inputs, outputs)
                case _:
                    pass
        return found

    def _load_s(self, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> float:
        """Return how long a piece that left memory takes to be loaded again."""
        assert self._service is not None
        model = self._service.models.get(name)
        if model is None or self._service.memory is None:
            return 0.0
        return model.runs.cold().get((inputs, outputs or tuple(one.name for one in model.outputs)), 0.0)

    def _works(self) -> list[WorkReport]:
        return [
            WorkReport(work=work, service_s=float(f"{service_s:.3g}"), load_s=float(f"{load_s:.3g}"))
            for work, (service_s, load_s) in list(self._own_works().items())[-MAX_WORKS:]
        ]


def _deciders(policy: str) -> tuple[Actor, Actor]:
    """Return who decides at first, and who where that one is not to."""
    if policy == SEQUENTIAL:
        return SEQUENTIAL_ONLY, SEQUENTIAL_ONLY
    return (open_actor(policy, policy) if policy else FALLBACK), FALLBACK


def _keep_nothing(make: Callable[[], Decision]) -> None:
    """Without a controller decisions are told to nobody."""

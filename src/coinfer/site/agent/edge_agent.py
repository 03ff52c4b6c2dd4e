"""The agent of an edge server: it reports load, links and service times, and knows the other servers."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from coinfer.runtime.clock import WallClock
from coinfer.runtime.edge.security import Security
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.transport.grpc_transport import PLAIN, GrpcTransport
from coinfer.site.agent.links import PeerLinks
from coinfer.site.agent.spool import Spool, next_epoch
from coinfer.site.agent.stream import Controller, ControllerStream
from coinfer.site.agent.view import ServerView, after_view, work_key
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.node_security import node_security
from coinfer.site.messages import Hello, Report, ServedName, View, WorkReport
from coinfer.version import __version__

SLOW_INTERVAL_S = 1.0
"""Links and service times are reported this often at most."""
MAX_WORKS = 64


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
        self._stream: ControllerStream | None = None
        self._slow_s = 0.0

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
        self._service = service
        if self._settings.controller:
            controller = Controller(self._settings.controller, self._settings.identity)
            self._stream = ControllerStream(self, controller, self._spool)
            self._stream.start()

    def close(self) -> None:
        """Leave the site."""
        if self._stream is not None:
            self._stream.close()
        self._transport.close()

    def hello(self) -> Hello:
        """Return who this server is."""
        assert self._service is not None
        models = [ServedName(name=model.name, fingerprint=model.fingerprint) for model in self._service.models.values()]
        return Hello(
            name=self._settings.name,
            role="edge",
            epoch=self._epoch,
            address=self.address,
            models=models,
            workers=self._service.scheduler.state.workers,
            version=__version__,
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
        )

    def on_view(self, view: View) -> None:
        """Take in what the controller says of the edge servers.

        Args:
            view: as it came.
        """
        self.servers = after_view(self.servers, view, self._clock.now_s())
        if view.servers is not None:
            self._links.follow({info.address for info in view.servers} - {self.address})

    def _works(self) -> list[WorkReport]:
        assert self._service is not None
        known = sorted(self._service.scheduler.state.service.items(), key=lambda item: -item[1].measured_s)
        found: list[WorkReport] = []
        for kind, times in known[:MAX_WORKS]:
            match kind:
                case (str(model), tuple(inputs), tuple(outputs), False):
                    key = work_key(model, inputs, outputs)
                    found.append(WorkReport(work=key, service_s=float(f"{times.typical_s:.3g}")))
                case _:
                    pass
        return found

"""A server that batches and loads, as simpy processes: its worker and its loader, with the rules themselves."""

import simpy

from coinfer.envs.reference.fifo_groups import Events
from coinfer.physics.batching import BatchTimes, Waiting, batch_members
from coinfer.physics.loading import Loaded, credit, evicted
from coinfer.scenario.serving import Serving


class Request:
    """A request at a server.

    Args:
        clock: of the simulation.
        piece: that it asks for.
        service_s: time that it takes alone.
        deadline_s: by the clock.
    """

    def __init__(self, clock: simpy.Environment, piece: int, service_s: float, deadline_s: float):
        self.piece, self.service_s, self.deadline_s = piece, service_s, deadline_s
        self.finished = clock.event()


class BatchingServer:
    """One server.

    Args:
        clock: of the simulation.
        serving: of the world.
        server: its number.
    """

    def __init__(self, clock: simpy.Environment, serving: Serving, server: int):
        self._clock, self._serving, self._server = clock, serving, server
        self._queue: list[Request] = []
        self._cold: dict[int, list[Request]] = {}
        self._warm: dict[int, Loaded] = {}
        self._users: dict[int, int] = {}
        self._floor = 0.0
        self._joins, self._asks = clock.event(), clock.event()
        if serving.memory_bytes[server] == float("inf"):
            self._warm = {x: self._loaded(x) for x in range(serving.load_s.shape[0])}
        clock.process(self._work())
        clock.process(self._load())

    def ask(self, request: Request) -> simpy.Event:
        """Add a request that arrives now; the event is its end.

        Args:
            request: new.
        """
        network = int(self._serving.piece_network[request.piece])
        self._users[network] = self._users.get(network, 0) + 1
        if network in self._warm:
            self._warm[network] = self._loaded(network)
            self._join([request])
        else:
            self._cold.setdefault(network, []).append(request)
            self._asks = _trigger(self._clock, self._asks)
        return request.finished

    def _join(self, requests: list[Request]) -> None:
        self._queue += requests
        self._joins = _trigger(self._clock, self._joins)

    def _loaded(self, network: int) -> Loaded:
        load_s = float(self._serving.load_s[network, self._server])
        size_bytes = float(self._serving.network_bytes[network])
        return Loaded(size_bytes, load_s, credit(self._floor, load_s, size_bytes))

    def _load(self) -> Events:
        while True:
            while not self._cold:
                yield self._asks
            network = next(iter(self._cold))
            loaded = self._loaded(network)
            used = sum(one.size_bytes for one in self._warm.values())
            needed = used + loaded.size_bytes - self._serving.memory_bytes[self._server]
            in_use = {one for one, count in self._users.items() if count}
            for gone in evicted(dict(sorted(self._warm.items())), needed, in_use):
                self._floor = max(self._floor, self._warm.pop(gone).credit)
            yield self._clock.timeout(loaded.load_s)
            self._warm[network] = self._loaded(network)
            self._join(self._cold.pop(network))

    def _work(self) -> Events:
        while True:
            while not self._queue:
                yield self._joins
            yield self._clock.timeout(0)  # what arrives at this very moment comes first
            first, now_s = self._queue[0], self._clock.now
            network = self._serving.piece_network[first.piece]
            ratios = [float(r) for r in self._serving.batch_ratio[network, self._server] if r != float("inf")]
            times = BatchTimes(tuple(range(1, len(ratios) + 1)), tuple(ratios))
            rows = [Waiting(r.piece == first.piece, r.service_s, r.deadline_s - now_s) for r in self._queue]
            members = [self._queue[place] for place in batch_members(times, rows)]
            self._queue = [request for request in self._queue if request not in members]
            yield self._clock.timeout(ratios[len(members) - 1] * first.service_s)
            for request in members:
                self._users[int(network)] -= 1
                request.finished.succeed()


def _trigger(clock: simpy.Environment, event: simpy.Event) -> simpy.Event:
    """Let those who wait for an event go on, and return the next one to wait for."""
    event.succeed()
    return clock.event()

"""A simpy resource that serves whole groups in the order in which they were announced (slot after slot), and who is in
a group in the order of readiness."""

from collections.abc import Generator

import simpy

Events = Generator[simpy.Event, None, None]


class Turn:
    """One group at one resource: who is ready waits here."""

    def __init__(self, clock: simpy.Environment, resource: simpy.Resource, expected: int):
        self._clock, self._resource, self._expected = clock, resource, expected
        self._ready: list[tuple[float, int, float, simpy.Event]] = []
        self._someone = clock.event()
        clock.process(self._serve())

    def join(self, number: int, service_s: float) -> simpy.Event:
        """The event that the task, now ready, is done."""
        finished = self._clock.event()
        self._ready.append((self._clock.now, number, service_s, finished))
        if not self._someone.triggered:
            self._someone.succeed()
        return finished

    def _serve(self) -> Events:
        with self._resource.request() as mine:
            yield mine
            for _ in range(self._expected):
                if not self._ready:
                    self._someone = self._clock.event()
                    yield self._someone
                yield self._clock.timeout(0)
                first = min(self._ready, key=lambda entry: entry[:2])
                self._ready.remove(first)
                yield self._clock.timeout(first[2])
                first[3].succeed()

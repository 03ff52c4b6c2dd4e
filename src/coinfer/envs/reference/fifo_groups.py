"""Groups of tasks at a simpy resource, which serves them in the order in which the groups were created.

Within a group, tasks are served in the order of readiness.
"""

from collections.abc import Generator

import simpy

Events = Generator[simpy.Event, None, None]


class FifoGroup:
    """One group (the tasks of a slot) at one resource.

    Args:
        clock: of the simulation.
        resource: with one place; the group requests it at once and holds it until its last task is done.
        size: number of tasks that will join.
    """

    def __init__(self, clock: simpy.Environment, resource: simpy.Resource, size: int):
        self._clock, self._resource, self._size = clock, resource, size
        self._ready: list[tuple[float, int, float, simpy.Event]] = []
        self._arrival = clock.event()
        clock.process(self._serve())

    def join(self, number: int, service_s: float) -> simpy.Event:
        """Add a task that is ready now.

        Args:
            number: of the task; breaks ties of readiness.
            service_s: time that the task takes.

        Returns:
            The event that the task is done.
        """
        finished = self._clock.event()
        self._ready.append((self._clock.now, number, service_s, finished))
        if not self._arrival.triggered:
            self._arrival.succeed()
        return finished

    def _serve(self) -> Events:
        with self._resource.request() as request:
            yield request
            for _ in range(self._size):
                if not self._ready:
                    self._arrival = self._clock.event()
                    yield self._arrival
                yield self._clock.timeout(0)
                first = min(self._ready, key=lambda entry: entry[:2])
                self._ready.remove(first)
                yield self._clock.timeout(first[2])
                first[3].succeed()

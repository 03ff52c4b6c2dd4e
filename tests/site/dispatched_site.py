"""A site whose edge servers decide for the requests that reach them, as a small queueing model without sockets."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from coinfer.site.agent.actors import GREEDY
from coinfer.site.agent.dispatch import Candidate, Task, observe, sequential_greedy
from coinfer.site.agent.observed import observed
from coinfer.site.messages import Decision
from coinfer.types import OffloadDecision, OffloadObservation

Actor = Callable[[OffloadObservation[np.ndarray]], OffloadDecision[np.ndarray]]
START_S = 1.7e9
WORK = "w"


@dataclass(frozen=True)
class DispatchedSite:
    """Servers of unlike speed that reach each other over equal links."""

    service_s: Sequence[float] = (0.02, 0.04, 0.08)
    rate_per_s: float = 40.0
    size_bytes: int = 20_000
    rate_bps: float = 1e8
    explore: float = 0.0
    """Share of requests that go to a server drawn evenly."""
    age_s: float = 0.05
    """Said of what is known of other servers, which is true nevertheless."""
    rest_s: float = 0.0
    """What each request takes beside upload, wait and computing."""

    def address(self, n: int) -> str:
        return f"edge-{n}:1"

    def play(self, count: int, actor: Actor = sequential_greedy, policy: str = GREEDY, seed: int = 0, first: int = 0,
             ) -> Iterator[tuple[str, Decision]]:  # fmt: skip
        """Yields decisions with the name of the node that made each."""
        rng, numbers = np.random.default_rng(seed), Counter[str]()
        free_s, now_s = np.zeros(len(self.service_s)), 0.0
        for _ in range(count):
            now_s += rng.exponential(1 / self.rate_per_s)
            entry = int(rng.integers(len(self.service_s)))
            order = [entry, *(n for n in range(len(self.service_s)) if n != entry)]
            servers = [self._candidate(n, max(free_s[n] - now_s, 0.0), n == entry) for n in order]
            seen = observe([Task("m", "", WORK, self.size_bytes, math.inf)], servers)
            place = int(actor(seen).server[0])
            drawn = int(rng.integers(len(order))) if rng.random() < self.explore else place
            n = order[drawn]
            arrived_s = now_s + (0.0 if n == entry else 8 * self.size_bytes / self.rate_bps)
            server_s = self.service_s[n] * rng.uniform(0.9, 1.1)
            start_s = max(arrived_s, free_s[n])
            free_s[n] = start_s + server_s
            node = f"edge-{entry}"
            numbers[node] += 1
            yield (
                node,
                Decision(
                    seq=first + numbers[node],
                    at_s=START_S + now_s,
                    model="m",
                    policy=policy,
                    probability=(1 - self.explore) * (drawn == place) + self.explore / len(order),
                    group=first + numbers[node],
                    server=drawn,
                    executed_on=self.address(n),
                    cut="x",
                    queue_s=start_s - arrived_s,
                    server_s=server_s,
                    latency_s=free_s[n] - now_s + self.rest_s,
                    request=f"{seed}-{first}-{node}-{numbers[node]}",
                    observation=observed(seen, [self.address(n) for n in order]),
                ),
            )

    def _candidate(self, n: int, backlog_s: float, own: bool) -> Candidate:
        known = Candidate(self.address(n), {"m": ("f",)}, {WORK: self.service_s[n]}, backlog_s, 17.0, 0.0)
        return known if own else known._replace(age_s=self.age_s, rate_bps=self.rate_bps)

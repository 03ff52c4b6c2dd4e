"""Looks for routes over several servers while requests are planned, so that planning one costs next to nothing.

Servers are asked for their links to each other (a ping that names the next hop; `edge.peer_links`). From these and the
device's other estimates `partition.multiway` finds a route; its pieces are opened on the servers, which measures them;
only then a request may take it.
"""

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from coinfer.runtime.clock import Clock
from coinfer.runtime.device import forecast
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.pair_links import Pair
from coinfer.runtime.device.planning.plan import DeviceState, Part, Plan, SeveralHops
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.several_hops import Links, better_plan, find_route
from coinfer.runtime.device.request_client import RequestClient
from coinfer.runtime.protocol.messages import InferReply, TransportError

_log = logging.getLogger(__name__)
INTERVAL_S = 0.25
"""Between two searches while requests come."""
IDLE_AFTER_S = 10.0
"""No search without a request for so long."""
ASK_EVERY_S = 2.0
"""A link between servers is asked for this often, or less often over a slow link of the device."""
QUESTION_BITS, QUESTION_SHARE = 4_000.0, 0.01
"""Size of a question and its answer, and the share of the time that they may take on the device's link."""
REFUSED_REST_S = 60.0
"""The same if the server does not forward to the other one, or does not know how."""
LOST_REST_S = 5.0
"""The same if the other one did not answer it."""
ASK_TIMEOUT_S = 3.0
MAX_ASKED = 8
"""Links asked for at once: with many servers, a few after the others."""
MAX_ROUTES = 2
"""The newest routes that were best are kept, as what is best changes with the queues."""


class RouteSearch:
    """Finds the routes over several servers from which requests may choose.

    Args:
        planner: of the device.
        client: reaches the servers.
        clock: the device's.
        state: returns what the device believes now.
        find: returns the route whose pieces should be open; None takes the one that is best now.
    """

    def __init__(
        self,
        planner: Planner,
        client: RequestClient,
        clock: Clock,
        state: Callable[[], DeviceState],
        find: Callable[[Links], SeveralHops | None] | None = None,
    ):
        self._planner = planner
        self._client = client
        self._clock = clock
        self._find = find or (lambda links: find_route(planner, state(), links))
        self._routes: tuple[SeveralHops, ...] = ()
        self._due_s: dict[Pair, float] = {}
        self._prepared: set[tuple[str, Part]] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coinfer-routes", daemon=True)

    def start(self) -> None:
        """Look once, and go on in the background."""
        self._guarded_update()
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()

    def better(self, plan: Plan, state: DeviceState) -> Plan:
        """Return a plan over several servers if it is predicted to be better than the given one, else that one.

        Args:
            plan: of one request with at most one server.
            state: what the device believed when it was made.
        """
        if not self._routes or plan.sizes:
            return plan
        return better_plan(plan, self._planner, self._routes, state, self._client.pairs.known())

    def update(self) -> None:
        """Ask servers for links that are due, find the route that is best now, and have its pieces opened."""
        self._ask_links()
        links = self._client.pairs.known()
        found = self._find(links) if links else None
        if found is not None and self._prepare(found):
            others = [route for route in self._routes if route != found]
            self._routes = (found, *others)[:MAX_ROUTES]

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            if self._clock.now_s() - self._client.pool.asked_s < IDLE_AFTER_S:
                self._guarded_update()

    def _guarded_update(self) -> None:
        """Search; whatever goes wrong, requests go on without several servers."""
        try:
            self.update()
        except Exception as error:
            if self._closing.is_set():
                return
            self._routes = ()
            _log.warning("no route over several servers can be planned: %s: %s", type(error).__name__, error)
            self._closing.set()

    def _ask_links(self) -> None:
        now_s, names = self._clock.now_s(), self._client.pool.addresses
        up = [names[i] for i, one in enumerate(self._client.pool.estimates()) if forecast.usable(one, now_s)]
        pairs = [(one, other) for one in up for other in up if one != other]
        due = sorted((pair for pair in pairs if self._due_s.get(pair, now_s) <= now_s), key=self._last_asked_s)
        asked = [(pair, self._client.ask_link(pair, ASK_TIMEOUT_S)) for pair in due[:MAX_ASKED]]
        for pair, reply in asked:
            self._due_s[pair] = self._clock.now_s() + self._record(pair, reply)

    def _last_asked_s(self, pair: Pair) -> float:
        return self._due_s.get(pair, -math.inf)

    def _record(self, pair: Pair, reply: "Future[InferReply]") -> float:
        """Learn what a server says of its link to another, and return after how many seconds it is asked again."""
        names = self._client.pool.addresses
        try:
            executed = reply.result().executed
        except TransportError as error:
            self._client.pairs.lose(pair)
            return LOST_REST_S if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") else REFUSED_REST_S
        if not executed:
            return REFUSED_REST_S
        self._client.pairs.record(pair, executed[0])
        rates_bps = {
            one: server.link.rate_bps for one, server in zip(names, self._client.pool.estimates(), strict=False)
        }
        return max(ASK_EVERY_S, QUESTION_BITS / rates_bps.get(pair[0], math.inf) / QUESTION_SHARE)

    def _prepare(self, route: SeveralHops) -> bool:
        """Have the pieces of a route opened where they are new; return false if a server cannot."""
        for part in route.parts:
            key = self._client.pool.addresses[part.server], part
            if key not in self._prepared:
                with suppress(TransportError):
                    self._client.prepare_piece(part.server, part.work.piece, part.profiled_s)
                    self._prepared.add(key)
        return self.is_open(route)

    def is_open(self, route: SeveralHops) -> bool:
        """Return true if all pieces of a route were opened on its servers.

        Args:
            route: over several servers.
        """
        names = self._client.pool.addresses
        return all((names[part.server], part) in self._prepared for part in route.parts)


def takes_several(planner: Planner, config: DeviceConfig) -> bool:
    """Return true if routes over several servers are looked for: if the planner decides, for latency, about a network
    that answers once, and no server chooses who computes.

    Args:
        planner: of the device.
        config: its settings.
    """
    own = planner.policy is planner.objective_policy and not config.dispatch
    wanted = planner.objective.goal == "latency" and not planner.objective.counts_energy
    return own and wanted and len(planner.exits) == 1 and not planner.exits_early

"""Has a policy that places blocks decide about requests; the planner decides if the policy fails or is late."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError

from coinfer.runtime.clock import Clock
from coinfer.runtime.device.planning.blocks_policy import PlacedBlocks
from coinfer.runtime.device.planning.place_blocks import observe_blocks, plan_of_places
from coinfer.runtime.device.planning.plan import DeviceState, Plan, SeveralHops
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.several_hops import Links
from coinfer.runtime.device.request_client import RequestClient
from coinfer.runtime.device.route_search import RouteSearch

_log = logging.getLogger(__name__)
LATE_S, LATE_SHARE = 0.02, 0.1
"""A policy is waited for so long, or for this share of the latency that is planned without it if that is longer."""


class BlocksDecider:
    """Decides by a policy for blocks.

    The pieces of a route over several servers are opened there before a request takes it. Until then, and where the
    policy's answer cannot be carried out, the planner's plan stays.

    Args:
        planner: of the device.
        blocks: the policy and the network's blocks.
        client: reaches the servers.
        clock: the device's.
        state: returns what the device believes now.
        deadline_s: of the requests for which pieces are opened before any was made.
    """

    def __init__(
        self,
        planner: Planner,
        blocks: PlacedBlocks,
        client: RequestClient,
        clock: Clock,
        state: Callable[[], DeviceState],
        deadline_s: float,
    ):
        self._planner, self._blocks = planner, blocks
        self._name, self._path = blocks.name, blocks.policy.path
        self._client, self._state, self._deadline_s = client, state, deadline_s
        self._search = RouteSearch(planner, client, clock, state, find=self._find)
        self._wanted: SeveralHops | None = None
        """The route that was chosen last and whose pieces are not open."""
        self._worker = ThreadPoolExecutor(1, "coinfer-policy")
        self._late: Future[Plan | None] | None = None
        self._reported: set[str] = set()

    def start(self) -> None:
        """Open the pieces of what the policy would choose now, and go on in the background."""
        self._search.start()

    def close(self) -> None:
        """Look for links no more, and let the policy decide no more."""
        self._search.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def update(self) -> None:
        """Ask servers for links that are due, and open the pieces that the policy wants."""
        self._search.update()

    def better(self, plan: Plan, state: DeviceState) -> Plan:
        """Return the policy's plan, or the given one if there is none in time that can be carried out.

        Args:
            plan: of one request, made without the policy.
            state: what the device believed when it was made.
        """
        found = None if plan.sizes else self._in_time(plan, state)
        if found is None:
            return plan
        if found.several is not None and not self._search.is_open(found.several):
            self._wanted = found.several
            return plan
        return found._replace(policy=self._name)

    def _in_time(self, plan: Plan, state: DeviceState) -> Plan | None:
        if self._late is not None and not self._late.done():
            return None
        decided = self._worker.submit(self._decide, plan, state)
        try:
            return decided.result(max(LATE_S, LATE_SHARE * plan.predicted_s))
        except LateError:
            if not decided.cancel():
                self._late = decided
            self._report("is late")
        except Exception as error:
            self._report(f"failed: {type(error).__name__}: {error}".partition("\n")[0])
        return None

    def _decide(self, plan: Plan, state: DeviceState) -> Plan | None:
        links = self._client.pairs.known()
        observation = observe_blocks(self._planner, self._blocks, plan, state, links)
        place = self._blocks.policy(observation).place[0].tolist()
        return plan_of_places(self._planner, self._blocks, place, plan, state, links)

    def _find(self, links: Links) -> SeveralHops | None:
        """Return the route over several servers whose pieces should be open."""
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            return wanted
        state = self._state()
        found = self._in_time(self._planner.plan(state, self._deadline_s), state)
        return None if found is None else found.several

    def _report(self, problem: str) -> None:
        """Say once that the policy fails in some way."""
        if problem not in self._reported:
            self._reported.add(problem)
            _log.warning("policy %s %s; the planner decides instead", self._path, problem)

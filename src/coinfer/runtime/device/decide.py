"""From a request to its plan: it is refused, waits for a server that is full, or is planned at once."""

from coinfer.runtime.device.parts import DeviceParts
from coinfer.runtime.device.planning.full_servers import worthwhile_wait
from coinfer.runtime.device.planning.plan import DeviceState, Plan
from coinfer.runtime.device.planning.sized import Sizes
from coinfer.runtime.device.server_choice import chosen_by_server
from coinfer.runtime.device.terms import Terms


def admitted_plan(
    parts: DeviceParts, terms: Terms, sizes: Sizes, *, raw_input: bool, began_s: float, others: int
) -> Plan:
    """Return the plan of a request, after a wait where a server that is full now answers sooner than the device.

    Args:
        parts: of the device.
        terms: of the request.
        sizes: of the request.
        raw_input: the request's input is no picture.
        began_s: when it was made.
        others: requests that are under way beside it.

    Raises:
        RefusedError: if the device refuses late answers, and this one would be late because of others.
    """
    plan, state = plan_now(parts, terms, sizes, raw_input=raw_input)
    wait_s, waited_s = worthwhile_wait(plan, state, parts.planner.computes)
    if parts.config.refuse_late and others:  # one that is alone is answered, if late
        left_s = terms.deadline_s - (parts.clock.now_s() - began_s)
        parts.promises.check(plan, waited_s if wait_s else plan.predicted_s, left_s, parts.pushback_s())
    while wait_s and parts.clock.sleep(wait_s, terms.abort.event):
        plan, state = plan_now(parts, terms, sizes, raw_input=raw_input)
        wait_s, _ = worthwhile_wait(plan, state, parts.planner.computes)
    return chosen_by_server(parts, terms, plan, state)


def plan_now(
    parts: DeviceParts, terms: Terms, sizes: Sizes = (), *, raw_input: bool = False
) -> tuple[Plan, DeviceState]:
    """Return the plan of a request made now, and what the device believed when it made it.

    Args:
        parts: of the device.
        terms: of the request.
        sizes: of the request.
        raw_input: the request's input is no picture.
    """
    sizes = parts.planner.at(sizes).sizes
    parts.client.pool.asked_s = parts.clock.now_s()
    state = parts.state(sizes)
    own = terms.policy is not None or terms.objective is not None
    decides = terms.policy if own else parts.site_policy()
    plan = parts.planner.plan(
        state,
        terms.deadline_s,
        policy=decides,
        raw_input=raw_input,
        early_exit=terms.early_exit,
        sizes=sizes,
        objective=terms.objective,
        exit_=terms.exit,
    )
    is_planned = decides is None and not own and terms.exit is None
    return parts.better(plan, state) if is_planned else plan, state

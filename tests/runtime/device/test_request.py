"""How long a request waits for a server, and until when a server is of use, worked out by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coinfer.runtime.clock import VirtualClock
from coinfer.runtime.device import request as module
from coinfer.runtime.device.forecast import MIN_PATIENCE, SLACK_S
from coinfer.runtime.device.request import Request
from coinfer.runtime.executor import Abort
from coinfer.runtime.protocol.messages import WireError

SENT_S = 10.0


def request(deadline_s: float, *, is_strict: bool = False) -> Request:
    """Begun at 9.5 s. A server is waited for twice as long as expected; the rest of the plan takes the device 3 s."""
    parts: Any = SimpleNamespace(
        config=SimpleNamespace(dispatch=False),
        client=SimpleNamespace(patience=2.0),
        planner=SimpleNamespace(tail_on_device_s=lambda plan, state: 3.0),
        processor=SimpleNamespace(scale_at=lambda sizes: 3.0),
        clock=VirtualClock(SENT_S),
        state=lambda sizes: None,
    )
    observation = SimpleNamespace(option_upload_bits=np.array([[1e6]]), uplink_bps=np.array([[2e6]]))
    route = SimpleNamespace(deadline_s=deadline_s)
    plan: Any = SimpleNamespace(route=route, observation=observation, option=0, tail_s=0.1, sizes=())
    terms: Any = SimpleNamespace(hedge=True, abort=Abort(), is_strict=is_strict)
    return Request(parts, plan, {}, None, terms, 9.5)


@pytest.mark.parametrize(
    ("deadline_s", "here_s", "waits_s"),
    [
        (math.inf, 9.0, 2.0 + SLACK_S),
        (math.inf, 1.5, 1.5 + SLACK_S),  # the device would be done by then
        (math.inf, 0.3, MIN_PATIENCE + SLACK_S),  # it would be before most replies come
        (3.9, 1.7, 3.4 - 1.7 - SLACK_S),  # the device must begin then to meet it
        (1.5, 1.9, 1.9 + SLACK_S),  # it would have to begin before most replies come
    ],
)
def test_a_server_is_waited_for_as_long_as_the_device_could_still_make_it(
    deadline_s: float, here_s: float, waits_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "remaining", lambda *_: SimpleNamespace(predicted_s=here_s))
    pending: Any = SimpleNamespace(expected_s=1.0, at_s=SENT_S)
    assert request(deadline_s)._patience_s(pending) == pytest.approx(waits_s)


@pytest.mark.parametrize(("deadline_s", "useless_after_s"), [(10.0, 9.5), (1.0, 0.5 + 3.0), (0.1, 0.5 + 3.0)])
def test_a_late_answer_is_better_than_a_later_one(deadline_s: float, useless_after_s: float):
    """If the deadline cannot be met, a server has until the device would have answered had it refused."""
    assert request(deadline_s)._useless_after_s(0) == pytest.approx(useless_after_s)


def test_a_caller_for_whom_late_is_useless_gives_servers_what_is_left():
    left_s = [request(deadline_s, is_strict=True)._useless_after_s(0) for deadline_s in (10.0, 1.0, 0.1)]
    assert left_s == pytest.approx([9.5, 0.5, 0.0])


@pytest.mark.parametrize(("deadline_s", "learned"), [(0.4, [False]), (9.0, [])])
def test_what_is_stopped_at_its_deadline_was_promised_too_much(
    deadline_s: float, learned: list[bool], monkeypatch: pytest.MonkeyPatch
):
    """Half a second after its beginning; a caller who gives up before the deadline says nothing."""
    one, noted = request(deadline_s, is_strict=True), list[bool]()
    one._parts.promises = SimpleNamespace(learn=lambda plan, is_kept: noted.append(is_kept))  # type: ignore[misc]

    def stopped() -> None:
        raise WireError("CANCELLED", "the caller gave up")

    monkeypatch.setattr(one, "_answer", stopped)
    with pytest.raises(WireError):
        one.answer()
    assert noted == learned

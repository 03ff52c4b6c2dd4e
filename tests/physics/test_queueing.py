"""Queues against a plain loop, and against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.physics import queueing


def served_one_by_one(queue, ready_s, service_s, active, free_s):
    """Finish times [K] and when the queues [Q] are done, task by task."""
    finish_s, free_s = [0.0] * len(queue), list(free_s)
    for k in sorted(range(len(queue)), key=lambda k: (ready_s[k], k)):
        if active[k]:
            free_s[queue[k]] = finish_s[k] = max(free_s[queue[k]], ready_s[k]) + service_s[k]
    return finish_s, free_s


@st.composite
def slots(draw):
    tasks, queues = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    times = st.integers(0, 40).map(lambda tenths: tenths / 8)

    def row(of, length=tasks):
        return draw(st.lists(of, min_size=length, max_size=length))

    return row(st.integers(0, queues - 1)), row(times), row(times), row(st.booleans()), row(times, queues)


@settings(max_examples=100, deadline=None)
@given(slots())
def test_equals_serving_one_by_one_with_ties_and_idle_times(slot):
    queue, ready_s, service_s, active, free_s = map(torch.tensor, slot)
    wanted, until = served_one_by_one(*slot)
    free = free_s.double()
    expected = [finish for finish, uses in zip(wanted, slot[3], strict=True) if uses]
    for finish_s in (queueing.pairwise_finish_s, queueing.finish_s):
        found = finish_s(queue, ready_s.double(), service_s.double(), active, free[queue])
        assert found[active].tolist() == expected
    service_s, ready_s = (torch.nn.functional.pad(row.double(), (1, 0)) for row in (service_s, ready_s))
    for rounded in (torch.Tensor.double, torch.Tensor.float):  # sorted by PyTorch, and by NumPy
        rows = queueing.queue_rows(queue, rounded(service_s), active, rounded(free))
        assert queueing.row_finish_s(rows, rounded(ready_s), 0 * rounded(ready_s)).tolist() == [0.0, *wanted]
    assert queueing.busy_until_s(free, queue, found, active).tolist() == until


@settings(max_examples=100, deadline=None)
@given(slots(), st.integers(0, 11), st.floats(0.0, 3.0))
def test_a_task_that_is_ready_sooner_keeps_its_queue_busy_no_longer(slot, which, sooner_s):
    queue, ready_s, service_s, active, free_s = (torch.tensor(row) for row in slot)
    ready_s, service_s, free_s = ready_s.double(), service_s.double(), free_s.double()
    before = queueing.finish_s(queue, ready_s, service_s, active, free_s[queue])
    ready_s[which % len(queue)] = (ready_s[which % len(queue)] - sooner_s).clamp(min=0)
    after = queueing.finish_s(queue, ready_s, service_s, active, free_s[queue])
    late = queueing.busy_until_s(free_s, queue, after, active) - queueing.busy_until_s(free_s, queue, before, active)
    assert (late <= 1e-12).all()


def test_places_are_given_in_the_order_of_the_numbers_and_to_nobody_who_does_not_ask():
    server = torch.tensor([[0, 0, 1, 0, 0, 1]])
    asks = torch.tensor([[True, False, True, True, True, True]])
    found = queueing.admission(server, asks, torch.tensor([[2.0, 0.0]]))
    assert found.tolist() == [[True, False, False, True, False, False]]
    assert queueing.admission(server, asks, torch.tensor([[torch.inf, torch.inf]])).equal(asks)


@pytest.mark.parametrize("load", [0.3, 0.7])
@pytest.mark.parametrize("service", ["exponential", "constant"])
def test_waiting_of_m_m_1_and_m_d_1(load, service):
    """Pollaczek-Khinchine: the mean wait is load / (1 - load) mean services, and half of that for constant services."""
    worlds, tasks, warm_up = 400, 4000, 1000
    rng = np.random.default_rng(7)
    ready_s = torch.tensor(rng.exponential(1 / load, (worlds, tasks)).cumsum(-1))
    shape = (worlds, tasks)
    service_s = torch.tensor(rng.exponential(1.0, shape) if service == "exponential" else np.ones(shape))
    queue = torch.zeros(shape, dtype=torch.int64)
    everybody = torch.ones(shape, dtype=torch.bool)
    finish_s = queueing.ordered_finish_s(queue, ready_s, service_s, everybody, torch.zeros(shape, dtype=torch.float64))
    waits_s = (finish_s - service_s - ready_s)[:, warm_up:].mean(-1).numpy()
    wanted_s = load / (1 - load) * (1.0 if service == "exponential" else 0.5)
    half_width_s = 3.3 * waits_s.std(ddof=1) / np.sqrt(worlds)
    assert abs(waits_s.mean() - wanted_s) < half_width_s
    assert half_width_s < 0.03 * wanted_s

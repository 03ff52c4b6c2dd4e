"""Predicted latency, worked out by hand."""

import numpy as np
import pytest
import torch

from coinfer.physics import latency
from coinfer.types import OffloadObservation


def observation(uplink_backlog_s):
    """One task, two options (one sends 4 bits, one stays), two servers."""
    return OffloadObservation(
        option_device_s=np.array([[1.0, 5.0]]),
        option_upload_bits=np.array([[4.0, 0.0]]),
        option_server_s=np.array([[[0.5, 0.25], [0.0, 0.0]]]),
        option_accuracy=np.ones((1, 2)),
        option_device_j=np.ones((1, 2)),
        option_mask=np.ones((1, 2), bool),
        task_mask=np.ones(1, bool),
        deadline_s=np.array([9.0]),
        uplink_bps=np.array([[2.0, 4.0]]),
        device_backlog_s=np.array([2.0]),
        server_backlog_s=np.array([0.0, 4.5]),
        server_room=np.array([1.0, 1.0]),
        energy_left_j=np.array([np.inf]),
        observation_age_s=np.zeros(2),
        uplink_backlog_s=uplink_backlog_s,
    )


def expected_s(first_wait_s: float, second_wait_s: float) -> list:
    return [[[3.0 + first_wait_s + 2.0 + 0.5, max(3.0 + second_wait_s + 1.0, 4.5) + 0.25], [7.0, 7.0]]]


@pytest.mark.parametrize(
    ("links_s", "waits_s"), [((0.0, 0.0), (0, 0)), ((2.5, 0.0), (0, 0)), ((4.0, 3.25), (1, 0.25)), ((0, 9.0), (0, 6))]
)
def test_an_upload_waits_for_its_link_and_overlaps_with_the_servers_backlog(links_s, waits_s):
    seen = observation(np.array([links_s], dtype=float))
    assert latency.offload_latency_s(seen).tolist() == expected_s(*waits_s)
    tensors = OffloadObservation(*map(torch.as_tensor, seen))
    assert latency.offload_latency_s(tensors).tolist() == expected_s(*waits_s)


def test_a_backlog_that_is_done_before_the_task_comes_costs_nothing():
    """Device 0.1 s, upload 0.1 s, backlog 0.15 s, service 0.05 s."""
    assert latency.end_s(latency.ready_s(0.1, 0.0, 0.1), 0.15, 0.05) == pytest.approx(0.25)


def test_over_a_dead_link_nothing_arrives_and_what_stays_is_done():
    seen = observation(np.zeros((1, 2)))._replace(uplink_bps=np.array([[0.0, 4.0]]))
    assert latency.offload_latency_s(seen).tolist() == [[[np.inf, 4.75], [7.0, 7.0]]]


def test_what_computes_nothing_on_the_device_does_not_wait_for_its_processor():
    """Two seconds of backlog count for the second option only; the first arrives two seconds earlier."""
    seen, computes = observation(np.zeros((1, 2))), np.array([False, True])
    expected = [[[1.0 + 2.0 + 0.5, 4.5 + 0.25], [7.0, 7.0]]]
    assert latency.offload_latency_s(seen, computes).tolist() == expected
    tensors = OffloadObservation(*map(torch.as_tensor, seen))
    assert latency.offload_latency_s(tensors, torch.as_tensor(computes)).tolist() == expected

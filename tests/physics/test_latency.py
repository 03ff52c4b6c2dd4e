"""Predicted latency and the papers' rewards, worked out by hand."""

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
        server_backlog_s=np.array([0.0, 3.0]),
        server_room=np.array([1.0, 1.0]),
        energy_left_j=np.array([np.inf]),
        observation_age_s=np.zeros(2),
        uplink_backlog_s=uplink_backlog_s,
    )


@pytest.mark.parametrize(("radio_s", "waits_s"), [(0.0, 0.0), (np.array([2.5]), 0.0), (np.array([4.0]), 1.0)])
def test_predicted_latency_waits_for_the_radio_only_after_computing(radio_s, waits_s):
    found = latency.offload_latency_s(observation(radio_s))
    assert found.tolist() == [[[3.0 + waits_s + 2.0 + 0.5, 3.0 + waits_s + 1.0 + 3.0 + 0.25], [7.0, 7.0]]]


def test_rewards():
    latency_s, deadline_s = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0])
    in_time, accuracy = latency_s <= deadline_s, torch.tensor([0.9, 0.8])
    assert latency.latency_reward(latency_s).tolist() == [-1.0, -4.0]
    assert latency.late_reward(latency_s, deadline_s, weight=2.0).tolist() == [-1.0, -6.0]
    assert latency.late_reward(latency_s, torch.full((2,), torch.inf)).tolist() == [-1.0, -4.0]
    found = latency.early_exit_reward(accuracy, latency_s, deadline_s, in_time, 0.1, 0.5)
    assert found.tolist() == pytest.approx([0.9 * 0.95, -0.5])


@pytest.mark.parametrize(("rate", "weight"), [(0.1, 0.04), (1, 0.29), (3, 0.58), (5, 0.75), (8, 0.92), (10, 1.0)])
def test_the_weight_of_accuracy_grows_with_the_rate_as_in_the_papers_table(rate, weight):
    """SAC-d with omega = 1 s/MB and B_max = 10 MB/s, so a sensitivity of 10."""
    found = latency.weighted_reward(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(float(rate)), 10.0, 10.0, 1.0)
    assert float(found) == pytest.approx(weight, abs=0.006)

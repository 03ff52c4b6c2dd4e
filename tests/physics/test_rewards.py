"""The papers' rewards, worked out by hand."""

import pytest
import torch

from coinfer.physics import rewards


def test_rewards():
    latency_s, deadline_s = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 3.0])
    in_time, accuracy = latency_s <= deadline_s, torch.tensor([0.9, 0.8])
    assert rewards.latency_reward(latency_s).tolist() == [-1.0, -4.0]
    assert rewards.late_reward(latency_s, (latency_s - deadline_s).clip(0), weight=2.0).tolist() == [-1.0, -6.0]
    assert rewards.late_reward(latency_s, torch.zeros(2)).tolist() == [-1.0, -4.0]
    found = rewards.early_exit_reward(accuracy, latency_s, deadline_s, in_time, latency_weight=0.1, late_penalty=0.5)
    assert found.tolist() == pytest.approx([0.9 * 0.95, -0.5])


@pytest.mark.parametrize(("rate", "weight"), [(0.1, 0.04), (1, 0.29), (3, 0.58), (5, 0.75), (8, 0.92), (10, 1.0)])
def test_the_weight_of_accuracy_grows_with_the_rate_as_in_the_papers_table(rate, weight):
    """SAC-d with omega = 1 s/MB and B_max = 10 MB/s, so a sensitivity of 10."""
    found = rewards.weighted_reward(
        torch.tensor(1.0), torch.tensor(0.0), torch.tensor(float(rate)), best_bps=10.0, sensitivity=10.0, scale_s=1.0
    )
    assert float(found) == pytest.approx(weight, abs=0.006)

"""What comes of a request, worked out by hand."""

import torch

from coinfer.envs.core import outcome_of


def test_an_answer_at_its_deadline_is_in_time_and_no_answer_never():
    """Four requests: before the deadline, exactly at it, after it, and one that nobody answered."""
    times_s = torch.tensor([0.25, 0.5, 0.75, 0.25], dtype=torch.float64)
    found = outcome_of(
        device_s=times_s,
        upload_s=torch.full((4,), 0.125),
        queue_s=torch.full((4,), 0.0625),
        server_s=torch.full((4,), 0.5),
        download_s=torch.full((4,), 0.0625),
        energy_j=torch.ones(4),
        accuracy=torch.ones(4),
        admitted=torch.tensor([True, True, True, False]),
        answered=torch.tensor([True, True, True, False]),
        deadline_s=torch.full((4,), 1.25, dtype=torch.float64),
    )
    assert found.latency_s.tolist() == [1.0, 1.25, 1.5, 1.0]
    assert found.in_time.tolist() == [True, True, False, False]

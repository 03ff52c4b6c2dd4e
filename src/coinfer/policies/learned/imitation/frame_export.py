"""Export of a policy for frames of wireless-powered devices; `policies.frame_onnx` loads it without PyTorch."""

from collections.abc import Mapping
from pathlib import Path

import torch

from coinfer.policies.frame_onnx import INPUTS, KIND, OUTPUTS
from coinfer.policies.learned.export import write_onnx
from coinfer.policies.learned.imitation.frame_policy import FramePolicy
from coinfer.policies.onnx import write_sidecar


def export_frame_policy(
    path: Path,
    policy: FramePolicy,
    *,
    scheme: str,
    scenario: str,
    scenario_fingerprint: str,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write the ONNX file and its side-car.

    Args:
        path: ends in .onnx; the side-car is beside it, with .json. The folder is made if it does not exist.
        policy: the trained policy.
        scheme: name of the training scheme.
        scenario: name of the scenario of the training.
        scenario_fingerprint: of the compiled scenario, from `scenario.compile.fingerprint`.
        training: record of the training.
    """
    gain = policy.mean_gain.expand(2, -1).contiguous()
    example = dict(zip(INPUTS, (gain, torch.ones_like(gain)), strict=True))
    batch = {0: torch.export.Dim.DYNAMIC}
    write_onnx(path, policy, example, (batch, batch), OUTPUTS)
    write_sidecar(
        path,
        KIND,
        {"devices": gain.shape[-1]},
        scheme=scheme,
        scenario=scenario,
        scenario_fingerprint=scenario_fingerprint,
        training=training,
    )

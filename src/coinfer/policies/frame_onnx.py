"""A trained policy for frames of wireless-powered devices from its ONNX file: NumPy in and out, no PyTorch.

The side-car is as in `policies.onnx`, with kind `wireless-power` and `devices`, the number N that it decides for, in
place of what tasks and options need. Its inputs are `gain` and `weight` [B, N], its output `offloads` [B, N].
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from coinfer.policies.onnx import Count, PolicyError, Sidecar, SidecarKeys, open_session, read_sidecar

KIND = "wireless-power"
INPUTS, OUTPUTS = ("gain", "weight"), ("offloads",)


class _Sidecar(SidecarKeys):
    """The required keys of the side-car; see above."""

    devices: Count


class ExportedFramePolicy:
    """A policy that decides as the trained one does, for one frame (fields without B) or many.

    Attributes:
        sidecar: content of the side-car.
    """

    def __init__(self, session: ort.InferenceSession, sidecar: Sidecar, path: Path):
        self.sidecar, self.path, self._session = sidecar, path, session

    def __call__(self, gain: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the modes [.., N] bool, true for a device that sends.

        Args:
            gain: [N] or [B, N] channel gains; 0 if a device is off.
            weight: [N] or [B, N] weights of the devices' rates.

        Raises:
            PolicyError: if the number of devices is another; one line.
        """
        self.check_devices(gain.shape[-1])
        frames = [np.ascontiguousarray(np.atleast_2d(part), dtype=float) for part in (gain, weight)]
        (offloads,) = self._session.run(list(OUTPUTS), dict(zip(INPUTS, frames, strict=True)))
        return np.asarray(offloads).reshape(gain.shape)

    def check_devices(self, devices: int) -> None:
        """Check that the policy was made for a number of devices.

        Args:
            devices: N

        Raises:
            PolicyError: if it was not; one line.
        """
        own = self.sidecar["devices"]
        if devices != own:
            raise PolicyError(f"{self.path}: made for {own} devices, {devices} at hand")


def load_frame_policy(path: str | Path, threads: int = 1) -> ExportedFramePolicy:
    """Return a trained policy from its file.

    Args:
        path: the ONNX file.
        threads: of ONNX Runtime, for one decision.

    Raises:
        PolicyError: if the file or its side-car is missing, damaged, or does not belong to the other; one line.
    """
    path = Path(path)
    sidecar = read_sidecar(path, KIND, _Sidecar)
    session = open_session(path, INPUTS, OUTPUTS, threads)
    return ExportedFramePolicy(session, sidecar, path)

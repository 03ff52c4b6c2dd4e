"""A trained forecast of demand from its ONNX file: NumPy in and out, no PyTorch.

The file holds the network, from `faded` [B, S, X] to `demand` [B, X] (`policies.heuristics.demand.Memory`). The
side-car is as in `policies.onnx`, with kind `forecast`; `fading_s` are the times of `faded`, `weights` those of the
rule that decides with it.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from coinfer.policies.heuristics.demand import FADING_S, DemandWeights
from coinfer.policies.onnx import PolicyError, Sidecar, SidecarKeys, open_session, read_sidecar
from coinfer.policies.serving_onnx import WeightKeys

KIND = "forecast"
INPUTS, OUTPUTS = ("faded",), ("demand",)


class _Sidecar(SidecarKeys):
    """The required keys of the side-car; see above."""

    fading_s: list[float]
    weights: WeightKeys


class ExportedForecast:
    """A forecast of demand, for any number of worlds at once.

    Attributes:
        sidecar: content of the side-car.
        weights: of the rule that decides with it.
        networks: X
    """

    def __init__(self, session: ort.InferenceSession, sidecar: Sidecar):
        self.sidecar, self._session = sidecar, session
        self.weights = DemandWeights(**sidecar["weights"])
        self.networks = int(session.get_inputs()[0].shape[-1])

    def __call__(self, faded: np.ndarray) -> np.ndarray:
        """Return the demand to come, [B, X].

        Args:
            faded: [B, S, X] float32, `Memory.faded`.
        """
        return np.asarray(self._session.run(list(OUTPUTS), {"faded": faded})[0])


def load_forecast(path: str | Path, threads: int = 1) -> ExportedForecast:
    """Return a trained forecast from its file.

    Args:
        path: the ONNX file.
        threads: of ONNX Runtime.

    Raises:
        PolicyError: if the file or its side-car is missing, damaged, of another kind or for other times; one line.
    """
    path = Path(path)
    sidecar = read_sidecar(path, KIND, _Sidecar)
    if sidecar["fading_s"] != list(FADING_S):
        raise PolicyError(f"{path}: made for demand faded over other times than this version's; train it anew")
    return ExportedForecast(open_session(path, INPUTS, OUTPUTS, threads), sidecar)

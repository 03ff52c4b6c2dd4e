"""A trained policy for servers that batch and load from its ONNX file: NumPy in and out, no PyTorch.

The file holds the network only, from `choices` [T, C, COLUMNS] to `scores` [T, C]; what the numbers of a choice are is
code (`policies.learned.pointer.features`), so that a task's may depend on the tasks decided before it. The side-car is
as in `policies.onnx`, with kind `serving`; `columns` names the numbers, `weights` and `scale_s` are those of the rule
that the network corrects.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from pydantic import BaseModel

from coinfer.policies.heuristics.demand import DemandWeights
from coinfer.policies.learned.pointer.features import NAMES
from coinfer.policies.onnx import PolicyError, Sidecar, SidecarKeys, open_session, read_sidecar

KIND = "serving"
INPUTS, OUTPUTS = ("choices",), ("scores",)


class WeightKeys(BaseModel, extra="forbid"):
    """Of `DemandWeights`."""

    memory_s: float
    gain_s: float
    loss_s: float
    spare: float
    queue_s: float
    affinity_s: float
    at_home: bool = False
    loads_at_home: bool = False


class _Sidecar(SidecarKeys):
    """The required keys of the side-car; see above."""

    columns: list[str]
    weights: WeightKeys
    scale_s: float


class ExportedServingPolicy:
    """A policy that decides as the trained one does, any number of tasks at once.

    Attributes:
        sidecar: content of the side-car.
    """

    def __init__(self, session: ort.InferenceSession, sidecar: Sidecar):
        self.sidecar, self._session = sidecar, session
        self.weights = DemandWeights(**sidecar["weights"])
        self.scale_s: float = sidecar["scale_s"]

    def __call__(self, choices: np.ndarray) -> np.ndarray:
        """Return the scores [T, C] of choices.

        Args:
            choices: [T, C, COLUMNS] float32, see `policies.learned.pointer.features`.
        """
        return np.asarray(self._session.run(list(OUTPUTS), {"choices": choices})[0])


def load_serving_policy(path: str | Path, threads: int = 1) -> ExportedServingPolicy:
    """Return a trained policy from its file.

    Args:
        path: the ONNX file.
        threads: of ONNX Runtime, for one decision.

    Raises:
        PolicyError: if the file or its side-car is missing, damaged, of another kind or for other numbers; one line.
    """
    path = Path(path)
    sidecar = read_sidecar(path, KIND, _Sidecar)
    if sidecar["columns"] != list(NAMES):
        raise PolicyError(f"{path}: made for other features of a choice than this version's; train it anew")
    return ExportedServingPolicy(open_session(path, INPUTS, OUTPUTS, threads), sidecar)

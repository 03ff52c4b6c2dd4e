"""Exported policies (ONNX) as policies of the simulator."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coinfer.evaluate.simulate import Maker
from coinfer.policies.onnx import ExportedPolicy, PolicyError, load_policy
from coinfer.scenario.compile import Compiled, fingerprint
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadDecision, OffloadObservation, Policy

SUFFIX = ".onnx"


def open_policy(path: str | Path, compiled: Compiled) -> tuple[Maker, tuple[str, ...]]:
    """Return the maker of a file's policy for a scenario, and notes on differences to the scenario of its training.

    Args:
        path: ONNX file, or the name of a policy that comes with the package.
        compiled: the scenario.

    Raises:
        PolicyError: if the file is not a policy, or was made for other options, tasks or servers; one line.
    """
    world, policy = compiled.world, load_policy(path)
    if not isinstance(world, OffloadWorld):
        raise PolicyError(f"{path}: a policy for scenarios of environment offload, {world.name} is another")
    kinds = [options.sidecar_triples for row in compiled.options for options in row]
    if policy.options is not None and any(sent != kinds[0] for sent in kinds):
        raise PolicyError(f"{path}: made for one network on one class of devices, {world.name} has {len(kinds)}")
    largest = max(kinds, key=len)
    fitted = policy.adapt(largest, world.edge.servers, world.edge.tasks)
    notes = ()
    if policy.sidecar["scenario_fingerprint"] != fingerprint(world):
        trained = policy.sidecar["scenario"]
        notes = (f"{path} was trained in {trained} with other figures than this scenario's",)
    return (lambda seed: tensor_policy(fitted)), notes


def tensor_policy(policy: ExportedPolicy) -> Policy[Tensor]:
    """Return the same policy for observations of tensors, on any device.

    Args:
        policy: works on NumPy arrays.
    """

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        fields = (np.asarray(field.cpu() if isinstance(field, torch.Tensor) else field) for field in observation)
        decision = policy(OffloadObservation(*fields))
        device = observation.deadline_s.device
        return OffloadDecision(*(torch.as_tensor(part, device=device) for part in decision))

    return decide

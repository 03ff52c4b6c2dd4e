"""Exported policies (ONNX) as policies of the simulator."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coinfer.evaluate.oracles import Oracle
from coinfer.evaluate.serving_slots import forecast, pointer
from coinfer.evaluate.simulate import Maker
from coinfer.policies.forecast_onnx import KIND as FORECAST
from coinfer.policies.forecast_onnx import load_forecast
from coinfer.policies.frame_onnx import load_frame_policy
from coinfer.policies.heuristics.blocks import BlocksPolicy
from coinfer.policies.heuristics.wireless_power import ModesPolicy, Rates
from coinfer.policies.onnx import ExportedPolicy, PolicyError, Sidecar, kind_of, load_policy
from coinfer.policies.serving_onnx import KIND as SERVING
from coinfer.policies.serving_onnx import load_serving_policy
from coinfer.scenario.compile import Compiled, fingerprint
from coinfer.scenario.world import BlocksWorld, OffloadWorld, QueueWorld, WirelessPowerWorld
from coinfer.types import BlocksDecision, BlocksObservation, OffloadDecision, OffloadObservation, Policy

SUFFIX = ".onnx"


def open_policy(path: str | Path, compiled: Compiled) -> tuple[Maker, tuple[str, ...]]:
    """Return the maker of a file's policy for a scenario, and notes on differences to the scenario of its training.

    Args:
        path: ONNX file, or the name of a policy that comes with the package.
        compiled: the scenario.

    Raises:
        PolicyError: if the file is not a policy, or was made for other options, tasks or servers; one line.
    """
    world = compiled.world
    if isinstance(world, BlocksWorld):
        placer = load_policy(path, kind="blocks")
        placer.check_places(world.blocks, world.edge.servers, world.edge.tasks)
        return (lambda seed: tensor_blocks_policy(placer)), _notes(path, placer.sidecar, world)
    if not isinstance(world, OffloadWorld):
        raise PolicyError(f"{path}: a policy for scenarios of environment offload or blocks, {world.name} is another")
    policy = load_policy(path)
    kinds = [options.sidecar_triples for row in compiled.options for options in row]
    if policy.options is not None and any(sent != kinds[0] for sent in kinds):
        raise PolicyError(f"{path}: made for one network on one class of devices, {world.name} has {len(kinds)}")
    largest = max(kinds, key=len)
    fitted = policy.adapt(largest, world.edge.servers, world.edge.tasks)
    return (lambda seed: tensor_policy(fitted)), _notes(path, policy.sidecar, world)


def _notes(path: str | Path, sidecar: Sidecar, world: OffloadWorld | BlocksWorld) -> tuple[str, ...]:
    if sidecar["scenario_fingerprint"] == fingerprint(world):
        return ()
    return (f"{path} was trained in {sidecar['scenario']} with other figures than this scenario's",)


def open_serving_policy(path: str | Path, world: OffloadWorld) -> tuple[Oracle, tuple[str, ...]]:
    """Return a file's policy for servers that batch and load, and notes on differences to its training.

    Args:
        path: ONNX file of kind `serving` or `forecast`.
        world: the compiled scenario.

    Raises:
        PolicyError: if the file is no such policy, or was made for another number of networks, or the scenario's
            servers neither batch nor load; one line.
    """
    if world.serving is None:
        raise PolicyError(f"{path}: a policy for servers that batch or load, those of {world.name} do neither")
    if kind_of(path) == FORECAST:
        known, networks = load_forecast(path), world.edge.models
        if known.networks != networks:
            raise PolicyError(
                f"{path}: forecasts {known.networks} networks, {world.name} has {networks}; train it anew"
            )
        return forecast(known, known.weights), _notes(path, known.sidecar, world)
    policy = load_serving_policy(path)
    return pointer(policy, policy.weights, policy.scale_s), _notes(path, policy.sidecar, world)


def is_serving_policy(path: str | Path) -> bool:
    """Return whether a file is a policy for servers that batch and load, as far as its side-car tells.

    Args:
        path: ONNX file.
    """
    return kind_of(path) in {SERVING, FORECAST}


def open_frame_policy(path: str | Path, world: WirelessPowerWorld | QueueWorld) -> tuple[ModesPolicy, tuple[str, ...]]:
    """Return a file's policy for frames of wireless-powered devices, and notes on differences to its training.

    Args:
        path: ONNX file.
        world: the compiled scenario.

    Raises:
        PolicyError: if the file is no such policy, or was made for another number of devices; one line.
    """
    policy = load_frame_policy(path)
    policy.check_devices(len((world.frames if isinstance(world, QueueWorld) else world).mean_gain))
    notes = ()
    if policy.sidecar["scenario_fingerprint"] != fingerprint(world):
        notes = (f"{path} was trained in {policy.sidecar['scenario']} with other figures than this scenario's",)

    def decide(gain: Tensor, weight: Tensor, rates: Rates) -> Tensor:
        return torch.as_tensor(policy(gain.cpu().numpy(), weight.cpu().numpy()), device=gain.device)

    return decide, notes


def tensor_policy(policy: Policy[np.ndarray]) -> Policy[Tensor]:
    """Return the same policy for observations of tensors, on any device.

    Args:
        policy: works on NumPy arrays.
    """

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        decision = policy(OffloadObservation(*_arrays(observation)))
        device = observation.deadline_s.device
        return OffloadDecision(*(torch.as_tensor(part, device=device) for part in decision))

    return decide


def tensor_blocks_policy(policy: ExportedPolicy) -> BlocksPolicy:
    """Return the same policy of environment `blocks` for observations of tensors, on any device.

    Args:
        policy: works on NumPy arrays.
    """

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        decision = policy(BlocksObservation(*_arrays(observation)))
        return BlocksDecision(torch.as_tensor(decision.place, device=observation.deadline_s.device))

    return decide


def _arrays(observation: OffloadObservation[Tensor] | BlocksObservation[Tensor]) -> Iterator[np.ndarray]:
    return (np.asarray(field.cpu() if isinstance(field, torch.Tensor) else field) for field in observation)

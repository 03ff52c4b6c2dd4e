"""Decisions for several devices together: each sends what it observes, and one place decides for all of them."""

import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait

import numpy as np
import torch

from coinfer.types import OffloadDecision, OffloadObservation, Policy, fields_of

OffloadPolicy = Callable[[OffloadObservation[np.ndarray]], OffloadDecision[np.ndarray]]
PATIENCE_S = 0.2
"""How long a request waits for those of other devices; at the times of scenario `grle`, a twentieth: 10 ms."""


def of_arrays(policy: Policy[torch.Tensor]) -> OffloadPolicy:
    """Return a policy of tensors as one of arrays.

    Args:
        policy: decides for [K, ..].
    """

    def decide(observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
        made = policy(OffloadObservation(*(torch.as_tensor(value) for value in observation)))
        return OffloadDecision(*(value.numpy() for value in made))

    return decide


def stacked(seen: Sequence[OffloadObservation[np.ndarray]]) -> OffloadObservation[np.ndarray]:
    """Return what several devices observe, of one task each, as one observation of as many tasks.

    Of each server that device is believed whose knowledge is youngest.

    Args:
        seen: of each device, for the same options and servers.
    """
    youngest = np.stack([one.observation_age_s for one in seen]).argmin(0)
    servers = np.arange(len(youngest))
    parts = {}
    for name, field in fields_of(OffloadObservation).items():
        values = [getattr(one, name) for one in seen]
        parts[name] = np.concatenate(values) if "K" in field.axes else np.stack(values)[youngest, servers]
    return OffloadObservation(**parts)


class Asking:
    """A device's policy that sends what it observes to the `Decider` and waits for its decision.

    Args:
        end: of the pipe.
        scheme: that decides.
    """

    def __init__(self, end: Connection, scheme: str) -> None:
        self.end, self.scheme = end, scheme

    def __call__(self, observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]:
        """Return the decision for this device's task.

        Args:
            observation: of one task.
        """
        self.end.send((self.scheme, observation))
        return self.end.recv()


class Decider(threading.Thread):
    """Decides together what devices ask at one time; ends when all of them have closed their pipes.

    Args:
        ends: a pipe for each device.
        policies: by scheme.
        patience_s: how long the first request waits for those of other devices.
    """

    def __init__(
        self, ends: Sequence[Connection], policies: dict[str, OffloadPolicy], patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(daemon=True)
        self.ends, self.policies, self.patience_s = list(ends), policies, patience_s

    def run(self) -> None:
        """Answer until no device is left."""
        while self.ends:
            asked = self._collect()
            for scheme in {scheme for scheme, _ in asked.values()}:
                who = [end for end, (wanted, _) in asked.items() if wanted == scheme]
                made = self.policies[scheme](stacked([asked[end][1] for end in who]))
                for i, end in enumerate(who):
                    end.send(OffloadDecision(made.option[i : i + 1], made.server[i : i + 1]))

    def _collect(self) -> dict[Connection, tuple[str, OffloadObservation[np.ndarray]]]:
        """Return what is asked: by all devices, or by those that do so soon after the first."""
        asked: dict[Connection, tuple[str, OffloadObservation[np.ndarray]]] = {}
        until_s = None
        while len(asked) < len(self.ends):
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            ready = wait([end for end in self.ends if end not in asked], left_s)
            if not ready:
                break
            for end in ready:
                assert isinstance(end, Connection)
                try:
                    asked[end] = end.recv()
                except EOFError:
                    self.ends.remove(end)
            until_s = until_s or (time.monotonic() + self.patience_s if asked else None)
        return asked

"""The policies that the controller gave to a node, and which of them makes a decision."""

import logging
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.errors import UserError
from coinfer.files import write_atomic
from coinfer.policies.learned.pointer.features import COLUMNS
from coinfer.policies.onnx import PolicyError, kind_of, load_policy
from coinfer.policies.serving_onnx import KIND as SERVING
from coinfer.policies.serving_onnx import load_serving_policy
from coinfer.site.agent.dispatch import Candidate, Task, checked, observe
from coinfer.site.agent.padding import padded
from coinfer.site.agent.serving_plan import RULE, Pointer
from coinfer.site.draw import drawn, place
from coinfer.site.messages import Policies, PolicyFile
from coinfer.types import Policy

_log = logging.getLogger("coinfer.site")


class Actor(NamedTuple):
    """Who makes a decision."""

    decide: Policy[np.ndarray] | None
    """None for a rule: sequential greedy or, if `by_demand`, `demand-greedy` where servers batch or load."""
    name: str
    """As the log of decisions has it."""
    by_demand: bool = False
    pointer: Pointer | None = None
    """Decides where servers batch or load; elsewhere sequential greedy does."""


_OWN = -1
"""Stands for what a node was started with, among versions."""
KEPT = 4
"""Policies that do not decide now and stay open, so that to go back to one takes no time."""
GREEDY = "sequential greedy"
FALLBACK = Actor(None, GREEDY, by_demand=True)
SEQUENTIAL_ONLY = Actor(None, GREEDY)
"""Sequential greedy, whatever servers do."""
RULES = (GREEDY, RULE)
"""How decisions of the fallback are marked in the log."""


def version_name(version: int) -> str:
    """Return what the log of decisions calls a version.

    Args:
        version: its number.
    """
    return f"version {version}"


class Actors:
    """Keeps versions of the site's policy, and swaps them at once.

    Args:
        folder: gets the files; made when the first one comes.
        own: decides until the controller has said who does.
        fallback: decides in the place of version 0, and of versions that could not be used.
    """

    def __init__(self, folder: Path, own: Actor = FALLBACK, fallback: Actor = FALLBACK):
        self.explore = 0.0
        """Share of requests that try another server."""
        self.problem = ""
        """Why a version could not be used, `version N: why`; empty if all is well."""
        self._folder = folder
        self._loaded: dict[str, Actor] = {}
        """By fingerprint, the one that decided last, or has come since, at the end."""
        self._deciding: tuple[dict[int, Actor], dict[int, float]] = {_OWN: own}, {_OWN: 1.0}
        """Each version that may decide here, and its share; replaced as one, as decisions are made on other threads."""
        self._salt = ""
        self._own, self._fallback = own, fallback
        self.versions: tuple[int, ...] = ()
        """Versions that decide here, the one with the greatest share first."""

    def choose(self, request: str = "") -> Actor:
        """Return who decides about a request; each version is drawn as often as its share says.

        Args:
            request: its id; empty if it has none.
        """
        actors, shares = self._deciding
        return actors[drawn(shares, place(self._salt, request))]

    def on_message(self, message: PolicyFile | Policies) -> None:
        """Take in a policy, or who decides from now on.

        Args:
            message: as it came.
        """
        if isinstance(message, PolicyFile):
            self.on_file(message)
        else:
            self.on_policies(message)

    def on_file(self, file: PolicyFile) -> None:
        """Take in a policy; one that cannot be used is told in one line, and nothing else changes.

        Args:
            file: as it came.
        """
        try:
            kept = self._loaded.pop(file.fingerprint, None)
            self._loaded[file.fingerprint] = (
                self._load(file) if kept is None else kept._replace(name=version_name(file.version))
            )
            self.problem = ""
        except (UserError, OSError, ValueError, Base64Error) as error:
            self.problem = f"version {file.version}: {' '.join(str(error).split())}"[:200]
            _log.warning("a policy is refused, and what decided goes on: %s", self.problem)

    def on_policies(self, message: Policies) -> None:
        """Take in who decides from now on; versions that could not be used leave their share to the fallback.

        Args:
            message: as it came.
        """
        used = {one.fingerprint for one in message.shares}
        actors = {one.version: self._actor(one.version, one.fingerprint) for one in message.shares}
        shares = {one.version: one.share for one in message.shares}
        self._deciding = (actors, shares) if shares else ({_OWN: self._own}, {_OWN: 1.0})
        self.explore, self._salt = message.explore, message.salt
        named = sorted((one for one in message.shares if one.fingerprint in self._loaded), key=lambda one: -one.share)
        self.versions = tuple(one.version for one in named)
        unused = [mark for mark in self._loaded if mark not in used]
        kept = [*unused[-KEPT:], *(mark for mark in self._loaded if mark in used)]
        self._loaded = {mark: self._loaded[mark] for mark in kept}

    def _actor(self, version: int, mark: str) -> Actor:
        return self._loaded.get(mark, self._fallback) if version else self._fallback

    def _load(self, file: PolicyFile) -> Actor:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{file.version}.onnx"
        write_atomic(path, b64decode(file.onnx, validate=True))
        write_atomic(path.with_suffix(".json"), b64decode(file.sidecar, validate=True))
        return open_actor(path, version_name(file.version))


def open_actor(path: str | Path, name: str) -> Actor:
    """Return the actor of a policy file, which must be able to decide.

    Args:
        path: ONNX file, or the name of a policy that comes with the package.
        name: that the log of decisions has.

    Raises:
        UserError: if the file is no policy for requests of a site; one line.
    """
    if kind_of(path) == SERVING:
        return Actor(None, name, pointer=_open_pointer(path))
    decide = padded(load_policy(path))
    _try(decide)
    return Actor(decide, name)


def _open_pointer(path: str | Path) -> Pointer:
    policy = load_serving_policy(path)
    if policy.weights.at_home:
        raise PolicyError(f"{path}: made for networks with one server each, which a site does not have; use another")
    found = policy(np.zeros((1, 1, COLUMNS), np.float32))
    if found.shape != (1, 1) or not np.isfinite(found).all():
        raise PolicyError(f"{path}: it cannot decide: its scores are no numbers, or too many")
    return Pointer(policy, policy.weights, policy.scale_s)


def _try(decide: Callable) -> None:
    """Let a policy decide once about nothing in particular."""
    server = Candidate("a:1", {"m": ("",)}, {"w": 0.01}, 0.0, 9.0, 0.0)
    observation = observe([Task("m", "", "w", 1000, 1.0)], [server, server._replace(address="b:1")])
    try:
        checked(decide(observation), observation)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"it cannot decide: {type(error).__name__}: {error}") from None

"""Versions of a site's policy on disk, beside the controller's store: `N.onnx` with `N.json`, and `state.json`."""

import hashlib
import json
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from coinfer.errors import UserError
from coinfer.files import write_atomic
from coinfer.policies.onnx import kind_of, load_policy
from coinfer.policies.serving_onnx import KIND as SERVING
from coinfer.policies.serving_onnx import load_serving_policy
from coinfer.profile.fields import first_problem
from coinfer.site.updater.weights import check_weights

MAX_BYTES = 500_000
"""Of the ONNX file and its side-car together: they travel in one message of a node's stream."""
MAX_HISTORY = 200
FALLBACK = 0
"""The version that is no file: sequential greedy, or what a server was started with."""
Standing = Literal["waiting", "shadow", "canary", "running", "accepted", "refused", "rolled back", "superseded"]


class PolicyFileError(UserError):
    """A policy file that is not accepted; the message is one line for a person."""


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Version(_Kept):
    """A policy that somebody pushed."""

    number: int
    fingerprint: str
    """SHA-256 of the ONNX file and its side-car."""
    scheme: str
    by: str
    """Who pushed it."""
    at_s: float
    standing: Standing = "waiting"
    reason: str = ""
    """Why its standing is what it is."""
    judged: str = ""
    """What its last judgement found."""


class Event(_Kept):
    """What happened, and why."""

    at_s: float
    text: str


class Rollout(_Kept):
    """Which versions decide for the site, and what becomes of the candidate."""

    versions: tuple[Version, ...] = ()
    running: int = FALLBACK
    previous: int = FALLBACK
    """What ran before it, and takes its place if it is rolled back."""
    pinned: bool = False
    """An operator has named what runs; candidates wait."""
    candidate: int | None = None
    canary: str = ""
    """The server that tries the candidate."""
    salt: str = ""
    """By which the server draws who decides (`draw`)."""
    since_s: float = 0.0
    """When the candidate's present stage began, seconds since 1970."""
    after_id: int = 0
    """The stage looks at decisions of the log with larger numbers."""
    worse_s: float | None = None
    """Since when the running policy has been worse than the fallback."""
    history: tuple[Event, ...] = ()

    def version(self, number: int | None) -> Version:
        """Return a version.

        Args:
            number: of a version that was pushed.

        Raises:
            UserError: if there is none of this number.
        """
        for one in self.versions:
            if one.number == number:
                return one
        known = ", ".join(str(one.number) for one in self.versions) or "none"
        raise UserError(f"no policy version {number}; there are: {known}")


def fingerprint(onnx: bytes, sidecar: bytes) -> str:
    """Return what a pair of files is known by.

    Args:
        onnx: content of the network's file.
        sidecar: content of its side-car.
    """
    return hashlib.sha256(hashlib.sha256(onnx).digest() + hashlib.sha256(sidecar).digest()).hexdigest()


class PolicyFolder:
    """Keeps versions, and which of them decide.

    Args:
        folder: made if it is not there.

    Raises:
        UserError: if what is in it cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / "state.json"
        self.rollout = Rollout()
        if self._state.is_file():
            try:
                self.rollout = Rollout.model_validate_json(self._state.read_bytes())
            except ValidationError as error:
                raise UserError(f"{self._state}: not the state of a roll-out: {first_problem(error)}") from None

    def save(self, rollout: Rollout) -> None:
        """Write the state; it counts from then on.

        Args:
            rollout: the new state.

        Raises:
            OSError: if it cannot be written; the old state stays.
        """
        short = rollout.model_copy(update={"history": rollout.history[-MAX_HISTORY:]})
        write_atomic(self._state, short.model_dump_json(indent=1) + "\n")
        self.rollout = short

    def path(self, number: int) -> Path:
        """Return the ONNX file of a version.

        Args:
            number: of a version that was pushed.
        """
        return self.folder / f"{number}.onnx"

    def files(self, number: int) -> tuple[bytes, bytes]:
        """Return the ONNX file of a version and its side-car.

        Args:
            number: of a version that was pushed.
        """
        path = self.path(number)
        return path.read_bytes(), path.with_suffix(".json").read_bytes()

    def add(self, onnx: bytes, sidecar: bytes, by: str, keep: int) -> Version:
        """Keep a policy as a new version; one that is kept already is returned as it is.

        Args:
            onnx: content of the network's file.
            sidecar: content of its side-car.
            by: who pushed it.
            keep: versions that stay on disk.

        Raises:
            PolicyFileError: if it is no policy for requests of a site.
        """
        mark = fingerprint(onnx, sidecar)
        known = next((one for one in self.rollout.versions if one.fingerprint == mark), None)
        if known is not None:
            return known
        number = max((one.number for one in self.rollout.versions), default=0) + 1
        path = self.path(number)
        try:
            scheme = write_policy(path, onnx, sidecar)
        except UserError:
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            raise
        version = Version(number=number, fingerprint=mark, scheme=scheme, by=by, at_s=round(time.time(), 3))
        versions = self._kept((*self.rollout.versions, version), keep)
        self.save(self.rollout.model_copy(update={"versions": versions}))
        return version

    def _kept(self, versions: tuple[Version, ...], keep: int) -> tuple[Version, ...]:
        """Delete the oldest versions beyond a number, but none that decides or may decide again."""
        used = {self.rollout.running, self.rollout.previous, self.rollout.candidate}
        spare = [one for one in versions[:-1] if one.number not in used]
        gone = {one.number for one in spare[: max(len(versions) - keep, 0)]}
        for number in gone:
            self.path(number).unlink(missing_ok=True)
            self.path(number).with_suffix(".json").unlink(missing_ok=True)
        return tuple(one for one in versions if one.number not in gone)


def write_policy(path: Path, onnx: bytes, sidecar: bytes) -> str:
    """Write a policy that came from elsewhere, check it, and return its scheme.

    Args:
        path: of the ONNX file; the side-car is written beside it.
        onnx: content of the network's file.
        sidecar: content of its side-car.

    Raises:
        PolicyFileError: if the pair is too large, no policy of environment `offload` or for servers that batch or
            load, or has weights that are no numbers.
    """
    if len(onnx) + len(sidecar) > MAX_BYTES:
        raise PolicyFileError(f"a policy of {len(onnx) + len(sidecar)} bytes; expected at most {MAX_BYTES}")
    write_atomic(path, onnx)
    write_atomic(path.with_suffix(".json"), sidecar)
    try:
        load = load_serving_policy if is_serving_policy(path) else load_policy
        scheme = str(load(path).sidecar["scheme"])[:100]
        check_weights(onnx)
        return scheme
    except UserError as error:
        raise PolicyFileError(str(error).replace(str(path.parent) + "/", "")) from None


def is_serving_policy(path: Path) -> bool:
    """Return true if a version is a policy for servers that batch or load, which a site cannot judge.

    Args:
        path: of its ONNX file.
    """
    return kind_of(path) == SERVING


def describe(version: Version) -> str:
    """Return a version in one line.

    Args:
        version: any.
    """
    reason = f": {version.reason}" if version.reason else ""
    return f"version {version.number} ({version.scheme}, {version.fingerprint[:12]}) {version.standing}{reason}"


def to_json(rollout: Rollout) -> dict[str, object]:
    """Return a roll-out for the page and for operators, the newest version first.

    Args:
        rollout: any.
    """
    return json.loads(rollout.model_copy(update={"versions": rollout.versions[::-1]}).model_dump_json())

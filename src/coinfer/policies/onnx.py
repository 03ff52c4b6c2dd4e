"""A trained policy from its ONNX file, run by ONNX Runtime: NumPy in and out, no PyTorch.

Beside `NAME.onnx` lies `NAME.json`, the side-car: `format`, `kind`, `scheme`, `scenario` and its fingerprint; `sizes`,
the lengths of the axes K, O, N (null if any will do); `options`, the meaning of the options if the policy knows them by
number only (else null), each as [exit from 0, [tensors that leave the device], bits], without tensors if nothing leaves
it; `fields` of the observation that it reads; `training`, the record of its training.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, overload

import numpy as np
import onnxruntime as ort
from pydantic import BaseModel, Field, ValidationError

from coinfer.errors import UserError
from coinfer.options.table import Triple
from coinfer.resources import POLICIES
from coinfer.types import BlocksDecision, BlocksObservation, OffloadDecision, OffloadObservation, fields_of
from coinfer.types import Field as ObservedField

FORMAT = 1


class Kind(NamedTuple):
    """What policies of one environment observe and decide."""

    observation: type[OffloadObservation] | type[BlocksObservation]
    decision: type[OffloadDecision] | type[BlocksDecision]

    @property
    def fields(self) -> dict[str, ObservedField]:
        """Return the axes and kind of every field of the observation, by name."""
        return fields_of(self.observation)


KINDS = {"offload": Kind(OffloadObservation, OffloadDecision), "blocks": Kind(BlocksObservation, BlocksDecision)}
"""The kinds of policies by their names in side-cars, which are those of the environments."""
_AXIS_NAMES = {"K": "task", "O": "option", "N": "server", "M": "block"}
Count = Annotated[int, Field(ge=0, strict=True)]


class PolicyError(UserError):
    """A policy file that is not valid, or does not fit here."""


Sidecar = dict[str, Any]


class SidecarKeys(BaseModel):
    """The keys that the side-car of any kind of policy has."""

    format: int
    kind: str
    scheme: str
    scenario: str
    scenario_fingerprint: str
    training: dict[str, object]


class _Sidecar(SidecarKeys):
    """The required keys of the side-car; see above."""

    sizes: dict[str, Count | None]
    options: Annotated[list[tuple[Count, tuple[str, ...], Count]], Field(min_length=1)] | None
    fields: list[str]


class ExportedPolicy:
    """A policy that decides as the trained one does, for one world (fields without B) or many.

    Attributes:
        sidecar: content of the side-car.
    """

    def __init__(self, session: ort.InferenceSession, sidecar: Sidecar, path: Path):
        self.sidecar, self.path, self._session = sidecar, path, session
        self._kind = KINDS[sidecar["kind"]]
        self._fields = self._kind.fields
        self._order: np.ndarray | None = None

    @property
    def options(self) -> list[Triple] | None:
        """Return the meaning of the options; None if the policy reads it from the observation."""
        listed = self.sidecar["options"]
        return None if listed is None else [(exit_, tuple(cut), bits) for exit_, cut, bits in listed]

    def adapt(self, options: Sequence[Triple], servers: int, tasks: int = 1) -> "ExportedPolicy":
        """Return the same policy for these options, in this order, and these numbers of servers and tasks.

        Args:
            options: exit from 0, tensors that leave the device (none if it does everything), bits.
            servers: N
            tasks: K

        Raises:
            PolicyError: if the policy was made for others; one line.
        """
        self._check_sizes({"K": tasks, "N": servers, "O": None if self.options else len(options)})
        own = self.options
        if own is None:
            return self
        place = {triple: number for number, triple in enumerate(options)}
        missing = next((triple for triple in own if triple not in place), None)
        if missing is not None or len(own) != len(options):
            mismatch = f"{len(own)} options, {len(options)} are at hand"
            if missing is not None:
                exit_, cut, bits = missing
                where = f"cut at {', '.join(cut)}, {bits} bits" if cut else "on the device"
                mismatch += f"; missing: exit {exit_ + 1}, {where}"
            raise PolicyError(f"{self.path}: made for {mismatch}; train it for these options")
        adapted = ExportedPolicy(self._session, self.sidecar, self.path)
        adapted._order = np.array([place[triple] for triple in own])
        return adapted

    def check_places(self, blocks: int, servers: int, tasks: int) -> None:
        """Check that a policy of environment `blocks` was made for these numbers.

        Args:
            blocks: M
            servers: N
            tasks: K

        Raises:
            PolicyError: if it was made for others; one line.
        """
        self._check_sizes({"M": blocks, "N": servers, "K": tasks})

    @overload
    def __call__(self, observation: OffloadObservation[np.ndarray]) -> OffloadDecision[np.ndarray]: ...
    @overload
    def __call__(self, observation: BlocksObservation[np.ndarray]) -> BlocksDecision[np.ndarray]: ...
    def __call__(self, observation: Any) -> Any:
        single = np.ndim(observation.deadline_s) == 1
        inputs = {name: self._input(observation, name, single) for name in self.sidecar["fields"]}
        if not inputs:
            raise PolicyError(f"{self.path}: reads nothing of the observation")
        parts = [np.asarray(part) for part in self._session.run(list(self._kind.decision._fields), inputs)]
        if self._order is not None:
            parts[0] = self._order[parts[0]]
        return self._kind.decision(*(part[0] for part in parts) if single else parts)

    def _input(self, observation: Any, name: str, single: bool) -> np.ndarray:
        value = np.asarray(getattr(observation, name), dtype=bool if self._fields[name].is_mask else np.float32)
        value = value[None] if single else value
        axes = self._fields[name].axes
        if self._order is not None and "O" in axes:
            value = np.take(value, self._order, axis=axes.index("O"))
        self._check_sizes(dict(zip(axes, value.shape, strict=True)))
        return np.ascontiguousarray(value)

    def _check_sizes(self, lengths: dict[str, int | None]) -> None:
        for letter, size in self.sidecar["sizes"].items():
            length = lengths.get(letter)
            if size is not None and length is not None and length != size:
                plural = "s" if size != 1 else ""
                raise PolicyError(f"{self.path}: made for {size} {_AXIS_NAMES[letter]}{plural}, {length} at hand")


def kind_of(path: str | Path) -> str:
    """Return the kind of a policy, as far as its side-car tells; empty if it cannot be read.

    Args:
        path: the ONNX file.
    """
    try:
        sidecar = json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(sidecar.get("kind", "")) if isinstance(sidecar, dict) else ""


def load_policy(path: str | Path, threads: int = 1, kind: str = "offload") -> ExportedPolicy:
    """Return a trained policy from its file.

    Args:
        path: the ONNX file, or the name of a policy that comes with the package (`learned`).
        threads: of ONNX Runtime, for one decision.
        kind: one of `KINDS`, the environment that it must have been trained in.

    Raises:
        PolicyError: if the file or its side-car is missing, damaged, or does not belong to the other; one line.
    """
    path = shipped_path(path)
    sidecar, fields = _read_sidecar(path, kind), KINDS[kind].fields
    session = open_session(path, sidecar["fields"], KINDS[kind].decision._fields, threads)
    for entry in session.get_inputs():
        axes = fields[entry.name].axes
        if len(entry.shape) != len(axes):
            raise PolicyError(
                f"{path}: {entry.name} has {len(entry.shape)} axes, expected {' '.join(axes)}; export it anew"
            )
    return ExportedPolicy(session, sidecar, path)


def open_session(path: Path, inputs: Sequence[str], outputs: Sequence[str], threads: int = 1) -> ort.InferenceSession:
    """Return a policy's network, ready to run.

    Args:
        path: the ONNX file.
        inputs: names that it must have, in any order.
        outputs: names that it must have, in this order.
        threads: of ONNX Runtime, for one decision.

    Raises:
        PolicyError: if the file cannot be read or loaded, or has other inputs or outputs; one line.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise PolicyError(f"{path}: not a policy that ONNX Runtime can load: {reason}") from None
    found, made = ([entry.name for entry in part] for part in (session.get_inputs(), session.get_outputs()))
    if sorted(found) != sorted(inputs) or made != [*outputs]:
        side = path.with_suffix(".json").name
        raise PolicyError(f"{path}: its inputs and outputs are not those that {side} names; export it anew")
    return session


def shipped_path(path: str | Path) -> Path:
    """Return the path of the policy of that name that comes with the package; any other path is returned as it is.

    Args:
        path: a name without ending, or the path of a file.
    """
    shipped = POLICIES / f"{path}.onnx"
    return shipped if Path(path).name == str(path) and shipped.is_file() else Path(path)


def write_sidecar(
    path: Path,
    kind: str,
    own: Mapping[str, object],
    *,
    scheme: str,
    scenario: str,
    scenario_fingerprint: str,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write the side-car of a policy.

    Args:
        path: of the ONNX file beside it.
        kind: of the policy.
        own: the keys that only this kind has.
        scheme: name of the training scheme.
        scenario: name of the scenario of the training.
        scenario_fingerprint: of the compiled scenario, from `scenario.compile.fingerprint`.
        training: record of the training.
    """
    head = {"format": FORMAT, "kind": kind, "scheme": scheme, "scenario": scenario}
    sidecar = {**head, "scenario_fingerprint": scenario_fingerprint, **own, "training": dict(training or {})}
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")


def read_sidecar(path: Path, kind: str, keys: type[SidecarKeys]) -> Sidecar:
    """Return the side-car of a policy, checked.

    Args:
        path: the ONNX file beside it.
        kind: of the policy.
        keys: the required keys and their types.

    Raises:
        PolicyError: if one of the two files is missing, or the side-car is damaged or of another kind; one line.
    """
    side = path.with_suffix(".json")
    if path.suffix != ".onnx":
        raise PolicyError(f"{path}: expected a file that ends in .onnx")
    for one in (path, side):
        if not one.is_file():
            raise PolicyError(f"{one}: no such file; a policy is a pair of {path.name} and {side.name}")
    try:
        sidecar = json.loads(side.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{side}: not readable as JSON: {error}") from None
    known = isinstance(sidecar, dict) and {"format", "kind"} <= sidecar.keys()
    if known and (sidecar["format"], sidecar["kind"]) != (FORMAT, kind):
        got = f"{sidecar['format']} and kind {sidecar['kind']!r}"
        raise PolicyError(f"{side}: expected format {FORMAT} and kind {kind!r}, got format {got}")
    missing = [key for key in keys.model_fields if not isinstance(sidecar, dict) or key not in sidecar]
    if missing:
        raise PolicyError(f"{side}: not the side-car of a policy, {missing[0]!r} is missing")
    try:
        keys.model_validate(sidecar)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PolicyError(f"{side}: {place}: {first['msg']}, got {first['input']!r:.50}") from None
    return sidecar


def _read_sidecar(path: Path, kind: str) -> Sidecar:
    sidecar, side = read_sidecar(path, kind, _Sidecar), path.with_suffix(".json")
    unknown = [name for name in sidecar["fields"] if name not in KINDS[kind].fields]
    if unknown:
        raise PolicyError(f"{side}: no field {unknown[0]!r} in an observation")
    unknown_axes = [letter for letter in sidecar["sizes"] if letter not in _AXIS_NAMES]
    if unknown_axes:
        raise PolicyError(f"{side}: no axis {unknown_axes[0]!r} in sizes; there are {', '.join(_AXIS_NAMES)}")
    return sidecar

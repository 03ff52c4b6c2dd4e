"""What a model file may take, so that a hostile one cannot run or grow for ever.

The limits are ours; each can be raised by name. Loops and sizes that values of a request decide are refused.
"""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import onnx

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.operators import GENERATORS, label

_SIZED_BY_VALUES = {
    "ConstantOfShape": slice(0, 1),
    "Expand": slice(1, 2),
    "Pad": slice(1, 2),
    "Range": slice(0, 3),
    "Resize": slice(2, 4),
    "Tile": slice(1, 2),
    "Upsample": slice(1, 2),
}
"""Operations whose outputs are as large as values of inputs say, with the places of these."""
_MOVING_KINDS = "Cast Concat Gather Identity Reshape Slice Split Squeeze Unsqueeze Where"
_MOVING = frozenset(_MOVING_KINDS.split())
_ARITHMETIC_KINDS = "Add ConstantOfShape Div Equal Max Min Mod Mul ReduceMax ReduceMin ReduceProd Sub"
_ARITHMETIC = frozenset(_ARITHMETIC_KINDS.split())
_MAX_FACTOR = 65_536
_TRUST = "if you trust this file, --limit loop-steps=0 opens it"


class Limits(NamedTuple):
    """Limits of opening a file, for files that are not trusted."""

    operations: int = 50_000
    """Operations, those within branches, loops and functions counted too."""
    weights_mib: int = 8192
    tensor_mib: int = 4096
    """One activation or constant at the sizes at which the network is opened."""
    constants_mib: int = 1024
    """All constants that are computed while the file is read."""
    constants_gflop: int = 10
    """Arithmetic for these constants."""
    gflop: int = 100_000
    """Arithmetic for one request; a hundred times a large vision transformer."""
    memory_mib: int = 8192
    """Memory of the trial run beside the weights; unless it is set, as much less as the tensors suggest."""
    trial_s: int = 120
    """Processor time of the trial run; less for a network of little work."""
    loop_steps: int = 100_000
    """Steps of a loop, known before it runs; 0 also opens files whose loops or sizes depend on values."""


DEFAULT_LIMITS = Limits()
MAX_DIGITS = 15
_ABSURD = 1e8
"""Mebibytes, or 10^9 operations, that no machine has."""


def parse_limits(limits: Mapping[str, int | str]) -> Limits:
    """Return the default limits with some replaced.

    Args:
        limits: by name, with `-` or `_`.

    Raises:
        GraphError: if there is no such limit, or its value is no whole number from 1.
    """
    changed: dict[str, int] = {}
    for name, value in limits.items():
        key = name.replace("-", "_")
        if key not in Limits._fields:
            known = ", ".join(field.replace("_", "-") for field in Limits._fields)
            raise GraphError(f"--limit {name}={value}: no limit is called {name!r}; there are {known}")
        if not str(value).isdecimal() or len(str(value)) > MAX_DIGITS:
            raise GraphError(f"--limit {name}={value!s:.40}: expected a whole number of at most {MAX_DIGITS} digits")
        changed[key] = int(value)
    return Limits(**(DEFAULT_LIMITS._asdict() | changed))


def raise_it(name: str, needed: float) -> str:
    """Return the end of a message that names the option which raises a limit.

    Args:
        name: of the field of `Limits`.
        needed: value that would suffice, as far as it is known.
    """
    if needed > _ABSURD:
        return "no machine could run it"
    value = int(max(needed, 2 * getattr(DEFAULT_LIMITS, name))) + 1
    return f"if you trust this file, --limit {name.replace('_', '-')}={value} allows it"


class Bounds:
    """Knows which values follow from sizes of tensors alone; these cannot grow without end.

    Args:
        limits: of what the model may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._steps = limits.loop_steps
        self._measured = set[str]()

    def add(self, node: onnx.NodeProto, read: Sequence[str], constants: Mapping[str, np.ndarray]) -> None:
        """Take in an operation that depends on a request.

        Args:
            node: the operation.
            read: what it reads.
            constants: by name.
        """
        if node.op_type in {"Shape", "Size"} or self._is_bounded(node, read, constants):
            self._measured.update(filter(None, node.output))

    def _is_bounded(self, node: onnx.NodeProto, read: Sequence[str], constants: Mapping[str, np.ndarray]) -> bool:
        """Return true if what an operation makes follows from sizes and small constants alone."""
        if node.op_type not in _MOVING | _ARITHMETIC:
            return False
        if not all(name in self._measured or name in constants for name in read):
            return False
        return node.op_type in _MOVING or all(_is_small(constants[name]) for name in read if name in constants)

    def check(self, node: onnx.NodeProto, constants: Mapping[str, np.ndarray], frozen: Set[str], where: str) -> None:
        """Refuse an operation whose work or size has no bound.

        Args:
            node: the operation.
            constants: by name.
            frozen: what follows from constants, by name.
            where: what messages call the model.

        Raises:
            GraphError: if values of a request decide how long it runs or how much it makes.
        """
        if not self._steps:
            return
        if node.op_type == "Loop" and not self._ends(node.input[0], constants):
            raise GraphError(
                f"{where}: {label(node)} may take more than {self._steps} steps, or as many as values of a request "
                f"say; {_TRUST}"
            )
        if node.op_type in GENERATORS:
            raise GraphError(f"{where}: {label(node)} runs as long as values of a request say; {_TRUST}")
        for name in filter(None, node.input[_SIZED_BY_VALUES.get(node.op_type, slice(0))]):
            if name not in constants and name not in frozen and name not in self._measured:
                raise GraphError(
                    f"{where}: {label(node)} makes a tensor as large as values of a request say, {name!r}; {_TRUST}"
                )

    def _ends(self, count: str, constants: Mapping[str, np.ndarray]) -> bool:
        if count in constants:
            return int(constants[count].max(initial=0)) <= self._steps
        return count in self._measured


def _is_small(value: np.ndarray) -> bool:
    return value.dtype.kind in "biuf" and np.abs(value.astype(float)).max(initial=0) <= _MAX_FACTOR

"""What a model file may take. The limits are ours; each can be raised by name."""

from collections.abc import Mapping
from typing import NamedTuple

from coinfer.graph.ir import GraphError


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

"""A trained policy from its file, fitted to what a device can do."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from coinfer.errors import UserError
from coinfer.options.table import Options, Triple
from coinfer.policies.onnx import ExportedPolicy, PolicyError
from coinfer.types import Policy


def guide(
    path: Path | str, servers: int, pruned: Options, complete: Callable[[Sequence[int]], Options]
) -> tuple[Options, Policy]:
    """The policy in the file, and the options that it decides about.

    Args:
        pruned: the planner's options.
        complete: all options for some numbers of bits.

    Raises:
        PolicyError: where the file is missing, damaged, no policy, or one for other options or servers.
    """
    found = ExportedPolicy.load(path)
    options = pruned if found.options is None else _listed(found, complete)
    listed = options.triples if found.options is None else found.options
    return options, found.fitted(listed, servers)


def _listed(found: ExportedPolicy, complete: Callable[[Sequence[int]], Options]) -> Options:
    """The policy's options in its own order."""
    wanted = found.options or []
    try:
        options = complete(tuple(dict.fromkeys(bits for _, _, bits in wanted)))
    except PolicyError:
        raise
    except UserError as error:  # bits or tensors that this network or its tables do not know
        raise PolicyError(f"{found.path}: its options cannot be had here: {error}") from None
    place = {triple: number for number, triple in enumerate(options.sent)}
    place |= {triple: number for number, triple in enumerate(options.triples)}
    missing = next((triple for triple in wanted if triple not in place), None)
    if missing is not None:
        raise PolicyError(f"{found.path}: made for other options; {_told(missing)} is not among those of this network")
    return options.take(np.array([place[triple] for triple in wanted]))


def _told(triple: Triple) -> str:
    exit_, cut, bits = triple
    return f"exit {exit_ + 1}, cut at {', '.join(cut) or 'no tensor'}, {bits} bits"

"""A trained policy, fitted to a device's options and servers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from coinfer.errors import UserError
from coinfer.options.table import Options, Triple
from coinfer.policies.onnx import ExportedPolicy, PolicyError, load_policy
from coinfer.types import Policy


def load_policy_for(
    policy: Policy[np.ndarray] | str | Path | None,
    servers: int,
    pruned: Options,
    all_options: Callable[[Sequence[int]], Options],
) -> tuple[Options, Policy[np.ndarray] | None]:
    """Return the options that a device chooses from, and its policy: a function as it is, a trained one fitted to them.

    Args:
        policy: a function, a loaded policy, or its file; None leaves the choice to the planner.
        servers: number of servers.
        pruned: the planner's options, also used by a policy without options of its own.
        all_options: from some numbers of bits to all options with these bits.

    Raises:
        PolicyError: if the file is missing, damaged or no policy, or the policy was made for other options or servers.
    """
    if isinstance(policy, str | Path):
        policy = load_policy(policy)
    if not isinstance(policy, ExportedPolicy):
        return pruned, policy
    options = pruned if policy.options is None else _own_options(policy, policy.options, all_options)
    return options, fit(policy, policy.options or options.triples, servers)


def fit(policy: ExportedPolicy, triples: Sequence[Triple], servers: int) -> ExportedPolicy | None:
    """Return a loaded policy for a device's options and servers; None if it takes any servers and there are none.

    Args:
        policy: as loaded.
        triples: what the device chooses from.
        servers: number of servers.

    Raises:
        PolicyError: if the policy was made for other options or another number of servers.
    """
    adapted = policy.adapt(triples, servers)
    return adapted if servers or policy.options else None


def _own_options(
    policy: ExportedPolicy, triples: Sequence[Triple], all_options: Callable[[Sequence[int]], Options]
) -> Options:
    """Return the policy's options in its own order."""
    try:
        options = all_options(tuple(dict.fromkeys(bits for _, _, bits in triples)))
    except PolicyError:
        raise
    except UserError as error:  # bits or tensors that this network or its tables do not know
        raise PolicyError(f"{policy.path}: its options cannot be had here: {error}") from None
    index_of = {triple: number for number, triple in enumerate(options.sidecar_triples)}
    index_of |= {triple: number for number, triple in enumerate(options.triples)}
    missing = next((triple for triple in triples if triple not in index_of), None)
    if missing is not None:
        raise PolicyError(
            f"{policy.path}: made for other options; {_describe(missing)} is not among those of this network"
        )
    return options.take(np.array([index_of[triple] for triple in triples]))


def _describe(triple: Triple) -> str:
    exit_, cut, bits = triple
    return f"exit {exit_ + 1}, cut at {', '.join(cut) or 'no tensor'}, {bits} bits"

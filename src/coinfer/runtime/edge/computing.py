"""What a worker does for requests: decode, run, encode; one request alone, or several of a piece as one batch."""

import os
import threading
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from coinfer.physics.batching import BatchTimes
from coinfer.runtime.clock import WallClock
from coinfer.runtime.codec.tensors import pack, unpack
from coinfer.runtime.edge.served_model import ServedModel
from coinfer.runtime.executor import Abort, Arrays
from coinfer.runtime.protocol.messages import InferRequest, WireError, WireTensor

_NICE = 10
"""Of a thread that measures beside requests."""


class Work(NamedTuple):
    """What a worker made of a request, and how long each step took."""

    outputs: tuple[WireTensor, ...]
    decode_s: float
    compute_s: float
    """Of the whole batch, if it ran in one."""
    encode_s: float
    samples: int
    requests: int = 1
    """That ran as one batch."""
    executions: int = 1
    """Runs that are counted for it: 0 for all but the first of a batch."""
    alone_s: float = 0.0
    """What computing would have taken alone."""
    others_s: float = 0.0
    """Time on the worker for the others of its batch; to this request it was a wait."""


class _Decoded(NamedTuple):
    """A request of a batch, decoded."""

    number: int
    """Of the request in its batch."""
    request: InferRequest
    inputs: Arrays
    took_s: float


def compute(model: ServedModel, request: InferRequest, limit_bytes: int, abort: Abort) -> Work:
    """Compute one request.

    Args:
        model: that it is for.
        request: from any client.
        limit_bytes: largest decoded tensor.
        abort: stops it.
    """
    decoded = _decode(model, 0, request, limit_bytes)
    outputs, compute_s = model.runs.run(decoded.inputs, request.outputs, abort)
    return _encoded(decoded, outputs, compute_s)._replace(alone_s=compute_s)


def compute_batch(
    model: ServedModel, times: BatchTimes, limit_bytes: int, requests: Sequence[InferRequest], aborts: Sequence[Abort]
) -> list[Work | Exception]:
    """Compute requests for one piece as one batch; return for each what came of it, or what went wrong with it alone.

    Those that turn out to be no single samples of one shape run by themselves, and so do all if the batch fails, so
    that a bad request fails alone.

    Args:
        model: that they are for.
        times: of the piece.
        limit_bytes: largest decoded tensor.
        requests: of equal inputs and outputs by name.
        aborts: of each; one that is set already is left out.
    """
    clock = WallClock()
    began_s = clock.now_s()
    results: list[Work | Exception] = [WireError("CANCELLED", "the caller gave up", "cancelled") for _ in requests]
    groups: dict[Hashable, list[_Decoded]] = defaultdict(list)
    for index, request in enumerate(requests):
        if aborts[index].event.is_set():
            continue
        try:
            decoded = _decode(model, index, request, limit_bytes)
        except Exception as error:
            results[index] = error
        else:
            groups[_shape_key(decoded)].append(decoded)
    for group in groups.values():
        for one, result in zip(group, _run(model, times, group, aborts), strict=True):
            results[one.number] = result
    total_s = clock.now_s() - began_s
    return [one if isinstance(one, Exception) else _with_others(one, total_s) for one in results]


def warm(model: ServedModel, request: InferRequest) -> Work:
    """Run a piece on zeros.

    Args:
        model: that has it.
        request: names its tensors.
    """
    inputs = [tensor.name for tensor in request.inputs]
    took_s = model.runs.warm(inputs, request.outputs)
    return Work((), 0.0, took_s, 0.0, 0, alone_s=took_s)


def yield_to_others() -> None:
    """Let the other threads of this machine go first, as far as the system lets a single thread do so."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _decode(model: ServedModel, index: int, request: InferRequest, limit_bytes: int) -> _Decoded:
    clock = WallClock()
    began_s = clock.now_s()
    inputs = {tensor.name: unpack(tensor, limit_bytes, model.symbols.get(tensor.name)) for tensor in request.inputs}
    return _Decoded(index, request, inputs, clock.now_s() - began_s)


def _shape_key(decoded: _Decoded) -> Hashable:
    """Return what requests have in common that run as one; only single samples do."""
    if any(array.shape[:1] != (1,) for array in decoded.inputs.values()):
        return decoded.number
    return tuple((name, array.dtype.str, array.shape) for name, array in decoded.inputs.items())


def _run(
    model: ServedModel, times: BatchTimes, group: Sequence[_Decoded], aborts: Sequence[Abort]
) -> list[Work | Exception]:
    """Run a group as one batch; if that fails, each by itself."""
    if len(group) > 1:
        try:
            return _run_together(model, times, group, _joint_abort([aborts[one.number] for one in group]))
        except Exception:
            if all(aborts[one.number].event.is_set() for one in group):
                return [WireError("CANCELLED", "the caller gave up", "cancelled")] * len(group)
    results: list[Work | Exception] = []
    for one in group:
        try:
            outputs, compute_s = model.runs.run(one.inputs, one.request.outputs, aborts[one.number])
            results.append(_encoded(one, outputs, compute_s)._replace(alone_s=compute_s))
        except Exception as error:
            results.append(error)
    return results


def _run_together(
    model: ServedModel, times: BatchTimes, group: Sequence[_Decoded], abort: Abort
) -> list[Work | Exception]:
    first = group[0]
    stacked = {name: np.concatenate([one.inputs[name] for one in group]) for name in first.inputs}
    outputs, compute_s = model.runs.run(stacked, first.request.outputs, abort)
    wrong = [name for name, array in outputs.items() if array.shape[:1] != (len(group),)]
    if wrong:
        raise ValueError(f"output {wrong[0]!r} of a batch of {len(group)} has shape {outputs[wrong[0]].shape}")
    results: list[Work | Exception] = []
    for row, one in enumerate(group):
        own = {name: array[row : row + 1] for name, array in outputs.items()}
        try:
            work = _encoded(one, own, compute_s)
            alone_s = compute_s / times.ratio(len(group))
            results.append(work._replace(requests=len(group), executions=int(row == 0), alone_s=alone_s))
        except Exception as error:
            results.append(error)
    return results


def _encoded(decoded: _Decoded, outputs: Mapping[str, np.ndarray], compute_s: float) -> Work:
    clock = WallClock()
    began_s = clock.now_s()
    packed = tuple(pack(name, array, decoded.request.bits) for name, array in outputs.items())
    samples = next((array.shape[0] for array in decoded.inputs.values() if array.ndim), 1)
    return Work(packed, decoded.took_s, compute_s, clock.now_s() - began_s, samples)


def _with_others(work: Work, total_s: float) -> Work:
    return work._replace(others_s=max(total_s - work.decode_s - work.alone_s - work.encode_s, 0.0))


def _joint_abort(aborts: Sequence[Abort]) -> Abort:
    """Return what stops a batch: it is set once the callers of all its requests have given up."""
    joint = Abort()

    def check() -> None:
        if all(abort.event.is_set() for abort in aborts):
            joint.set()

    for abort in aborts:
        abort.on_set(check)
    return joint

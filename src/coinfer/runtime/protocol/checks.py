"""The one check of requests: both protocols describe a request in the same terms, and get the same answer."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from coinfer.runtime.protocol.messages import (
    CODEC_PARAMETER,
    DTYPES,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    InferRequest,
    WireTensor,
    bad_request,
    dtype_of,
)
from coinfer.runtime.protocol.parameters import Parameters, flag, refuse_unsupported, request_options


class TensorDescription(NamedTuple):
    """A tensor as a protocol message describes it, unchecked."""

    name: object
    parameters: Parameters
    datatype: object = ""
    shape: object = ()


class TensorHeader(NamedTuple):
    """A checked description of a tensor, without its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    codec: bool

    def with_data(self, data: bytes | memoryview) -> WireTensor:
        """Return the whole tensor.

        Args:
            data: little-endian, row-major; its length is not checked here.
        """
        return WireTensor(self.name, self.datatype, self.shape, data, self.codec)


def check_request(
    model: str,
    version: str,
    id: object,
    inputs: Sequence[TensorDescription],
    outputs: Sequence[TensorDescription],
    parameters: Parameters,
) -> tuple[InferRequest, tuple[TensorHeader, ...]]:
    """Check everything in a request but the data of its tensors.

    Args:
        model: name from the message or path; whether the node serves it is not checked.
        version: empty for any.
        id: the caller's name for the request; None if it gave none.
        inputs: tensors that carry data.
        outputs: tensors to compute; empty for the network's outputs.
        parameters: of the request as a whole.

    Returns:
        The request without inputs, and the headers of its inputs in order.

    Raises:
        WireError: INVALID_ARGUMENT for what is wrong, UNIMPLEMENTED for what other servers offer and this one does not.
    """
    if id is not None and not isinstance(id, str):
        raise bad_request("id: expected a string")
    options = request_options(parameters)
    headers = check_tensors(inputs, "input")
    _check_count(outputs, "output")
    names = tuple(_name(output.name, "output") for output in outputs)
    for name, output in zip(names, outputs, strict=True):
        refuse_unsupported(output.parameters, f"output {name!r}")
    _check_unique(names, "output", "asked for")
    alone = not (inputs or options.route or options.dispatch or options.warm)
    if options.options is not None and not alone:
        raise bad_request("parameter options: nothing is computed; expected no inputs, route, dispatch or warm with it")
    request = InferRequest(
        model,
        (),
        names,
        id or "",
        version,
        fingerprint=options.fingerprint,
        deadline_s=options.deadline_s,
        route=options.route,
        bits=options.bits,
        warm=options.warm,
        dispatch=options.dispatch,
        options=options.options,
        priority=options.priority,
        objective=options.objective,
    )
    return request, headers


def check_tensors(descriptions: Sequence[TensorDescription], role: str) -> tuple[TensorHeader, ...]:
    """Check the descriptions of tensors that carry data.

    Args:
        descriptions: as the message has them.
        role: `input` or `output`, for the error.

    Returns:
        Their headers, in the same order.

    Raises:
        WireError: INVALID_ARGUMENT for what is wrong, UNIMPLEMENTED for what is not offered.
    """
    _check_count(descriptions, role)
    headers = tuple(_header(tensor, role) for tensor in descriptions)
    _check_unique([header.name for header in headers], role, "given")
    return headers


def numbers_to_bytes(header: TensorHeader, values: np.ndarray) -> bytes:
    """Return the bytes of a tensor that a message lists number by number.

    Args:
        header: says which datatype and shape the numbers must have.
        values: of any shape; read in row-major order.

    Raises:
        WireError: INVALID_ARGUMENT if the datatype cannot hold a value, or their number does not fit the shape.
    """
    dtype = DTYPES[header.datatype]
    with np.errstate(invalid="ignore", over="ignore"):
        exact = values.astype(dtype)
    if dtype.kind == "f":
        fits = values.dtype.kind in "biuf" and np.array_equal(np.isfinite(exact), np.isfinite(values))
    else:
        fits = values.dtype.kind in "biuf" and np.array_equal(exact, values)
    if not fits and values.size:
        raise bad_request(f"input {header.name!r}: a value is no {header.datatype}")
    expected = math.prod(header.shape)
    if exact.size != expected:
        shape = list(header.shape)
        raise bad_request(f"input {header.name!r}: expected {expected} numbers for shape {shape}, got {exact.size}")
    return exact.tobytes()


def _header(tensor: TensorDescription, role: str) -> TensorHeader:
    name = _name(tensor.name, role)
    refuse_unsupported(tensor.parameters, f"{role} {name!r}")
    if not isinstance(tensor.datatype, str):
        raise bad_request(f"{role} {name!r}: expected a datatype of {', '.join(DTYPES)}")
    dims = cast(Sequence[object], tensor.shape) if isinstance(tensor.shape, Sequence) else ("",)
    shape = tuple(dim for dim in dims if isinstance(dim, int) and not isinstance(dim, bool))
    if len(shape) < len(dims):
        raise bad_request(f"{role} {name!r}: expected shape as a list of integers")
    dtype_of(name, tensor.datatype, shape, role)
    return TensorHeader(name, tensor.datatype, shape, flag(tensor.parameters, CODEC_PARAMETER))


def _name(name: object, role: str) -> str:
    if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES:
        raise bad_request(f"{role} name: expected a string of 1 to {MAX_NAME_BYTES} bytes")
    return name


def _check_count(descriptions: Sequence[object], role: str) -> None:
    if len(descriptions) > MAX_TENSORS:
        raise bad_request(f"expected at most {MAX_TENSORS} {role}s, got {len(descriptions)}")


def _check_unique(names: Sequence[str], role: str, verb: str) -> None:
    duplicate = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if duplicate is not None:
        raise bad_request(f"{role} {duplicate!r} is {verb} twice")

"""What a model file must satisfy before anything else touches it: a foreign file is hostile until it has passed here.

ONNX Runtime runs a loop of 2^62 steps for ever and loads compiled code that a file names. So only known operations are
read, loops and sizes must have bounds (`limits`), and our own code reads weights outside the model file (`weights`).
"""

import stat
from collections.abc import Mapping
from pathlib import Path

import onnx

from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.limits import DEFAULT_LIMITS, Limits, raise_it
from coinfer.graph.onnx.operators import CONTROL, GENERATORS, MICROSOFT, check_known, label, schema_of, signature_of
from coinfer.graph.onnx.subgraphs import graphs_of, walk
from coinfer.graph.onnx.weights import is_external
from coinfer.units import MIB

MAX_FILE_BYTES = 2048 * MIB
"""Protobuf's own limit."""
OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)
"""Versions of the ai.onnx operations that are read."""


def read_proto(path: Path) -> onnx.ModelProto:
    """Return the parsed model file; weights in other files are still references.

    Args:
        path: of the model file.

    Raises:
        GraphError: if the file is missing, no ONNX model, or larger than `MAX_FILE_BYTES`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GraphError(f"{path}: not a regular file; expected an ONNX model such as model.onnx")
        if status.st_size > MAX_FILE_BYTES:
            raise GraphError(f"{path}: {status.st_size / MIB:.0f} MiB; an ONNX file has at most 2048 MiB")
        data = path.read_bytes()
    except OSError as error:
        raise GraphError(f"{path}: cannot read the model: {error.strerror}") from error
    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own error type belongs to no public module of onnx
        raise GraphError(
            f"{path}: not an ONNX model, or truncated ({len(data)} bytes read); expected a whole ONNX file"
        ) from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise GraphError(f"{path}: not an ONNX model: it has no graph with outputs")
    return proto


def check_proto(proto: onnx.ModelProto, where: str, limits: Limits = DEFAULT_LIMITS) -> None:
    """Refuse a model with operations that nothing installed knows, that read files, or beyond the limits.

    Graphs within operations are checked alike.

    Args:
        proto: the whole model, its functions inlined.
        where: what messages call the model.
        limits: of what the model may take.

    Raises:
        GraphError: if anything is refused; the message names the first such thing.
    """
    versions = versions_of(proto, where)
    count = 0
    for graph in walk(proto.graph):
        if graph.sparse_initializer:
            raise GraphError(f"{where}: has sparse weights; store them dense")
        count += len(graph.node)
        if count > limits.operations:
            raise GraphError(
                f"{where}: more than {limits.operations} operations; {raise_it('operations', len(proto.graph.node))}"
            )
        for node in graph.node:
            check_known(node, versions, where)
            _check_attributes(node, where)
            _check_signature(node, versions, where)


def versions_of(proto: onnx.ModelProto, where: str) -> dict[str, int]:
    """Return the versions of operations that a model states, by domain; the standard one is empty and comes first.

    Args:
        proto: of a model.
        where: what messages call the model.

    Raises:
        GraphError: if it states no standard version, or one that is not read.
    """
    stated = {opset.domain: opset.version for opset in proto.opset_import}
    version = stated.pop("", stated.pop("ai.onnx", None))
    if version is None:
        raise GraphError(f"{where}: states no version of the ai.onnx operations; not a whole ONNX model")
    if version not in OPSETS:
        raise GraphError(f"{where}: opset {version}; expected {OPSETS[0]} to {OPSETS[-1]}; convert the model")
    stated.pop("ai.onnx", None)
    return {"": version} | {domain: stated.get(domain, 1) for domain in sorted({*stated, MICROSOFT})}


def _check_attributes(node: onnx.NodeProto, where: str) -> None:
    problem = f"{where}: {label(node)}"
    for attribute in node.attribute:
        if any(True for _ in graphs_of(node)) and node.op_type not in CONTROL | GENERATORS:
            raise GraphError(f"{problem} holds a graph of its own, which is not allowed")
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise GraphError(f"{problem} holds a sparse tensor; store it dense")
        if any(is_external(tensor) for tensor in (attribute.t, *attribute.tensors)):
            raise GraphError(f"{problem} keeps a tensor in another file; only weights may")


def _check_signature(node: onnx.NodeProto, versions: Mapping[str, int], where: str) -> None:
    """Refuse wrong numbers of inputs or outputs for the operation's version, and unknown attributes."""
    problem = f"{where}: {label(node)}"
    signature = signature_of(node, versions)
    for role, count, low, high in (
        ("inputs", len(node.input), signature.min_input, signature.max_input),
        ("outputs", len(node.output), signature.min_output, signature.max_output),
    ):
        if not low <= count <= high:
            raise GraphError(f"{problem} has {count} {role}; expected {low} to {high}")
    if not any(node.output) or not all(node.input[i] for i in signature.needed if i < len(node.input)):
        raise GraphError(f"{problem} lacks an input that it needs, or makes nothing")
    schema = schema_of(node, versions)
    for attribute in node.attribute if schema else ():
        known = schema.attributes.get(attribute.name) if schema else None
        if known is None or known.type != attribute.type:
            raise GraphError(f"{problem}: attribute {attribute.name!r} is unknown or has the wrong type")

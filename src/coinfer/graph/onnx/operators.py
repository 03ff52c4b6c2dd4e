"""Which operations are read: those that ONNX or the installed ONNX Runtime knows, but for a few that are dangerous."""

from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import import_module
from typing import NamedTuple

import onnx
import onnxruntime as ort

from coinfer.graph.ir import GraphError

MICROSOFT = "com.microsoft"
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", MICROSOFT})
_READ_FILES = frozenset({"EPContext", "Snpe"})
"""Operations that load compiled code or files of their own."""
RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "SampleOp"]
)
"""Operations that give another result each time; they are never folded."""
GENERATORS = frozenset(["BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"])
"""Operations that run graphs of their own as long as their inputs say."""
CONTROL = frozenset({"If", "Loop", "Scan"})
KEEP_QUANTISED = frozenset({"DequantizeLinear", "DequantizeBFP"})
"""ONNX Runtime computes in integers only where it finds these before an operation; folding would change answers."""


class Signature(NamedTuple):
    """How many inputs and outputs an operation takes."""

    min_input: int
    max_input: int
    min_output: int
    max_output: int
    needed: tuple[int, ...]
    """Places of inputs that must not be left out."""


def domain_of(node: onnx.NodeProto) -> str:
    """Return the domain of a node's operation; the standard one is empty.

    Args:
        node: of any graph.
    """
    return "" if node.domain == "ai.onnx" else node.domain


def label(node: onnx.NodeProto) -> str:
    """Return how messages call an operation.

    Args:
        node: of any graph.
    """
    kind = f"{node.domain}.{node.op_type}" if domain_of(node) else node.op_type
    return f"operation {kind} ({node.name or next(filter(None, node.output), '')!r})"


def schema_of(node: onnx.NodeProto, versions: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """Return ONNX's description of an operation, or None if only ONNX Runtime has one.

    Args:
        node: of any graph.
        versions: of the operations that the model states, by domain.
    """
    domain = domain_of(node)
    return _schema(node.op_type, versions.get(domain, 1), domain)


@lru_cache(maxsize=1024)
def _schema(kind: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(kind, version, domain)
    except onnx.defs.SchemaError:
        return None


def check_known(node: onnx.NodeProto, versions: Mapping[str, int], where: str) -> None:
    """Refuse an operation that nothing installed can compute, and those that read files of their own.

    Args:
        node: of any graph.
        versions: of the operations that the model states, by domain.
        where: what messages call the model.

    Raises:
        GraphError: if it is unknown; the message names it.
    """
    domain = domain_of(node)
    if node.op_type in _READ_FILES or "training" in domain:
        raise GraphError(f"{where}: {label(node)} reads files of its own or trains, which is not allowed")
    if schema_of(node, versions) is not None:
        return
    if domain == "":
        raise GraphError(f"{where}: {label(node)} does not exist in opset {versions['']}")
    if domain not in _DOMAINS or (domain, node.op_type) not in runtime_operators():
        raise GraphError(
            f"{where}: {label(node)} is known neither to ONNX {onnx.__version__} nor to ONNX Runtime "
            f"{ort.__version__}; export the network without it"
        )


def signature_of(node: onnx.NodeProto, versions: Mapping[str, int]) -> Signature:
    """Return how many inputs and outputs a known operation takes.

    Args:
        node: of any graph.
        versions: of the operations that the model states, by domain.
    """
    schema = schema_of(node, versions)
    return runtime_operators()[domain_of(node), node.op_type] if schema is None else _signature(schema)


def _signature(schema: onnx.defs.OpSchema) -> Signature:
    """Return the signature that a schema of ONNX, or one of ONNX Runtime of the same form, describes."""
    needed = tuple(i for i, value in enumerate(schema.inputs) if str(value.option).endswith("Single"))
    return Signature(schema.min_input, schema.max_input, schema.min_output, schema.max_output, needed)


@cache
def runtime_operators() -> Mapping[tuple[str, str], Signature]:
    """Return the operations that the installed ONNX Runtime describes, by domain and type."""
    schemas = import_module("onnxruntime.capi.onnxruntime_pybind11_state").get_all_operator_schema()
    return {(schema.domain, schema.name): _signature(schema) for schema in schemas}

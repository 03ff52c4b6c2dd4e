"""Computes operations on constants with ONNX Runtime's own kernels."""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort

from coinfer.graph.session import CPU, session_options

IR_VERSION = 10
"""Version of the format that ONNX Runtime reads in all versions that we support."""
_FATAL_ONLY = 4
"""Log level of ONNX Runtime: errors are raised, so it need not print them too."""
_OPEN_SESSIONS = 64

Values = dict[str, np.ndarray]


class Evaluator:
    """Runs single operations. Operations that differ only in names and sizes share a session, and few stay open.

    Args:
        versions: of the operations that the model states, by domain.
    """

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._versions = dict(versions)
        self._sessions: OrderedDict[bytes, ort.InferenceSession] = OrderedDict()

    def run(self, node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> Values:
        """Return the outputs of an operation.

        Args:
            node: the operation; it holds no graph.
            values: of what it reads, by name.

        Raises:
            Exception: of ONNX Runtime, if the operation cannot be computed.
        """
        read = [values[name] for name in node.input if name]
        outputs = [name for name in node.output if name]
        session = self._session(node, [value.dtype for value in read])
        results = session.run(None, {f"i{i}": value for i, value in enumerate(read)})
        return {name: np.asarray(value) for name, value in zip(outputs, results, strict=True)}

    def _session(self, node: onnx.NodeProto, dtypes: list[np.dtype]) -> ort.InferenceSession:
        plain = onnx.NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
        inputs, outputs = iter(range(len(node.input))), iter(range(len(node.output)))
        plain.input[:] = [f"i{next(inputs)}" if name else "" for name in node.input]
        plain.output[:] = [f"o{next(outputs)}" if name else "" for name in node.output]
        key = plain.SerializeToString() + b"".join(dtype.str.encode() for dtype in dtypes)
        if key not in self._sessions:
            while len(self._sessions) >= _OPEN_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[key] = open_single(plain, [_any_shape(dtype) for dtype in dtypes], self._versions)
        self._sessions.move_to_end(key)
        return self._sessions[key]


def open_single(
    node: onnx.NodeProto, types: list[onnx.TypeProto], versions: Mapping[str, int], constants: Values | None = None
) -> ort.InferenceSession:
    """Return a session that runs one operation.

    Args:
        node: the operation.
        types: of its inputs, in order, without those that are constants.
        versions: of operations by domain.
        constants: values that it reads, by name.

    Raises:
        Exception: of ONNX Runtime, if the operation does not fit the types.
    """
    known = constants or {}
    read = [name for name in dict.fromkeys(filter(None, node.input)) if name not in known]
    graph = onnx.GraphProto(name="one", node=[node])
    graph.input.extend(onnx.ValueInfoProto(name=n, type=kind) for n, kind in zip(read, types, strict=True))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in known.items())
    options = session_options()
    options.log_severity_level = _FATAL_ONLY
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(single_model(graph, versions).SerializeToString(), options, [CPU])


def single_model(graph: onnx.GraphProto, versions: Mapping[str, int]) -> onnx.ModelProto:
    """Return a graph as a model.

    Args:
        graph: of the model.
        versions: of operations by domain.
    """
    model = onnx.ModelProto(ir_version=IR_VERSION, graph=graph)
    model.opset_import.extend(onnx.OperatorSetIdProto(domain=name, version=n) for name, n in versions.items())
    return model


def _any_shape(dtype: np.dtype) -> onnx.TypeProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=kind))

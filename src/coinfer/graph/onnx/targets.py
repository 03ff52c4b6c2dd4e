"""Targets of reshapes that differ between sizes on one axis only."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from coinfer.graph.onnx.evaluate import Values
from coinfer.graph.parts import Tensor


def with_constant_target(
    node: onnx.NodeProto, known: Sequence[Values], constants: Values, tensors: Sequence[Mapping[str, Tensor]]
) -> onnx.NodeProto:
    """Return the node; a reshape whose target differs between sizes on one axis only gets a constant target.

    `0` or `-1` then stands for that size. Exporters compute such targets with a chain of small operations, which a cut
    would otherwise cross.

    Args:
        node: any operation.
        known: values that follow from sizes, once for each combination of input sizes.
        constants: by name; the new target is added.
        tensors: by name, at each of these sizes.
    """
    if node.op_type != "Reshape" or node.input[1] in constants or node.input[1] not in known[0]:
        return node
    targets = [values[node.input[1]] for values in known]
    differ = np.flatnonzero(np.any([target != targets[0] for target in targets], axis=0))
    if len(differ) != 1 or any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute):
        return node
    axis, sources = int(differ[0]), [by_name[node.input[0]].shape for by_name in tensors if node.input[0] in by_name]
    is_copied = len(sources) == len(targets) and all(
        axis < len(shape) and shape[axis] == target[axis] for shape, target in zip(sources, targets, strict=True)
    )
    if not is_copied and -1 in targets[0]:
        return node
    target = targets[0].copy()
    target[axis] = 0 if is_copied else -1
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[1] = f"{node.output[0]}/shape"
    constants[changed.input[1]] = target
    return changed

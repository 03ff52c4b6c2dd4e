"""Export of a pointer policy; `policies.serving_onnx` loads it without PyTorch.

The graph is written node by node: it is a few products of matrices. Hidden features are zeros in the first weights.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coinfer.policies.learned.export import write_graph
from coinfer.policies.learned.pointer.features import COLUMNS, NAMES
from coinfer.policies.learned.pointer.net import GAIN, PointerPolicy
from coinfer.policies.onnx import write_sidecar
from coinfer.policies.serving_onnx import INPUTS, KIND, OUTPUTS


def export_pointer(
    path: Path,
    policy: PointerPolicy,
    *,
    scheme: str,
    scenario: str,
    scenario_fingerprint: str,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write the ONNX file and its side-car, for any number of tasks, servers and options.

    Args:
        path: ends in .onnx; the side-car is beside it, with .json. The folder is made if it does not exist.
        policy: the trained policy.
        scheme: name of the training scheme.
        scenario: name of the scenario of the training.
        scenario_fingerprint: of the compiled scenario, from `scenario.compile.fingerprint`.
        training: record of the training.
    """
    write_graph(path, _graph(policy))
    write_sidecar(
        path,
        KIND,
        {"columns": list(NAMES), "weights": asdict(policy.weights), "scale_s": policy.scale_s},
        scheme=scheme,
        scenario=scenario,
        scenario_fingerprint=scenario_fingerprint,
        training=training,
    )


def _graph(policy: PointerPolicy) -> onnx.GraphProto:
    layers = [[part[0].numpy() for part in layer] for layer in policy.net.actor_layers(policy.row[None].detach())]
    seen = np.array([name not in policy.net.without for name in NAMES], np.float32)
    layers[0][0] = np.concatenate((np.zeros_like(layers[0][0][:1]), layers[0][0] * seen[:, None]))
    base = np.zeros((COLUMNS, 1), np.float32)
    base[0] = 1.0
    constants, nodes, last = {"base": base, "gain": np.float32(GAIN), "last": np.array([-1])}, [], INPUTS[0]
    for number, (weight, bias) in enumerate(layers):
        constants |= {f"weight{number}": weight, f"bias{number}": bias}
        product, hidden = f"product{number}", f"hidden{number}"
        nodes += [
            helper.make_node("MatMul", [last, f"weight{number}"], [product]),
            helper.make_node("Add", [product, f"bias{number}"], [hidden]),
        ]
        last = hidden
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [hidden], [f"relu{number}"]))
            last = f"relu{number}"
    nodes += [
        helper.make_node("Mul", [last, "gain"], ["correction"]),
        helper.make_node("MatMul", [INPUTS[0], "base"], ["price"]),
        helper.make_node("Add", ["price", "correction"], ["sum"]),
        helper.make_node("Squeeze", ["sum", "last"], [OUTPUTS[0]]),
    ]
    choices = helper.make_tensor_value_info(INPUTS[0], TensorProto.FLOAT, ["T", "C", COLUMNS])
    scores = helper.make_tensor_value_info(OUTPUTS[0], TensorProto.FLOAT, ["T", "C"])
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return helper.make_graph(nodes, "pointer", [choices], [scores], values)

"""Export of a forecast of demand; `policies.forecast_onnx` loads it without PyTorch."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from coinfer.policies.forecast_onnx import INPUTS, KIND, OUTPUTS
from coinfer.policies.heuristics.demand import FADING_S
from coinfer.policies.learned.export import write_graph
from coinfer.policies.learned.forecast.net import DemandForecast
from coinfer.policies.onnx import write_sidecar


def export_forecast(
    path: Path,
    policy: DemandForecast,
    *,
    scheme: str,
    scenario: str,
    scenario_fingerprint: str,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write the ONNX file and its side-car.

    Args:
        path: ends in .onnx; the side-car is beside it, with .json. The folder is made if it does not exist.
        policy: the trained network.
        scheme: name of the training scheme.
        scenario: name of the scenario of the training.
        scenario_fingerprint: of the compiled scenario, from `scenario.compile.fingerprint`.
        training: record of the training.
    """
    write_graph(path, _graph(policy))
    write_sidecar(
        path,
        KIND,
        {"fading_s": list(FADING_S), "weights": asdict(policy.weights)},
        scheme=scheme,
        scenario=scenario,
        scenario_fingerprint=scenario_fingerprint,
        training=training,
    )


def _graph(policy: DemandForecast) -> onnx.GraphProto:
    layers = [cast(nn.Linear, layer) for layer in policy.layers]
    constants = {"scale": policy.scale.numpy()}
    nodes = [
        helper.make_node("Flatten", [INPUTS[0]], ["flat"], axis=1),
        helper.make_node("Div", ["flat", "scale"], ["scaled"]),
        helper.make_node("Asinh", ["scaled"], ["relu0"]),
    ]
    for number, layer in enumerate(layers):
        weight, bias = f"weight{number}", f"bias{number}"
        constants |= {weight: layer.weight.detach().numpy(), bias: layer.bias.detach().numpy()}
        nodes += [
            helper.make_node("Gemm", [f"relu{number}", weight, bias], [f"sum{number}"], transB=1),
            helper.make_node("Relu", [f"sum{number}"], [f"relu{number + 1}"]),
        ]
    nodes.append(helper.make_node("Mul", [f"relu{len(layers)}", "scale"], [OUTPUTS[0]]))
    networks = layers[-1].out_features
    faded = helper.make_tensor_value_info(INPUTS[0], TensorProto.FLOAT, ["B", len(FADING_S), networks])
    demand = helper.make_tensor_value_info(OUTPUTS[0], TensorProto.FLOAT, ["B", networks])
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return helper.make_graph(nodes, "forecast", [faded], [demand], values)

"""Exported networks that tools changed afterwards: other number types, fused operations, other files, odd names."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from tests.networks import exported
from tests.networks.case import Case, samples

GROUP = "Changed after export"
CALIBRATION = 4
Change = Callable[[Path, Path, Case], object]
"""Reads a file and writes another, for a case that says what the inputs may be."""


def cases() -> list[Case]:
    """Return every changed network."""
    return [
        *_changed("QDQ int8", "qdq", _qdq, "mobilenet-v3", "u-net", "vit", "multi-task"),
        *_changed("QDQ int8, per channel", "qdq-channels", _qdq_channels, "densenet121"),
        *_changed("QOperator int8", "qoperator", _qoperator, "mobilenet-v3", "siamese"),
        *_changed("dynamic int8", "dynamic-int8", _dynamic, "bert", "lstm-state", "gpt"),
        *_changed("float16", "float16", _half, "mobilenet-v3", "vit", "bert", "u-net"),
        *_changed("float16 inside", "float16-inside", _half_inside, "mobilenet-v3", "gru-state"),
        *_changed("fused by ONNX Runtime", "fused", _fused, "mobilenet-v3", "bert", "vit", "efficientnet"),
        *_changed("external data", "external", _external, "u-net", "bert"),
        *_changed("weights are inputs too", "weight-inputs", _weight_inputs, "mobilenet-v3"),
        *_changed("long and odd names", "names", _odd_names, "siamese", "bert"),
        *_changed("one local function", "function", _function, "convnext", "gpt"),
        *_changed("opset 24 by onnx", "converted", _converted, "u-net", "lstm-state"),
    ]


def _changed(what: str, suffix: str, change: Change, *names: str) -> Iterator[Case]:
    for name in names:
        network = exported.BY_NAME[name]
        yield Case(
            f"{name}-{suffix}",
            GROUP,
            what,
            f"{name}-{suffix}.onnx",
            lambda path, network=network: _write(network, path, change),
            values=network.integers,
        )


def _write(network: exported.Network, path: Path, change: Change) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.onnx"
        exported.write(network, source)
        change(source, path, Case(network.name, GROUP, "", "", Path, values=network.integers))


class _Samples(quantization.CalibrationDataReader):
    def __init__(self, path: Path, case: Case) -> None:
        session = ort.InferenceSession(path)
        self._left = [samples(session, case._replace(name=f"{case.name}{i}")) for i in range(CALIBRATION)]

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._left.pop() if self._left else None


def _quantise(source: Path, target: Path, case: Case, kind: quantization.QuantFormat, **options: bool) -> None:
    prepared = source.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(prepared, target, _Samples(prepared, case), kind, **options)


def _qdq(source: Path, target: Path, case: Case) -> None:
    _quantise(source, target, case, quantization.QuantFormat.QDQ)


def _qdq_channels(source: Path, target: Path, case: Case) -> None:
    _quantise(source, target, case, quantization.QuantFormat.QDQ, per_channel=True)


def _qoperator(source: Path, target: Path, case: Case) -> None:
    _quantise(source, target, case, quantization.QuantFormat.QOperator)


def _dynamic(source: Path, target: Path, _: Case) -> None:
    quantization.quantize_dynamic(source, target)


def _halved(source: Path, keep_io_types: bool) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(source), keep_io_types=keep_io_types)


def _half(source: Path, target: Path, _: Case) -> None:
    onnx.save(_halved(source, keep_io_types=False), target)


def _half_inside(source: Path, target: Path, _: Case) -> None:
    onnx.save(_halved(source, keep_io_types=True), target)


def _fused(source: Path, target: Path, _: Case) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(source, options)


def _external(source: Path, target: Path, _: Case) -> None:
    name = f"{target.name}.data"
    target.with_name(name).unlink(missing_ok=True)  # it would be appended to
    onnx.save(onnx.load(source), target, save_as_external_data=True, location=name, size_threshold=0)


def _weight_inputs(source: Path, target: Path, _: Case) -> None:
    model = onnx.load(source)
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(value.name, value.data_type, value.dims) for value in model.graph.initializer
    )
    onnx.save(model, target)


def _odd_names(source: Path, target: Path, _: Case) -> None:
    """Name every tensor and operation with 200 characters, among them slashes, spaces and signs outside ASCII."""
    model = onnx.load(source)
    kept = {"", *(value.name for value in (*model.graph.input, *model.graph.output))}

    def odd(name: str) -> str:
        return name if name in kept else f"StatefulPartitionedCall/модель:0 {name} " + "é/" * 80

    for node in model.graph.node:
        node.name = odd(node.name)
        node.input[:] = map(odd, node.input)
        node.output[:] = map(odd, node.output)
    for value in (*model.graph.initializer, *model.graph.value_info):
        value.name = odd(value.name)
    onnx.save(model, target)


def _function(source: Path, target: Path, _: Case) -> None:
    """Make the whole network the body of one function, as exporters of other frameworks write layers."""
    model = onnx.load(source)
    graph, weights = model.graph, list(model.graph.initializer)
    inputs = [value.name for value in (*graph.input, *weights)]
    outputs = [value.name for value in graph.output]
    body = onnx.helper.make_function("own.layers", "Network", inputs, outputs, graph.node, model.opset_import)
    call = onnx.helper.make_node("Network", inputs, outputs, "network", domain="own.layers")
    whole = onnx.helper.make_graph([call], "calls", graph.input, graph.output, weights)
    imports = [*model.opset_import, onnx.helper.make_opsetid("own.layers", 1)]
    made = onnx.helper.make_model(whole, opset_imports=imports, functions=[body], ir_version=max(model.ir_version, 8))
    onnx.save(made, target)


def _converted(source: Path, target: Path, _: Case) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), 24), target)

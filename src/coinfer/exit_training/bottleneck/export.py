"""A trained bottleneck as an ONNX network: encoder, symbols, for each code a decoder and the rest of the network."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from coinfer.exit_training.bottleneck.nets import Decoder, Encoder
from coinfer.exit_training.bottleneck.places import exits_behind
from coinfer.exit_training.bottleneck.settings import Place
from coinfer.exit_training.modules import GraphModule, with_weights
from coinfer.graph.bottleneck import HEAD
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.assemble import reference
from coinfer.graph.onnx.load import from_proto

MIN_OPSET = 13


class Parts(NamedTuple):
    """What was trained, in evaluation mode."""

    encoder: Encoder
    decoder: Decoder
    tail: GraphModule
    """The network whose layers behind the decoder were trained too; its other layers are as before."""


class _Net:
    """An ONNX model under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.settings: dict[str, np.ndarray] = {}

    def op(self, kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def setting(self, name: str, value: np.ndarray | np.generic) -> str:
        self.settings[name] = np.asarray(value)
        return name

    def conv(self, output: str, x: str, weight: str, side: int, stride: int, pads: tuple[int, int]) -> str:
        before, after = pads
        sizes = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [before, before, after, after]}
        return self.op("Conv", output, x, f"{weight}.weight", f"{weight}.bias", **sizes)

    def add_weights(self, name: str, conv: nn.Module, norm: nn.Module | None = None) -> str:
        """Add a convolution's weights, with a batch norm folded into them, and return their name."""
        kernel = conv.get_parameter("weight").detach().double().cpu().numpy()
        if norm is None:
            bias = conv.get_parameter("bias").detach().double().cpu().numpy()
        else:
            assert isinstance(norm, nn.BatchNorm2d)
            gain, shift = (norm.get_parameter(key).detach().double().cpu().numpy() for key in ("weight", "bias"))
            mean, variance = (norm.get_buffer(f"running_{key}").double().cpu().numpy() for key in ("mean", "var"))
            scale = gain / np.sqrt(variance + norm.eps)
            kernel, bias = kernel * scale[:, None, None, None], shift - mean * scale
        self.weights[f"{name}.weight"] = kernel.astype(np.float32)
        self.weights[f"{name}.bias"] = bias.astype(np.float32)
        return name

    def copy(
        self, graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str], tensors: str, weights: str
    ) -> None:
        """Add the operations between some tensors, under names with these prefixes; network inputs keep theirs."""
        constants = {value.name: value for value in graph.proto.graph.initializer if value.name not in graph.weights}
        for index in graph.needed(inputs, outputs):
            for place in graph.ops[index].nodes:
                node = onnx.NodeProto()
                node.CopyFrom(graph.proto.graph.node[place])
                node.name = f"{tensors}{node.name}"
                for i, name in enumerate(node.input):
                    node.input[i] = self._renamed(graph, name, constants, tensors, weights)
                for i, name in enumerate(node.output):
                    node.output[i] = f"{tensors}{name}" if name else ""
                self.nodes.append(node)

    def _renamed(
        self, graph: ModelGraph, name: str, constants: dict[str, onnx.TensorProto], tensors: str, weights: str
    ) -> str:
        if name in graph.weights:
            self.weights[f"{weights}{name}"] = graph.weights[name]
            return f"{weights}{name}"
        if name in constants:
            self.settings[f"{weights}{name}"] = onnx.numpy_helper.to_array(constants[name])
            return f"{weights}{name}"
        return name if not name or name in graph.inputs else f"{tensors}{name}"


def code_name(channels: int) -> str:
    """Return the name of a code's symbols.

    Args:
        channels: of the code.
    """
    return f"code{channels}"


def answer_name(channels: int, place: Place, output: str) -> str:
    """Return the name of an exit's answer from a code.

    Args:
        channels: of the code.
        place: of the bottleneck.
        output: of the untouched network.
    """
    return f"code{channels}/answer" if output == place.output else f"code{channels}/answer/{output}"


def bottleneck_graph(graph: ModelGraph, place: Place, parts: Parts) -> ModelGraph:
    """Return encoder, decoders and tails as one network.

    Args:
        graph: the untouched network.
        place: where the bottleneck is.
        parts: what was trained.

    Raises:
        GraphError: if the network's ONNX version is too old.
    """
    version = next((entry.version for entry in graph.proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < MIN_OPSET:
        raise GraphError(f"{graph.name}: is of ONNX opset {version}; bottlenecks need {MIN_OPSET} or newer")
    net = _Net()
    source = place.source
    if source not in graph.inputs:
        net.copy(graph, graph.inputs, (source,), HEAD, HEAD)
        source = f"{HEAD}{source}"
    _encode(net, source, parts.encoder, parts.decoder.channels)
    trained = with_weights(parts.tail.source, _weights_of(parts.tail))
    outputs = exits_behind(graph, place.target)
    for index, channels in enumerate(parts.decoder.channels):
        _decode(net, parts.decoder, index, f"code{channels}/{place.target}")
        net.copy(trained, (place.target,), outputs, f"code{channels}/", "tail/")
        for output in outputs:
            net.op("Identity", answer_name(channels, place, output), f"code{channels}/{output}")
    made = _model(graph, place, outputs, net, parts.decoder.channels)
    return from_proto(made, f"{graph.name}.bottleneck", net.weights)


def _weights_of(module: GraphModule) -> dict[str, np.ndarray]:
    return {name: value for name, value in module.graph().weights.items()}


def _encode(net: _Net, source: str, encoder: Encoder, channels: Sequence[int]) -> None:
    """Add the encoder and the symbols of each code."""
    x = source
    for i, (shape, conv, norm) in enumerate(zip(encoder.shapes, encoder.convs, encoder.norms, strict=True)):
        weight = net.add_weights(f"encoder.{i}", conv, norm)
        x = net.conv(f"encoder/{i}", x, weight, shape.kernel, shape.stride, shape.pads)
        x = net.op("Relu", f"encoder/{i}.relu", x) if i < len(encoder.shapes) - 1 else x
    low, high = net.setting("lowest", np.float32(0)), net.setting("highest", np.float32(encoder.levels - 1))
    x = net.op("Round", "encoder/rounded", net.op("Clip", "encoder/clipped", x, low, high))
    whole = net.op("Cast", code_name(channels[-1]), x, to=TensorProto.UINT8)
    start, axis = net.setting("first", np.array([0])), net.setting("channel_axis", np.array([1]))
    for count in channels[:-1]:
        net.op("Slice", code_name(count), whole, start, net.setting(f"count{count}", np.array([count])), axis)


def _decode(net: _Net, decoder: Decoder, index: int, output: str) -> None:
    """Add the decoder of one code."""
    channels = decoder.channels[index]
    prefix = f"code{channels}/decoder"
    stem = net.add_weights(f"decoder.stem{channels}", decoder.stems[index], decoder.norms[index])
    inner = [net.add_weights(f"decoder.inner{i}", conv) for i, conv in enumerate(decoder.inner)]
    last = net.add_weights("decoder.last", decoder.last)
    x = net.op("Cast", f"{prefix}.symbols", code_name(channels), to=TensorProto.FLOAT)
    x = net.op("Sub", f"{prefix}.centered", x, net.setting("center", np.float32(decoder.center)))
    x = net.op("Relu", f"{prefix}.stem.relu", net.conv(f"{prefix}.stem", x, stem, 3, 1, (1, 1)))
    y = net.op("Relu", f"{prefix}.0.relu", net.conv(f"{prefix}.0", x, inner[0], 3, 1, (1, 1)))
    y = net.op("Add", f"{prefix}.sum", x, net.conv(f"{prefix}.1", y, inner[1], 3, 1, (1, 1)))
    net.conv(output, net.op("Relu", f"{prefix}.sum.relu", y), last, 3, 1, (1, 1))


def _model(
    graph: ModelGraph, place: Place, outputs: Sequence[str], net: _Net, channels: Sequence[int]
) -> onnx.ModelProto:
    name = f"{graph.name}.bottleneck"
    values = {value.name: value for value in (*graph.proto.graph.output, *graph.proto.graph.value_info)}
    answers = []
    for count, output in ((count, output) for count in channels for output in outputs):
        value = onnx.ValueInfoProto()
        value.CopyFrom(values[output])
        value.name = answer_name(count, place, output)
        answers.append(value)
    inputs = [value for value in graph.proto.graph.input if value.name in graph.inputs]
    constants = [onnx.numpy_helper.from_array(value, key) for key, value in net.settings.items()]
    weights = [reference(key, value) for key, value in net.weights.items()]
    made = helper.make_graph(net.nodes, name, inputs, answers, [*constants, *weights])
    proto = helper.make_model(made, opset_imports=list(graph.proto.opset_import), ir_version=graph.proto.ir_version)
    proto.metadata_props.extend(graph.proto.metadata_props)
    return proto

"""Builds networks layer by layer, as ONNX, with random weights."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from coinfer.graph.image_input import ImageInput, image_property
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.assemble import reference
from coinfer.graph.onnx.load import from_proto

OPSET = 17
Attribute = int | float | str | Sequence[int]
"""Value of an ONNX attribute."""
IMAGENET = ImageInput(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ImageInput(32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
RELU, RELU6, LINEAR = "Relu", "Clip", None


class NetBuilder:
    """A network under construction. Each layer has the name of the tensor that it makes; the first tensor is `input`.

    Args:
        image: size and normalisation of the network's pictures.
        seed: of the weights, which are the same on every machine.
    """

    def __init__(self, image: ImageInput, seed: int) -> None:
        self.image = image
        self.random = np.random.Generator(np.random.SFC64(seed))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.settings: dict[str, np.ndarray] = {}
        self.channels = {"input": len(image.mean)}

    def op(self, kind: str, name: str, *inputs: str, channels: int | None = None, **attributes: Attribute) -> str:
        """Add one ONNX operation.

        Args:
            kind: ONNX operator type.
            name: of the operation and of its output.
            inputs: names of what it reads: tensors, then weights and settings.
            channels: of the output; None keeps those of the first input.
            attributes: of the operation, as ONNX names them.

        Returns:
            The name.
        """
        node = helper.make_node(kind, inputs, [name], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        self.channels[name] = self.channels[inputs[0]] if channels is None else channels
        return name

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        *,
        pad: int | None = None,
        groups: int = 1,
        activation: str | None = RELU,
        gain: float = 1.0,
    ) -> str:
        """Add a convolution with bias and its activation.

        Args:
            name: of the convolution.
            x: name of its input.
            channels: of its output.
            kernel: side of the filters.
            stride: in both directions.
            pad: on all four sides; None takes half the kernel, which keeps the size at stride 1.
            groups: of channels that are convolved apart.
            activation: `RELU`, `RELU6`, or `LINEAR` for none.
            gain: on the standard deviation of the weights.

        Returns:
            The output's name.
        """
        pad = kernel // 2 if pad is None else pad
        shape = (channels, self.channels[x] // groups, kernel, kernel)
        weights = self._weights(name, shape, gain * (np.sqrt(2) if activation else 1))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
        return self._activated(self.op("Conv", name, x, *weights, channels=channels, **sizes), activation)

    def linear(self, name: str, x: str, inputs: int, outputs: int, activation: str | None = LINEAR) -> str:
        """Add a linear layer with bias and its activation.

        Args:
            name: of the layer.
            x: name of its input, [N, inputs].
            inputs: number of input features.
            outputs: number of output features.
            activation: `RELU`, `RELU6`, or `LINEAR` for none.

        Returns:
            The output's name.
        """
        weights = self._weights(name, (outputs, inputs), np.sqrt(2) if activation else 1)
        return self._activated(self.op("Gemm", name, x, *weights, channels=outputs, transB=1), activation)

    def _activated(self, x: str, activation: str | None) -> str:
        if activation is None:
            return x
        limits = (self.setting("zero", np.float32(0)), self.setting("six", np.float32(6)))
        return self.op(activation, f"{x}.relu", x, *(limits if activation == RELU6 else ()))

    def _weights(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[str, str]:
        """Add weights, uniform with He's variance gain^2 / fan-in, and a small bias; return their names."""
        bound = gain * np.sqrt(3 / np.prod(shape[1:]))
        for kind, size, reach in (("weight", shape, bound), ("bias", shape[:1], 0.1)):
            values = self.random.random(size, dtype=np.float32)
            values -= np.float32(0.5)
            values *= np.float32(2 * reach)
            self.weights[f"{name}.{kind}"] = values
        return f"{name}.weight", f"{name}.bias"

    def setting(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add a constant that configures operations.

        Args:
            name: of the constant; a later one of the same name replaces it.
            value: stays inside the structure.

        Returns:
            The name.
        """
        self.settings[name] = np.asarray(value)
        return name

    def max_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> str:
        """Add a max pooling.

        Args:
            name: of the pooling.
            x: name of its input.
            kernel: side of the windows.
            stride: in both directions.
            pad: on all four sides.
            ceil: round the output's size up instead of down.

        Returns:
            The output's name.
        """
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": int(ceil)}
        return self.op("MaxPool", name, x, **sizes)

    def flat(self, x: str) -> str:
        """Flatten all axes but the batch.

        Args:
            x: name of the input.

        Returns:
            The output's name.
        """
        return self.op("Flatten", f"{x}.flat", x)

    def classes(self, x: str, count: int) -> str:
        """Add the usual head: mean over all places, then one linear layer.

        Args:
            x: name of the feature maps.
            count: number of classes.

        Returns:
            The logits' name.
        """
        flat = self.flat(self.op("GlobalAveragePool", "pool", x))
        return self.linear("logits", flat, self.channels[flat], count)

    def graph(self, name: str, logits: str | Sequence[str], classes: int) -> ModelGraph:
        """Return the finished network.

        Args:
            name: of the network.
            logits: name of the output, or of each exit's output, the earliest first.
            classes: number of classes of each output.

        Raises:
            GraphError: if the layers do not fit each other.
        """
        exits = (logits,) if isinstance(logits, str) else logits
        shape = ["N", len(self.image.mean), self.image.height, self.image.width]
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(exit_, onnx.TensorProto.FLOAT, ["N", classes]) for exit_ in exits],
            [
                *(onnx.numpy_helper.from_array(value, key) for key, value in self.settings.items()),
                *(reference(key, value) for key, value in self.weights.items()),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.metadata_props.append(image_property(self.image))
        return from_proto(model, name, self.weights)

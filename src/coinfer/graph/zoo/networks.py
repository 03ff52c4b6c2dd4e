"""The networks of the papers and two more, built as ONNX without any framework.

Layer sizes are torchvision's for 224 x 224 (AlexNet, VGG16, ResNet-50, MobileNetV2, GoogLeNet without its auxiliary
heads), and the original papers' for 32 x 32: NiN (Lin et al. 2014), ResNet-32 (He et al. 2016, shortcuts without
weights), VGG16 with one linear layer as is usual for CIFAR-10, AlexNet as BranchyNet (Teerapittayanon et al. 2016)
cut it down, without its local normalisation. Batch norm is folded into the convolution before it, as in deployed
networks.

Weights are random: He's scale, so that activations stay near 1, which is what speed, sizes and cuts depend on.
What such a network answers means nothing; for answers open a trained ONNX file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from coinfer.graph.ir import GraphError, ImageInput, ModelGraph
from coinfer.graph.onnx.load import from_proto, image_property, load, reference
from coinfer.graph.onnx.sandbox import try_model

OPSET = 17
IMAGENET = ImageInput(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ImageInput(32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_RELU, _RELU6, _LINEAR = "Relu", "Clip", None
_RESIDUAL_GAIN = 0.5
"""Of the last layer of a residual branch, so that sums of many branches do not grow."""


class _Net:
    """A network under construction. Each layer is called like the tensor that it makes."""

    def __init__(self, image: ImageInput, seed: int) -> None:
        self.image = image
        self.random = np.random.Generator(np.random.SFC64(seed))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.settings: dict[str, np.ndarray] = {}
        self.channels = {"input": len(image.mean)}

    def op(self, kind: str, name: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        self.channels[name] = self.channels[inputs[0]] if channels is None else channels
        return name

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        activation: str | None = _RELU,
        gain: float = 1.0,
    ) -> str:
        """A convolution that keeps the size at stride 1 unless `pad` says otherwise, and its activation."""
        pad = kernel // 2 if pad is None else pad
        shape = (channels, self.channels[x] // groups, kernel, kernel)
        weights = self._weights(name, shape, gain * (np.sqrt(2) if activation else 1))
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
        return self._activated(self.op("Conv", name, x, *weights, channels=channels, **sizes), activation)

    def linear(self, name: str, x: str, inputs: int, outputs: int, activation: str | None = _LINEAR) -> str:
        weights = self._weights(name, (outputs, inputs), np.sqrt(2) if activation else 1)
        return self._activated(self.op("Gemm", name, x, *weights, channels=outputs, transB=1), activation)

    def _activated(self, x: str, activation: str | None) -> str:
        if activation is None:
            return x
        limits = (self.setting("zero", np.float32(0)), self.setting("six", np.float32(6)))
        return self.op(activation, f"{x}.relu", x, *(limits if activation == _RELU6 else ()))

    def _weights(self, name: str, shape: tuple[int, ...], gain: float) -> tuple[str, str]:
        """Uniform with He's variance gain^2 / fan-in; a small bias."""
        bound = gain * np.sqrt(3 / np.prod(shape[1:]))
        for kind, size, reach in (("weight", shape, bound), ("bias", shape[:1], 0.1)):
            values = self.random.random(size, dtype=np.float32)
            values -= np.float32(0.5)
            values *= np.float32(2 * reach)
            self.weights[f"{name}.{kind}"] = values
        return f"{name}.weight", f"{name}.bias"

    def setting(self, name: str, value: np.ndarray | np.generic) -> str:
        self.settings[name] = np.asarray(value)
        return name

    def max_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> str:
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": int(ceil)}
        return self.op("MaxPool", name, x, **sizes)

    def flat(self, x: str) -> str:
        return self.op("Flatten", f"{x}.flat", x)

    def classes(self, x: str, count: int) -> str:
        """The head of most networks: mean over all places, then one linear layer."""
        flat = self.flat(self.op("GlobalAveragePool", "pool", x))
        return self.linear("logits", flat, self.channels[flat], count)

    def graph(self, name: str, logits: str | Sequence[str], classes: int) -> ModelGraph:
        """The finished network; with several logits each is an exit of its own."""
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


def _alexnet(seed: int) -> ModelGraph:
    net = _Net(IMAGENET, seed)
    x = net.conv("conv1", "input", 64, 11, stride=4, pad=2)
    x = net.conv("conv2", net.max_pool("pool1", x, 3, 2), 192, 5)
    x = net.conv("conv3", net.max_pool("pool2", x, 3, 2), 384, 3)
    x = net.conv("conv5", net.conv("conv4", x, 256, 3), 256, 3)
    x = net.flat(net.max_pool("pool3", x, 3, 2))
    x = net.linear("fc2", net.linear("fc1", x, 256 * 6 * 6, 4096, _RELU), 4096, 4096, _RELU)
    return net.graph("alexnet", net.linear("logits", x, 4096, 1000), 1000)


def _alexnet_cifar(seed: int) -> ModelGraph:
    """Niu et al. (WCNC 2022) count 20 layers, dropout among them, so it stays in the graph; it does nothing."""
    net = _Net(CIFAR, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 32, 5), 3, 2)
    x = net.max_pool("pool2", net.conv("conv2", x, 64, 5), 3, 2)
    x = net.conv("conv5", net.conv("conv4", net.conv("conv3", x, 96, 3), 96, 3), 64, 3)
    x = net.flat(net.max_pool("pool3", x, 3, 2))
    x = net.op("Dropout", "drop1", net.linear("fc1", x, 64 * 3 * 3, 256, _RELU))
    x = net.op("Dropout", "drop2", net.linear("fc2", x, 256, 128, _RELU))
    return net.graph("alexnet-cifar", net.linear("logits", x, 128, 10), 10)


_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage; a pool ends it."""


def _vgg_features(net: _Net) -> str:
    x = "input"
    for stage, (channels, count) in enumerate(_VGG16, 1):
        for i in range(1, count + 1):
            x = net.conv(f"conv{stage}_{i}", x, channels, 3)
        x = net.max_pool(f"pool{stage}", x, 2, 2)
    return net.flat(x)


def _vgg16(seed: int) -> ModelGraph:
    net = _Net(IMAGENET, seed)
    x = net.linear("fc1", _vgg_features(net), 512 * 7 * 7, 4096, _RELU)
    x = net.linear("fc2", x, 4096, 4096, _RELU)
    return net.graph("vgg16", net.linear("logits", x, 4096, 1000), 1000)


def _vgg16_cifar(seed: int) -> ModelGraph:
    net = _Net(CIFAR, seed)
    return net.graph("vgg16-cifar", net.linear("logits", _vgg_features(net), 512, 10), 10)


def _resnet50(seed: int) -> ModelGraph:
    net = _Net(IMAGENET, seed)
    x = net.max_pool("maxpool", net.conv("conv1", "input", 64, 7, stride=2), 3, 2, pad=1)
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for i in range(count):
            x = _bottleneck(net, f"layer{stage}.{i}", x, width, stride=2 if i == 0 and stage > 1 else 1)
    return net.graph("resnet50", net.classes(x, 1000), 1000)


def _bottleneck(net: _Net, name: str, x: str, width: int, stride: int) -> str:
    inner = net.conv(f"{name}.conv2", net.conv(f"{name}.conv1", x, width, 1), width, 3, stride)
    branch = net.conv(f"{name}.conv3", inner, 4 * width, 1, activation=_LINEAR, gain=_RESIDUAL_GAIN)
    if net.channels[x] != 4 * width:
        x = net.conv(f"{name}.downsample", x, 4 * width, 1, stride, activation=_LINEAR)
    return net.op("Relu", f"{name}.relu", net.op("Add", f"{name}.add", branch, x))


def _resnet32(seed: int) -> ModelGraph:
    net = _Net(CIFAR, seed)
    x = net.conv("conv1", "input", 16, 3)
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range(5):
            x = _basic_block(net, f"layer{stage}.{i}", x, width, stride=2 if i == 0 and stage > 1 else 1)
    return net.graph("resnet32", net.classes(x, 10), 10)


def _basic_block(net: _Net, name: str, x: str, width: int, stride: int) -> str:
    inner = net.conv(f"{name}.conv1", x, width, 3, stride)
    branch = net.conv(f"{name}.conv2", inner, width, 3, activation=_LINEAR, gain=_RESIDUAL_GAIN)
    if stride > 1:
        x = _thinned(net, name, x, width)
    return net.op("Relu", f"{name}.relu", net.op("Add", f"{name}.add", branch, x))


def _thinned(net: _Net, name: str, x: str, width: int) -> str:
    """The shortcut without weights (He et al. 2016, option A): every other place, zeros for the new channels."""
    start, end, axes, steps = (
        net.setting(key, np.array(value, np.int64))
        for key, value in (("starts", [0, 0]), ("ends", [2**31, 2**31]), ("axes", [2, 3]), ("steps", [2, 2]))
    )
    thin = net.op("Slice", f"{name}.slice", x, start, end, axes, steps)
    each = (width - net.channels[x]) // 2
    pads = net.setting(f"pads{width}", np.array([0, each, 0, 0, 0, each, 0, 0], np.int64))
    return net.op("Pad", f"{name}.pad", thin, pads, channels=width)


def _nin(seed: int) -> ModelGraph:
    net = _Net(CIFAR, seed)
    x = net.conv("conv1", "input", 192, 5)
    x = net.conv("cccp2", net.conv("cccp1", x, 160, 1), 96, 1)
    x = net.conv("conv2", net.max_pool("pool1", x, 3, 2, pad=1), 192, 5)
    x = net.conv("cccp4", net.conv("cccp3", x, 192, 1), 192, 1)
    x = net.op("AveragePool", "pool2", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.conv("cccp5", net.conv("conv3", x, 192, 3), 192, 1)
    x = net.op("GlobalAveragePool", "pool", net.conv("cccp6", x, 10, 1))
    return net.graph("nin", net.op("Flatten", "logits", x), 10)


_MOBILENETV2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks, first stride of each stage (Sandler et al. 2018, table 2)."""


def _mobilenetv2(seed: int) -> ModelGraph:
    net = _Net(IMAGENET, seed)
    x = net.conv("conv1", "input", 32, 3, stride=2, activation=_RELU6)
    for stage, (expansion, channels, count, first_stride) in enumerate(_MOBILENETV2, 1):
        for i in range(count):
            x = _inverted_residual(net, f"stage{stage}.{i}", x, expansion, channels, 1 if i else first_stride)
    return net.graph("mobilenetv2", net.classes(net.conv("conv2", x, 1280, 1, activation=_RELU6), 1000), 1000)


def _inverted_residual(net: _Net, name: str, x: str, expansion: int, channels: int, stride: int) -> str:
    wide = net.channels[x] * expansion
    inner = net.conv(f"{name}.expand", x, wide, 1, activation=_RELU6) if expansion > 1 else x
    inner = net.conv(f"{name}.depthwise", inner, wide, 3, stride, groups=wide, activation=_RELU6)
    whole = stride > 1 or net.channels[x] != channels
    narrow = net.conv(f"{name}.project", inner, channels, 1, activation=_LINEAR, gain=1 if whole else _RESIDUAL_GAIN)
    return narrow if whole else net.op("Add", f"{name}.add", narrow, x)


_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels: 1x1, 3x3 reduced, 3x3, second 3x3 reduced, second 3x3, after the pool (Szegedy et al. 2015, table 1)."""


def _googlenet(seed: int) -> ModelGraph:
    """The third branch has 3 x 3 filters where the paper has 5 x 5: so do the weights that everybody uses."""
    net = _Net(IMAGENET, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 64, 7, stride=2), 3, 2, ceil=True)
    x = net.conv("conv3", net.conv("conv2", x, 64, 1), 192, 3)
    x = net.max_pool("pool2", x, 3, 2, ceil=True)
    for name, widths in _INCEPTION.items():
        x = _inception(net, f"inception{name}", x, *widths)
        if name in {"3b", "4e"}:
            x = net.max_pool(f"pool{name[0]}", x, *((3, 2) if name == "3b" else (2, 2)), ceil=True)
    return net.graph("googlenet", net.classes(x, 1000), 1000)


def _inception(net: _Net, name: str, x: str, a: int, b_in: int, b: int, c_in: int, c: int, d: int) -> str:
    branches = (
        net.conv(f"{name}.a", x, a, 1),
        net.conv(f"{name}.b2", net.conv(f"{name}.b1", x, b_in, 1), b, 3),
        net.conv(f"{name}.c2", net.conv(f"{name}.c1", x, c_in, 1), c, 3),
        net.conv(f"{name}.d2", net.max_pool(f"{name}.d1", x, 3, 1, pad=1), d, 1),
    )
    return net.op("Concat", f"{name}.concat", *branches, channels=a + b + c + d, axis=1)


ZOO: Mapping[str, Callable[[int], ModelGraph]] = {
    "alexnet": _alexnet,
    "alexnet-cifar": _alexnet_cifar,
    "googlenet": _googlenet,
    "mobilenetv2": _mobilenetv2,
    "nin": _nin,
    "resnet32": _resnet32,
    "resnet50": _resnet50,
    "vgg16": _vgg16,
    "vgg16-cifar": _vgg16_cifar,
}


def build(name: str, seed: int = 0) -> ModelGraph:
    """A network of the zoo; the same name and seed give the same weights on every machine.

    Raises:
        GraphError: for an unknown name, listing the known.
    """
    if name not in ZOO:
        raise GraphError(f"no network {name!r} in the zoo; it has {', '.join(ZOO)}")
    return ZOO[name](seed)


def open_model(spec: str | Path) -> ModelGraph:
    """A network by the name it has in the zoo (plain, with exits, or trained), or by the path of its ONNX file, after a
    trial run in a process of its own.

    Raises:
        GraphError: where there is neither, or as `trial.try_model` and `onnx_import.load`.
    """
    from coinfer.graph.zoo import early_exits, pretrained  # they build on this module

    for names, opened in (
        (ZOO, build),
        (early_exits.EXITS, early_exits.build),
        (pretrained.names(), pretrained.load_trained),
    ):
        if str(spec) in names:
            return opened(str(spec))
    if not Path(spec).exists():
        known = ", ".join(sorted({*ZOO, *early_exits.EXITS, *pretrained.names()}))
        raise GraphError(f"no network {str(spec)!r}: neither a file nor one of the zoo: {known}")
    try_model(Path(spec))
    return load(spec)

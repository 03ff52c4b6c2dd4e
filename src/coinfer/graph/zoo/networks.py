"""The networks of the papers and two more, built as ONNX without any framework.

Layer sizes are torchvision's for 224 x 224 (AlexNet, VGG16, ResNet-50, MobileNetV2, GoogLeNet without its auxiliary
heads), and the original papers' for 32 x 32: NiN (Lin et al. 2014), ResNet-32 (He et al. 2016, shortcuts without
weights), VGG16 with one linear layer as is usual for CIFAR-10, AlexNet as BranchyNet (Teerapittayanon et al. 2016)
cut it down, without its local normalisation. Batch norm is folded into the convolution before it, as in deployed
networks.

Weights are random, at He's scale: activations stay near 1, which is what speed, sizes and cuts depend on. The answers
of such a network mean nothing; for answers open a trained ONNX file.
"""

from collections.abc import Callable, Mapping

import numpy as np

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.zoo.builder import CIFAR, IMAGENET, LINEAR, RELU, RELU6, NetBuilder

_RESIDUAL_GAIN = 0.5
"""Gain of the last layer of a residual branch, so that sums of many branches do not grow."""


def _alexnet(seed: int) -> ModelGraph:
    net = NetBuilder(IMAGENET, seed)
    x = net.conv("conv1", "input", 64, 11, stride=4, pad=2)
    x = net.conv("conv2", net.max_pool("pool1", x, 3, 2), 192, 5)
    x = net.conv("conv3", net.max_pool("pool2", x, 3, 2), 384, 3)
    x = net.conv("conv5", net.conv("conv4", x, 256, 3), 256, 3)
    x = net.flat(net.max_pool("pool3", x, 3, 2))
    x = net.linear("fc2", net.linear("fc1", x, 256 * 6 * 6, 4096, RELU), 4096, 4096, RELU)
    return net.graph("alexnet", net.linear("logits", x, 4096, 1000), 1000)


def _alexnet_cifar(seed: int) -> ModelGraph:
    """Return the AlexNet of Niu et al. (WCNC 2022), with the dropout layers that they count; they do nothing here."""
    net = NetBuilder(CIFAR, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 32, 5), 3, 2)
    x = net.max_pool("pool2", net.conv("conv2", x, 64, 5), 3, 2)
    x = net.conv("conv5", net.conv("conv4", net.conv("conv3", x, 96, 3), 96, 3), 64, 3)
    x = net.flat(net.max_pool("pool3", x, 3, 2))
    x = net.op("Dropout", "drop1", net.linear("fc1", x, 64 * 3 * 3, 256, RELU))
    x = net.op("Dropout", "drop2", net.linear("fc2", x, 256, 128, RELU))
    return net.graph("alexnet-cifar", net.linear("logits", x, 128, 10), 10)


VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage; a pool ends it."""


def _vgg_features(net: NetBuilder) -> str:
    x = "input"
    for stage, (channels, count) in enumerate(VGG16, 1):
        for i in range(1, count + 1):
            x = net.conv(f"conv{stage}_{i}", x, channels, 3)
        x = net.max_pool(f"pool{stage}", x, 2, 2)
    return net.flat(x)


def _vgg16(seed: int) -> ModelGraph:
    net = NetBuilder(IMAGENET, seed)
    x = net.linear("fc1", _vgg_features(net), 512 * 7 * 7, 4096, RELU)
    x = net.linear("fc2", x, 4096, 4096, RELU)
    return net.graph("vgg16", net.linear("logits", x, 4096, 1000), 1000)


def _vgg16_cifar(seed: int) -> ModelGraph:
    net = NetBuilder(CIFAR, seed)
    return net.graph("vgg16-cifar", net.linear("logits", _vgg_features(net), 512, 10), 10)


def _resnet50(seed: int) -> ModelGraph:
    net = NetBuilder(IMAGENET, seed)
    x = net.max_pool("maxpool", net.conv("conv1", "input", 64, 7, stride=2), 3, 2, pad=1)
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for i in range(count):
            x = _bottleneck(net, f"layer{stage}.{i}", x, width, stride=2 if i == 0 and stage > 1 else 1)
    return net.graph("resnet50", net.classes(x, 1000), 1000)


def _bottleneck(net: NetBuilder, name: str, x: str, width: int, stride: int) -> str:
    inner = net.conv(f"{name}.conv2", net.conv(f"{name}.conv1", x, width, 1), width, 3, stride)
    branch = net.conv(f"{name}.conv3", inner, 4 * width, 1, activation=LINEAR, gain=_RESIDUAL_GAIN)
    if net.channels[x] != 4 * width:
        x = net.conv(f"{name}.downsample", x, 4 * width, 1, stride, activation=LINEAR)
    return net.op("Relu", f"{name}.relu", net.op("Add", f"{name}.add", branch, x))


def _resnet32(seed: int) -> ModelGraph:
    net = NetBuilder(CIFAR, seed)
    x = net.conv("conv1", "input", 16, 3)
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range(5):
            x = _basic_block(net, f"layer{stage}.{i}", x, width, stride=2 if i == 0 and stage > 1 else 1)
    return net.graph("resnet32", net.classes(x, 10), 10)


def _basic_block(net: NetBuilder, name: str, x: str, width: int, stride: int) -> str:
    inner = net.conv(f"{name}.conv1", x, width, 3, stride)
    branch = net.conv(f"{name}.conv2", inner, width, 3, activation=LINEAR, gain=_RESIDUAL_GAIN)
    if stride > 1:
        x = _thinned(net, name, x, width)
    return net.op("Relu", f"{name}.relu", net.op("Add", f"{name}.add", branch, x))


def _thinned(net: NetBuilder, name: str, x: str, width: int) -> str:
    """Return the shortcut without weights (He et al. 2016, option A): every other place, zeros for new channels."""
    start, end, axes, steps = (
        net.setting(key, np.array(value, np.int64))
        for key, value in (("starts", [0, 0]), ("ends", [2**31, 2**31]), ("axes", [2, 3]), ("steps", [2, 2]))
    )
    halved = net.op("Slice", f"{name}.slice", x, start, end, axes, steps)
    pad_channels = (width - net.channels[x]) // 2
    pads = net.setting(f"pads{width}", np.array([0, pad_channels, 0, 0, 0, pad_channels, 0, 0], np.int64))
    return net.op("Pad", f"{name}.pad", halved, pads, channels=width)


def _nin(seed: int) -> ModelGraph:
    net = NetBuilder(CIFAR, seed)
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
    net = NetBuilder(IMAGENET, seed)
    x = net.conv("conv1", "input", 32, 3, stride=2, activation=RELU6)
    for stage, (expansion, channels, count, first_stride) in enumerate(_MOBILENETV2, 1):
        for i in range(count):
            x = _inverted_residual(net, f"stage{stage}.{i}", x, expansion, channels, 1 if i else first_stride)
    return net.graph("mobilenetv2", net.classes(net.conv("conv2", x, 1280, 1, activation=RELU6), 1000), 1000)


def _inverted_residual(net: NetBuilder, name: str, x: str, expansion: int, channels: int, stride: int) -> str:
    wide = net.channels[x] * expansion
    inner = net.conv(f"{name}.expand", x, wide, 1, activation=RELU6) if expansion > 1 else x
    inner = net.conv(f"{name}.depthwise", inner, wide, 3, stride, groups=wide, activation=RELU6)
    whole = stride > 1 or net.channels[x] != channels
    narrow = net.conv(f"{name}.project", inner, channels, 1, activation=LINEAR, gain=1 if whole else _RESIDUAL_GAIN)
    return narrow if whole else net.op("Add", f"{name}.add", narrow, x)


_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels: 1x1, 3x3 reduced, 3x3, second 3x3 reduced, second 3x3, after the pool (Szegedy et al. 2015, table 1)."""


def _googlenet(seed: int) -> ModelGraph:
    """Return GoogLeNet with 3 x 3 filters in the third branch where the paper has 5 x 5, like torchvision's weights."""
    net = NetBuilder(IMAGENET, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 64, 7, stride=2), 3, 2, ceil=True)
    x = net.conv("conv3", net.conv("conv2", x, 64, 1), 192, 3)
    x = net.max_pool("pool2", x, 3, 2, ceil=True)
    for name, widths in _INCEPTION.items():
        x = _inception(net, f"inception{name}", x, widths)
        if name in {"3b", "4e"}:
            x = net.max_pool(f"pool{name[0]}", x, *((3, 2) if name == "3b" else (2, 2)), ceil=True)
    return net.graph("googlenet", net.classes(x, 1000), 1000)


def _inception(net: NetBuilder, name: str, x: str, widths: tuple[int, int, int, int, int, int]) -> str:
    a, b_in, b, c_in, c, d = widths
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
    """Return a network of the zoo.

    Args:
        name: one of `ZOO`.
        seed: of the weights; they are the same on every machine.

    Raises:
        GraphError: if the name is unknown; the message lists the known ones.
    """
    if name not in ZOO:
        raise GraphError(f"no network {name!r} in the zoo; it has {', '.join(ZOO)}")
    return ZOO[name](seed)

"""Networks with early exits: several outputs, the first the earliest. `ModelGraph.pruned` gives the network of one.

Random weights, as in `zoo`; accuracies come with training.
"""

from collections.abc import Callable, Mapping

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.zoo import _RELU, _VGG16, CIFAR, IMAGENET, _Net


def _alexnet_cifar_exits(seed: int) -> ModelGraph:
    """Niu et al. (WCNC 2022): three exits of 9, 12 and 20 layers. The paper names no layers; the same head of six after
    the first and the second pool gives these counts. Sizes of the trunk are BranchyNet's (Teerapittayanon et al. 2016).
    """
    net = _Net(CIFAR, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 32, 5), 3, 2)
    first = _head(net, "exit1", x, side=15)
    x = net.max_pool("pool2", net.conv("conv2", x, 64, 5), 3, 2)
    second = _head(net, "exit2", x, side=7)
    x = net.conv("conv5", net.conv("conv4", net.conv("conv3", x, 96, 3), 96, 3), 64, 3)
    x = net.flat(net.max_pool("pool3", x, 3, 2))
    x = net.op("Dropout", "drop1", net.linear("fc1", x, 64 * 3 * 3, 256, _RELU))
    x = net.op("Dropout", "drop2", net.linear("fc2", x, 256, 128, _RELU))
    return net.graph("alexnet-cifar-exits", (first, second, net.linear("exit3", x, 128, 10)), 10)


def _alexnet_exits(seed: int) -> ModelGraph:
    """The same for pictures of 224 x 224: torchvision's AlexNet, which has 20 layers too, for ten classes."""
    net = _Net(IMAGENET, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 64, 11, stride=4, pad=2), 3, 2)
    first = _head(net, "exit1", x, side=27)
    x = net.max_pool("pool2", net.conv("conv2", x, 192, 5), 3, 2)
    second = _head(net, "exit2", x, side=13)
    x = net.conv("conv5", net.conv("conv4", net.conv("conv3", x, 384, 3), 256, 3), 256, 3)
    x = net.op("Dropout", "drop1", net.flat(net.max_pool("pool3", x, 3, 2)))
    x = net.op("Dropout", "drop2", net.linear("fc1", x, 256 * 6 * 6, 4096, _RELU))
    x = net.linear("fc2", x, 4096, 4096, _RELU)
    return net.graph("alexnet-exits", (first, second, net.linear("exit3", x, 4096, 10)), 10)


def _head(net: _Net, name: str, x: str, side: int) -> str:
    """Conv, ReLU, pool, linear, ReLU, linear on a picture of side x side."""
    pooled = net.max_pool(f"{name}.pool", net.conv(f"{name}.conv", x, 32, 3), 3, 2)
    hidden = net.linear(f"{name}.fc", net.flat(pooled), 32 * ((side - 1) // 2) ** 2, 128, _RELU)
    return net.linear(name, hidden, 128, 10)


def _vgg16_exits(seed: int) -> ModelGraph:
    """VGG16 for CIFAR-10 with an exit after every pool: mean over all places, then one linear layer."""
    net, x, exits = _Net(CIFAR, seed), "input", list[str]()
    for stage, (channels, count) in enumerate(_VGG16, 1):
        for i in range(1, count + 1):
            x = net.conv(f"conv{stage}_{i}", x, channels, 3)
        x = net.max_pool(f"pool{stage}", x, 2, 2)
        mean = net.flat(net.op("GlobalAveragePool", f"exit{stage}.mean", x))
        exits.append(net.linear(f"exit{stage}", mean, channels, 10))
    return net.graph("vgg16-cifar-exits", exits, 10)


EXITS: Mapping[str, Callable[[int], ModelGraph]] = {
    "alexnet-cifar-exits": _alexnet_cifar_exits,
    "alexnet-exits": _alexnet_exits,
    "vgg16-cifar-exits": _vgg16_exits,
}


def build(name: str, seed: int = 0) -> ModelGraph:
    """A network with early exits; the same name and seed give the same weights on every machine.

    Raises:
        GraphError: for an unknown name, listing the known.
    """
    if name not in EXITS:
        raise GraphError(f"no network {name!r} with exits; there are {', '.join(EXITS)}")
    return EXITS[name](seed)

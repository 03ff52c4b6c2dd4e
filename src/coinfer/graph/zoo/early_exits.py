"""Networks with early exits: several outputs, the earliest first. `ModelGraph.pruned` returns the network of one exit.

Weights are random, as in `networks`; training (`exit_training`) makes the exits accurate.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import onnx

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.assemble import reference
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.zoo import networks
from coinfer.graph.zoo.builder import CIFAR, IMAGENET, RELU, NetBuilder
from coinfer.graph.zoo.networks import VGG16

_PICTURE_AXES = 4
_BRANCH_CHANNELS = 64


def with_exits(
    graph: ModelGraph, at: Sequence[str | int], classes: int, seed: int = 0, name: str | None = None
) -> ModelGraph:
    """Return a network with additional exits of random weights; its own output is the last exit.

    A branch on feature maps is a 3 x 3 convolution to 64 channels, ReLU, mean over all places and one linear layer; on
    flat tensors it is one linear layer.

    Args:
        graph: takes pictures and has one output; it stays as it is.
        at: names of tensors, or numbers of blocks (1 is the first, as `useful_cuts` divides them), after each of which
            an exit is added. Their order does not matter.
        classes: number of classes of the network's output.
        seed: of the branches' weights.
        name: of the new network; None appends `-exits` to the old name.

    Raises:
        GraphError: if a place does not exist or is named twice, or the network takes no pictures or has no single
            output of `classes`.
    """
    if len(graph.outputs) != 1 or graph.tensors[graph.outputs[0]].shape[1:] != (classes,):
        outputs = ", ".join(f"{output} {list(graph.tensors[output].shape)}" for output in graph.outputs)
        raise GraphError(f"{graph.name}: exits need one output of {classes} classes, [N, {classes}]; it has {outputs}")
    if graph.image is None:
        raise GraphError(f"{graph.name} does not say how it takes pictures; exits are for networks of pictures")
    places = [_place(graph, where) for where in at]
    if not places or len(set(places)) < len(places):
        raise GraphError(f"{graph.name}: exits at {', '.join(map(str, at)) or 'no place'}; expected different places")
    places.sort(key=lambda tensor: graph.producer[tensor])
    nodes = [[node] for node in graph.proto.graph.node]
    net, exits = NetBuilder(graph.image, seed), list[str]()
    for number, tensor in enumerate(places, 1):
        if f"exit{number}" in graph.tensors:
            raise GraphError(f"{graph.name} has a tensor exit{number} already; it seems to have exits")
        net.channels[tensor], net.nodes = graph.tensors[tensor].shape[1], []
        exits.append(_branch(net, f"exit{number}", tensor, graph.tensors[tensor].shape, classes))
        nodes[graph.ops[graph.producer[tensor]].nodes[-1]] += net.nodes
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    proto.graph.ClearField("node")
    proto.graph.ClearField("value_info")
    proto.graph.ClearField("output")
    proto.graph.node.extend(node for group in nodes for node in group)
    for output in (*exits, *graph.outputs):
        proto.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", classes]))
    proto.graph.initializer.extend(reference(key, value) for key, value in net.weights.items())
    name = name or f"{graph.name}-exits"
    proto.graph.name = name
    return from_proto(proto, name, {**graph.weights, **net.weights})


def _place(graph: ModelGraph, where: str | int) -> str:
    """Return the name of the tensor that a branch reads."""
    if isinstance(where, int):
        cuts = graph.useful_cuts()
        if not 1 <= where < len(cuts) - 1:
            raise GraphError(f"{graph.name}: no exit after block {where}; there may be one after 1 to {len(cuts) - 2}")
        if len(cuts[where].tensors) > 1:
            raise GraphError(f"{graph.name}: block {where} ends in several tensors; an exit needs one")
        where = cuts[where].tensors[0]
    if where not in graph.producer or where in graph.outputs:
        raise GraphError(f"{graph.name}: no exit at {where!r}: no tensor of this name inside the network")
    return where


def _branch(net: NetBuilder, name: str, x: str, shape: tuple[int, ...], classes: int) -> str:
    if len(shape) != _PICTURE_AXES:
        flat = x if len(shape) == 2 else net.flat(x)
        return net.linear(name, flat, math.prod(shape[1:]), classes)
    mean = net.op("GlobalAveragePool", f"{name}.mean", net.conv(f"{name}.conv", x, _BRANCH_CHANNELS, 3))
    return net.linear(name, net.flat(mean), _BRANCH_CHANNELS, classes)


def _alexnet_cifar_exits(seed: int) -> ModelGraph:
    """Return the AlexNet of Niu et al. (WCNC 2022) with three exits of 9, 12 and 20 layers.

    The paper names no layers; the same head of six after the first and the second pool gives these counts. Sizes of the
    trunk are those of BranchyNet (Teerapittayanon et al. 2016).
    """
    net = NetBuilder(CIFAR, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 32, 5), 3, 2)
    first = _head(net, "exit1", x, side=15)
    x = net.max_pool("pool2", net.conv("conv2", x, 64, 5), 3, 2)
    second = _head(net, "exit2", x, side=7)
    x = net.conv("conv5", net.conv("conv4", net.conv("conv3", x, 96, 3), 96, 3), 64, 3)
    x = net.flat(net.max_pool("pool3", x, 3, 2))
    x = net.op("Dropout", "drop1", net.linear("fc1", x, 64 * 3 * 3, 256, RELU))
    x = net.op("Dropout", "drop2", net.linear("fc2", x, 256, 128, RELU))
    return net.graph("alexnet-cifar-exits", (first, second, net.linear("exit3", x, 128, 10)), 10)


def _alexnet_224_exits(seed: int) -> ModelGraph:
    """Return the same for pictures of 224 x 224: torchvision's AlexNet, also of 20 layers, for ten classes."""
    net = NetBuilder(IMAGENET, seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 64, 11, stride=4, pad=2), 3, 2)
    first = _head(net, "exit1", x, side=27)
    x = net.max_pool("pool2", net.conv("conv2", x, 192, 5), 3, 2)
    second = _head(net, "exit2", x, side=13)
    x = net.conv("conv5", net.conv("conv4", net.conv("conv3", x, 384, 3), 256, 3), 256, 3)
    x = net.op("Dropout", "drop1", net.flat(net.max_pool("pool3", x, 3, 2)))
    x = net.op("Dropout", "drop2", net.linear("fc1", x, 256 * 6 * 6, 4096, RELU))
    x = net.linear("fc2", x, 4096, 4096, RELU)
    return net.graph("alexnet-224-exits", (first, second, net.linear("exit3", x, 4096, 10)), 10)


def _head(net: NetBuilder, name: str, x: str, side: int) -> str:
    """Add conv, ReLU, pool, linear, ReLU and linear on feature maps of side x side; return the logits' name."""
    pooled = net.max_pool(f"{name}.pool", net.conv(f"{name}.conv", x, 32, 3), 3, 2)
    hidden = net.linear(f"{name}.fc", net.flat(pooled), 32 * ((side - 1) // 2) ** 2, 128, RELU)
    return net.linear(name, hidden, 128, 10)


def _vgg16_exits(seed: int) -> ModelGraph:
    """Return VGG16 for CIFAR-10 with an exit after every pool: mean over all places, then one linear layer."""
    net, x, exits = NetBuilder(CIFAR, seed), "input", list[str]()
    for stage, (channels, count) in enumerate(VGG16, 1):
        for i in range(1, count + 1):
            x = net.conv(f"conv{stage}_{i}", x, channels, 3)
        x = net.max_pool(f"pool{stage}", x, 2, 2)
        mean = net.flat(net.op("GlobalAveragePool", f"exit{stage}.mean", x))
        exits.append(net.linear(f"exit{stage}", mean, channels, 10))
    return net.graph("vgg16-cifar-exits", exits, 10)


def _resnet32_exits(seed: int) -> ModelGraph:
    """Return ResNet-32 with an exit after each of its three stages."""
    places = ("layer1.4.relu", "layer2.4.relu")
    return with_exits(networks.build("resnet32", seed), places, 10, seed, "resnet32-cifar-exits")


EXITS: Mapping[str, Callable[[int], ModelGraph]] = {
    "alexnet-224-exits": _alexnet_224_exits,
    "alexnet-cifar-exits": _alexnet_cifar_exits,
    "resnet32-cifar-exits": _resnet32_exits,
    "vgg16-cifar-exits": _vgg16_exits,
}


def build(name: str, seed: int = 0) -> ModelGraph:
    """Return a network with early exits.

    Args:
        name: one of `EXITS`.
        seed: of the weights; they are the same on every machine.

    Raises:
        GraphError: if the name is unknown; the message lists the known ones.
    """
    if name not in EXITS:
        raise GraphError(f"no network {name!r} with exits; there are {', '.join(EXITS)}")
    return EXITS[name](seed)

"""A small network with a bottleneck, for tests of whatever uses one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from tests.tables import analytic_table

from coinfer.exit_training.bottleneck.places import place_for
from coinfer.exit_training.bottleneck.settings import BottleneckResult, BottleneckSettings
from coinfer.exit_training.bottleneck.train import answers_of, train
from coinfer.graph.bottleneck import CodeAccuracy
from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo.builder import NetBuilder
from coinfer.graph.zoo.early_exits import with_exits
from coinfer.profile.code_times import BottleneckTimes, CodeTimes
from coinfer.profile.dataset import ImageDataset
from coinfer.profile.table import ProfileTable
from coinfer.runtime.measure_bottleneck import measure_bottleneck, with_words

SIDE = 16
CLASSES = tuple("abcd")
SETTINGS = BottleneckSettings(
    channels=(2, 4), device_share=0.3, width=8, epochs=2, batch=12, precision="float32", holdout=0.2, crop=1
)

EXIT_SETTINGS = replace(SETTINGS, device_share=0.6)


def stripes(count: int, seed: int = 0) -> ImageDataset:
    """Class k is a colour, with noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    colours = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [200, 200, 60]])
    images = colours[labels][:, None, None] + random.normal(0, 20, (count, SIDE, SIDE, 3))
    return ImageDataset(np.clip(images, 0, 255).astype(np.uint8), labels, CLASSES, "colours")


def small_network(seed: int = 0) -> ModelGraph:
    """Three convolutions and a linear layer, for pictures of 16 x 16 and four classes."""
    net = NetBuilder(ImageInput(SIDE, SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), seed)
    x = net.max_pool("pool1", net.conv("conv1", "input", 8, 3), 2, 2)
    x = net.max_pool("pool2", net.conv("conv2", x, 16, 3), 2, 2)
    return net.graph("small", net.classes(net.conv("conv3", x, 16, 3), len(CLASSES)), len(CLASSES))


def network_with_exits() -> ModelGraph:
    """The small network with exits behind both pools; its own output is the third."""
    return with_exits(small_network(), ("pool1", "pool2"), len(CLASSES))


def with_trained(graph: ModelGraph, trained: BottleneckResult, data: ImageDataset) -> ModelGraph:
    """The network with what was trained, and code words for the pictures."""
    images = data.images[trained.rows]
    return with_words(graph, trained.graph, trained.place.source, answers_of(trained), trained.settings.bits, images)


@cache
def small_result() -> BottleneckResult:
    """A bottleneck of the small network that was trained a little."""
    graph = small_network()
    return train(graph, place_for(graph, SETTINGS), stripes(60), SETTINGS)


@cache
def small_bottleneck() -> ModelGraph:
    """The small network with that bottleneck, measured."""
    return measure_bottleneck(with_trained(small_network(), small_result(), stripes(60)), stripes(40, seed=1))


@cache
def result_with_exits() -> BottleneckResult:
    """A bottleneck from the first pool, where exit 1 is, to the second, where exit 2 is, trained a little."""
    graph = network_with_exits()
    return train(graph, place_for(graph, EXIT_SETTINGS, "pool1", "pool2"), stripes(60), EXIT_SETTINGS)


@cache
def bottleneck_with_exits() -> ModelGraph:
    """The network with exits and that bottleneck, measured."""
    graph = with_trained(network_with_exits(), result_with_exits(), stripes(60))
    return measure_bottleneck(graph, stripes(40, seed=1))


def rated(correct: dict[str, int]) -> ModelGraph:
    """The small network whose codes are right so often, of 100 pictures of which the network knows 90."""
    graph = small_bottleneck()
    return with_accuracy(graph, lambda code, _: correct[code])


def with_accuracy(graph: ModelGraph, correct: Callable[[str, str], int]) -> ModelGraph:
    """The network whose bottleneck is right so often, by code and exit, of 100 pictures; the network is 90 times."""
    assert graph.bottleneck is not None
    codes = []
    for code in graph.bottleneck.codes:
        found = [
            CodeAccuracy(dataset="none", samples=100, plain=90, correct=correct(code.tensor, one.output), size_bytes=20)
            for one in code.answers
        ]
        answers = [one.model_copy(update={"accuracy": of}) for one, of in zip(code.answers, found, strict=True)]
        codes.append(code.model_copy(update={"answers": tuple(answers)}))
    return replace(graph, bottleneck=replace(graph.bottleneck, codes=tuple(codes)))


def profile(graph: ModelGraph) -> ProfileTable:
    """A device that takes 20 s for the network, and 1 s for a code, from which a server answers in 10 s, at an earlier
    exit in 4 s."""
    assert graph.bottleneck is not None
    codes = tuple(
        CodeTimes(
            tensor=code.tensor,
            device_s=1.0,
            server_s=10.0,
            earlier_s={answer.tensor: 4.0 for answer in code.answers[:-1]},
            encode_s=0.0,
            decode_s=0.0,
            size_bits=size_bits,
        )
        for code, size_bits in zip(graph.bottleneck.codes, (100.0, 160.0), strict=True)
    )
    times = BottleneckTimes(fingerprint=graph.bottleneck.graph.fingerprint, codes=codes)
    return analytic_table(graph, whole_s=20.0).model_copy(update={"bottleneck": times})

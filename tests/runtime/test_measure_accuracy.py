"""Accuracies counted in batches equal those of single requests; cascades equal plain loops."""

import numpy as np
import pytest

from coinfer.graph.zoo import early_exits, networks
from coinfer.profile.accuracy import AccuracyError
from coinfer.profile.dataset import CIFAR_CLASSES, ImageDataset
from coinfer.runtime.accuracy_samples import dataset_samples
from coinfer.runtime.cascades import ALWAYS_CONFIDENT, pareto_cascades, run_cascade
from coinfer.runtime.codec.codec import decode, encode, encode_image
from coinfer.runtime.device.planning.early_exit import entropy
from coinfer.runtime.executor import Executor
from coinfer.runtime.measure_accuracy import codec_round_trip, measure_accuracy, measurement_plan

GRAPH = early_exits.build("alexnet-cifar-exits")


def data(count: int = 6) -> ImageDataset:
    """Pictures whose labels are what some exit answers, so that counts are neither none nor all."""
    random = np.random.default_rng(4)
    coarse = random.integers(0, 256, (count, 4, 4, 3), np.uint8)
    images = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
    executor = Executor(GRAPH)
    image = GRAPH.image
    assert image is not None
    labels = []
    for i, one in enumerate(images):
        found, _ = executor.run({"input": decode(encode_image(one, image))})
        labels.append(int(found[GRAPH.outputs[i % 3]].argmax()))
    return ImageDataset(images, np.array(labels), CIFAR_CLASSES, "blocks")


DATA = data()


def test_counts_equal_those_of_single_requests():
    reports = []
    plan, samples = measurement_plan(GRAPH, (4, 8, 32)), dataset_samples(GRAPH, DATA)
    table = measure_accuracy(GRAPH, samples, plan, progress=lambda done, total, _: reports.append((done, total)))
    table.check(GRAPH)
    assert reports == [(6, 6)]
    assert table.dataset == "blocks, 6 test pictures"
    assert table == measure_accuracy(GRAPH, dataset_samples(GRAPH, DATA), plan, jobs=2)
    executor = Executor(GRAPH)
    image = GRAPH.image
    assert image is not None
    inputs = [decode(encode_image(one, image)) for one in DATA.images]
    rows = {(row.exit, row.cut, row.bits): row.correct for row in table.rows}
    for exit_, output in enumerate(GRAPH.outputs):
        answers = [executor.run({"input": x}, (output,))[0][output].argmax() for x in inputs]
        assert table.exits[exit_] == rows.pop((exit_, ("input",), 8)) == (answers == DATA.labels).sum()
        for cut in GRAPH.pruned((output,)).useful_cuts()[1:-1]:
            for bits in (4, 8):
                right = 0
                for x, label in zip(inputs, DATA.labels, strict=True):
                    crossing, _ = executor.run({"input": x}, cut.tensors)
                    sent = {name: decode(encode(value, bits)) for name, value in crossing.items()}
                    right += executor.run(sent, (output,))[0][output].argmax() == label
                assert rows.pop((exit_, cut.tensors, bits)) == right
    assert not rows


def test_every_exit_has_each_of_its_useful_cuts():
    plan = measurement_plan(GRAPH, (4, 32))
    assert plan.bits == (4,)
    assert plan.cuts["pool1",] == (0, 1, 2)
    assert plan.cuts["pool2",] == (1, 2)
    assert plan.cuts["exit1.pool.flat",] == (0,)
    assert not {("input",), *((output,) for output in GRAPH.outputs)} & set(plan.cuts)


def test_each_sample_is_quantised_by_itself():
    batch = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32) * np.array([1, 10, 100])[:, None, None]
    found = codec_round_trip(batch.astype(np.float32), 8)
    assert found.shape == batch.shape
    for sent, arrived in zip(batch, found, strict=True):
        assert 0 < np.abs(sent - arrived).max() <= 0.51 * (sent.max() - sent.min()) / 255


def test_a_cascade_is_what_a_loop_over_samples_finds():
    random = np.random.default_rng(1)
    right, entropies = random.random((200, 3)) < 0.7, random.random((200, 3))
    for thresholds in ((0.0, 0.0), (0.3, 0.6), (ALWAYS_CONFIDENT, 0.5), (0.0, ALWAYS_CONFIDENT)):
        left, correct = [0, 0, 0], [0, 0, 0]
        for i in range(200):
            exit_ = next((e for e in range(2) if entropies[i, e] < thresholds[e]), 2)
            left[exit_] += 1
            correct[exit_] += right[i, exit_]
        point = run_cascade(right, entropies, thresholds)
        assert (point.left, point.correct) == (tuple(left), tuple(correct))


def test_cascades_that_others_beat_are_left_out():
    random = np.random.default_rng(2)
    right, entropies = random.random((300, 3)) < [0.6, 0.7, 0.8], random.random((300, 3))
    points = pareto_cascades(right, entropies)
    assert len(points) > 5
    for i, one in enumerate(points):
        for j, other in enumerate(points):
            later = (np.cumsum(other.left) >= np.cumsum(one.left)).all()
            assert i == j or not (later and sum(other.correct) >= sum(one.correct))
    assert any(point.left[0] == 300 for point in points)  # everybody at the first
    assert max(sum(point.correct) for point in points) >= right[:, 2].sum()
    assert pareto_cascades(right[:, :1], entropies[:, :1]) == ()


def test_entropy_is_one_for_a_guess_and_nothing_for_certainty():
    np.testing.assert_allclose(entropy(np.array([[0.0] * 10, [99.0] + [0.0] * 9])), [1, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("graph", "pictures", "said"),
    [
        (
            networks.build("alexnet-cifar"),
            DATA._replace(images=DATA.images[:, :16]),
            "pictures are 16x32, .* takes 32x32",
        ),
        (GRAPH, DATA._replace(class_names=("a", "b")), r"output 'exit1' is \[1, 10\], the pictures have 2 classes"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(graph, pictures, said):
    with pytest.raises(AccuracyError, match=said):
        dataset_samples(graph, pictures)

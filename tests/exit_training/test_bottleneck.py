"""A bottleneck learns what the network knows, goes on exactly where it was stopped, and is one ONNX file."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.exit_training.bottlenecks import (
    SETTINGS,
    small_bottleneck,
    small_network,
    small_result,
    stripes,
    with_trained,
)

from coinfer.errors import TrainingError
from coinfer.exit_training import augment
from coinfer.exit_training.bottleneck import search
from coinfer.exit_training.bottleneck.nets import (
    WIDTHS,
    ConvShape,
    Encoder,
    Prior,
    encoder_shapes,
    encoder_width,
    rounded,
)
from coinfer.exit_training.bottleneck.places import place_for
from coinfer.exit_training.bottleneck.settings import BottleneckEpoch, BottleneckSettings, Place
from coinfer.exit_training.bottleneck.train import CHECKPOINT, save, train
from coinfer.exit_training.bottleneck.trainer import BottleneckTrainer, bottleneck_modules, learning_rate
from coinfer.graph.bottleneck import with_bottleneck
from coinfer.graph.ir import GraphError
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.graph.zoo import networks
from coinfer.profile.dataset import ImageDataset
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import normalise

GRAPH = small_network()
PLACE = place_for(GRAPH, SETTINGS)


def inputs(data: ImageDataset) -> dict[str, np.ndarray]:
    assert GRAPH.image is not None
    return {"input": np.concatenate([normalise(one, GRAPH.image) for one in data.images])}


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_it_answers_as_the_network_does_after_training_without_labels(mixup):
    settings = replace(SETTINGS, epochs=12, learning_rate=1e-2, label_weight=0.0, mixup=mixup)
    data = stripes(96)
    wrong = data._replace(labels=(data.labels + 1) % 4)
    trained = train(GRAPH, PLACE, wrong, settings)
    test = inputs(stripes(80, seed=1))
    executor = Executor(with_trained(GRAPH, trained, data))
    plain = executor.run(test, GRAPH.outputs)[0]["logits"].argmax(1)
    for code in ("code2", "code4"):
        answers = executor.run(test, (f"{code}/answer",))[0][f"{code}/answer"].argmax(1)
        assert (answers == plain).mean() >= 0.9, code
    assert trained.epochs[-1].loss < trained.epochs[0].loss / 2


def test_a_code_is_the_first_channels_of_the_next_one_and_answers_follow_from_it_alone():
    graph, executor = small_bottleneck(), Executor(small_bottleneck())
    test = inputs(stripes(8, seed=2))
    found, _ = executor.run(test, ("code2", "code4", "code2/answer", "code4/answer"))
    assert found["code4"].dtype == np.uint8
    assert found["code4"].max() < SETTINGS.levels
    np.testing.assert_array_equal(found["code2"], found["code4"][:, :2])
    for code in ("code2", "code4"):
        again = executor.run({code: found[code]}, (f"{code}/answer",))[0][f"{code}/answer"]
        np.testing.assert_allclose(again, found[f"{code}/answer"], rtol=1e-5, atol=1e-5)
    assert graph.fingerprint == GRAPH.fingerprint


def test_onnx_runtime_computes_what_was_trained():
    trainer = BottleneckTrainer(GRAPH, PLACE, stripes(60), SETTINGS)
    while not trainer.finished:
        trainer.run_epoch(lambda done, steps, loss: None)
    data = stripes(60)
    test = data._replace(images=data.images[:20], labels=data.labels[:20])
    symbols = Executor(small_result().graph).run(inputs(test), ("code4",))[0]["code4"]
    assert (symbols == trainer.encode(np.arange(20))).mean() > 0.99  # float16 weights: a symbol may tip over


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    trainer = BottleneckTrainer(GRAPH, PLACE, stripes(60), SETTINGS)
    trainer.run_epoch(lambda done, steps, loss: None)
    trainer.save(tmp_path / "cut" / CHECKPOINT)
    resumed = train(GRAPH, PLACE, stripes(60), SETTINGS, folder=tmp_path / "cut", resume=True)
    assert resumed.graph.fingerprint == small_result().graph.fingerprint
    with pytest.raises(TrainingError, match="holds a training already; --resume goes on with it"):
        train(GRAPH, PLACE, stripes(60), SETTINGS, folder=tmp_path / "cut")
    with pytest.raises(TrainingError, match="made with bits 2, now it is 4; train anew elsewhere"):
        train(GRAPH, PLACE, stripes(60), replace(SETTINGS, bits=4), folder=tmp_path / "cut", resume=True)


def test_a_training_can_begin_with_the_weights_of_an_earlier_one(tmp_path):
    first, second, settings = tmp_path / "first", tmp_path / "second", replace(SETTINGS, epochs=1)
    train(GRAPH, PLACE, stripes(60), settings, folder=first)
    start = BottleneckTrainer(GRAPH, PLACE, stripes(60), settings)
    start.begin_with(first / CHECKPOINT)
    earlier = load_file(first / CHECKPOINT)
    for name, value in start.trained.state_dict().items():
        assert torch.equal(value, earlier[f"module.{name}"])
    trained = train(GRAPH, PLACE, stripes(60), settings, folder=second, start=first)
    assert trained.epochs[0].loss < small_result().epochs[0].loss
    assert trained.settings.start
    with pytest.raises(TrainingError, match=r"made with bits 2, now it is 4; start without it"):
        train(GRAPH, PLACE, stripes(60), replace(settings, bits=4), start=first)
    with pytest.raises(TrainingError, match="no checkpoint to start from"):
        train(GRAPH, PLACE, stripes(60), settings, start=tmp_path / "nowhere")


def test_mixtures_have_the_labels_of_both_pictures():
    """Training by the labels of mixtures; each picture is mixed with the one before it, so its label counts in part."""
    data = stripes(24)
    trainer = BottleneckTrainer(GRAPH, PLACE, data, replace(SETTINGS, mixup=1.0))
    rows, _, weights = next(iter(trainer._batches()))
    assert ((weights >= 0) & (weights < 1)).all()
    x = torch.from_numpy(inputs(data)["input"])[rows]
    mixed = augment.mix(x, weights)
    for i in range(len(rows)):
        torch.testing.assert_close(mixed[i], weights[i] * x[i] + (1 - weights[i]) * x[i - 1])
    labels, logits = torch.from_numpy(data.labels)[rows].long(), torch.randn(len(rows), 4)
    truth = weights[:, None] * F.one_hot(labels, 4) + (1 - weights[:, None]) * F.one_hot(labels.roll(1), 4)
    torch.testing.assert_close(trainer._label_loss(logits, labels, weights), F.cross_entropy(logits, truth))


def test_the_file_holds_what_was_measured_and_fits_its_network_alone(tmp_path):
    graph = small_bottleneck()
    path = save(graph, small_result(), "colours", tmp_path)
    loaded = with_bottleneck(GRAPH, path)
    assert loaded.bottleneck is not None
    assert graph.bottleneck is not None
    assert loaded.bottleneck.codes == graph.bottleneck.codes
    for code in loaded.bottleneck.codes:
        (answer,) = code.answers
        assert answer.accuracy is not None
        assert answer.accuracy.samples == 40
        assert 9 < answer.accuracy.size_bytes < 40
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["bottleneck"] == loaded.bottleneck.graph.fingerprint
    with pytest.raises(GraphError, match=r"a bottleneck of network 'small' \(\w{12}\), not of 'small' \(\w{12}\)"):
        with_bottleneck(small_network(seed=1), path)


def test_a_file_beside_the_network_comes_with_it(tmp_path):
    save_model(GRAPH, tmp_path / "small.onnx")
    save(small_bottleneck(), small_result(), "colours", tmp_path)
    opened = open_model(tmp_path / "small.onnx")
    assert opened.bottleneck is not None
    assert [code.tensor for code in opened.bottleneck.codes] == ["code2", "code4"]
    save_model(small_network(seed=1), tmp_path / "small.onnx")
    with pytest.raises(
        GraphError, match=r"small\.bottleneck\.onnx: a bottleneck of network 'small' .* or remove this file"
    ):
        open_model(tmp_path / "small.onnx")
    (tmp_path / "small.bottleneck.onnx").write_text("junk")
    with pytest.raises(
        GraphError, match=r"small\.bottleneck\.onnx: not an ONNX .*; train a bottleneck .* remove this file"
    ):
        open_model(tmp_path / "small.onnx")
    assert open_model(tmp_path / "small.onnx", bottleneck=False).bottleneck is None


def test_no_bottleneck_is_refused(tmp_path):
    save_model(GRAPH, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=r"net\.onnx: no bottleneck"):
        with_bottleneck(GRAPH, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ("conv9", "", "small: no tensor 'conv9' that its last output needs; did you mean conv[123]"),
        ("?", "", r"small: no tensor '\?' that its last output needs; `coinfer describe` lists"),
        ("logits", "", r"small: 'logits' is \[1, 4\]; a bottleneck needs square feature maps"),
        ("input", "logits", r"small: 'logits' is \[1, 4\]; a bottleneck needs square feature maps"),
        ("conv3.relu", "", "of its work lies before 'conv3.relu', but the device may do 30%"),
    ],
)
def test_places_that_do_not_do_are_named(source, target, problem):
    with pytest.raises(TrainingError, match=problem):
        place_for(GRAPH, SETTINGS, source, target)


def test_a_share_that_no_encoder_keeps_is_refused_with_the_smallest_one():
    with pytest.raises(TrainingError, match=r"the smallest encoder from 'input' to 'pool2' needs") as refused:
        place_for(GRAPH, replace(SETTINGS, device_share=0.001))
    found = re.search(r"a --device-share of ([\d.]+), got 0\.001$", str(refused.value))
    assert found is not None
    least = float(found[1])
    enough = replace(SETTINGS, device_share=least)
    assert place_for(GRAPH, enough) == PLACE
    encoder, _ = bottleneck_modules(GRAPH, PLACE, enough)
    assert least - 0.001 < sum(shape.work_flop for shape in encoder.shapes) / GRAPH.work_flop <= least
    with pytest.raises(TrainingError, match="needs a --device-share"):
        place_for(GRAPH, replace(SETTINGS, device_share=least - 0.001))
    with pytest.raises(TrainingError, match="needs a --device-share"):
        search.candidates(GRAPH, replace(SETTINGS, device_share=0.001))


def test_places_of_the_zoo_networks():
    assert Place("input", "pool2", "logits") == PLACE
    found = {name: place_for(networks.build(name), BottleneckSettings()) for name in ("alexnet-cifar", "resnet32")}
    assert found["alexnet-cifar"].target == "pool2"
    assert found["resnet32"].target.startswith("layer3")


@pytest.mark.parametrize(("side", "target"), [(32, 7), (32, 8), (15, 7), (8, 8), (224, 28), (33, 9)])
def test_an_encoder_ends_at_the_size_of_what_is_replaced(side, target):
    width = encoder_width(3, side, target, 8, 1e6)
    shapes = encoder_shapes(3, side, target, width, 8)
    wider = WIDTHS[WIDTHS.index(width) + 1]
    assert sum(shape.work_flop for shape in encoder_shapes(3, side, target, wider, 8)) > 1e6
    assert Encoder(shapes, 4).eval()(torch.zeros(1, 3, side, side)).shape == (1, 8, target, target)


def test_the_learning_rate_rises_and_falls_in_any_number_of_steps():
    assert learning_rate(SETTINGS, 1, 1) == SETTINGS.learning_rate
    assert learning_rate(SETTINGS, 1, 2) == SETTINGS.learning_rate
    rates = [learning_rate(SETTINGS, step, 100) / SETTINGS.learning_rate for step in (1, 5, 6, 100)]
    assert rates == pytest.approx([0.2, 1.0, 1.0, 0.0], abs=1e-3)


@pytest.mark.parametrize(
    "change", [{"label_weight": 1e300}, {"learning_rate": 1e30}, {"learning_rate": 1e30, "epochs": 1, "batch": 48}]
)
def test_a_training_that_leaves_the_numbers_ends_with_what_to_lower(change):
    with pytest.raises(TrainingError, match=r"no number any more in epoch 1; lower --rate .*, --label-weight .* or "):
        train(GRAPH, PLACE, stripes(60), replace(SETTINGS, **change))


def test_every_code_gets_pictures_of_a_batch_or_the_training_is_refused():
    four = replace(SETTINGS, channels=(1, 2, 3, 4), batch=9, holdout=0.1, tail_rate=0.0, epochs=1)
    trainer = BottleneckTrainer(GRAPH, PLACE, stripes(10), four)
    before = [stem.get_parameter("weight").clone() for stem in trainer.decoder.stems]
    trainer.run_epoch(lambda done, total, loss: None)
    for old, stem in zip(before, trainer.decoder.stems, strict=True):
        assert not torch.equal(old, stem.get_parameter("weight"))
    with pytest.raises(TrainingError, match="of at least 2 for each code, 8, got --batch 9 and 7 pictures"):
        BottleneckTrainer(GRAPH, PLACE, stripes(8), four)


def test_rounding_passes_its_gradient_through_and_the_prior_interpolates():
    symbols = torch.tensor([0.2, 1.7, 2.5], requires_grad=True)
    whole = rounded(symbols)
    assert whole.tolist() == [0, 2, 2]
    whole.sum().backward()
    assert symbols.grad is not None
    assert symbols.grad.tolist() == [1, 1, 1]
    prior = Prior(1, 4)
    with torch.no_grad():
        prior.logits.copy_(torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125]])))
    bits = prior(torch.tensor([0.0, 1.0, 3.0, 0.5]).reshape(1, 1, 4, 1))
    np.testing.assert_allclose(bits.detach().flatten(), [1, 2, 3, 1.5], rtol=1e-5)


def test_work_of_a_convolution():
    assert ConvShape(3, 8, 5, 2, (1, 2), 16).work_flop == 2 * 3 * 8 * 25 * 256


def test_the_best_place_has_the_smallest_code_that_is_nearly_as_right_as_any(monkeypatch):
    graph = networks.build("alexnet-cifar")
    settings = replace(SETTINGS, device_share=0.15)
    places = search.candidates(graph, settings)
    assert [(place.source, graph.tensors[place.target].shape[2]) for place in places] == [("input", 7), ("pool1", 7)]
    right, sizes = {"input": (0.70, 0.80), "pool1": (0.795, 0.805)}, (400.0, 800.0)

    class Trainer:
        """Trains nothing: the place alone decides."""

        steps = 3

        def __init__(self, graph, place, data, settings):
            self.place, self.settings, self.epochs = place, settings, []

        @property
        def finished(self):
            return len(self.epochs) >= self.settings.epochs

        def run_epoch(self, report):
            report(self.steps, self.steps, 0.0)
            self.epochs.append(BottleneckEpoch(0.0, right[self.place.source], sizes, 0.0))

    monkeypatch.setattr(search, "BottleneckTrainer", Trainer)
    told = []
    tried = search.try_places(graph, stripes(4), settings, 2, report=lambda *told_now: told.append(told_now))
    assert [one.place.source for one in tried] == ["pool1", "input"]
    assert told[-1][:2] == (12, 12)

"""Exits learn what there is to learn, the same way each time, and go on exactly where they were stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coinfer.errors import TrainingError
from coinfer.exit_training import augment
from coinfer.exit_training.modules import GraphModule
from coinfer.exit_training.pictures import Pictures
from coinfer.exit_training.settings import ExitSettings
from coinfer.exit_training.train import CHECKPOINT, round_weights, save, train
from coinfer.exit_training.trainer import Trainer, count_correct
from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import GraphError
from coinfer.graph.onnx.load import load
from coinfer.graph.zoo import early_exits
from coinfer.profile.dataset import ImageDataset

GRAPH = early_exits.build("alexnet-cifar-exits")
CLASSES = tuple("abcdefghij")
IMAGE = ImageInput(6, 5, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))


def stripes(count: int, seed: int = 0) -> ImageDataset:
    """Class k is a colour, so that every exit can tell; with noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    colours = np.random.default_rng(9).integers(30, 226, (10, 3))
    images = colours[labels][:, None, None] + random.normal(0, 25, (count, 32, 32, 3))
    return ImageDataset(np.clip(images, 0, 255).astype(np.uint8), labels, CLASSES, "colours")


DATA = stripes(120)
QUICK = ExitSettings(epochs=3, batch=40, holdout=0.1, precision="float32", learning_rate=0.02)


def test_all_exits_learn_colours():
    settings = ExitSettings(epochs=12, batch=20, learning_rate=0.01, precision="float32", cutout=0, crop=2, holdout=0.2)
    trained = train(GRAPH, stripes(240), settings)
    test = stripes(100, seed=1)
    module = GraphModule(trained.graph)
    correct = count_correct(module, GRAPH.image, torch.from_numpy(test.images), torch.from_numpy(test.labels))
    assert min(correct.tolist()) >= 80  # nearly all, with any seed and any processor's rounding; ten at random
    assert trained.epochs[-1].loss < trained.epochs[0].loss


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    whole = train(GRAPH, DATA, QUICK, folder=tmp_path / "whole")
    trainer = Trainer(GRAPH, DATA, QUICK)
    trainer.begin_epoch()
    for _ in range(trainer.steps):
        trainer.step()
    trainer.end_epoch()
    trainer.save(tmp_path / "cut" / CHECKPOINT)
    trainer.begin_epoch()
    trainer.step()  # lost, as when a process is killed
    resumed = train(GRAPH, DATA, QUICK, folder=tmp_path / "cut", resume=True)
    assert resumed.graph.fingerprint == whole.graph.fingerprint
    assert [epoch[:2] for epoch in resumed.epochs] == [epoch[:2] for epoch in whole.epochs]
    again = train(GRAPH, DATA, QUICK, folder=tmp_path / "whole", resume=True)
    assert again.graph.fingerprint == whole.graph.fingerprint
    names = ("exits.safetensors",)
    assert tuple(file.name for file in (tmp_path / "whole").iterdir()) == names


def test_the_seed_decides_everything():
    first = train(GRAPH, DATA, QUICK).graph.fingerprint
    assert first == train(GRAPH, DATA, QUICK).graph.fingerprint
    other = replace(QUICK, seed=1)
    assert first != train(GRAPH, DATA, other).graph.fingerprint


def test_restarting_is_beginning_anew():
    trainer = Trainer(GRAPH, DATA, replace(QUICK, epochs=9))
    trainer.begin_epoch()
    trainer.step()
    trainer.restart(3)
    while not trainer.finished:
        trainer.begin_epoch()
        for _ in range(trainer.steps):
            trainer.step()
        trainer.end_epoch()
    assert trainer.result().graph.fingerprint == train(GRAPH, DATA, QUICK).graph.fingerprint


def test_pictures_held_out_are_not_trained_on():
    trainer = Trainer(GRAPH, DATA, QUICK, Pictures.load(DATA, QUICK))
    holdout = set(trainer.holdout_rows.tolist())
    assert len(holdout) == 12
    for _ in range(3):
        trainer.begin_epoch()
        assert not holdout & set(trainer.plan[0].flatten().tolist())
        trainer.epochs.append(None)  # pyright: ignore[reportArgumentType]


def test_training_stops_when_nothing_gets_better():
    noise = DATA._replace(labels=np.random.default_rng(0).integers(0, 10, len(DATA.labels)))
    trained = train(
        GRAPH, noise, ExitSettings(epochs=12, batch=60, patience=2, precision="float32", learning_rate=1e-6)
    )
    assert len(trained.epochs) == trained.best + 3 < 12


def test_a_step_is_nesterovs():
    """Against PyTorch's own optimiser, on the same gradients."""
    trainer = Trainer(GRAPH, DATA, QUICK)
    ours = [value.detach().clone().requires_grad_() for value in trainer.parameters]
    decayed, plain = ([v for v in ours if (v.ndim > 1) == flag] for flag in (True, False))
    groups = [{"params": decayed, "weight_decay": QUICK.weight_decay}, {"params": plain}]
    theirs = torch.optim.SGD(groups, lr=0.1, momentum=QUICK.momentum, nesterov=True)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        gradients = [torch.randn(value.shape, generator=generator) for value in ours]
        theirs.param_groups[0]["lr"] = theirs.param_groups[1]["lr"] = float(trainer.learning_rates[step])
        for value, gradient in zip(ours, gradients, strict=True):
            value.grad = gradient.clone()
        theirs.step()
        trainer._descend(gradients)
        trainer.steps_done += 1
    for mine, other in zip(trainer.parameters, ours, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_saved_files_hold_the_same_network(tmp_path):
    trained = train(GRAPH, DATA, QUICK)
    path = save(trained, DATA.kind, tmp_path)
    graph = load(path)
    assert graph.fingerprint == round_weights(trained.graph).fingerprint
    stored = load_file(tmp_path / "alexnet-cifar-exits.safetensors")
    for name, value in graph.weights.items():
        assert stored[name].dtype == torch.float16
        np.testing.assert_array_equal(stored[name].float().numpy(), value)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["fingerprint"] == graph.fingerprint
    assert record["pictures"] == "colours"
    assert len(record["epochs"]) == 3


def test_a_batch_is_shifted_mirrored_and_cut_as_drawn():
    """Against a plain loop over pixels."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (4, 6, 5, 3), np.uint8)
    crop, cutout = 2, 3
    padded = augment.pad(images, crop)
    rows = np.array([2, 0, 3, 3, 1])
    draws = augment.draw(random, 5, IMAGE, crop)
    scale = augment.channel_scale(IMAGE, torch.device("cpu"))
    tensors = (torch.from_numpy(value) for value in (padded, rows, draws))
    batch = augment.augment(*tensors, scale, crop, cutout)
    for b, row in enumerate(rows):
        down, right, mirrored, middle_y, middle_x = draws[:, b]
        for y in range(6):
            for x in range(5):
                pixel = padded[row, down + y, right + (4 - x if mirrored else x)]
                expected = (pixel / 255 - np.array(IMAGE.mean)) / np.array(IMAGE.std)
                if abs(y - middle_y + 0.5) < cutout / 2 and abs(x - middle_x + 0.5) < cutout / 2:
                    expected = np.zeros(3)
                np.testing.assert_allclose(batch[b, :, y, x].numpy(), expected, atol=1e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    limits = (5, 5, 2, 6, 5)
    many = augment.draw(random, 2000, IMAGE, crop)
    assert [sorted(set(values.tolist())) for values in many] == [list(range(limit)) for limit in limits]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (1.0, 0.3)}, r"weights \[1.0, 0.3\] for 3 exits"),
        ({"device": "nowhere"}, "device 'nowhere': "),
        ({"batch": 1}, "batches of at least 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(TrainingError, match=message) as caught:
        train(GRAPH, DATA, replace(QUICK, **changes))
    assert "\n" not in str(caught.value)


def test_pictures_that_do_not_fit_are_refused():
    small = DATA._replace(images=DATA.images[:, :16])
    with pytest.raises(TrainingError, match="pictures are 16x32, alexnet-cifar-exits takes 32x32"):
        train(GRAPH, small, QUICK)
    with pytest.raises(TrainingError, match=r"output 'exit1' is \[1, 10\], the pictures have 3 classes"):
        train(GRAPH, DATA._replace(class_names=("a", "b", "c")), QUICK)
    with pytest.raises(GraphError, match="does not say how it takes pictures"):
        train(replace(GRAPH, image=None), DATA, QUICK)


def test_checkpoints_of_another_training_are_refused(tmp_path):
    trainer = Trainer(GRAPH, DATA, QUICK)
    trainer.save(tmp_path / CHECKPOINT)
    other = replace(QUICK, learning_rate=0.07)
    with pytest.raises(
        TrainingError, match=r"made with learning_rate 0.02, now it is 0.07; train anew in another folder"
    ):
        train(GRAPH, DATA, other, folder=tmp_path, resume=True)
    (tmp_path / CHECKPOINT).write_bytes(b"\x08" + bytes(7) + b"damaged!")
    with pytest.raises(TrainingError, match="no checkpoint of exits"):
        train(GRAPH, DATA, QUICK, folder=tmp_path, resume=True)


def test_a_rate_that_is_too_large_is_said():
    with pytest.raises(TrainingError, match=r"the loss is no number any more .* smaller learning rate than 1e\+30"):
        train(GRAPH, DATA, ExitSettings(epochs=3, batch=40, learning_rate=1e30, precision="float32"))

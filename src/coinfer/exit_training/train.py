"""Training of all exits of a network together, from labelled pictures (Teerapittayanon et al., BranchyNet, ICPR 2016).

The loss is the weighted sum of the cross entropies of all exits (their equation 2). Departures from the paper: the
weights start at random instead of from the trained trunk; stochastic gradient descent with Nesterov's momentum and one
cosine replaces Adam; training inserts batch norms (`modules`) and shifts, mirrors and cuts out parts of the pictures.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from coinfer.exit_training import checkpoints
from coinfer.exit_training.settings import ExitSettings, ExitTrainingResult
from coinfer.exit_training.trainer import Trainer
from coinfer.graph.ir import ModelGraph
from coinfer.graph.segment import save_model
from coinfer.profile.dataset import ImageDataset

CHECKPOINT = "exits.safetensors"
Progress = Callable[[int, int, float, tuple[float, ...]], None]
"""Called with steps done, steps in all, mean loss of the epoch so far, and accuracy of each exit on the held-out
pictures after the epoch before (empty in the first epoch)."""


def train(
    graph: ModelGraph,
    data: ImageDataset,
    settings: ExitSettings,
    *,
    progress: Progress = lambda done, total, loss, accuracy: None,
    folder: Path | None = None,
    resume: bool = False,
) -> ExitTrainingResult:
    """Train all exits of a network together, from new weights.

    Args:
        graph: the network with its exits; it is not changed.
        data: labelled pictures of the network's size; some are held out to choose the best epoch.
        settings: how to train.
        progress: called every ten steps and at the end of an epoch.
        folder: folder of the checkpoint, which is written after each epoch; None for no checkpoint.
        resume: whether to continue from the folder's checkpoint, if there is one; the result is the same as without the
            interruption.

    Returns:
        The network of the best epoch, with figures of all epochs.

    Raises:
        GraphError: if the graph has no description of its picture input, or cannot be trained.
        TrainingError: if pictures, settings or checkpoint do not fit the network, the folder holds a training and
            `resume` is false, or the loss is not finite.
    """
    earlier = checkpoints.resumable(folder, CHECKPOINT, resume=resume) if folder else None
    trainer = Trainer(graph, data, settings)
    if earlier:
        trainer.load(earlier)
    if trainer.device.type == "cuda":
        trainer.capture()
    total = trainer.steps * settings.epochs
    while not trainer.finished:
        trainer.begin_epoch()
        accuracy = trainer.epochs[-1].holdout if trainer.epochs else ()
        for i in range(1, trainer.steps + 1):
            trainer.step()
            if i % 10 == 0 or i == trainer.steps:
                done = len(trainer.epochs) * trainer.steps + i
                progress(done, total, float(trainer.loss_sum) / i, accuracy)
        trainer.end_epoch()
        if folder:
            trainer.save(folder / CHECKPOINT)
    return trainer.result()


def save(trained: ExitTrainingResult, kind: str, folder: Path) -> Path:
    """Write NAME.onnx, NAME.safetensors (the same weights as float16) and training.json.

    Args:
        trained: what `train` returned.
        kind: `ImageDataset.kind` of the training pictures, for the record.
        folder: folder of the files; created if necessary.

    Returns:
        The path of the ONNX file.
    """
    graph = round_weights(trained.graph)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{graph.name}.onnx"
    save_model(graph, path)
    weights = {name: torch.from_numpy(value.astype(np.float16)) for name, value in graph.weights.items()}
    save_file(weights, folder / f"{graph.name}.safetensors", metadata={"fingerprint": graph.fingerprint})
    epochs = [epoch._asdict() for epoch in trained.epochs]
    record = {"network": graph.name, "fingerprint": graph.fingerprint, "pictures": kind, "best": trained.best}
    record |= {"settings": asdict(trained.settings), "epochs": epochs}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def round_weights(graph: ModelGraph) -> ModelGraph:
    """Return the network with weights rounded to float16, which can be stored as float16 without loss.

    Args:
        graph: the network; its number types stay.
    """
    weights = {name: value.astype(np.float16).astype(value.dtype) for name, value in graph.weights.items()}
    return replace(graph, weights=weights)

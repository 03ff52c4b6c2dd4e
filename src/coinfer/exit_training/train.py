"""All exits of a network trained together, from labelled pictures (Teerapittayanon et al., BranchyNet, ICPR 2016).

The loss is the weighted sum of the cross entropies of all exits (their equation 2). Departures from the paper: weights
are drawn anew instead of taken from the trained trunk, stochastic gradient descent with Nesterov's momentum and one
cosine instead of Adam, batch norm while training (`modules`), shifts, mirrors and cut-outs of the pictures.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from coinfer.errors import TrainingError
from coinfer.exit_training.trainer import ExitSettings, ExitTrainingResult, Trainer
from coinfer.graph.ir import ModelGraph
from coinfer.graph.segment import save_model
from coinfer.profile.dataset import ImageDataset

CHECKPOINT = "exits.safetensors"
Progress = Callable[[int, int, float, tuple[float, ...]], None]
"""Takes steps done, steps in all, mean loss of the epoch, accuracy of each exit (empty in the first epoch)."""


def train(
    graph: ModelGraph,
    data: ImageDataset,
    settings: ExitSettings,
    *,
    progress: Progress = lambda done, total, loss, accuracy: None,
    folder: Path | None = None,
    resume: bool = False,
) -> ExitTrainingResult:
    """Train all exits of a network together.

    Args:
        progress: called every ten steps.
        folder: where a checkpoint is written after each epoch; None for none.
        resume: whether to go on from that checkpoint, if there is one; the result is the same as without the
            interruption.

    Raises:
        GraphError: if the network does not say how it takes pictures, or cannot be trained.
        TrainingError: if pictures, settings or checkpoint do not fit the network, or the folder holds a training
            already and `resume` is not asked for.
    """
    checkpoint = folder / CHECKPOINT if folder else None
    begun = checkpoint is not None and checkpoint.exists()
    if begun and not resume:
        raise TrainingError(f"{folder}: holds a training already; --resume goes on with it, or choose another folder")
    trainer = Trainer(graph, data, settings)
    if checkpoint is not None and begun:
        trainer.load(checkpoint)
    if trainer.device.type == "cuda":
        trainer.capture()
    total = trainer.steps * settings.epochs
    while not trainer.finished:
        trainer.begin_epoch()
        seen = trainer.epochs[-1].holdout if trainer.epochs else ()
        for i in range(1, trainer.steps + 1):
            trainer.step()
            if i % 10 == 0 or i == trainer.steps:
                done = len(trainer.epochs) * trainer.steps + i
                progress(done, total, float(trainer.loss_sum) / i, seen)
        trainer.end_epoch()
        if checkpoint:
            trainer.save(checkpoint)
    return trainer.result()


def save(trained: ExitTrainingResult, kind: str, folder: Path) -> Path:
    """Write NAME.onnx, NAME.safetensors (float16, exactly what the ONNX file holds) and training.json.

    Args:
        kind: of the pictures that it was trained on.

    Returns:
        The path of the ONNX file.
    """
    graph = rounded(trained.graph)
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


def rounded(graph: ModelGraph) -> ModelGraph:
    """Return the network with weights that float16 holds, so that storing them so loses nothing."""
    weights = {name: value.astype(np.float16).astype(value.dtype) for name, value in graph.weights.items()}
    return replace(graph, weights=weights)

"""Training of a bottleneck: a small encoder on the device, a decoder on the server, taught by the untouched network.

The encoder is a few convolutions down to a small map of symbols of 2 to 8 bits; rounding passes its gradient straight
through. The decoder replaces a tensor inside the network, and the layers behind it go on learning. The teacher is the
network as it was: its answers (knowledge distillation, Hinton et al. 2015), the tensor that is replaced (head network
distillation, Matsubara et al. 2019), and the labels if there are any. Every exit behind that tensor learns from its own
answers, and all count equally. The code is nested: of every batch, each code
answers an equal part, and a code is the first channels of the next one. The symbols' size can be part of the loss
(supervised compression, Matsubara et al. 2022); its prior is a free distribution for each channel.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from coinfer.exit_training import checkpoints
from coinfer.exit_training.bottleneck.export import Parts, answer_name, bottleneck_graph, code_name
from coinfer.exit_training.bottleneck.settings import BottleneckEpoch, BottleneckResult, BottleneckSettings, Place
from coinfer.exit_training.bottleneck.trainer import BottleneckTrainer
from coinfer.exit_training.train import round_weights
from coinfer.files import write_atomic
from coinfer.graph.bottleneck import SUFFIX, CodeAnswer
from coinfer.graph.ir import ModelGraph
from coinfer.graph.onnx.load import load
from coinfer.graph.segment import save_model
from coinfer.profile.dataset import ImageDataset

CHECKPOINT = "bottleneck.safetensors"
Progress = Callable[[int, int, float, BottleneckEpoch | None], None]
"""Called with steps done, steps in all, mean loss of the epoch so far, and the figures of the epoch before."""


def train(
    graph: ModelGraph,
    place: Place,
    data: ImageDataset,
    settings: BottleneckSettings,
    *,
    progress: Progress = lambda done, total, loss, before: None,
    folder: Path | None = None,
    resume: bool = False,
    start: Path | None = None,
) -> BottleneckResult:
    """Train a bottleneck.

    Args:
        graph: the network; it is not changed.
        place: where the bottleneck goes.
        data: pictures of the network's size; some are held out.
        settings: how to train.
        progress: called after each step.
        folder: folder of the checkpoint, which is written after each epoch; None for no checkpoint.
        resume: whether to continue from the folder's checkpoint, if there is one; the result is the same as without the
            interruption.
        start: folder of an earlier training of the same place and sizes, with whose weights this one begins; None
            for new weights.

    Returns:
        The bottleneck's own network, without code words.

    Raises:
        GraphError: if the network cannot be trained.
        TrainingError: if pictures, settings or checkpoint do not fit the network, the folder holds a training and
            `resume` is false, or the loss is not finite.
    """
    earlier = checkpoints.resumable(folder, CHECKPOINT, resume=resume) if folder else None
    first = None if start is None else start / CHECKPOINT
    if first is not None:
        settings = replace(settings, start=checkpoints.fingerprint(first))
    trainer = BottleneckTrainer(graph, place, data, settings)
    if earlier:
        trainer.load(earlier)
    elif first is not None:
        trainer.begin_with(first)
    total = trainer.steps * settings.epochs
    while not trainer.finished:
        done, before = len(trainer.epochs) * trainer.steps, trainer.epochs[-1] if trainer.epochs else None
        trainer.run_epoch(lambda i, _, loss, done=done, before=before: progress(done + i, total, loss, before))
        if folder:
            trainer.save(folder / CHECKPOINT)
    trainer.trained.eval()
    parts = Parts(trainer.encoder, trainer.decoder, trainer.tail)
    made = round_weights(bottleneck_graph(graph, place, parts))
    return BottleneckResult(made, trainer.outputs, place, tuple(trainer.epochs), settings, trainer.training_rows)


def answers_of(trained: BottleneckResult) -> dict[str, tuple[CodeAnswer, ...]]:
    """Return each code's answers, not measured, by the name of its symbols, the smallest code first.

    Args:
        trained: what `train` returned.
    """
    place = trained.place
    return {
        code_name(channels): tuple(
            CodeAnswer(output=output, tensor=answer_name(channels, place, output)) for output in trained.outputs
        )
        for channels in trained.settings.channels
    }


def save(graph: ModelGraph, trained: BottleneckResult, kind: str, folder: Path) -> Path:
    """Write NAME.bottleneck.onnx and training.json.

    Args:
        graph: the network with its bottleneck, which has code words.
        trained: what `train` returned.
        kind: `ImageDataset.kind` of the training pictures, for the record.
        folder: folder of the files; created if necessary.

    Returns:
        The path of the ONNX file.
    """
    bottleneck = graph.bottleneck
    assert bottleneck is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{graph.name}{SUFFIX}"
    save_model(bottleneck.graph, path, half=True)
    record = {
        "network": graph.name,
        "fingerprint": graph.fingerprint,
        "bottleneck": load(path).fingerprint,
        "pictures": kind,
        "place": trained.place._asdict(),
        "settings": asdict(trained.settings),
        "epochs": [epoch._asdict() for epoch in trained.epochs],
        "codes": [code.model_dump(exclude={"lengths"}) for code in bottleneck.codes],
    }
    write_atomic(folder / "training.json", json.dumps(record, indent=1) + "\n")
    return path

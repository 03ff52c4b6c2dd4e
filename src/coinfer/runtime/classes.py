"""Answers as classes: whether a network names one, what classes are called, and which are most likely."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.errors import UserError, printable
from coinfer.graph.ir import ModelGraph
from coinfer.graph.zoo import pretrained
from coinfer.profile.dataset import CIFAR_CLASSES

MAX_LABELS = 100_000
_LABEL_CHARACTERS = 40
_NAMES_KEY = "names"
"""Key of a model's metadata that names its classes, as Ultralytics' exports write it."""


_SCORES = {"Softmax", "LogSoftmax", "Sigmoid", "Gemm", "MatMul", "Conv", "QLinearConv", "QLinearMatMul", "QGemm"}
_PASSES = {"Add", "AveragePool", "Cast", "Clip", "DequantizeLinear", "Dropout", "Flatten", "GlobalAveragePool"}
_PASSES |= {"Identity", "QLinearAdd", "QLinearGlobalAveragePool", "QuantizeLinear", "ReduceMean", "Relu", "Reshape"}
_PASSES |= {"Squeeze", "Sub", "Transpose", "Unsqueeze"}


class Likely(NamedTuple):
    """A class and how likely it is."""

    number: int
    label: str
    """Its name, or its number if it has none."""
    share: float
    """0 to 1: the network's own if its output is a distribution, else the softmax over it."""


def is_classifier(graph: ModelGraph, outputs: Sequence[str]) -> bool:
    """Return true if every output is one number for each of two or more classes, from a softmax or a linear layer.

    Args:
        graph: the network.
        outputs: names of the tensors that answer, each by itself.
    """
    return all(_is_vector(graph, name) and _scores_classes(graph, name) for name in outputs)


def _scores_classes(graph: ModelGraph, name: str) -> bool:
    """Return true if a tensor comes from a softmax or a linear layer, perhaps reshaped, averaged or shifted since."""
    while (maker := graph.producer.get(name)) is not None:
        op = graph.ops[maker]
        if op.kind in _SCORES:
            return True
        if op.kind not in _PASSES or not op.inputs:
            return False
        name = op.inputs[0]
    return False


def _is_vector(graph: ModelGraph, name: str) -> bool:
    tensor = graph.tensors[name]
    axes = tensor.shape[1:]
    fixed = not tensor.axes or not any(tensor.axes[1:])
    vector = tensor.shape[:1] == (1,) and len(axes) >= 1 and axes[0] > 1 and {*axes[1:]} <= {1}
    return bool(vector and fixed and tensor.dtype.kind == "f")


def labels_of(graph: ModelGraph) -> tuple[str, ...]:
    """Return the names of the classes that a network's metadata holds; empty if it holds none.

    Args:
        graph: the network.
    """
    text = next((entry.value for entry in graph.proto.metadata_props if entry.key == _NAMES_KEY), "")
    try:
        names = ast.literal_eval(text) if len(text) < 40 * MAX_LABELS else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        names = None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[i] for i in range(len(names))]
    if names is None and graph.name in pretrained.names() and graph.tensors[graph.outputs[0]].shape == (1, 10):
        names = CIFAR_CLASSES
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the names of classes in a text file, one on a line; `12: cat` and `12 cat` name class 12 all the same.

    Args:
        path: of the file.

    Raises:
        UserError: if it cannot be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot read these labels ({type(error).__name__}); expected a line for each"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if not names or len(names) > MAX_LABELS:
        raise UserError(f"{path}: {len(names)} labels; expected 1 to {MAX_LABELS}, one on a line")
    numbered = [re.fullmatch(r"(\d+)[:,\s]\s*(.+)", name) for name in names]
    if all(match and int(match[1]) == i for i, match in enumerate(numbered)):
        names = [match[2] for match in numbered if match]
    return tuple(names)


def likeliest(values: np.ndarray, labels: Sequence[str], count: int) -> list[Likely]:
    """Return the most likely classes, the likeliest first.

    Args:
        values: of one answer, a number for each class; other axes are 1.
        labels: names of the classes; empty for none.
        count: how many, at most all.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    distributed = flat.min() >= 0 and abs(float(flat.sum()) - 1) < 1e-3
    shifted = np.exp(flat - flat.max())
    shares = flat if distributed else shifted / shifted.sum()
    best = np.argsort(-flat, kind="stable")[:count]
    names = [printable(labels[int(i)], _LABEL_CHARACTERS) if i < len(labels) else str(i) for i in best]
    return [Likely(int(i), name, float(shares[i])) for i, name in zip(best, names, strict=True)]

"""Networks exported from PyTorch, with both of its exporters and at many opsets."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.networks.case import Case, Shape

if TYPE_CHECKING:  # a run that finds every file written starts without PyTorch
    from torch import Tensor, nn

GROUP = "Exported from PyTorch"
IMAGE = (1, 3, 64, 64)
IDS = (0, 99)
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
NEWEST = {"vit": (18, 20, 22, 24), "multi-task": (18, 20, 22, 24, 26)}


class Network(NamedTuple):
    """A module and what it takes."""

    name: str
    module: str
    """File of this folder and name in it of what makes the module."""
    inputs: Mapping[str, Shape]
    integers: Mapping[str, tuple[int, int]] = {}
    """Smallest and largest value of the inputs that are integers."""
    exporters: Sequence[str] = ("dynamo", "script")


NETWORKS = (
    Network("densenet121", "torch_vision.DenseNet", {"x": IMAGE}),
    Network("mobilenet-v3", "torch_vision.mobilenet_v3", {"x": IMAGE}),
    Network("efficientnet", "torch_vision.efficientnet", {"x": IMAGE}),
    Network("u-net", "torch_vision.UNet", {"x": IMAGE}),
    Network("u-net-bilinear", "torch_vision.unet_bilinear", {"x": IMAGE}),
    Network("vit", "torch_vision.ViT", {"x": (1, 3, 32, 32)}),
    Network("window-attention", "torch_vision.WindowAttention", {"x": IMAGE}),
    Network("convnext", "torch_vision.ConvNeXt", {"x": IMAGE}),
    Network("feature-pyramid", "torch_vision.FeaturePyramid", {"x": IMAGE}),
    Network("super-resolution", "torch_vision.SuperResolution", {"x": (1, 3, 24, 24)}),
    Network("style-transfer", "torch_vision.StyleTransfer", {"x": (1, 3, 32, 32)}),
    Network("siamese", "torch_vision.Siamese", {"left": IMAGE, "right": IMAGE}),
    Network("warp", "torch_vision.Warp", {"left": (1, 3, 32, 32), "right": (1, 3, 32, 32)}),
    Network("multi-task", "torch_vision.MultiTask", {"x": IMAGE}),
    Network("point-cloud", "torch_vision.PointCloud", {"x": (1, 3, 128)}),
    Network("video", "torch_vision.Video", {"x": (1, 3, 8, 32, 32)}),
    Network(
        "bert",
        "torch_sequence.Bert",
        {"input_ids": (1, 16), "attention_mask": (1, 16), "token_type_ids": (1, 16)},
        {"input_ids": IDS, "attention_mask": (0, 1), "token_type_ids": (0, 1)},
    ),
    Network("gpt", "torch_sequence.Gpt", {"input_ids": (1, 16)}, {"input_ids": IDS}),
    Network(
        "llama-step",
        "torch_sequence.Llama",
        {"input_ids": (1, 2), "position_ids": (1, 2), "past_key": (1, 4, 6, 8), "past_value": (1, 4, 6, 8)},
        {"input_ids": IDS, "position_ids": (0, 50)},
    ),
    Network(
        "translator", "torch_sequence.Translator", {"source": (1, 12), "target": (1, 9)}, {"source": IDS, "target": IDS}
    ),
    Network("lstm-state", "torch_sequence.Recurrent", {"x": (1, 10, 8), "h": (2, 1, 16), "c": (2, 1, 16)}),
    Network("gru-state", "torch_sequence.gru", {"x": (1, 10, 8), "h": (2, 1, 16)}),
    Network("tagger", "torch_sequence.Tagger", {"input_ids": (1, 12)}, {"input_ids": IDS}),
    Network("speech-encoder", "torch_sequence.SpeechEncoder", {"sound": (1, 800)}),
    Network("wavenet", "torch_sequence.WaveNet", {"x": (1, 1, 128)}),
    Network("experts", "torch_sequence.Experts", {"x": (1, 16)}),
    Network(
        "recommender", "torch_sequence.Recommender", {"dense": (1, 13), "categories": (1, 5)}, {"categories": (0, 49)}
    ),
    Network("branching", "torch_sequence.Branching", {"x": (1, 8)}, exporters=("dynamo",)),
    Network("loop", "torch_sequence.Scripted", {"x": (1, 6, 4)}, exporters=("script",)),
)
BY_NAME = {network.name: network for network in NETWORKS}
FREE: Mapping[str, Mapping[str, Mapping[int, str]]] = {
    "u-net-bilinear": {"x": {0: "batch", 2: "height", 3: "width"}},
    "style-transfer": {"x": {0: "batch", 2: "height", 3: "width"}},
    "feature-pyramid": {"x": {0: "batch", 2: "height", 3: "width"}},
    "bert": {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask", "token_type_ids")},
    "gpt": {"input_ids": {0: "batch", 1: "length"}},
    "llama-step": {
        "input_ids": {1: "new"},
        "position_ids": {1: "new"},
        "past_key": {2: "past"},
        "past_value": {2: "past"},
    },
    "lstm-state": {"x": {0: "batch", 1: "length"}, "h": {1: "batch"}, "c": {1: "batch"}},
    "speech-encoder": {"sound": {0: "batch", 1: "samples"}},
    "loop": {"x": {0: "batch", 1: "length"}},
    "point-cloud": {"x": {0: "batch", 2: "points"}},
}
"""Axes that a second export of these networks leaves free."""


def cases() -> list[Case]:
    """Return every exported network."""
    fixed = [_case(network, exporter) for network in NETWORKS for exporter in network.exporters]
    free = [_case(BY_NAME[name], "script", free=axes) for name, axes in FREE.items()]
    old = [_case(BY_NAME["mobilenet-v3"], "script", opset) for opset in OPSETS if opset >= 14]
    old += [_case(BY_NAME["siamese"], "script", opset) for opset in OPSETS]
    new = [_case(BY_NAME[name], "dynamo", opset) for name, opsets in NEWEST.items() for opset in opsets]
    return [*fixed, *free, *old, *new]


def _case(
    network: Network, exporter: str, opset: int | None = None, free: Mapping[str, Mapping[int, str]] | None = None
) -> Case:
    name = "-".join(filter(None, (network.name, exporter, opset and f"opset{opset}", free and "free")))
    source = "TorchScript exporter" if exporter == "script" else "torch.export"
    return Case(
        name,
        GROUP,
        source + (f", opset {opset}" if opset else "") + (", free axes" if free else ""),
        f"{name}.onnx",
        lambda path: write(network, path, exporter, opset, free),
        network.inputs if free else {},
        network.integers,
    )


def made(network: Network) -> "nn.Module":
    """Return a network's module, with new random weights.

    Args:
        network: names it.
    """
    file, _, name = network.module.partition(".")
    return getattr(import_module(f"tests.networks.{file}"), name)()


def examples(network: Network) -> "tuple[Tensor, ...]":
    """Return one example for each input.

    Args:
        network: says sizes and ranges.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randint(*network.integers[name], shape, generator=generator)
        if name in network.integers
        else torch.randn(shape, generator=generator)
        for name, shape in network.inputs.items()
    )


def write(
    network: Network,
    path: Path,
    exporter: str = "script",
    opset: int | None = None,
    free: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Export a network to a file.

    Args:
        network: module and inputs.
        path: of the file.
        exporter: `dynamo` (torch.export) or `script` (TorchScript).
        opset: None takes the exporter's own.
        free: names of the free axes, by input and axis.
    """
    import torch

    torch.manual_seed(0)
    module, names = made(network).eval(), list(network.inputs)
    options = {"input_names": names, "opset_version": opset, "verbose": False}
    with _quiet():
        if exporter == "dynamo":
            program = torch.onnx.export(module, examples(network), dynamo=True, **options)
            assert program is not None
            program.save(path)
        else:
            traced = torch.jit.script(module) if network.name == "loop" else module
            torch.onnx.export(traced, examples(network), path, dynamo=False, dynamic_axes=free, **options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and their notes on PyTorch's insides to themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

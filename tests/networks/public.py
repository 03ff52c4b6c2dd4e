"""Networks that the onnx package brings for tests of executors: known architectures with constant weights, and small
exports of early PyTorch. The package is installed, so nothing is fetched."""

from pathlib import Path

import onnx
from tests.networks.case import Case

LIGHT = "Known architectures, from the onnx package"
SMALL = "Small graphs, from the onnx package"
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SOURCE = f"onnx {onnx.__version__}"
OPSET = 13
"""The small exports are of opset 6, before what is read here, and are converted."""
OTHER = ("gradient", "strnorm", "sequence", "expand_shape_model1", "_multiparam")
"""Graphs of training, text and sequences, one that does not run on every input, and some that conversion spoils."""
BOUNDLESS = "as large as values of a request say"
"""Refusal of a tensor whose size a request may choose freely."""


def light() -> list[Case]:
    """Return networks of 2012 to 2018 at full size; constant operations make their weights."""
    paths = sorted((DATA / "light").glob("*.onnx"))
    return [Case(path.stem.replace("_", "-"), LIGHT, SOURCE, str(path), lambda _: None) for path in paths]


def small() -> list[Case]:
    """Return the small graphs."""
    paths = (
        path for folder in ("pytorch-converted", "pytorch-operator", "simple") for path in (DATA / folder).iterdir()
    )
    return [_small(path / "model.onnx") for path in sorted(paths) if not any(word in path.name for word in OTHER)]


def _small(path: Path) -> Case:
    name = path.parent.name.removeprefix("test_").replace("_", "-").lower()
    if path.parents[1].name == "simple":
        refusal = BOUNDLESS if name.startswith("expand-shape-model") else ""
        return Case(name, SMALL, SOURCE, str(path), lambda _: None, is_small=True, refusal=refusal)
    return Case(name, SMALL, f"{SOURCE}, converted", f"small/{name}.onnx", lambda to: _convert(path, to), is_small=True)


def _convert(source: Path, target: Path) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), OPSET), target)

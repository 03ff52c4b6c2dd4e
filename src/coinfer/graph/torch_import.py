"""PyTorch modules as graphs. PyTorch (the `train` extra) is imported only when `from_torch` is called."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx

from coinfer.graph.image_input import ImageInput, image_property
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import from_proto

if TYPE_CHECKING:
    import torch


def from_torch(
    module: "torch.nn.Module",
    example_input: "torch.Tensor | Sequence[torch.Tensor]",
    name: str,
    outputs: Sequence[str] | None = None,
    image: ImageInput | None = None,
) -> ModelGraph:
    """Return a module in evaluation mode as a network with a free batch axis.

    A module that returns a tuple becomes a network with several exits.

    Args:
        module: is left in the mode in which it was.
        example_input: one tensor, or one for each argument of `forward`; the first axis of each is the batch.
        name: of the network.
        outputs: names for what the module returns, in order; None lets the exporter choose.
        image: how pictures become the module's input, if they do.

    Raises:
        GraphError: if PyTorch is missing or cannot export the module, or the network is refused (`onnx.validate`).
    """
    try:
        import torch
    except ImportError as error:
        raise GraphError(f"{name}: reading a module needs PyTorch: pip install 'coinfer[train]'") from error
    inputs = (example_input,) if isinstance(example_input, torch.Tensor) else tuple(example_input)
    # The exporter takes an axis of size 1 for fixed, so two samples stand for any number.
    examples = tuple(x[:1].repeat(2, *[1] * (x.ndim - 1)) for x in inputs)
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        model = _export(module, examples, outputs)
    except Exception as error:  # the exporter's errors share no base class below this one
        raise GraphError(f"{name}: PyTorch cannot export this module to ONNX: {error}") from error
    finally:
        for part, was in training.items():
            part.training = was
    if image is not None:
        model.metadata_props.append(image_property(image))
    return from_proto(model, name)


def _export(
    module: "torch.nn.Module", examples: tuple["torch.Tensor", ...], outputs: Sequence[str] | None
) -> onnx.ModelProto:
    import torch

    batch = torch.export.Dim("batch")
    # Progress lines and notes on PyTorch's own internals are of no use to our callers.
    with warnings.catch_warnings(), _quiet("torch.onnx"), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            verbose=False,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in examples),
        )
    if program is None:
        raise ValueError("the exporter returned nothing")
    return program.model_proto


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

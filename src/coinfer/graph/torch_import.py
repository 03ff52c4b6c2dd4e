"""PyTorch modules as graphs. PyTorch (the `train` extra) is imported only when `from_torch` is called."""

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx

from coinfer.graph.image_input import ImageInput, image_property
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.axes import Shapes, Size
from coinfer.graph.onnx.load import from_proto

if TYPE_CHECKING:
    import torch

BATCH = "batch"
AxisNames = Mapping[int, str]
_NONE: Mapping[str, Any] = MappingProxyType({})
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def from_torch(
    module: "torch.nn.Module",
    example_input: object,
    name: str,
    outputs: Sequence[str] | None = None,
    image: ImageInput | None = None,
    *,
    kwargs: Mapping[str, object] = _NONE,
    dynamic_axes: Mapping[str, AxisNames] = _NONE,
    shapes: Shapes = _NONE,
) -> ModelGraph:
    """Return a module in evaluation mode as a network with a free batch axis, where the module allows one.

    A module that returns a tuple becomes a network with several exits. Tensors among the arguments are the network's
    inputs; numbers, texts and None are fixed in it as they are.

    Args:
        module: is left in the mode in which it was.
        example_input: one tensor, or a sequence with one value for each argument of `forward`; a value may be a tuple
            of tensors, such as the state of a recurrent layer.
        name: of the network.
        outputs: names for what the module returns, in order; None lets the exporter choose.
        image: how pictures become the module's input, if they do.
        kwargs: values of further arguments of `forward`, by name.
        dynamic_axes: names of the free axes, by argument of `forward` and axis. The axis called `batch` is the batch;
            arguments that are not listed have it as their first axis. `{"state": {1: "batch"}}` has it as the second,
            `{"mask": {}}` has none.
        shapes: ranges of the free axes other than the batch, such as `{"length": "8..512"}`, as for `open_model`; an
            axis without a range has at least its size in the example.

    Raises:
        GraphError: if PyTorch is missing or cannot export the module, an argument does not fit `forward` or
            `dynamic_axes`, or the network is refused (`onnx.validate`).
    """
    try:
        import torch
    except ImportError as error:
        raise GraphError(
            f"{name}: reading a module needs PyTorch: pip install '.[train]' in coinfer's folder"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise GraphError(f"{name}: expected a torch.nn.Module, got a {type(module).__name__}")
    values = (example_input,) if isinstance(example_input, torch.Tensor) else _sequence(example_input, name)
    arguments = _bind(module, values, kwargs, dynamic_axes, name)
    with _evaluating(module):
        _run(module, arguments, name)
        model = _export(module, arguments, outputs, is_free=bool(dynamic_axes), name=name)
    if image is not None:
        model.metadata_props.append(image_property(image))
    return from_proto(model, name, sizes={**_least_sizes(arguments), **shapes})


class _Argument(NamedTuple):
    """A value for a parameter of `forward`, with the names of its free axes."""

    value: Any
    axes: AxisNames

    def tensors(self) -> list["torch.Tensor"]:
        import torch
        from torch.utils import _pytree

        leaves, _ = _pytree.tree_flatten(self.value)
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _sequence(values: object, name: str) -> tuple[object, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise GraphError(f"{name}: the example input is {type(values).__name__}; expected a tensor or a list of values")
    return tuple(values)


def _bind(
    module: "torch.nn.Module",
    values: Sequence[object],
    kwargs: Mapping[str, object],
    dynamic_axes: Mapping[str, AxisNames],
    name: str,
) -> dict[str, _Argument]:
    """Return the arguments by parameter of `forward`, checked."""
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*values, **kwargs).arguments
    except TypeError as error:
        raise GraphError(f"{name}: the example does not fit forward{signature}: {error}") from error
    unknown = [key for key in dynamic_axes if key not in bound]
    if unknown:
        raise GraphError(f"{name}: dynamic_axes names {unknown[0]!r}; the arguments are {', '.join(bound)}")
    arguments = {key: _Argument(value, dynamic_axes.get(key, {0: BATCH})) for key, value in bound.items()}
    for key, argument in arguments.items():
        for tensor in argument.tensors():
            beyond = [axis for axis in argument.axes if axis >= tensor.ndim and key in dynamic_axes]
            if beyond:
                raise GraphError(f"{name}: {key!r} has no axis {beyond[0]}; its shape is {list(tensor.shape)}")
    if not any(argument.tensors() for argument in arguments.values()):
        raise GraphError(f"{name}: no argument of forward is a tensor, so nothing can be sent to the network")
    return arguments


def _least_sizes(arguments: Mapping[str, _Argument]) -> dict[str, Size]:
    """Return the ranges of the free axes other than the batch: from their sizes in the example on."""
    return {
        axis: f"{tensor.shape[i]}.."
        for argument in arguments.values()
        for tensor in argument.tensors()
        for i, axis in argument.axes.items()
        if axis != BATCH and i < tensor.ndim
    }


@contextlib.contextmanager
def _evaluating(module: "torch.nn.Module") -> Iterator[None]:
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, was in training.items():
            part.training = was


def _run(module: "torch.nn.Module", arguments: Mapping[str, _Argument], name: str) -> None:
    """Run the module once: what its own code says about a wrong example is clearer than what the exporter says."""
    import torch

    bound = inspect.signature(module.forward).bind_partial()
    bound.arguments.update({key: argument.value for key, argument in arguments.items()})
    try:
        with torch.no_grad():
            module(*bound.args, **bound.kwargs)
    except Exception as error:  # whatever the module raises
        raise GraphError(f"{name}: the module does not run on the example: {_reason(error)}") from error


def _export(
    module: "torch.nn.Module",
    arguments: Mapping[str, _Argument],
    outputs: Sequence[str] | None,
    is_free: bool,
    name: str,
) -> onnx.ModelProto:
    """Return the module with its free axes; if nobody asked for them and the batch cannot be free, with that fixed."""
    try:
        return _export_with(module, arguments, outputs)
    except Exception as error:  # the exporter's errors share no base class below this one
        problem = GraphError(f"{name}: PyTorch cannot export this module to ONNX: {_reason(error)}")
        if is_free:
            raise problem from error
        fixed = {key: argument._replace(axes={}) for key, argument in arguments.items()}
        try:
            return _export_with(module, fixed, outputs)
        except Exception:
            raise problem from error


def _reason(error: BaseException) -> str:
    """Return the line that says what is wrong; the exporter wraps it in advice of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _export_with(
    module: "torch.nn.Module", arguments: Mapping[str, _Argument], outputs: Sequence[str] | None
) -> onnx.ModelProto:
    import torch
    from torch.utils._pytree import tree_map

    names = {axis for argument in arguments.values() for axis in argument.axes.values()}
    dims = {axis: torch.export.Dim(axis) for axis in names}
    examples = {key: tree_map(lambda leaf, a=a: _two_samples(leaf, a.axes), a.value) for key, a in arguments.items()}
    specs = {
        key: tree_map(lambda leaf, a=a: _spec(leaf, {i: dims[axis] for i, axis in a.axes.items()}), a.value)
        for key, a in arguments.items()
    }
    with _quiet():
        program = torch.onnx.export(
            module, (), kwargs=examples, dynamo=True, verbose=False, output_names=outputs, dynamic_shapes=specs
        )
    if program is None:
        raise ValueError("the exporter returned nothing")
    return _named_axes(program.model_proto, arguments)


def _named_axes(model: onnx.ModelProto, arguments: Mapping[str, _Argument]) -> onnx.ModelProto:
    """Return the model with the names of the free axes, which the exporter may replace by its own."""
    tensors = [(tensor, argument.axes) for argument in arguments.values() for tensor in argument.tensors()]
    for value, (tensor, axes) in zip(model.graph.input, tensors, strict=True):
        for axis, name in axes.items():
            if axis < tensor.ndim and value.type.tensor_type.shape.dim[axis].HasField("dim_param"):
                value.type.tensor_type.shape.dim[axis].dim_param = name
    return model


def _two_samples(value: Any, axes: AxisNames) -> Any:
    """Return an example as two samples: the exporter takes an axis of size 1 for fixed, so two stand for any number."""
    import torch

    axis = next((i for i, name in axes.items() if name == BATCH), None)
    if not isinstance(value, torch.Tensor) or axis is None or axis >= value.ndim:
        return value
    return value.narrow(axis, 0, 1).repeat([2 if i == axis else 1 for i in range(value.ndim)])


def _spec(value: Any, dims: Mapping[int, Any]) -> dict[int, Any] | None:
    """Return the free axes of a value as the exporter wants them."""
    import torch

    return {i: dim for i, dim in dims.items() if i < value.ndim} if isinstance(value, torch.Tensor) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back progress lines and notes on PyTorch's own internals, which are of no use to our callers."""
    logger, nowhere = logging.getLogger("torch"), io.StringIO()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

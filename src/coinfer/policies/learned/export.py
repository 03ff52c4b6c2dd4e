"""Export of a trained policy to an ONNX file whose inputs are the observation's fields, with a side-car in JSON.

The policy is a module from an `OffloadObservation` of tensors [B, ..] to an `OffloadDecision` [B, K], or from a
`BlocksObservation` to a `BlocksDecision`. Fields that it does not read are no inputs. `policies.onnx` loads the pair
without PyTorch.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset18
from torch import Tensor, nn

from coinfer.options.table import Triple
from coinfer.policies.onnx import KINDS, write_sidecar
from coinfer.types import BlocksObservation, OffloadObservation, fields_of

_SIZED = "KONM"
"""Letters of the axes whose lengths a side-car tells."""


class _ByFields(nn.Module):
    """The same policy with one argument per field, and indices as int64."""

    def __init__(self, policy: nn.Module, kind: type[OffloadObservation[Tensor]] | type[BlocksObservation[Tensor]]):
        super().__init__()
        self.policy, self.kind = policy, kind

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.to(torch.int64) for part in self.policy(self.kind(*fields)))


def export(
    path: Path,
    policy: nn.Module,
    example: OffloadObservation[Tensor] | BlocksObservation[Tensor],
    *,
    scheme: str,
    scenario: str,
    scenario_fingerprint: str,
    options: Sequence[Triple] | None = None,
    dynamic_axes: str = "B",
    training: Mapping[str, object] | None = None,
) -> None:
    """Write the ONNX file and its side-car.

    Args:
        path: ends in .onnx; the side-car is beside it, with .json. The folder is made if it does not exist.
        policy: maps an observation to a decision.
        example: an observation [B, ..] with B of at least 2; fixes the axes that are not dynamic.
        scheme: name of the training scheme.
        scenario: name of the scenario of the training.
        scenario_fingerprint: of the compiled scenario, from `scenario.compile.fingerprint`.
        options: meaning of the options, if the policy knows them by number only; None if it reads them from the
            observation.
        dynamic_axes: letters of the axes (B, K, O, N, M) that may have any length.
        training: record of the training.
    """
    kind, observation = next((kind, types) for kind, types in KINDS.items() if isinstance(example, types.observation))
    fields = {name: value.detach().cpu().contiguous() for name, value in example._asdict().items()}
    letters = {name: field.axes for name, field in fields_of(observation.observation).items()}
    sizes = {letter: size for name in fields for letter, size in zip(letters[name], fields[name].shape, strict=True)}
    dims = {letter: torch.export.Dim.DYNAMIC for letter in dynamic_axes}
    shapes = tuple({i: dims[letter] for i, letter in enumerate(letters[name]) if letter in dims} for name in fields)
    outputs = observation.decision._fields
    write_onnx(path, _ByFields(policy, observation.observation), fields, (shapes,), outputs)
    read = _drop_unread(path)
    own = {
        "sizes": {
            letter: None if letter in dynamic_axes else size for letter, size in sizes.items() if letter in _SIZED
        },
        "options": None if options is None else [[exit_, list(cut), bits] for exit_, cut, bits in options],
        "fields": read,
    }
    write_sidecar(
        path,
        kind,
        own,
        scheme=scheme,
        scenario=scenario,
        scenario_fingerprint=scenario_fingerprint,
        training=training,
    )


def write_graph(path: Path, graph: onnx.GraphProto) -> None:
    """Write a graph that was made node by node.

    Args:
        path: of the ONNX file; the folder is made if it does not exist.
        graph: of operators of the standard set.
    """
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))


def write_onnx(
    path: Path, module: nn.Module, inputs: Mapping[str, Tensor], shapes: tuple[object, ...], outputs: Sequence[str]
) -> None:
    """Write a module without the messages of PyTorch's exporter and of the optimiser that it calls.

    Args:
        path: of the ONNX file; the folder is made if it does not exist.
        module: takes the inputs in their order.
        inputs: examples by name.
        shapes: the dynamic axes of the module's arguments, as `torch.onnx.export` takes them.
        outputs: their names.
    """
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript"))}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                custom_translation_table={torch.ops.aten.scalar_tensor.default: _scalar},
                verbose=False,
            )
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    onnx.save_model(model, str(path))


def _scalar(
    value: Any, dtype: int = onnx.TensorProto.FLOAT, layout: str = "", device: str = "", pin_memory: bool = False
) -> Any:
    """Return a number in its type in PyTorch.

    The exporter's own function rounds those in float64 to float32, so that of nearly equal choices another one was
    taken than in PyTorch.
    """
    if isinstance(value, bool | int | float):
        return opset18.Constant(value=onnx.helper.make_tensor("value", dtype, (), [value]))
    return opset18.Cast(value, to=dtype)


def _drop_unread(path: Path) -> list[str]:
    """Remove the inputs that no node reads, and return the names of the others."""
    model = onnx.load_model(str(path))
    used = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    inputs = [entry for entry in model.graph.input if entry.name in used]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))
    return [entry.name for entry in inputs]

"""A scorer as one ONNX file: its networks as PyTorch exports them, its loop over tasks as ONNX's own `Loop`.

The loop's body is written out by hand, as few and as simple nodes as can be: they run once for every task, and most of
their time is that of calling them. It is the same arithmetic in the same order as `scorer.sequence` with insertion, so
both decide alike.
"""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from coinfer.policies import scorer
from coinfer.policies.choices import choices
from coinfer.policies.exported import AXES, FORMAT
from coinfer.types import OffloadObservation

FIELDS = (
    "option_device_s", "option_upload_bits", "option_server_s", "option_mask", "task_mask", "deadline_s", "uplink_bps",
    "device_backlog_s", "server_backlog_s", "server_room", "observation_age_s", "uplink_backlog_s",
)  # fmt: skip
"""Of the observation that the policy reads."""


class _Prepared(nn.Module):
    """From the fields to what the loop begins with."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights.detach().cpu().float(), requires_grad=False)

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(FIELDS, fields, strict=True))
        there = named["task_mask"]
        options = named["option_device_s"]
        seen = OffloadObservation(
            **named,  # type: ignore[arg-type]
            option_accuracy=torch.ones_like(options),
            option_device_j=torch.zeros_like(options),
            energy_left_j=torch.zeros_like(named["deadline_s"]),
        )
        found = choices(seen)
        rows, order = scorer.prepared(scorer.unpack(self.weights[None]), seen, found)
        options, servers = named["option_server_s"].shape[2:]
        ready, service, sends, air, longer, steep, fixed, others, delay, late, rise, lean = rows.unbind(-1)
        number = torch.arange(servers).repeat(options).to(rows.dtype)
        code = torch.where(sends > 0, number, -1.0)
        joins = torch.where(there[:, :, None], code, -2.0)
        full = sends * scorer.FULL_S
        parts = (ready, service, longer, steep, fixed, others, delay, late, rise, lean, full, sends, air, joins)
        index = order[None, ..., None].expand(len(parts), -1, -1, rows.shape[-2])
        rows = torch.stack(parts, 0).gather(2, index).permute(2, 0, 1, 3)
        return rows.contiguous(), order, code, there.sum(-1).max()


class _Nodes:
    """Nodes of a graph, written as calls."""

    def __init__(self, prefix: str):
        self.nodes: list[onnx.NodeProto] = []
        self.prefix = prefix

    def __call__(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        names = list(outputs) or [f"{self.prefix}{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]


_CONSTANTS: dict[str, np.ndarray] = {
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "none_ready": np.array(-np.inf, np.float32),
    "nought": np.array(0, np.int64),
    "step": np.array(1, np.int64),
    "last": np.array([-1], np.int64),
    "axis0": np.array([0], np.int64),
    "axis1": np.array([1], np.int64),
    "alive": np.array(True),
}
_STATE = ("senders", "sent", "over", "jobs_ready", "jobs_finish")
_PARTS = (
    "ready0", "service", "longer", "steep", "fixed", "others", "delay", "late", "rise", "lean", "full", "sends",
    "air", "code",
)  # fmt: skip
"""Of the rows, as the loop takes them."""


def _body() -> onnx.GraphProto:
    """One task: what `scorer.sequence` with insertion and `Queue` do. All is by choice, [1, B, C], so that nothing has
    to be spread; the jobs are [1, B, C, K], and where there is none their readiness is minus infinity."""
    n = _Nodes("b")
    senders, sent, over, jobs_ready, jobs_finish = (f"{name}_in" for name in _STATE)
    n("Split", n("Gather", "rows_by_task", "i", axis=0), outputs=_PARTS, axis=0, num_outputs=len(_PARTS))
    ready = n("Add", "ready0", n("Mul", "longer", senders))
    after = n("Greater", jobs_ready, n("Unsqueeze", ready, "last"))
    free = n("ReduceMax", n("Where", after, "zero", jobs_finish), "last", keepdims=0)
    delayed = n("ReduceSum", n("Cast", after, to=TensorProto.FLOAT), "last", keepdims=0)
    begin = n("Max", ready, n("Mul", free, "sends"))
    lateness = n("Clip", n("Add", n("Mul", begin, "rise"), "lean"), "zero", "one")
    own = n("Add", n("Mul", begin, "steep"), "fixed")
    score = n("Add", own, n("Add", n("Mul", "others", sent), n("Mul", "late", lateness)))
    score = n("Add", score, n("Mul", "delay", delayed))
    score = n("Add", score, n("Mul", "full", n("Relu", over)))
    taken = n("ArgMin", score, outputs=["taken"], axis=-1, keepdims=1)
    parts = n("Concat", ready, n("Add", begin, "service"), "air", "code", axis=0)
    found = n("GatherElements", parts, n("Expand", taken, "taken_shape"), axis=-1)
    own_parts = ("own_ready", "own_end", "own_air", "own_code")
    n("Split", found, outputs=own_parts, axis=0, num_outputs=len(own_parts))
    here = n("Equal", "server_numbers", "own_code")
    joins = n("Cast", here, to=TensorProto.FLOAT)
    n("Add", senders, joins, outputs=["senders_out"])
    n("Add", sent, n("Mul", joins, "own_air"), outputs=["sent_out"])
    n("Add", over, joins, outputs=["over_out"])
    put = n("And", n("Unsqueeze", here, "last"), n("Equal", "places", "i"))
    n("Where", put, n("Unsqueeze", "own_ready", "last"), jobs_ready, outputs=["jobs_ready_out"])
    n("Where", put, n("Unsqueeze", "own_end", "last"), jobs_finish, outputs=["jobs_finish_out"])
    n("Identity", "alive_in", outputs=["alive_out"])

    def value(name: str, kind: int, shape: list[int] | None = None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    given = [value("i", TensorProto.INT64, []), value("alive_in", TensorProto.BOOL, [])]
    given += [value(f"{name}_in", TensorProto.FLOAT) for name in _STATE]
    results = [value("alive_out", TensorProto.BOOL, [])]
    results += [value(f"{name}_out", TensorProto.FLOAT) for name in _STATE]
    return helper.make_graph(n.nodes, "task", given, [*results, value("taken", TensorProto.INT64)])


def _around(n: _Nodes) -> None:
    """What stands between the networks and the loop, and after it."""
    sizes = n("Shape", "rows_by_task")  # K, J, B, C
    worlds, choice_count = (n("Gather", sizes, n("Constant", value_int=axis), axis=0) for axis in (2, 3))
    servers = n("Gather", n("Shape", "server_room"), "step", axis=0)

    def vector(*parts: str) -> str:
        return n("Concat", *(n("Unsqueeze", part, "axis0") for part in parts), axis=0)

    n("Identity", vector(n("Constant", value_int=4), worlds, "step"), outputs=["taken_shape"])
    by_choice = vector("step", worlds, choice_count)
    by_job = vector("step", worlds, choice_count, "count")
    n("Range", "nought", "count", "step", outputs=["places"])
    numbers = n("Mod", n("Range", "nought", choice_count, "step"), servers)
    n("Cast", numbers, to=TensorProto.FLOAT, outputs=["server_numbers"])
    room, before = (n("Gather", name, numbers, axis=1) for name in ("server_room", "server_backlog_s"))
    n("Expand", "zero", by_choice, outputs=["senders0"])
    n("Unsqueeze", n("Sub", "one", room), "axis0", outputs=["over0"])
    n("Expand", "none_ready", by_job, outputs=["jobs_ready0"])
    spread = n("Unsqueeze", n("Unsqueeze", before, "axis0"), "last")
    n("Expand", spread, by_job, outputs=["jobs_finish0"])
    first = ("senders0", "senders0", "over0", "jobs_ready0", "jobs_finish0")
    ends = [f"{name}_end" for name in _STATE]
    n("Loop", "count", "alive", *first, outputs=[*ends, "taken_by_task"], body=_body())
    # [count, B, 1] of the first tasks in order; those after them are not there
    taken = n("Transpose", n("Reshape", "taken_by_task", vector("count", worlds)), perm=[1, 0])
    n("Slice", "order", "axis0", n("Unsqueeze", "count", "axis0"), "axis1", outputs=["decided"])
    choice = n("ScatterElements", n("Expand", "nought", n("Shape", "order")), "decided", taken, axis=1)
    n("Div", choice, servers, outputs=["option"])
    chosen = n("GatherElements", "codes", n("Unsqueeze", choice, "last"), axis=-1)
    n("Cast", n("Squeeze", chosen, "last"), to=TensorProto.INT64, outputs=["server"])


def export(path: Path, weights: Tensor, *, scenario: str, fingerprint: str, training: Mapping[str, Any]) -> None:
    """Writes `path` (.onnx) and its side-car (.json); any number of worlds, tasks, options and servers will do.

    Args:
        weights: [scorer.SIZE]
        scenario: what it was trained for.
        training: record of the training.
    """
    model = _prepared_model(weights)
    graph = model.graph
    del graph.output[:]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
    nodes = _Nodes("a")
    _around(nodes)
    graph.node.extend(nodes.nodes)
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "K"]) for name in ("option", "server")
    )
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))
    sidecar = {
        "format": FORMAT,
        "kind": "offload",
        "scheme": "scorer",
        "scenario": scenario,
        "scenario_fingerprint": fingerprint,
        "sizes": dict.fromkeys("KON"),
        "options": None,
        "fields": list(FIELDS),
        "training": dict(training),
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")


def _prepared_model(weights: Tensor) -> onnx.ModelProto:
    """The networks, without the exporter's chatter."""
    sizes = {"B": 3, "K": 6, "O": 4, "N": 5}
    fields = tuple(torch.ones([sizes[letter] for letter in AXES[name]]) for name in FIELDS)
    fields = tuple(field > 0 if "mask" in name else field for name, field in zip(FIELDS, fields, strict=True))
    shapes = tuple(dict.fromkeys(range(len(AXES[name])), torch.export.Dim.DYNAMIC) for name in FIELDS)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Prepared(weights).eval(),
                fields,
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=list(FIELDS),
                output_names=["rows_by_task", "order", "codes", "count"],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return model

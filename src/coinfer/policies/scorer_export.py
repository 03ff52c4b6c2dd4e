"""A scorer as one ONNX file: its networks as PyTorch exports them, its loop over tasks as ONNX's own `Loop`.

The loop's body is written out by hand: it is some sixty small nodes, which ONNX Runtime runs in about ten microseconds
a task. It is the same arithmetic in the same order as `scorer.sequence` with insertion, so both decide alike. Shapes in
the body are [J, B, O, N, 1] and [1, B, 1, N, K], K places for the tasks that are queued there.
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
        tasks, (options, servers) = order.shape[1], named["option_server_s"].shape[2:]
        sends = rows[..., 2:3]
        number = torch.arange(servers).repeat(options)[:, None].to(rows.dtype)
        code = torch.where(sends > 0, number, -1.0)
        joins = torch.where(there[:, :, None, None], code, -1.0)
        rows = torch.cat((rows[..., :2], joins, rows[..., 3:8], rows[..., 8:9] * sends, rows[..., 9:], sends), -1)
        rows = rows.gather(1, order[..., None, None].expand(-1, -1, rows.shape[-2], rows.shape[-1]))
        rows = rows.reshape(rows.shape[0], tasks, options, servers, rows.shape[-1]).permute(1, 4, 0, 2, 3)
        return rows[..., None].contiguous(), order, code[..., 0], there.sum(-1).max()


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
    "infinite": np.array(np.inf, np.float32),
    "none_ready": np.array(-np.inf, np.float32),
    "full_s": np.array(scorer.FULL_S, np.float32),
    "last": np.array([-1], np.int64),
    "nought": np.array(0, np.int64),
    "step": np.array(1, np.int64),
    "alive": np.array(True),
    "axis0": np.array([0], np.int64),
    "axis1": np.array([1], np.int64),
}
_STATE = ("senders", "sent", "room", "barred", "jobs_ready", "jobs_start", "jobs_finish")


def _body() -> onnx.GraphProto:
    """One task: `scorer.sequence` with insertion, and what `Queue` does. Its jobs are [1, B, 1, N, K], by server; their
    readiness is minus infinity where there is none, so that these count as served before."""
    n = _Nodes("b")
    senders, sent, room, barred, jobs_ready, jobs_start, jobs_finish = (f"{name}_in" for name in _STATE)
    parts = (
        "ready0",
        "service",
        "code",
        "air",
        "longer",
        "steep",
        "fixed",
        "others",
        "delay",
        "late",
        "rise",
        "lean",
        "sends",
    )
    n("Split", n("Gather", "rows_by_task", "i", axis=0), outputs=parts, axis=0, num_outputs=len(parts))
    ready = n("Add", "ready0", n("Mul", "longer", senders))
    earlier = n("LessOrEqual", jobs_ready, ready)
    free = n("ReduceMax", n("Where", earlier, jobs_finish, "zero"), "last", keepdims=1)
    following = n("ReduceMin", n("Where", earlier, "infinite", jobs_start), "last", keepdims=1)
    delayed = n("ReduceSum", n("Where", earlier, "zero", "one"), "last", keepdims=1)
    begin = n("Max", ready, n("Mul", free, "sends"))
    end = n("Add", begin, "service")
    delay = n("Relu", n("Sub", end, following))
    lateness = n("Clip", n("Add", n("Mul", begin, "rise"), "lean"), "zero", "one")
    own = n("Add", n("Mul", begin, "steep"), "fixed")
    score = n("Add", own, n("Add", n("Mul", "others", sent), n("Mul", "late", lateness)))
    score = n("Add", score, n("Mul", "delay", n("Mul", delay, delayed)))
    score = n("Add", score, n("Mul", barred, "sends"))
    taken = n("ArgMin", n("Reshape", score, "score_shape"), outputs=["taken"], axis=-1, keepdims=1)
    choices_ = n("Reshape", n("Concat", ready, begin, end, "air", delay, "code", axis=0), "parts_shape")
    found = n("GatherElements", choices_, n("Expand", taken, "taken_shape"), axis=-1)
    own_parts = ("own_ready", "own_begin", "own_end", "own_air", "own_delay", "own_code")
    n("Split", n("Unsqueeze", found, "last"), outputs=own_parts, axis=0, num_outputs=len(own_parts))
    here = n("Equal", "server_numbers", "own_code")
    joins = n("Cast", here, to=TensorProto.FLOAT)
    n("Add", senders, joins, outputs=["senders_out"])
    n("Add", sent, n("Mul", joins, "own_air"), outputs=["sent_out"])
    n("Sub", room, joins, outputs=["room_out"])
    n("Where", n("LessOrEqual", "room_out", "zero"), "full_s", "zero", outputs=["barred_out"])
    put = n("And", here, n("Equal", "places", "i"))
    later = n("And", here, n("Greater", jobs_ready, "own_ready"))
    shift = n("Where", later, "own_delay", "zero")
    n("Where", put, "own_ready", jobs_ready, outputs=["jobs_ready_out"])
    n("Where", put, "own_begin", n("Add", jobs_start, shift), outputs=["jobs_start_out"])
    n("Where", put, "own_end", n("Add", jobs_finish, shift), outputs=["jobs_finish_out"])
    n("Identity", "alive_in", outputs=["alive_out"])
    floats = [helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, None) for name in _STATE]
    results = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in _STATE]
    return helper.make_graph(
        n.nodes,
        "task",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("alive_in", TensorProto.BOOL, []),
            *floats,
        ],
        [
            helper.make_tensor_value_info("alive_out", TensorProto.BOOL, []),
            *results,
            helper.make_tensor_value_info("taken", TensorProto.INT64, None),
        ],
    )


def _around(n: _Nodes) -> None:
    """What stands between the networks and the loop, and after it."""
    sizes = n("Shape", "rows_by_task")  # K, J, B, O, N, 1
    numbers = [n("Gather", sizes, n("Constant", value_int=axis), axis=0) for axis in range(6)]
    _, _, worlds, options, servers, one = numbers
    choices_count = n("Mul", options, servers)

    def vector(*parts: str) -> str:
        return n("Concat", *(n("Unsqueeze", part, "axis0") for part in parts), axis=0)

    n("Identity", vector(one, worlds, one, choices_count), outputs=["score_shape"])
    six = n("Constant", value_int=6)
    n("Identity", vector(six, worlds, one, choices_count), outputs=["parts_shape"])
    n("Identity", vector(six, worlds, one, one), outputs=["taken_shape"])
    by_server = vector(one, worlds, one, servers, one)
    by_job = vector(one, worlds, one, servers, "count")
    n("Range", "nought", "count", "step", outputs=["places"])
    numbers_of = n("Cast", n("Range", "nought", servers, "step"), to=TensorProto.FLOAT)
    n("Unsqueeze", numbers_of, "last", outputs=["server_numbers"])
    n("Expand", "zero", by_server, outputs=["senders0"])
    n("Reshape", "server_room", by_server, outputs=["room0"])
    n("Where", n("LessOrEqual", "room0", "zero"), "full_s", "zero", outputs=["barred0"])
    n("Expand", "none_ready", by_job, outputs=["jobs_ready0"])
    n("Expand", "infinite", by_job, outputs=["jobs_start0"])
    n("Expand", n("Reshape", "server_backlog_s", by_server), by_job, outputs=["jobs_finish0"])
    first = ("senders0", "senders0", "room0", "barred0", "jobs_ready0", "jobs_start0", "jobs_finish0")
    ends = [f"{name}_end" for name in _STATE]
    n("Loop", "count", "alive", *first, outputs=[*ends, "taken_by_task"], body=_body())
    # [count, 1, B, 1] of the first tasks in order; those after them are not there
    taken = n(
        "Transpose",
        n("Reshape", "taken_by_task", n("Concat", "last", n("Unsqueeze", worlds, "axis0"), axis=0)),
        perm=[1, 0],
    )
    n("Slice", "order", "axis0", n("Unsqueeze", "count", "axis0"), "axis1", outputs=["decided"])
    nothing = n("Expand", "nought", n("Shape", "order"))
    choice = n("ScatterElements", nothing, "decided", taken, axis=1)
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

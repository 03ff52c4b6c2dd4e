"""Export of a scorer to one ONNX file: its networks by PyTorch's exporter, its loop over tasks as ONNX's own `Scan`.

The loop's body is written by hand with as few and as simple nodes as possible: they run once for every task, and most
of their time is call overhead. It is the same arithmetic in the same order as `scorer.sequence` and `slot_cost`, so
both decide alike to the last bit (see `policy`).
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

from coinfer.policies.learned.scorer import networks as scorer_networks
from coinfer.policies.learned.scorer import policy as scorer
from coinfer.policies.learned.scorer import weights as scorer_weights
from coinfer.policies.onnx import FORMAT
from coinfer.types import DEVICE, OffloadObservation, fields_of

FIELDS = (
    "option_device_s", "option_upload_bits", "option_server_s", "option_mask", "task_mask", "deadline_s", "uplink_bps",
    "device_backlog_s", "server_backlog_s", "server_room", "observation_age_s", "uplink_backlog_s",
)  # fmt: skip
"""Fields of the observation that the policy reads."""


class _Prepared(nn.Module):
    """The networks and all else that the loop needs, from the fields of the observation."""

    def __init__(self, weights: Tensor):
        super().__init__()
        unpacked = scorer_weights.unpack(weights.detach().cpu().float()[None])
        self.weights = nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in unpacked)

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(FIELDS, fields, strict=True))
        options = named["option_device_s"]
        observation = OffloadObservation(
            **named,  # type: ignore[arg-type]
            option_accuracy=torch.ones_like(options),
            option_device_j=torch.zeros_like(options),
            energy_left_j=torch.zeros_like(named["deadline_s"]),
        )
        key, actions = scorer_networks.run_networks(scorer_weights.Weights(*self.weights), observation)
        key = torch.where(observation.task_mask[:, None], key.transpose(1, 2), torch.inf)
        scaled = scorer.scale_rows(actions.rows)
        costs = actions.rows.ready_s, actions.rows.service_s, actions.price_s, actions.local
        free, over = scorer.initial_queues(observation, actions.price_s.shape[-1])
        count = observation.task_mask.sum(-1).max().clamp(min=1)
        return key, *scaled, scorer.front_scores(scaled, free), *costs, free, over, count


_PREPARED = (
    "key", "ready", "service", "slope", "fixed", "first", "ready_s", "service_s", "price_s", "local", "free", "over",
    "count",
)  # fmt: skip
"""Outputs of `_Prepared`: key [B, Q, K]; terms of every action [B, K, C]; local [B, K]; free and over [B, C]."""
_ROWS = ("ready", "service", "slope", "fixed", "first")


class _Nodes:
    """Builder of a graph: each call adds a node and returns the name of its first output."""

    def __init__(self, prefix: str):
        self.nodes: list[onnx.NodeProto] = []
        self.prefix = prefix

    def __call__(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        names = list(outputs) or [f"{self.prefix}{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]


def _constants(weights: scorer_weights.Weights) -> dict[str, np.ndarray]:
    late_s = weights.late[0] * scorer.LATE_SCALE_S
    return {
        "never": np.array(scorer.NEVER, np.float32),
        "tie": np.array(scorer.TIE_TICKS, np.float64),
        "ticks": np.array(scorer.TICKS, np.float32),
        "ticks_in_full": np.array(scorer.TICKS * scorer.FULL_S, np.float32),
        "late": (late_s * scorer.TICKS).round().reshape(()).numpy(),
        "early": weights.insertion[0].numpy()[:, None],
        "orders": np.array([weights.insertion.shape[-1]], np.int64),
        "no": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "nobody": np.array(DEVICE, np.int64),
        "any": np.array([-1], np.int64),
        **{f"at{axis}": np.array([axis], np.int64) for axis in range(3)},
    }


def _body() -> onnx.GraphProto:
    """Return the body of the loop of `scorer.sequence`: one task in every order, R = worlds * orders, all [R, C]."""
    n = _Nodes("b")
    start = n("Max", "free_in", "ready", "over_in")
    delay = n("Max", n("Mul", n("Sub", "over_in", "empty"), "service"), "over_in")
    last = n("Add", n("Mul", start, "slope"), "fixed")
    score = n("Where", n("Less", "ready", "last_in"), n("Add", "first", delay), last)
    way = n("ArgMin", score, outputs=["way"], axis=-1, keepdims=1)
    joined = n("GatherND", "joins", way)
    end = n("GatherElements", n("Add", start, "service"), way, axis=1)
    n("Max", "free_in", n("Mul", joined, end), outputs=["free_out"])
    n("Max", "last_in", n("Mul", joined, n("GatherElements", "latest", way, axis=1)), outputs=["last_out"])
    n("Add", "over_in", joined, outputs=["over_out"])

    def value(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, None)

    given = [value(name) for name in ("free_in", "over_in", "last_in", *_ROWS, "latest")]
    results = [value(name) for name in ("free_out", "over_out", "last_out")]
    return helper.make_graph(n.nodes, "task", given, [*results, value("way", TensorProto.INT64)])


def _outer_graph(n: _Nodes) -> None:
    """Add the nodes between the networks and the loop, and after the loop."""
    n("Split", n("Shape", "ready"), outputs=["worlds", "tasks", "ways"], num_outputs=3)
    worlds, tasks, ways = "worlds", "tasks", "ways"
    servers = n("Gather", n("Shape", "server_room"), "at1", axis=0)
    last = n("Sub", ways, "at1")
    number = n("Range", "no", n("Squeeze", ways), "one")
    goes = n("Less", number, last)
    code = n("Where", goes, n("Mod", number, servers), n("Sub", "no", "one"))
    here = n("And", n("Equal", n("Unsqueeze", code, "at1"), code), goes)
    n("Cast", here, outputs=["joins"], to=TensorProto.FLOAT)
    # the rows in every order, [count, R, C], and the queues [R, C] in which they begin
    n("TopK", "key", n("Unsqueeze", "count", "at0"), outputs=["keys", "order"], axis=-1, largest=0, sorted=1)
    world = n("Range", "no", n("Squeeze", worlds), "one")
    first = n("Mul", n("Unsqueeze", world, n("Concat", "at1", "at2", axis=0)), tasks)
    rows_at = n("Transpose", n("Add", "order", first), perm=[2, 0, 1])
    rows_at = n("Reshape", rows_at, n("Concat", n("Unsqueeze", "count", "at0"), "any", axis=0))
    flat = n("Concat", "any", ways, axis=0)
    rows = [n("Gather", n("Reshape", name, flat), rows_at, axis=0) for name in _ROWS]
    shape = n("Concat", worlds, "orders", ways, axis=0)
    for name, state in (("free", "begun"), ("over", "empty")):
        n("Reshape", n("Expand", n("Unsqueeze", name, "at1"), shape), flat, outputs=[state])
    early = n(
        "Reshape", n("Expand", "early", n("Concat", worlds, "orders", "at1", axis=0)), n("Concat", "any", "at1", axis=0)
    )
    latest = n("Mul", rows[0], early)
    first_last = n("Sub", "begun", "begun")
    ends = ["free_end", "over_end", "last_end", "ways_by_task"]
    n("Scan", "begun", "empty", first_last, *rows, latest, outputs=ends, body=_body(), num_scan_inputs=len(_ROWS) + 1)
    by_task = n("Reshape", "ways_by_task", n("Concat", n("Unsqueeze", "count", "at0"), worlds, "orders", axis=0))
    by_task = n("Transpose", by_task, perm=[1, 2, 0])
    nowhere = n("Expand", "no", n("Concat", worlds, "orders", tasks, axis=0))
    n("ScatterElements", nowhere, "order", by_task, outputs=["decided"], axis=2)
    _slot_costs(n, first, ways, last, servers, world)
    best = n("ArgMin", "costs", axis=-1, keepdims=1)
    way = n("GatherND", "decided", best, batch_dims=1)
    stays = n("Equal", way, last)
    n("Where", stays, "local", n("Div", way, servers), outputs=["option"])
    n("Where", stays, "nobody", n("Mod", way, servers), outputs=["server"])


def _slot_costs(n: _Nodes, first: str, ways: str, last: str, servers: str, world: str) -> None:
    """Add the nodes of `scorer.slot_cost`: from the actions decided [B, Q, K] to the costs [B, Q]."""
    numbers = n("Range", "no", n("Squeeze", "tasks"), "one")
    entry = n("Add", n("Mul", n("Add", first, numbers), ways), "decided")

    def ticks(name: str, unit: str = "ticks") -> str:
        return n("Round", n("Mul", name, unit))

    ready, service, price = (
        ticks(n("Gather", n("Reshape", name, "any"), entry, axis=0)) for name in ("ready_s", "service_s", "price_s")
    )
    stays = n("Equal", "decided", last)
    task_mask = n("Unsqueeze", "task_mask", "at1")
    alone = n("Or", stays, n("Not", task_mask))
    queue = n("Where", alone, n("Sub", "any", numbers), n("Mod", "decided", servers))
    of_world = n("Mul", n("Unsqueeze", world, n("Concat", "at1", "at2", axis=0)), ways)
    backlog = ticks(n("Gather", n("Reshape", "free", "any"), n("Add", of_world, "decided"), axis=0), "ticks_in_full")

    def each(name: str) -> tuple[str, str]:
        """As of task k, and of task j, in [.., k, j]."""
        return n("Unsqueeze", name, "any"), n("Unsqueeze", name, "at2")

    arrival = n("Cast", ready, to=TensorProto.DOUBLE)
    arrival = n("Add", arrival, n("Mul", n("Cast", numbers, to=TensorProto.DOUBLE), "tie"))
    (mine, other), (mine_at, other_at) = each(arrival), each(n("Cast", queue, to=TensorProto.FLOAT))
    before = n("And", n("LessOrEqual", other, mine), n("Equal", mine_at, other_at))
    work = n("MatMul", n("Cast", before, to=TensorProto.FLOAT), n("Unsqueeze", service, "any"))
    work = n("Squeeze", work, "any")
    ahead = n("Unsqueeze", n("Sub", n("Add", ready, service), work), "at2")
    start = n("ReduceMax", n("Where", before, ahead, "never"), "any", keepdims=0)
    latency = n("Where", stays, ready, n("Add", work, n("Max", backlog, start)))
    late = n("Cast", n("Greater", latency, n("Unsqueeze", ticks("deadline_s"), "at1")), to=TensorProto.FLOAT)
    cost = n("Add", n("Add", latency, price), n("Mul", late, "late"))
    cost = n("Cast", n("Mul", cost, n("Cast", task_mask, to=TensorProto.FLOAT)), to=TensorProto.DOUBLE)
    n("ReduceSum", cost, "any", outputs=["costs"], keepdims=0)


def export(path: Path, weights: Tensor, *, scenario: str, fingerprint: str, training: Mapping[str, object]) -> None:
    """Write the ONNX file and its side-car, for any number of worlds, tasks, options and servers.

    Args:
        path: ends in .onnx; the side-car is beside it, with .json. The folder is made if it does not exist.
        weights: [SIZE], or fewer if some orders were left out.
        scenario: name of the scenario of the training.
        fingerprint: of the compiled scenario.
        training: record of the training.
    """
    constants = _constants(scorer_weights.unpack(weights.detach().cpu().float()[None]))
    model = _prepared_model(weights)
    graph = model.graph
    del graph.output[:]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    nodes = _Nodes("a")
    _outer_graph(nodes)
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
    """Return the graph of the networks, exported without the exporter's messages."""
    sizes = {"B": 3, "K": 6, "O": 4, "N": 5}
    axes = {name: field.axes for name, field in fields_of(OffloadObservation).items()}
    fields = tuple(torch.ones([sizes[letter] for letter in axes[name]]) for name in FIELDS)
    fields = tuple(field > 0 if "mask" in name else field for name, field in zip(FIELDS, fields, strict=True))
    shapes = tuple(dict.fromkeys(range(len(axes[name])), torch.export.Dim.DYNAMIC) for name in FIELDS)
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
                output_names=list(_PREPARED),
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

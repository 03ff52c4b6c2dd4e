"""Whatever number of a message is NaN or infinite, the whole message is refused; so is a policy with such weights."""

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array, to_array
from pydantic import BaseModel

from coinfer.policies.onnx import shipped_path
from coinfer.site.messages import MESSAGE_BYTES, Hello, MessageError, Report, from_node, packed, to_bytes
from coinfer.site.updater.versions import PolicyFileError, PolicyFolder

BAD = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"NaN"', '"inf"')
"""As they are written in what pretends to be JSON."""
PLACE = "@here@"
OBSERVED = {"tasks": 1, "options": 1, "servers": 1, "fields": {"uplink_bps": [1e6]}, "addresses": ["a:1"]}
DECISION = {
    "seq": 1,
    "at_s": 1e9,
    "model": "m",
    "policy": "p",
    "probability": 0.5,
    "group": 1,
    "task": 1,
    "option": 1,
    "server": 0,
    "executed_on": "a:1",
    "bits": 8,
    **{name: 0.5 for name in ("predicted_s", "device_s", "upload_s", "queue_s", "server_s", "download_s", "latency_s")},
    "observation": OBSERVED,
}
PROFILE = {
    "memory_bytes": 9,
    "networks": [{"name": "m", "sizes": [1], "ratios": [1.0], "load_s": 0.5, "size_bytes": 5}],
    "pieces": [{"work": "w", "network": 0}],
}
SERVING = {
    **{name: 0.5 for name in ("free_s", "loaded_s")},
    **{name: [0] for name in ("running", "waiting", "warm", "wanted")},
    **{name: [0.5] for name in ("deadlines_s", "credits")},
    **{name: 1 for name in ("cold", "loading")},
}
SAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    Hello: {"kind": "hello", "name": "n", "role": "edge", "epoch": 1, "workers": 2, "serving": PROFILE},
    Report: {
        "kind": "report",
        **{name: 1.5 for name in ("backlog_s", "request_s")},
        **{name: 1 for name in ("queued", "room", "pieces", "received", "success", "failed", "forwarded")},
        **{name: 1 for name in ("spooled", "dropped")},
        "links": [{"to": "a:1", "rate_bps": 1e6, "round_trip_s": 0.1}],
        "works": [{"work": "w", "service_s": 0.1, "load_s": 0.1}],
        "serving": SERVING,
        "profile": PROFILE,
        "policies": [1],
        "batch": {"epoch": 1, "records": [DECISION]},
    },
}


def numbers_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all numbers in JSON; those of a list are one place, and so are the fields of an observation."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from numbers_of(part, (*path, name))
    elif isinstance(value, list):
        yield from numbers_of(value[0], (*path, "0"))
    elif isinstance(value, int | float):
        yield path


def declared(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all numbers that a message may have, by its types."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, hint in get_type_hints(kind, include_extras=True).items():
            if name in kind.model_fields:
                yield from declared(hint, (*path, name))
    elif kind in (int, float):
        yield path
    elif (origin := getattr(kind, "__origin__", None)) in (list, tuple, dict):
        place = "0" if origin is not dict else "uplink_bps"
        yield from declared(get_args(kind)[-1 if origin is dict else 0], (*path, place))
    else:
        inner = get_args(kind)
        for part in inner[:1] if hasattr(kind, "__metadata__") else inner:
            yield from declared(part, path)


def with_number(sample: dict[str, Any], path: tuple[str, ...], text: str) -> bytes:
    """The message with something else in the place of a number."""
    changed = json.loads(json.dumps(sample))
    holder: Any = changed
    for name in path[:-1]:
        holder = holder[int(name) if isinstance(holder, list) else name]
    holder[int(path[-1]) if isinstance(holder, list) else path[-1]] = PLACE
    return json.dumps(changed).replace(json.dumps(PLACE), text).encode()


@pytest.mark.parametrize("kind", SAMPLES)
def test_no_number_of_a_nodes_message_may_be_nan_or_infinite(kind: type[BaseModel]):
    sample = SAMPLES[kind]
    assert to_bytes(from_node(json.dumps(sample).encode()))  # type: ignore[arg-type]
    places = set(numbers_of(sample))
    assert places == set(declared(kind)), "the sample has all numbers"
    for place in places:
        for text in BAD:
            with pytest.raises(MessageError) as refused:
                from_node(with_number(sample, place, text))
            assert "\n" not in str(refused.value), place


def test_a_compressed_message_says_the_same_and_is_bounded_like_others():
    message = json.dumps(SAMPLES[Report]).encode()
    assert len(packed(message)) < len(message)
    assert from_node(packed(message)) == from_node(message)
    bomb = b'{"kind":"report","policy_problem":"%s"}' % (b"x" * 2 * MESSAGE_BYTES)
    for data, wrong in (
        (packed(bomb), f"larger than {MESSAGE_BYTES} bytes"),
        (packed(message)[:-9], "Invalid JSON"),
        (b"x" + packed(message)[2:], "Error -3"),
        (zlib.compress(packed(message)), "Invalid JSON"),
    ):
        with pytest.raises(MessageError, match=wrong):
            from_node(data)


def with_weight(model: onnx.ModelProto, number: float, *, is_tensor: bool) -> bytes:
    """The policy with this number as the last one of its first weights of more than one, or of a single one."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weights = [one for one in changed.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    chosen = next(one for one in weights if (np.prod(one.dims) > 1) == is_tensor)
    values = to_array(chosen).copy()
    values.reshape(-1)[-1:] = number
    chosen.CopyFrom(from_array(values, chosen.name))
    return changed.SerializeToString()


def test_a_policy_with_weights_that_are_no_numbers_is_refused(tmp_path: Path):
    """A single infinity is a constant, as masks need it; the shipped policy has one."""
    file = shipped_path("learned")
    model, sidecar = onnx.load(file), file.with_suffix(".json").read_bytes()
    folder = PolicyFolder(tmp_path)
    assert folder.add(model.SerializeToString(), sidecar, "a test", 5).number == 1
    for number, is_tensor in ((math.nan, True), (math.inf, True), (-math.inf, True), (math.nan, False)):
        with pytest.raises(PolicyFileError, match="holds NaN or infinities"):
            folder.add(with_weight(model, number, is_tensor=is_tensor), sidecar, "a test", 5)
    added = folder.add(with_weight(model, 0.25, is_tensor=True), sidecar, "a test", 5)
    assert added.number == 2, "nothing is left of the others"

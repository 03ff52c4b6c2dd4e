"""What a device could do with a request, and what a server chooses of it, as they travel."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.runtime.protocol import json_messages
from coinfer.runtime.protocol.messages import InferRequest, WireError, from_array
from coinfer.runtime.protocol.protobuf import parse_request, request_bytes
from coinfer.runtime.protocol.protobuf_types import INFER_REQUEST
from coinfer.runtime.protocol.task_options import (
    MAX_BYTES,
    MAX_OPTIONS,
    MAX_SERVERS,
    ReachableServer,
    TaskOption,
    TaskOptions,
    options_json,
    parse_options,
)
from coinfer.types import Hop

names = st.lists(st.text("abc/._0", min_size=1, max_size=9), min_size=1, max_size=2).map(tuple)
seconds = st.floats(0, 1e6).map(lambda value: float(f"{value:.4g}"))
SERVERS = (ReachableServer("a:1", 2e6, 0.001), ReachableServer("b:2", 1e7, 0.002, 0.5))
options = st.builds(
    TaskOption,
    cut=names,
    device_s=seconds,
    upload_bits=st.integers(0, 9999).map(float),
    server_s=st.tuples(st.none() | seconds, st.none() | seconds),
    outputs=st.just(()) | names,
    accuracy=st.sampled_from([0.0, 0.75, 1.0]),
)
GOOD = TaskOptions((TaskOption(("x",), 0.125, 1000.0, (0.5, None)), TaskOption(("y",), 2.0, 0.0)), SERVERS)


def request(options: TaskOptions) -> InferRequest:
    return InferRequest("m", (), ("y",), options=options)


@settings(deadline=None, max_examples=30)
@given(st.lists(options, min_size=1, max_size=3).map(tuple))
def test_options_arrive_as_they_were_sent(rows: tuple[TaskOption, ...]):
    sent = request(TaskOptions(rows, SERVERS))
    assert parse_request(request_bytes(sent)) == sent
    objects = json.dumps({"options": [row._asdict() for row in rows], "servers": [one._asdict() for one in SERVERS]})
    body = {"parameters": {"options": objects}, "outputs": [{"name": "y"}]}
    assert json_messages.parse_request("m", "", json.dumps(body).encode(), None)[0] == sent


def test_a_question_is_small():
    rows = tuple(TaskOption((f"stage{i}.0.depthwise.relu",), 0.01234, 45956.0, (0.01234,) * 4) for i in range(11))
    servers = tuple(ReachableServer(f"192.168.1.{n}:8001", 12345678.9, 0.0123) for n in range(4))
    assert len(request_bytes(request(TaskOptions(rows, servers)))) < 1200


def changed(name: str, value: object, where: Callable[[dict], dict] = lambda all: all["options"][0]) -> str:
    fields = {"options": [row._asdict() for row in GOOD.options], "servers": [one._asdict() for one in GOOD.servers]}
    where(fields)[name] = value
    return json.dumps(fields)


def server(all: dict) -> dict:
    return all["servers"][1]


def whole(all: dict) -> dict:
    return all


ROW, LINK = json.loads(options_json(GOOD))["options"][0], json.loads(options_json(GOOD))["servers"][0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Invalid JSON"),
        ("[" * 60000, "Invalid JSON"),
        ("[]", "Field required"),
        (changed("device_s", float("nan")), "options.0.device_s: Input should be a finite number"),
        (changed("device_s", float("inf")), "options.0.device_s: Input should be a finite number"),
        (changed("device_s", 1).replace("1,", "1e999,", 1), "options.0.device_s: Input should be a finite number"),
        (changed("device_s", -1.0), "options.0.device_s"),
        (changed("device_s", "1"), "options.0.device_s: Input should be a valid number"),
        (changed("upload_bits", float("-inf")), "options.0.upload_bits"),
        (changed("server_s", [0.5, float("nan")]), "options.0.server_s.1: Input should be a finite number"),
        (changed("server_s", [0.5]), "option 0: 1 times server_s for 2 servers"),
        (changed("accuracy", 1.5), "options.0.accuracy"),
        (changed("cut", []), "options.0.cut"),
        (changed("cut", ["x" * 257]), "options.0.cut.0"),
        (changed("cut", ["x"] * 65), "options.0.cut"),
        (changed("more", 1), "more"),
        (changed("rate_bps", 0.0, server), "servers.1.rate_bps"),
        (changed("node", "b", server), "it has no port"),
        (changed("node", "a:1", server), "a server is named twice"),
        (changed("options", [], whole), "options: Tuple should have at least 1 item"),
        (changed("options", [ROW] * (MAX_OPTIONS + 1), whole), "options: Tuple should have at most 256 items"),
        (changed("servers", [LINK] * (MAX_SERVERS + 1), whole), "servers: Tuple should have at most 64 items"),
        (" " * (MAX_BYTES + 1), f"expected at most {MAX_BYTES}"),
    ],
)
def test_wrong_options_are_refused_in_one_line_by_both_protocols(text: str, problem: str):
    proto = INFER_REQUEST(model_name="m")
    proto.parameters["options"].string_param = text
    body = json.dumps({"parameters": {"options": text}}).encode()
    for parse in (
        lambda: parse_request(proto.SerializeToString()),
        lambda: json_messages.parse_request("m", "", body, None),
    ):
        with pytest.raises(WireError, match="parameter options: ") as raised:
            parse()
        assert raised.value.code == "INVALID_ARGUMENT"
        assert problem in raised.value.message
        assert "\n" not in raised.value.message
        assert len(raised.value.message) < 400


@pytest.mark.parametrize(
    "more",
    [
        {"inputs": (from_array("x", np.ones(3, np.float32)),)},
        {"route": (Hop("b:1", ("y",), 32),)},
        {"dispatch": True},
        {"warm": True},
    ],
)
def test_nothing_is_computed_for_a_question(more: dict):
    with pytest.raises(WireError, match="parameter options: nothing is computed") as raised:
        parse_request(request_bytes(request(GOOD)._replace(**more)))
    assert raised.value.code == "INVALID_ARGUMENT"


def test_the_guide_s_example_is_valid():
    guide = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
    example = parse_options(guide.partition("```json\n")[2].partition("```")[0])
    assert [option.upload_bits for option in example.options] == [35277, 0]
    assert example.servers[1].wait_s == 0

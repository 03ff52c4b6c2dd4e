"""The protocol as JSON: numbers or bytes, what is missing or null, and what JSON cannot say."""

import json
import math

import numpy as np
import pytest

from coinfer.runtime.protocol import json_messages
from coinfer.runtime.protocol.messages import InferReply, WireError, from_array, to_array


def rest(content, blobs=b"", binary=False):
    text = json.dumps(content).encode()
    return json_messages.parse_request("m", "", text + blobs, len(text) if binary else None)


def test_rest_requests_in_numbers_and_in_bytes_are_the_same():
    values = np.array([[1.5, -2.0]], np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    numbers, _ = rest({"inputs": [entry | {"data": [[1.5, -2.0]]}], "parameters": {"deadline_s": 2, "bits": 8}})
    blob = {"parameters": {"binary_data_size": 8}}
    raw, is_binary = rest({"inputs": [entry | blob], "outputs": [{"name": "y"}]}, values.tobytes(), True)
    np.testing.assert_array_equal(to_array(numbers.inputs[0]), values)
    np.testing.assert_array_equal(to_array(raw.inputs[0]), values)
    assert (numbers.deadline_s, numbers.bits, raw.deadline_s, raw.outputs) == (2.0, 8, math.inf, ("y",))
    assert not is_binary("y")


ENTRY = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "not a JSON object"),
        ({"inputs": {}}, "inputs: expected a list of objects"),
        ({"inputs": ["x"]}, "inputs: expected a list of objects"),
        ({"inputs": [{}]}, "input name"),
        ({"inputs": [ENTRY | {"shape": None}]}, "shape as a list of integers"),
        ({"inputs": [ENTRY | {"shape": [True, 2]}]}, "shape as a list of integers"),
        ({"inputs": [ENTRY | {"data": None}]}, "data as a list of numbers"),
        ({"inputs": [ENTRY | {"data": [1, 1e300]}]}, "a value is no FP32"),
        ({"inputs": [ENTRY | {"data": [1, None]}]}, "a value is no FP32"),
        ({"inputs": [ENTRY | {"datatype": 3}]}, "expected a datatype"),
        ({"inputs": [ENTRY | {"datatype": "BYTES"}]}, "expected a datatype"),
        ({"inputs": [ENTRY | {"shape": [2.0]}]}, "shape as a list of integers"),
        ({"inputs": [ENTRY | {"shape": [3]}]}, r"expected 3 numbers for shape \[3\], got 2"),
        ({"inputs": [ENTRY | {"data": ["a", "b"]}]}, "numbers of FP32|no FP32"),
        ({"inputs": [ENTRY | {"data": [[1], [1, 2]]}]}, "all rows of one length"),
        ({"inputs": [ENTRY | {"datatype": "INT8", "data": [1, 300]}]}, "INT8"),
        ({"inputs": [ENTRY | {"datatype": "INT8", "data": [1, 1.5]}]}, "no INT8"),
        ({"inputs": [ENTRY, ENTRY]}, "'x' is given twice"),
        ({"inputs": [ENTRY | {"parameters": {"binary_data_size": 8}}]}, "binary_data_size from 0 to 0, got 8"),
        ({"inputs": [ENTRY], "outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
        ({"inputs": [ENTRY], "parameters": {"deadline_s": -1}}, "deadline_s"),
        ({"inputs": [ENTRY], "parameters": []}, "parameters: expected an object"),
        ({"inputs": [ENTRY], "id": 3}, "id: expected a string"),
        ({"inputs": [ENTRY], "parameters": {"binary_data_output": "no"}}, "binary_data_output: expected true or false"),
        ({"inputs": [ENTRY], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "expected true or false"),
    ],
)
def test_bad_rest_requests_are_named(content, words):
    with pytest.raises(WireError, match=words) as caught:
        rest(content)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_rest_bytes_that_belong_to_nothing_are_refused():
    with pytest.raises(WireError, match="3 bytes after the last tensor"):
        rest({"inputs": [ENTRY]}, b"abc", True)
    with pytest.raises(WireError, match="not valid JSON"):
        json_messages.parse_request("m", "", b"[" * 100_000, None)
    with pytest.raises(WireError, match="Inference-Header-Content-Length"):
        json_messages.parse_request("m", "", b"{}", 3)


def test_null_counts_as_absent():
    empty = {"parameters": None, "id": None, "outputs": None}
    entry = ENTRY | {"parameters": None}
    plain, is_binary = rest({"inputs": [ENTRY]})
    for content in (
        {"inputs": [entry]} | empty,
        {
            "inputs": [ENTRY],
            "parameters": dict.fromkeys(("deadline_s", "bits", "warm", "route", "timeout", "priority")),
        },
    ):
        request, _ = rest(content)
        assert request == plain
    request, is_binary = rest({"inputs": [ENTRY], "outputs": [{"name": "y", "parameters": {"binary_data": None}}]})
    assert request.outputs == ("y",)
    assert not is_binary("y")
    assert rest({"inputs": None})[0].inputs == rest({})[0].inputs == ()


def answer(values: list[float], binary: bool) -> tuple[bytes, int | None]:
    return json_messages.reply_body(
        InferReply("m", (from_array("y", np.array([values], np.float32)),)), lambda name: binary
    )


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_nan_is_null_in_json_and_itself_in_bytes():
    body, json_bytes = answer([1.5, math.nan], binary=False)
    assert json_bytes is None
    (output,) = json.loads(body, parse_constant=no_json)["outputs"]
    assert output["data"] == [1.5, None]
    body, json_bytes = answer([1.5, math.nan], binary=True)
    np.testing.assert_array_equal(np.frombuffer(body[json_bytes:], np.float32), [1.5, math.nan])


def test_infinity_is_given_as_bytes_only():
    with pytest.raises(WireError, match=r"output 'y' holds infinity, .* the parameter binary_data") as caught:
        answer([1.5, -math.inf], binary=False)
    assert caught.value.code == "INVALID_ARGUMENT"
    body, json_bytes = answer([1.5, -math.inf], binary=True)
    np.testing.assert_array_equal(np.frombuffer(body[json_bytes:], np.float32), [1.5, -math.inf])

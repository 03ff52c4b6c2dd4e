"""What is asked in protobuf and what is asked in JSON gets the same answer."""

import json
import math
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from coinfer.runtime.protocol import json_messages, protobuf
from coinfer.runtime.protocol.messages import InferRequest, WireError, WireTensor, to_array

INPUT = {"name": "x", "datatype": "FP32", "shape": [2]}
SHARED = {"shared_memory_region": "r", "shared_memory_byte_size": 8}


def as_json(inputs: Any, outputs: Any, parameters: dict[str, Any]) -> InferRequest:
    inputs = [{"data": [1.0, 2.0]} | tensor for tensor in inputs]
    body = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": parameters, "id": "7"})
    return json_messages.parse_request("m", "1", body.encode(), None)[0]


def as_protobuf(inputs: Any, outputs: Any, parameters: dict[str, Any]) -> InferRequest:
    proto = pb.ModelInferRequest(model_name="m", model_version="1", id="7")
    put(proto.parameters, parameters)
    for described, tensors in ((inputs, proto.inputs), (outputs, proto.outputs)):
        for tensor in described:
            fields = {name: value for name, value in tensor.items() if name not in ("parameters", "data")}
            put(tensors.add(**fields).parameters, tensor.get("parameters", {}))
    for tensor in proto.inputs:
        tensor.contents.fp32_contents.extend([1.0, 2.0])
    return protobuf.parse_request(proto.SerializeToString())


def put(parameters: Any, values: dict[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in values.items():
        setattr(parameters[name], kinds[type(value)], value)


REFUSED: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any], str, str]] = {
    "input in shared memory": ([INPUT | {"parameters": SHARED}], [], {}, "UNIMPLEMENTED", "input 'x': shared memory"),
    "output in shared memory": (
        [INPUT], [{"name": "y", "parameters": SHARED}], {}, "UNIMPLEMENTED", "output 'y': shared memory",
    ),
    "classification": (
        [INPUT], [{"name": "y", "parameters": {"classification": 2}}], {}, "UNIMPLEMENTED", "classification",
    ),
    "priority": ([INPUT], [], {"priority": 101}, "INVALID_ARGUMENT", "parameter priority: expected 1"),
    "half a priority": ([INPUT], [], {"priority": 1.5}, "INVALID_ARGUMENT", "parameter priority: expected 1"),
    "numbered sequence": ([INPUT], [], {"sequence_id": 5}, "UNIMPLEMENTED", "sequences are not offered"),
    "named sequence": ([INPUT], [], {"sequence_id": "s"}, "UNIMPLEMENTED", "sequences are not offered"),
    "sequence's start": ([INPUT], [], {"sequence_start": True}, "UNIMPLEMENTED", "sequences are not offered"),
    "sequence's end": ([INPUT], [], {"sequence_end": True}, "UNIMPLEMENTED", "sequences are not offered"),
    "timeout": ([INPUT], [], {"timeout": -1}, "INVALID_ARGUMENT", "parameter timeout: expected microseconds"),
    "timeout's kind": ([INPUT], [], {"timeout": "soon"}, "INVALID_ARGUMENT", "parameter timeout: expected a number"),
    "deadline": ([INPUT], [], {"deadline_s": -0.5}, "INVALID_ARGUMENT", "parameter deadline_s: expected the seconds"),
    "bits": ([INPUT], [], {"bits": 7}, "INVALID_ARGUMENT", "parameter bits: expected one of 32, 16, 12, 8, 4, got 7"),
    "warm": ([INPUT], [], {"warm": 1}, "INVALID_ARGUMENT", "parameter warm: expected true or false, got 1"),
    "route": ([INPUT], [], {"route": "[{}]"}, "INVALID_ARGUMENT", "hop 0: expected an object of node, cut and bits"),
    "node": (
        [INPUT], [], {"route": '[{"node": "a", "cut": ["y"], "bits": 8}]'}, "INVALID_ARGUMENT",
        "parameter route, hop 0: node 'a': it has no port; expected host:port such as",
    ),
    "codec": (
        [INPUT | {"parameters": {"coinfer_codec": "yes"}}], [], {}, "INVALID_ARGUMENT",
        "parameter coinfer_codec: expected true or false",
    ),
    "no name": ([INPUT | {"name": ""}], [], {}, "INVALID_ARGUMENT", "input name: expected a string of 1 to 256 bytes"),
    "long name": ([INPUT], [{"name": "y" * 257}], {}, "INVALID_ARGUMENT", "output name: expected a string of 1 to 256"),
    "datatype": ([INPUT | {"datatype": "BYTES"}], [], {}, "INVALID_ARGUMENT", "expected a datatype of BOOL, UINT8"),
    "dimensions": ([INPUT | {"shape": [-1, 2]}], [], {}, "INVALID_ARGUMENT", "at most 16 dimensions >= 0, got [-1, 2]"),
    "rank": ([INPUT | {"shape": [1] * 17}], [], {}, "INVALID_ARGUMENT", "at most 16 dimensions >= 0"),
    "count": ([INPUT | {"shape": [3]}], [], {}, "INVALID_ARGUMENT", "expected 3 numbers for shape [3], got 2"),
    "input twice": ([INPUT, INPUT], [], {}, "INVALID_ARGUMENT", "input 'x' is given twice"),
    "output twice": ([INPUT], [{"name": "y"}] * 2, {}, "INVALID_ARGUMENT", "output 'y' is asked for twice"),
    "inputs": ([INPUT] * 65, [], {}, "INVALID_ARGUMENT", "expected at most 64 inputs, got 65"),
    "outputs": ([INPUT], [{"name": "y"}] * 65, {}, "INVALID_ARGUMENT", "expected at most 64 outputs, got 65"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_both_protocols_refuse_the_same_in_the_same_words(case: str):
    inputs, outputs, parameters, code, words = REFUSED[case]
    with pytest.raises(WireError) as by_json:
        as_json(inputs, outputs, parameters)
    with pytest.raises(WireError) as by_protobuf:
        as_protobuf(inputs, outputs, parameters)
    assert words in by_json.value.message
    assert by_json.value.code == code
    assert (by_json.value.code, by_json.value.message) == (by_protobuf.value.code, by_protobuf.value.message)
    assert by_json.value.reason == by_protobuf.value.reason


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"timeout": 250_000, "deadline_s": 2.0},
        {"bits": 8, "warm": True, "fingerprint": "ab"},
        {"route": '[{"node": "[0:0::1]:08001", "cut": ["y"], "bits": 8}]'},
        {"priority": 0, "sequence_id": 0, "sequence_start": False, "timeout": 0},
        {"tenant": "a", "trace": 7},
    ],
)
def test_both_protocols_read_the_same_request(parameters: dict[str, Any]):
    outputs = [{"name": "y", "parameters": {"classification": 0}}, {"name": "z"}]
    found = as_json([INPUT], outputs, parameters)
    assert found == as_protobuf([INPUT], outputs, parameters)
    assert (found.model, found.version, found.id, found.outputs) == ("m", "1", "7", ("y", "z"))
    assert found.deadline_s == {0: math.inf, 250_000: 0.25}[parameters.get("timeout", 0)]
    assert [hop.node for hop in found.route] == (["[::1]:8001"] if "route" in parameters else [])


@pytest.mark.parametrize("shape", [(0, 2**62, 2**62), (2**40, 2**40), (10**4000,), (10**4000, 10**4000)])
def test_a_shape_beyond_all_memory_is_refused_in_words(shape: tuple[int, ...]):
    """Not by a failing `reshape`, nor by the text of a number of thousands of digits."""
    with pytest.raises(WireError, match="input 'x': its shape has more elements than any memory holds") as caught:
        to_array(WireTensor("x", "FP32", shape, b""))
    assert caught.value.code == "INVALID_ARGUMENT"


def test_numbers_of_thousands_of_digits_are_refused():
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [int("9" * 4000)]}
    body = json.dumps({"inputs": [tensor]})
    with pytest.raises(WireError, match="expected numbers of FP32"):
        json_messages.parse_request("m", "", body.encode(), None)
    for name in ("deadline_s", "priority", "timeout", "min_accuracy"):
        body = json.dumps({"inputs": [], "parameters": {name: int("9" * 4000)}})
        with pytest.raises(WireError, match=f"parameter {name}: .* is too large a number"):
            json_messages.parse_request("m", "", body.encode(), None)

"""The wire: what is sent is what arrives, what is malformed is refused with one clear line."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from coinfer.runtime.protocol import protobuf, protobuf_framing
from coinfer.runtime.protocol.messages import (
    ALIGNMENT,
    DTYPES,
    LAST_PRIORITY,
    ColdPiece,
    ExecutedHop,
    InferReply,
    InferRequest,
    LoadReport,
    RequestedObjective,
    WireError,
    WireTensor,
    from_array,
    to_array,
)
from coinfer.runtime.protocol.task_options import Choice
from coinfer.types import Hop

names = st.text("abcxyz/_.0", min_size=1, max_size=20)
hops = st.builds(
    Hop,
    node=st.sampled_from(["127.0.0.1:8001", "edge-1.local:9", "[::1]:50051"]),
    cut=st.lists(names, min_size=1, max_size=3).map(tuple),
    bits=st.sampled_from([32, 16, 12, 8, 4]),
)


@st.composite
def tensors(draw):
    found = []
    for name in draw(st.lists(names, max_size=4, unique=True)):
        codec = draw(st.booleans())
        dtype = np.dtype("u1") if codec else draw(st.sampled_from(list(DTYPES.values())))
        shape = draw(st.lists(st.integers(0, 3), max_size=1 if codec else 4)) or [1]
        raw = np.frombuffer(draw(st.binary(min_size=648, max_size=648)), np.uint8)[: math.prod(shape) * dtype.itemsize]
        tensor = from_array(name, (raw & (dtype.kind != "b") * 254 | raw & 1).view(dtype).reshape(shape))
        found.append(tensor._replace(codec=codec))
    return tuple(found)


requests = st.builds(
    InferRequest,
    model=names,
    inputs=tensors(),
    outputs=st.lists(names, max_size=3, unique=True).map(tuple),
    id=st.text(max_size=10),
    version=st.text(max_size=3),
    fingerprint=st.text("0123456789abcdef", max_size=64),
    deadline_s=st.floats(0, math.inf),
    route=st.lists(hops, max_size=3).map(tuple),
    bits=st.sampled_from([None, 32, 16, 12, 8, 4]),
    warm=st.booleans(),
    dispatch=st.just(False),  # a route says who computes
    options=st.none(),  # come without inputs; see test_task_options.py
    priority=st.integers(1, LAST_PRIORITY),
    objective=st.builds(
        RequestedObjective,
        st.sampled_from(["", "latency", "energy"]),
        st.none() | st.floats(0, 1),
        st.none() | st.floats(0, 1e3),
    ),
    short=st.just(False),  # rounds times; see test_short_form.py
)
seconds = st.floats(0, 1e6)
pieces = st.lists(names, max_size=2).map(tuple)
replies = st.builds(
    InferReply,
    model=names,
    outputs=tensors(),
    id=st.text(max_size=10),
    version=st.text(max_size=3),
    queue_s=seconds,
    server_s=seconds,
    codec_s=seconds,
    forward_s=seconds,
    load=st.none() | st.builds(LoadReport, seconds, st.integers(0, 99), st.integers(0, 99)),
    executed=st.lists(
        st.builds(ExecutedHop, names, st.lists(names, max_size=2).map(tuple), seconds, seconds, seconds, seconds),
        max_size=3,
    ).map(tuple),
    upload_s=st.just(0.0),  # the sender's own
    download_s=st.just(0.0),
    details=st.just({}),
    cold=st.lists(st.builds(ColdPiece, pieces, pieces, seconds), max_size=2).map(tuple),
    choice=st.none() | st.builds(Choice, st.integers(0, 255), names, names),
    short=st.just(False),
)


@settings(deadline=None, max_examples=60)
@given(requests)
def test_a_request_arrives_as_it_was_sent(request):
    message = protobuf.request_bytes(request)
    assert protobuf.parse_request(message) == request
    assert protobuf.request_bits(request) == 8 * len(message)


def test_requests_that_differ_in_their_data_alone_keep_it():
    first, second = (from_array("x", np.full(3, value, np.float32)) for value in (1, 2))
    messages = [protobuf.request_bytes(InferRequest("m", (one,), ("y",))) for one in (first, second)]
    assert [protobuf.parse_request(message).inputs for message in messages * 2] == [(first,), (second,)] * 2
    typed = pb.ModelInferRequest.FromString(messages[0])
    typed.inputs[0].contents.fp32_contents.append(1)
    for _ in range(2):
        with pytest.raises(WireError, match="raw or typed contents, got both"):
            protobuf.parse_request(typed.SerializeToString())


@settings(deadline=None, max_examples=60)
@given(replies)
def test_a_reply_arrives_as_it_was_sent(reply):
    message = protobuf.reply_bytes(reply)
    assert protobuf.parse_reply(message) == reply
    assert protobuf.reply_bits(reply) == 8 * len(message)


@settings(deadline=None, max_examples=60)
@given(requests)
def test_our_framing_is_protobuf(request):
    """The library reads what we write, and we read what it writes."""
    message = protobuf.request_bytes(request)
    proto = pb.ModelInferRequest.FromString(message)
    assert [bytes(tensor.data) for tensor in request.inputs] == list(proto.raw_input_contents)
    assert protobuf.parse_request(proto.SerializeToString()) == request


@settings(deadline=None, max_examples=80)
@given(st.one_of(requests.map(protobuf.request_bytes), st.binary(max_size=60)), st.data())
def test_damaged_messages_are_refused_never_misread(message, data):
    damaged = bytearray(message)
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        got = protobuf.parse_request(damaged)
    except WireError as error:
        assert error.code in ("INVALID_ARGUMENT", "UNIMPLEMENTED")  # noqa: PT017
        assert "\n" not in error.message  # noqa: PT017
        return
    proto = pb.ModelInferRequest.FromString(damaged)
    assert (got.model, got.id) == (proto.model_name, proto.id)
    if proto.raw_input_contents:
        assert [bytes(t.data) for t in got.inputs] == list(proto.raw_input_contents)


def test_a_message_of_endless_small_fields_is_refused_early():
    message = bytes([0x42, 0]) * 20_000_000  # field 8, empty: 40 MB
    with pytest.raises(WireError, match="not a valid"):
        protobuf.parse_request(message)


@pytest.mark.parametrize(
    "message", [b"\x3a\x05abc", b"\xff" * 11, b"\x3a" + b"\xff" * 9 + b"\x01", b"\x0b\x0c", b"\x00"]
)
def test_torn_framing(message):
    with pytest.raises(WireError):
        protobuf.parse_request(message)
    with pytest.raises(WireError) as caught:
        protobuf.parse_reply(message)
    assert caught.value.code == "INTERNAL"


def test_framing_keeps_blobs_uncopied():
    message = protobuf_framing.join(b"\x0a\x01m", 7, [b"one", b"", bytes(300)])
    rest, blobs = protobuf_framing.split(message, 7)
    assert rest == b"\x0a\x01m"
    assert [bytes(blob) for blob in blobs] == [b"one", b"", bytes(300)]
    assert all(blob.obj is message for blob in blobs)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.lists(st.integers(0, 3000), max_size=4))
def test_large_tensors_are_aligned_in_the_message(name_length, sizes):
    header = pb.ModelInferRequest(model_name="m" * name_length).SerializeToString()
    blobs = [bytes([i]) * size for i, size in enumerate(sizes)]
    message = protobuf_framing.join(header, 7, blobs)
    assert protobuf_framing.joined_bytes(len(header), 7, blobs) == len(message)
    proto = pb.ModelInferRequest.FromString(message)
    assert (proto.model_name, list(proto.raw_input_contents)) == ("m" * name_length, blobs)
    start = np.frombuffer(message, np.uint8).ctypes.data
    for view, blob in zip(protobuf_framing.split(message, 7)[1], blobs, strict=True):
        assert view == blob
        offset = np.frombuffer(view, np.uint8).ctypes.data - start if len(view) else 0
        assert len(blob) < protobuf_framing.ALIGNED_FROM or offset % ALIGNMENT == 0


@pytest.mark.parametrize("limit_delta", [-1, 0])
def test_the_size_limit_is_exact(limit_delta):
    message = protobuf.request_bytes(InferRequest("m", (from_array("x", np.zeros(100, np.float32)),)))
    limit = len(message) + limit_delta
    if limit_delta == 0:
        assert protobuf.parse_request(message, limit).model == "m"
        return
    with pytest.raises(WireError) as caught:
        protobuf.parse_request(message, limit)
    assert (caught.value.code, caught.value.reason, caught.value.pushback_s) == ("RESOURCE_EXHAUSTED", "too_large", -1)


def _typed(datatype, field, values, shape=None):
    proto = pb.ModelInferRequest(model_name="m")
    tensor = proto.inputs.add(name="x", datatype=datatype, shape=shape or [len(values)])
    getattr(tensor.contents, field).extend(values)
    return proto


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [1.5, -0.0, math.inf]),
        ("FP64", "fp64_contents", [1e300, 2.0]),
        ("INT8", "int_contents", [-128, 127]),
        ("UINT8", "uint_contents", [0, 255]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT64", "uint64_contents", [2**64 - 1]),
        ("BOOL", "bool_contents", [True, False]),
    ],
)
def test_typed_contents_become_the_same_array(datatype, field, values):
    request = protobuf.parse_request(_typed(datatype, field, values).SerializeToString())
    np.testing.assert_array_equal(to_array(request.inputs[0]), np.array(values, DTYPES[datatype]))


def test_raw_and_typed_contents_together_are_refused():
    proto = _typed("FP32", "fp32_contents", [1.0])
    proto.raw_input_contents.append(b"\0\0\0\0")
    with pytest.raises(WireError, match="raw or typed contents, got both"):
        protobuf.parse_request(proto.SerializeToString())


def test_typed_contents_of_another_type_or_out_of_range_are_refused():
    with pytest.raises(WireError, match="expected fp32_contents for 'FP32'"):
        protobuf.parse_request(_typed("FP32", "int_contents", [1]).SerializeToString())
    with pytest.raises(WireError, match="a value is no INT8"):
        protobuf.parse_request(_typed("INT8", "int_contents", [128]).SerializeToString())


def _changed(**fields):
    request = InferRequest("m", (from_array("x", np.zeros(2, np.float32)),))
    proto = pb.ModelInferRequest.FromString(protobuf.request_bytes(request))
    for name, (kind, value) in fields.items():
        setattr(proto.parameters[name], kind, value)
    return proto


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("deadline_s", "double_param", -0.001),
        ("deadline_s", "double_param", math.nan),
        ("deadline_s", "string_param", "soon"),
        ("bits", "int64_param", 7),
        ("bits", "bool_param", True),
        ("warm", "int64_param", 1),
        ("fingerprint", "int64_param", 1),
        ("route", "string_param", "not json"),
        ("route", "string_param", "[" * 100_000),
        ("route", "string_param", '{"node": "a:1"}'),
        ("route", "string_param", '[{"node": "a:1", "cut": ["x"]}]'),
        ("route", "string_param", '[{"node": "a", "cut": ["x"], "bits": 8}]'),
        ("route", "string_param", '[{"node": "unix:/tmp/a", "cut": ["x"], "bits": 8}]'),
        ("route", "string_param", '[{"node": "a:1", "cut": [], "bits": 8}]'),
        ("route", "string_param", '[{"node": "a:1", "cut": ["x"], "bits": 5}]'),
        ("route", "string_param", "[" + ",".join(['{"node": "a:1", "cut": ["x"], "bits": 8}'] * 17) + "]"),
        ("route", "double_param", 1.0),
    ],
)
def test_bad_parameters_are_named(name, kind, value):
    with pytest.raises(WireError, match=f"parameter {name}") as caught:
        protobuf.parse_request(_changed(**{name: (kind, value)}).SerializeToString())
    assert caught.value.code == "INVALID_ARGUMENT"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("queued", "double_param", math.inf),
        ("room", "double_param", math.nan),
        ("server_s", "string_param", "soon"),
        ("choice", "string_param", '{"option": -1, "node": "a:1"}'),
        ("choice", "string_param", '{"option": 1.5, "node": "a:1"}'),
        ("executed", "string_param", "{"),
        ("executed", "string_param", '[{"node": "a:1", "cut": ["x"], "server_s": 1' + "0" * 400 + ', "queue_s": 0}]'),
    ],
)
def test_a_reply_with_impossible_figures_is_damaged(name, kind, value):
    proto = pb.ModelInferResponse.FromString(protobuf.reply_bytes(InferReply("m", (), load=LoadReport(1.0, 2, 3))))
    setattr(proto.parameters[name], kind, value)
    with pytest.raises(WireError, match=f"damaged reply: parameter {name}") as caught:
        protobuf.parse_reply(proto.SerializeToString())
    assert caught.value.code == "INTERNAL"


def test_foreign_parameters_are_ignored():
    assert protobuf.parse_request(_changed(tenant=("int64_param", 3)).SerializeToString()).model == "m"


def test_missing_contents_and_duplicate_tensors():
    proto = _changed()
    proto.inputs.add(name="z", datatype="FP32", shape=[2])
    with pytest.raises(WireError, match="raw contents for all 2 tensors, got 1"):
        protobuf.parse_request(proto.SerializeToString())
    proto.inputs[1].name = "x"
    with pytest.raises(WireError, match="input 'x' is given twice"):
        protobuf.parse_request(proto.SerializeToString())


@pytest.mark.parametrize(
    ("datatype", "shape", "size_bytes", "words"),
    [
        ("FP32", (2, 3), 23, "expected 24 bytes for FP32 2x3, got 23"),
        ("FP32", (2, 3), 25, "got 25"),
        ("FP32", (-1, 3), 12, "dimensions >= 0"),
        ("FP32", (2**62, 4), 0, "more elements than any memory holds"),
        ("FP32", (1,) * 17, 4, "at most 16 dimensions"),
        ("FP31", (1,), 4, "expected a datatype of BOOL"),
        ("BYTES", (1,), 4, "expected a datatype of BOOL"),
    ],
)
def test_arrays_that_do_not_fit_their_shape(datatype, shape, size_bytes, words):
    with pytest.raises(WireError, match=words) as caught:
        to_array(WireTensor("x", datatype, shape, bytes(size_bytes)))
    assert "input 'x'" in caught.value.message


def test_arrays_pass_bit_for_bit():
    array = np.array([0x7FC00001, 0x80000000, 0x00000001, 0x7F800000], np.uint32).view(np.float32)
    got = to_array(from_array("x", array))
    np.testing.assert_array_equal(got.view(np.uint32), array.view(np.uint32))
    assert not got.flags.writeable or got.base is not None


def test_a_number_without_axes_keeps_none():
    sent = from_array("loss", np.array(1.5, np.float32))
    assert sent.shape == ()
    assert to_array(sent).shape == ()
    assert to_array(sent) == 1.5

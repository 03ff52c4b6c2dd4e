"""The short parameter says what the named ones say, in fewer bytes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from tests.runtime.protocol.test_protobuf import replies, requests
from tritonclient.grpc import service_pb2 as pb

from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferReply, InferRequest, LoadReport, WireError, WireTensor, from_array
from coinfer.runtime.protocol.short_form import SHORT

CODE = WireTensor("code8", "UINT8", (3,), b"abc", codec=True)
ANSWER = from_array("code8/answer", np.zeros((1, 10), np.float32))
TIMES = ("queue_s", "server_s", "codec_s", "forward_s")
ROUNDING_S = 0.6e-6


def rounded_s(value_s):
    return pytest.approx(value_s, abs=ROUNDING_S)


@settings(deadline=None, max_examples=60)
@given(requests)
def test_a_short_request_arrives_as_it_was_sent(request):
    sent = request._replace(short=True)
    message = protobuf.request_bytes(sent)
    got = protobuf.parse_request(message)
    assert got._replace(deadline_s=0) == sent._replace(deadline_s=0)
    exact = sent.deadline_s if sent.deadline_s < 1e12 else math.inf
    assert got.deadline_s == rounded_s(exact)
    assert protobuf.request_bits(sent) == 8 * len(message)


@settings(deadline=None, max_examples=60)
@given(replies)
def test_a_short_reply_arrives_as_it_was_sent(reply):
    sent = reply._replace(short=True)
    message = protobuf.reply_bytes(sent)
    got = protobuf.parse_reply(message)
    rounded = {name: rounded_s(getattr(sent, name)) for name in TIMES}
    load = sent.load and sent.load._replace(backlog_s=rounded_s(sent.load.backlog_s))
    assert got == sent._replace(model="", version="", load=load, **rounded)
    assert protobuf.reply_bits(got) == 8 * len(message)


def test_a_code_and_its_answer_take_half_the_bytes_beside_them():
    request = InferRequest("resnet12", (CODE,), ("code8/answer",), fingerprint="af92c5150987f503", deadline_s=0.25)
    load = LoadReport(0.0012, 1, 17)
    reply = InferReply("resnet12", (ANSWER,), version="1", queue_s=4e-5, server_s=3.4e-3, codec_s=2e-4, load=load)
    named, short = (
        protobuf.request_bits(request._replace(short=is_short)) + protobuf.reply_bits(reply._replace(short=is_short))
        for is_short in (False, True)
    )
    payloads = 8 * (len(CODE.data) + len(ANSWER.data))
    assert short - payloads < 0.6 * (named - payloads)


def test_a_marked_tensor_keeps_its_mark_beside_a_plain_one():
    sent = InferRequest("m", (CODE, from_array("x", np.zeros(2, np.float32))), ("y",), short=True)
    assert protobuf.parse_request(protobuf.request_bytes(sent)) == sent


@pytest.mark.parametrize(
    "text", ["", "1", "1,p", "-1,,", "1.5,,", "nan,,", "1,q,", f"{10**18},,", "\N{ARABIC-INDIC DIGIT ONE},,", "1e3,,"]
)
def test_an_impossible_request_is_refused(text):
    proto = pb.ModelInferRequest.FromString(protobuf.request_bytes(InferRequest("m", (CODE,))))
    proto.parameters[SHORT].string_param = text
    with pytest.raises(WireError, match="parameter coinfer: expected") as refused:
        protobuf.parse_request(proto.SerializeToString())
    assert refused.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("text", ["", "1,2", ",,,,", ",,,,,,,", ",,x,", ",,,,-1,0,0", f",,,,{10**18},,"])
def test_an_impossible_reply_counts_as_damaged(text):
    proto = pb.ModelInferResponse.FromString(protobuf.reply_bytes(InferReply("m", ())))
    proto.parameters[SHORT].string_param = text
    with pytest.raises(WireError, match="damaged reply: parameter coinfer: expected"):
        protobuf.parse_reply(proto.SerializeToString())


def test_the_parameter_has_to_be_text():
    proto = pb.ModelInferRequest.FromString(protobuf.request_bytes(InferRequest("m", (CODE,))))
    proto.parameters[SHORT].int64_param = 3
    with pytest.raises(WireError, match="parameter coinfer: expected"):
        protobuf.parse_request(proto.SerializeToString())


def test_the_short_form_and_a_name_cannot_say_the_same():
    proto = pb.ModelInferRequest.FromString(protobuf.request_bytes(InferRequest("m", (CODE,), deadline_s=10.0)))
    proto.parameters[SHORT].string_param = "1,p,"
    with pytest.raises(WireError, match="parameters coinfer and deadline_s: expected one of them"):
        protobuf.parse_request(proto.SerializeToString())
    del proto.parameters["deadline_s"]
    assert protobuf.parse_request(proto.SerializeToString()).deadline_s == 1e-6


def test_numbers_that_no_field_can_hold_are_cut_off():
    reply = InferReply("m", (), queue_s=float("inf"), server_s=-1.0, codec_s=float("nan"), short=True)
    got = protobuf.parse_reply(protobuf.reply_bytes(reply))
    assert got.queue_s > 1e11
    assert (got.server_s, got.codec_s) == (0, 0)

"""A policy file decides on a device, among its own options; one that does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.runtime.device.planning.test_early_exit import ACCURACY, GRAPH, TABLE, device, node, whole
from tests.runtime.device.test_device import PICTURES
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.options.compile import compile_options
from coinfer.policies.onnx import PolicyError
from coinfer.runtime.device.device import Device
from coinfer.types import OffloadObservation, fields_of

COMPLETE = compile_options(GRAPH, TABLE, (12, 8), ACCURACY)
SOME = [COMPLETE.triples[i] for i in (20, 3, 41, len(COMPLETE.bits) - 1, 9)]


def policy_file(folder: Path, options: list | None = None, **sizes: int | None) -> Path:
    """A policy that takes the option of the most time on the device, and the first server."""
    shape = [
        None if letter == "B" else sizes.get(letter, letter)
        for letter in fields_of(OffloadObservation)["option_device_s"].axes
    ]
    nodes = [
        helper.make_node("ArgMax", ["option_device_s"], ["option"], axis=2, keepdims=0),
        helper.make_node("Sub", ["option", "option"], ["server"]),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("option_device_s", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in ("option", "server")],
    )
    opset = [helper.make_opsetid("", 17)]
    (folder / "p.onnx").write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    sidecar = {
        "format": 1,
        "kind": "offload",
        "scheme": "test",
        "scenario": "none",
        "scenario_fingerprint": "",
        "sizes": {"K": None, "O": None, "N": None, **sizes},
        "options": None if options is None else [[e, list(cut), bits] for e, cut, bits in options],
        "fields": ["option_device_s"],
        "training": {},
    }
    (folder / "p.json").write_text(json.dumps(sidecar), encoding="utf-8")
    assert onnx.load(folder / "p.onnx")
    return folder / "p.onnx"


def test_a_policy_with_options_of_its_own_decides_among_them(tmp_path: Path):
    with device({"a:1": node}, policy=policy_file(tmp_path, SOME, O=5), bits=(32,)) as ours:
        assert ours.options.triples == SOME
        slowest = int(np.argmax(ours.options.device_s))
        result = ours.infer(PICTURES[0])
    exit_, cut, bits = SOME[slowest]
    assert (result.exit, result.route.hops[0].cut, result.route.hops[0].bits) == (exit_, cut, bits)


def test_what_stays_on_the_device_may_be_named_by_no_tensor(tmp_path: Path):
    with device({}, policy=policy_file(tmp_path, [*SOME[:3], (2, (), 32), SOME[4]]), bits=(32,)) as ours:
        assert ours.options.triples == SOME


def test_a_policy_that_reads_its_options_gets_the_planners(tmp_path: Path):
    with device({"a:1": node}, policy=str(policy_file(tmp_path))) as ours, device({"a:1": node}) as plain:
        assert ours.options.triples == plain.options.triples
        assert ours.infer(PICTURES[0]).exit == ours.options.exit[ours.options.device_s.argmax()]


@pytest.mark.parametrize(
    ("options", "sizes", "said"),
    [
        ([(0, ("pool9",), 8)], {}, "made for other options; exit 1, cut at pool9, 8 bits is not among those"),
        ([(3, ("pool1",), 8)], {}, "made for other options; exit 4, cut at pool1, 8 bits"),
        ([(0, ("pool1",), 7)], {}, "its options cannot be had here"),
        (SOME, {"N": 5}, "made for 5 servers, 1 at hand"),
        (None, {"O": 126}, "made for 126 options, .* at hand"),
    ],
)
def test_a_policy_for_others_is_refused(tmp_path: Path, options, sizes, said):
    with pytest.raises(PolicyError, match=said) as caught:
        device({"a:1": node}, policy=policy_file(tmp_path, options, **sizes))
    assert "\n" not in str(caught.value)


def test_a_plain_network_has_none_of_the_exits(tmp_path: Path):
    plain = networks.build("alexnet-cifar")
    with pytest.raises(PolicyError, match="made for other options"):
        Device(plain, profile=analytic_table(plain), policy=policy_file(tmp_path, SOME))


def test_a_file_that_is_no_policy_is_refused(tmp_path: Path):
    with pytest.raises(PolicyError, match="no such file"):
        device({}, policy=tmp_path / "none.onnx")
    path = policy_file(tmp_path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(PolicyError, match="not the side-car of a policy"):
        device({}, policy=path)


def test_a_policy_that_fails_at_work_is_replaced_for_that_request(tmp_path: Path):
    with device({"a:1": node}, policy=policy_file(tmp_path), bits=(32,)) as ours:
        policy = ours.planner.policy
        result = ours.infer(PICTURES[0], policy=lambda seen: policy(OffloadObservation(*(None for _ in seen))))
    expected = whole(PICTURES[0])[GRAPH.outputs[result.exit]]
    np.testing.assert_allclose(result.output, expected, rtol=1e-4, atol=1e-5)

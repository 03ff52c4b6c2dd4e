"""A policy decides the same as a file and as a module; files that do not fit are refused with one line."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tests.policies.observations import random_observation

from coinfer.envs import offload
from coinfer.errors import UserError
from coinfer.policies.learned.export import export, write_onnx
from coinfer.policies.learned.features import rate_features, whole_features
from coinfer.policies.learned.net_policy import NetPolicy
from coinfer.policies.learned.nets import Mlp
from coinfer.policies.onnx import PolicyError, load_policy, open_session
from coinfer.scenario.compile import open_world
from coinfer.types import OffloadObservation


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """A policy of SAC-d's world, untrained, and its file."""
    compiled = open_world("sacd")
    triples = compiled.options[0][0].sidecar_triples
    net = Mlp(2, (32, 32), 1, len(triples))
    policy = NetPolicy(net, net.initial(torch.tensor([7]))[0], rate_features)
    path = tmp_path_factory.mktemp("policy") / "sacd.onnx"
    about = {"scheme": "sac-d", "scenario": "sacd", "scenario_fingerprint": "0" * 64}
    export(path, policy, observed(2), options=triples, **about)
    return policy, path, triples


def observed(worlds: int) -> OffloadObservation:
    world = open_world("sacd").world
    tables = offload.load(world)
    return offload.observe(tables, offload.reset(tables, torch.arange(worlds)))


def as_numpy(seen: OffloadObservation) -> OffloadObservation:
    return OffloadObservation(*(np.asarray(field) for field in seen))


def test_file_and_module_decide_alike(made):
    policy, path, _ = made
    seen = observed(3000)
    wanted, found = policy(seen), load_policy(path)(as_numpy(seen))
    np.testing.assert_array_equal(found.option, wanted.option)
    np.testing.assert_array_equal(found.server, wanted.server)
    assert len(np.unique(found.option)) > 1


def test_one_world_needs_no_batch_axis(made):
    _, path, _ = made
    seen, policy = as_numpy(observed(5)), load_policy(path)
    alone = [policy(OffloadObservation(*(field[i] for field in seen))) for i in range(5)]
    np.testing.assert_array_equal([one.option for one in alone], policy(seen).option)


@pytest.mark.slow
def test_many_tasks_and_servers_decide_alike(tmp_path: Path):
    drawn = random_observation(3, worlds=64, tasks=4, options=3, servers=5)
    seen = OffloadObservation(*(f.float() if f.is_floating_point() else f for f in drawn))
    net = Mlp(whole_features(seen).shape[-1], (16,), 4, 15)
    policy = NetPolicy(net, net.initial(torch.tensor([3]))[0], whole_features)
    about = {"scheme": "test", "scenario": "random", "scenario_fingerprint": ""}
    export(tmp_path / "p.onnx", policy, seen, **about)
    wanted, found = policy(seen), load_policy(tmp_path / "p.onnx")(as_numpy(seen))
    np.testing.assert_array_equal(found.option, wanted.option)
    np.testing.assert_array_equal(found.server, wanted.server)


def test_what_is_nearly_as_good_is_decided_alike(tmp_path: Path):
    """Two choices that sum up the same in another order, and whose biases differ by one in the last place: in float32
    the order of the sum decides, here the bias does."""
    seen = observed(500)
    net = Mlp(2, (32, 32), 1, seen.option_mask.shape[-1])
    flat = net.initial(torch.tensor([5]))
    (inner, inner_bias), (weight, bias) = net.layers(flat)[-2:]
    inner[..., 16:], inner_bias[..., 16:] = inner[..., :16], inner_bias[..., :16]
    weight[0, :, 40], bias[0, 0, 20] = weight[0, :, 20].roll(16), 2.0
    bias[0, 0, 40] = torch.nextafter(bias[0, 0, 20], torch.tensor(9.0))
    policy = NetPolicy(net, flat[0], rate_features)
    export(tmp_path / "p.onnx", policy, observed(2), scheme="test", scenario="sacd", scenario_fingerprint="")
    wanted, found = policy(seen), load_policy(tmp_path / "p.onnx")(as_numpy(seen))
    assert bias[0, 0, 40] > bias[0, 0, 20]
    assert (wanted.option == 40).all()
    assert (net(flat, rate_features(seen)[None]).argmax(-1) == 20).any()
    np.testing.assert_array_equal(found.option, wanted.option)


class Third(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double() * (1 / 3) - 0.1


def test_numbers_in_float64_keep_all_their_digits(tmp_path: Path):
    drawn = torch.rand(5, generator=torch.Generator().manual_seed(1))
    write_onnx(tmp_path / "p.onnx", Third(), {"x": drawn}, ({},), ["y"])
    (found,) = open_session(tmp_path / "p.onnx", ["x"], ["y"]).run(["y"], {"x": drawn.numpy()})
    np.testing.assert_allclose(found, Third()(drawn), rtol=1e-15)


def test_options_in_another_order_mean_the_same(made):
    _, path, triples = made
    seen, order = as_numpy(observed(200)), np.random.default_rng(0).permutation(len(triples))
    moved = seen._replace(
        **{name: getattr(seen, name)[:, :, order] for name in OffloadObservation._fields if name.startswith("option_")}
    )
    policy = load_policy(path)
    fitted = policy.adapt([triples[i] for i in order], servers=1)
    np.testing.assert_array_equal(order[fitted(moved).option], policy(seen).option)


def test_other_options_or_servers_are_refused(made):
    _, path, triples = made
    policy = load_policy(path)
    with pytest.raises(PolicyError, match="made for 94 options, 93 are at hand; missing: exit 3, on the device"):
        policy.adapt(triples[:-1], servers=1)
    policy.sidecar["options"][0] = [0, ["pool9"], 4]
    with pytest.raises(PolicyError, match="missing: exit 1, cut at pool9, 4 bits"):
        policy.adapt(triples, servers=1)
    with pytest.raises(PolicyError, match="made for 1 server, 3 at hand"):
        load_policy(path).adapt(triples, servers=3)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.with_suffix(".json").unlink(), "no such file"),
        (lambda path: path.write_bytes(b"nonsense"), "not a policy that ONNX Runtime can load"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not readable as JSON"),
        (lambda path: path.with_suffix(".json").write_text("{}"), "'format' is missing"),
        (lambda path: changed(path, format=2), "expected format 1"),
        (lambda path: changed(path, fields=["uplink_bps"]), "not those that"),
        (lambda path: changed(path, fields=["colour"]), "no field 'colour'"),
        (lambda path: changed(path, fields="colour"), "fields: Input should be a valid list, got 'colour'"),
        (lambda path: changed(path, sizes=3), "sizes: Input should be a valid dictionary, got 3"),
        (lambda path: changed(path, sizes={"K": "one"}), "sizes.K: "),
        (lambda path: changed(path, sizes={"Z": 3}), "no axis 'Z'"),
        (lambda path: changed(path, options=[[1, 2]]), "options.0.1: "),
        (lambda path: changed(path, options=[]), "options: "),
    ],
)
def test_a_spoilt_pair_is_one_clear_line(made, tmp_path: Path, spoil, told: str):
    for suffix in (".onnx", ".json"):
        (tmp_path / "p").with_suffix(suffix).write_bytes(made[1].with_suffix(suffix).read_bytes())
    spoil(tmp_path / "p.onnx")
    with pytest.raises(UserError, match=told) as caught:
        load_policy(tmp_path / "p.onnx")
    assert "\n" not in str(caught.value)


def test_a_file_made_for_other_axes_is_refused(made, tmp_path: Path):
    """Such as one from when uploads waited for one radio only, [B, K]."""
    path, axes = tmp_path / "old.onnx", ["B", "K"]
    field = helper.make_tensor_value_info("uplink_backlog_s", TensorProto.FLOAT, axes)
    chosen = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("option", "server")]
    casts = [helper.make_node("Cast", [field.name], [one.name], to=TensorProto.INT64) for one in chosen]
    model = helper.make_model(
        helper.make_graph(casts, "old", [field], chosen), ir_version=10, opset_imports=[helper.make_opsetid("", 18)]
    )
    onnx.save_model(model, str(path))
    path.with_suffix(".json").write_bytes(made[1].with_suffix(".json").read_bytes())
    changed(path, fields=[field.name])
    with pytest.raises(PolicyError, match="uplink_backlog_s has 2 axes, expected B K N"):
        load_policy(path)


def changed(path: Path, **values: object) -> None:
    side = path.with_suffix(".json")
    side.write_text(json.dumps(json.loads(side.read_text()) | values))

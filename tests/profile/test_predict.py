import json
from importlib.resources import files
from typing import get_args

import numpy as np
import pytest

from coinfer.graph.zoo import networks
from coinfer.profile.predict import KINDS, OpRegressor, Side, op_dims, predict_ops

pytest.importorskip("scipy")
RNG = np.random.default_rng(0)
RANGES = {"c_in": 512, "c_out": 512, "hw": 112, "kernel": 7, "stride": 2, "output_hw": 56}


def some_dims(kind: str, count: int, rng: np.random.Generator = RNG) -> np.ndarray:
    high = [RANGES.get(name, 4096) for name in KINDS[kind].dims]
    return np.exp(rng.uniform(0, np.log(high), (count, len(high)))).round()


def law_s(kind: str, dims: np.ndarray) -> np.ndarray:
    """A machine of 10 Gflop/s and 4 GB/s that takes 50 us for any operation."""
    work = KINDS[kind].work(*dims.T)
    return 5e-5 + 1e-10 * work.flop + 1e-9 * (work.read + work.written + work.weights)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_cost_law_is_recovered_and_extrapolated(kind):
    dims = some_dims(kind, 600)
    regressor = OpRegressor(kind).fit(dims, law_s(kind, dims))
    unseen = some_dims(kind, 200)
    assert regressor.predict(unseen) == pytest.approx(law_s(kind, unseen), rel=0.02)
    assert regressor.cost_[0] == pytest.approx(5e-5, rel=0.05)
    beyond = [3 if name in ("c_in", "in_features") else 1 for name in KINDS[kind].dims]
    larger = dims.max(0, keepdims=True) * np.array(beyond)
    assert regressor.predict(larger) == pytest.approx(law_s(kind, larger), rel=0.15)


def test_wild_rows_do_not_move_the_fit():
    dims = some_dims("conv", 800)
    latency_s = law_s("conv", dims) * np.exp(RNG.normal(0, 0.05, len(dims)))
    latency_s[RNG.random(len(dims)) < 0.05] *= 100
    unseen = some_dims("conv", 200)
    error = np.abs(OpRegressor("conv").fit(dims, latency_s).predict(unseen) / law_s("conv", unseen) - 1)
    assert np.median(error) < 0.05


def test_costs_are_never_negative():
    dims = some_dims("linear", 300)
    latency_s = 1e-3 * np.exp(-KINDS["linear"].work(*dims.T).flop / 1e7)  # faster the more there is to do
    assert (OpRegressor("linear").fit(dims, latency_s).cost_ >= 0).all()


def test_what_was_learned_survives_a_file():
    dims = some_dims("maxpool", 200)
    fitted = OpRegressor("maxpool").fit(dims, law_s("maxpool", dims))
    read = OpRegressor.from_dict("maxpool", json.loads(json.dumps(fitted.to_dict())))
    assert read.predict(dims) == pytest.approx(fitted.predict(dims), rel=1e-3)


@pytest.mark.parametrize(
    ("model", "op", "kind", "dims"),
    [
        ("alexnet", "conv1", "conv", (3, 64, 224, 11, 4)),
        ("alexnet", "fc2", "linear", (4096, 4096)),
        ("resnet50", "maxpool", "maxpool", (64, 112, 3, 2)),
        ("resnet50", "layer1.0.conv3", "conv", (64, 256, 56, 1, 1)),
        ("mobilenetv2", "stage1.0.depthwise", "dw_conv", (32, 112, 3, 1)),
        ("googlenet", "pool", "avgpool", (1024, 7, 1)),
        ("googlenet", "inception3a.concat", "batchnorm", (64, 56.0)),
    ],
)
def test_dimensions_are_read_from_the_graph(model, op, kind, dims):
    graph = networks.build(model)
    index = next(i for i, candidate in enumerate(graph.ops) if candidate.name == op)
    found_kind, found = op_dims(graph, graph.ops[index], graph.proto.graph.node[index])
    assert found_kind == kind
    if kind != "batchnorm":
        assert found == pytest.approx(dims)
    else:  # half of what is read and written, in elements
        assert found[0] * found[1] ** 2 == pytest.approx(256 * 28 * 28)


@pytest.mark.parametrize("side", get_args(Side))
def test_networks_come_out_at_a_plausible_speed(side):
    seconds = {name: predict_ops(networks.build(name), side) for name in ("alexnet", "resnet50", "vgg16")}
    totals = {name: float(op_s.sum()) for name, op_s in seconds.items()}
    low, high = {"edge": (5e9, 150e9), "cloud": (50e9, 2000e9)}[side]
    for name in ("resnet50", "vgg16"):
        assert low < networks.build(name).work_flop / totals[name] < high
    assert totals["alexnet"] < totals["resnet50"] < totals["vgg16"]
    assert all((op_s >= 0).all() for op_s in seconds.values())


def test_the_cloud_is_faster_than_the_edge():
    graph = networks.build("vgg16")
    assert predict_ops(graph, "cloud").sum() < predict_ops(graph, "edge").sum() / 3


def test_fused_activations_cost_nothing_of_their_own():
    graph = networks.build("vgg16")
    op_s = predict_ops(graph, "edge")
    free = {op.kind for op, seconds in zip(graph.ops, op_s, strict=True) if seconds == 0}
    assert free == {"Relu", "Flatten"}


def test_an_unknown_side_is_refused():
    with pytest.raises(ValueError, match="no regressors for side 'fog': it is one of cloud, edge"):
        predict_ops(networks.build("nin"), "fog")  # pyright: ignore[reportArgumentType]


def test_the_shipped_file_states_source_and_error():
    shipped = json.loads(files("coinfer").joinpath("data/op_regressors.json").read_text())
    assert "github:Tjyy-1223/Neurosurgeon" in shipped["source"]
    for side in get_args(Side):
        assert set(shipped["held_out_relative_error"][side]) == set(shipped["sides"][side]) == set(KINDS)

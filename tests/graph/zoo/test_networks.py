import functools
from collections.abc import Callable

import numpy as np
import pytest
from tests.graph.small_graphs import relative_error, run

from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model, split
from coinfer.graph.zoo.networks import ZOO, build

# Published parameters and multiply-adds, and the number of channels whose batch norm (scale and shift) is folded into a
# bias. torchvision's documentation for the first five, the papers or their usual re-implementations for the next three;
# the last is counted by hand from the sizes of its layers.
PUBLISHED = {
    "alexnet": (61_100_840, 0.714e9, 0),
    "vgg16": (138_357_544, 15.47e9, 0),
    "resnet50": (25_557_032, 4.089e9, 26_560),
    "mobilenetv2": (3_504_872, 0.301e9, 17_056),
    "googlenet": (6_624_904, 1.498e9, 7_280),
    "nin": (966_986, 0.222e9, 0),
    "resnet32": (464_154, 0.069e9, 1_136),
    "vgg16-cifar": (14_728_266 - 4_224, 0.313e9, 4_224),  # published with a bias beside each batch norm
    "alexnet-cifar": (429_386, 0.024e9, 0),
}
LARGE = ("alexnet", "vgg16", "resnet50")
"""Head and tail of these are tried at a few cuts, and the pieces between all neighbouring cuts."""
USEFUL_CUTS = {"alexnet": 12, "vgg16": 22, "resnet50": 21}


@functools.cache
def network(name: str) -> ModelGraph:
    return build(name)


@functools.cache
def picture(name: str) -> np.ndarray:
    """Smooth noise with the mean and spread of a normalised photograph."""
    size = network(name).tensors["input"].shape[-1]
    random = np.random.default_rng(7)
    coarse = random.standard_normal((1, 3, size // 8, size // 8)).astype(np.float32)
    return coarse.repeat(8, axis=2).repeat(8, axis=3) + 0.2 * random.standard_normal((1, 3, size, size), np.float32)


@functools.cache
def everything(name: str) -> dict[str, np.ndarray]:
    """Every tensor of one run."""
    graph = network(name)
    return {"input": picture(name)} | run(graph, {"input": picture(name)}, tuple(graph.tensors)[1:])


@pytest.mark.parametrize("name", ZOO)
def test_parameters_and_work_are_the_published(name: str) -> None:
    params, multiply_adds, folded = PUBLISHED[name]
    graph = network(name)
    assert graph.params == params - folded
    linear = sum(op.work_flop for op in graph.ops if op.kind in {"Conv", "Gemm"})
    assert linear / 2 == pytest.approx(multiply_adds, rel=0.03)


@pytest.mark.parametrize(("name", "count"), USEFUL_CUTS.items())
def test_useful_cuts_are_the_known_block_boundaries(name: str, count: int) -> None:
    assert len(network(name).useful_cuts()) == count


def test_sizes_at_the_known_cuts() -> None:
    """float32 bytes at batch 1, as measured elsewhere for these networks."""
    graph = network("vgg16")
    assert [graph.tensors[f"pool{i}"].size_bits // 8 for i in range(1, 6)] == [
        3_211_264,
        1_605_632,
        802_816,
        401_408,
        100_352,
    ]
    graph = network("alexnet-cifar")
    assert [graph.tensors[f"pool{i}"].size_bits // 8 for i in range(1, 4)] == [28_800, 12_544, 2_304]


@pytest.mark.parametrize("name", ZOO)
def test_activations_stay_of_the_order_of_one(name: str) -> None:
    """Codecs and quantisers are measured on these; vanishing or exploding ones would tell nothing."""
    deviations = {key: float(value.std()) for key, value in everything(name).items()}
    assert {key: value for key, value in deviations.items() if not 0.02 < value < 20} == {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "vgg16" else name for name in ZOO]
)
def test_head_and_tail_equal_the_whole_at_every_single_tensor_cut(name: str) -> None:
    graph, truth = network(name), everything(name)
    answer = graph.outputs[0]
    for cut in graph.single_cuts()[:: 16 if name in LARGE else 1]:
        (tensor,) = cut.tensors
        if cut.head:
            head = run(graph, {"input": truth["input"]}, (tensor,))
            assert relative_error(head[tensor], truth[tensor]) < 1e-4, tensor
        if tensor != answer:
            tail = run(graph, {tensor: truth[tensor]}, (answer,))
            assert relative_error(tail[answer], truth[answer]) < 1e-4, tensor


@pytest.mark.parametrize("name", LARGE)
def test_pieces_between_neighbouring_cuts_equal_the_whole(name: str) -> None:
    graph, truth = network(name), everything(name)
    for piece in split(graph, graph.single_cuts()):
        made = run(graph, {tensor: truth[tensor] for tensor in piece.inputs}, piece.outputs)
        for tensor in piece.outputs:
            assert relative_error(made[tensor], truth[tensor]) < 1e-4, tensor


@pytest.mark.parametrize("name", ["alexnet-cifar", "nin", "resnet32", "mobilenetv2", "googlenet", "resnet50"])
@pytest.mark.parametrize("count", [2, 3])
def test_several_cuts_recompose_the_whole(name: str, count: int) -> None:
    graph, truth = network(name), everything(name)
    random = np.random.default_rng(count)
    cuts = graph.single_cuts()
    chosen = [cuts[i] for i in sorted(random.choice(len(cuts), count, replace=False))]
    values = {"input": truth["input"]}
    for piece in split(graph, chosen):
        assert set(piece.inputs) == set(values)
        values = run(graph, values, piece.outputs)
    assert relative_error(values["logits"], truth["logits"]) < 1e-4


@pytest.mark.parametrize("name", ["googlenet", "mobilenetv2", "resnet32"])
def test_cuts_across_several_tensors_recompose_the_whole(name: str) -> None:
    graph, truth = network(name), everything(name)
    several = [cut for cut in graph.all_cuts() if len(cut.tensors) > 1]
    assert len(several) > 10
    for i in np.random.default_rng(3).choice(len(several), 6, replace=False):
        crossing = run(graph, {"input": truth["input"]}, several[i].tensors)
        answer = run(graph, crossing, graph.outputs)
        assert relative_error(answer["logits"], truth["logits"]) < 1e-4, several[i].tensors


@pytest.mark.parametrize("name", ["nin", "mobilenetv2"])
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    graph = network(name)
    assert graph.dynamic_batch
    pictures = np.concatenate([picture(name), picture(name)[..., ::-1], -picture(name)])
    middle = graph.useful_cuts()[5].tensors
    batch = run(graph, run(graph, {"input": pictures}, middle), graph.outputs)["logits"]
    for i in range(3):
        one = run(graph, {"input": np.ascontiguousarray(pictures[i : i + 1])}, graph.outputs)["logits"]
        assert relative_error(batch[i : i + 1], one) < 1e-4


def test_the_same_seed_gives_the_same_network() -> None:
    assert build("nin", 3).fingerprint == build("nin", 3).fingerprint != build("nin", 4).fingerprint


def test_open_model_takes_a_name_or_a_path(tmp_path) -> None:
    save_model(network("nin"), tmp_path / "mine.onnx")
    assert open_model("nin").fingerprint == open_model(tmp_path / "mine.onnx").fingerprint
    assert open_model(tmp_path / "mine.onnx").image == network("nin").image


@pytest.mark.parametrize("find", [open_model, build])
@pytest.mark.parametrize("spec", ["lenet", "models/lenet.onnx"])
def test_an_unknown_name_lists_the_zoo(find: Callable[[str], ModelGraph], spec: str) -> None:
    with pytest.raises(GraphError, match=rf"no network '{spec}'.* alexnet, .*alexnet-cifar, .*vgg16-cifar"):
        find(spec)

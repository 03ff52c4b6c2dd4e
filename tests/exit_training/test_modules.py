"""A graph as a PyTorch module: it computes the same as ONNX Runtime, before training and after, folded or not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from coinfer.exit_training.modules import GraphModule, with_weights
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.load import from_proto
from coinfer.graph.segment import segment
from coinfer.graph.session import open_session
from coinfer.graph.torch_import import from_torch
from coinfer.graph.zoo import early_exits, networks

NAMES = ("alexnet-cifar", "nin", "resnet32", "mobilenetv2", "alexnet-cifar-exits", "vgg16-cifar-exits")


def build(name: str) -> ModelGraph:
    return early_exits.build(name) if name in early_exits.EXITS else networks.build(name)


def pictures(graph: ModelGraph, count: int = 3) -> torch.Tensor:
    shape = (count, *graph.tensors[graph.inputs[0]].shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def answers(graph: ModelGraph, x: torch.Tensor) -> list[np.ndarray]:
    return open_session(graph, segment(graph, graph.inputs, graph.outputs)).run(None, {graph.inputs[0]: x.numpy()})


def assert_alike(module: GraphModule, graph: ModelGraph, x: torch.Tensor) -> None:
    with torch.no_grad():
        for mine, theirs in zip(module(x), answers(graph, x), strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_onnx_runtime_computes(name: str):
    graph = build(name)
    assert_alike(GraphModule(graph).eval(), graph, pictures(graph))


@pytest.mark.parametrize("name", NAMES)
def test_trained_with_batch_norm_it_folds_to_the_same_answers(name: str):
    graph = build(name)
    module = GraphModule(graph, norm=True)
    module.init(torch.Generator().manual_seed(2))
    parameters = [value for value in module.parameters() if value.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.01)
    for _ in range(2):
        torch.stack([answer.square().mean() for answer in module.train()(pictures(graph, 4))]).sum().backward()
        optimiser.step()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in parameters)
    trained = module.graph("mine")
    assert trained.name == "mine"
    assert trained.fingerprint != graph.fingerprint
    assert_alike(module.eval(), trained, pictures(graph))


class Small(nn.Module):
    """What the zoo has none of: batch norms of its own, a mean over pads, a reshape, products with constants."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2, 2, 1, count_include_pad=False)
        self.linear = nn.Linear(4 * 25, 10)

    def forward(self, x):
        x = self.pool(torch.tanh(self.norm(self.conv(x)) * 1.5 + 0.25))
        return self.linear(torch.sigmoid(x).reshape(-1, 100))


def test_networks_from_pytorch_with_norms_of_their_own():
    torch.manual_seed(0)
    model = Small()
    for _ in range(3):
        model.train()(torch.randn(8, 3, 8, 8) * 2 + 1)
    graph = from_torch(model.eval(), torch.randn(2, 3, 8, 8), "small")
    x = pictures(graph)
    assert_alike(GraphModule(graph).eval(), graph, x)
    normed = GraphModule(graph, norm=True).train()
    normed.init(torch.Generator().manual_seed(0))
    for _ in range(3):
        normed(x)
    assert_alike(normed.eval(), normed.graph(), x)


def chain(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], out: tuple[int, ...]) -> ModelGraph:
    sizes = {"x": (2, 3, 7, 5), "y": out}
    x, y = (helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, ["N", *size[1:]]) for key, size in sizes.items())
    values = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "chain", [x], [y], values)
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "chain")


UNEVEN = {
    "conv": (
        helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]),
        {"w": (4, 3, 3, 2), "b": (4,)},
        (2, 4, 4, 4),
    ),
    "max pool": (
        helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 1, 0]),
        {"unused": (1,)},
        (2, 3, 3, 3),
    ),
    "local norm": (helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=0.6, bias=2.0), {}, (2, 3, 7, 5)),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_sizes_that_differ_by_axis_and_end(name: str):
    node, shapes, out = UNEVEN[name]
    random = np.random.default_rng(0)
    weights = {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items() if key in node.input}
    graph = chain(node, weights=weights, out=out)
    assert_alike(GraphModule(graph).eval(), graph, pictures(graph, 2))


def test_dropout_acts_in_training_only_and_draws_from_its_generator():
    graph = networks.build("alexnet-cifar")
    module = GraphModule(graph)
    x = pictures(graph)
    with torch.no_grad():
        assert torch.equal(module.eval()(x)[0], module(x)[0])
        module.train().generator = torch.Generator().manual_seed(7)
        first, second = module(x)[0], module(x)[0]
        assert not torch.equal(first, second)
        module.generator.manual_seed(7)
        assert torch.equal(module(x)[0], first)


def test_fresh_weights_keep_the_size_of_activations():
    graph = networks.build("vgg16-cifar")
    module = GraphModule(graph)
    module.init(torch.Generator().manual_seed(0))
    answer = module.eval()(pictures(graph, 8))[0].detach()
    assert 0.01 < float(answer.std()) < 1  # the last layer starts at a tenth
    assert all(bool((module.weights[key] == 0).all()) for key in module.weights if key.endswith("bias"))


def test_what_cannot_be_trained_is_named():
    node = helper.make_node("Erf", ["x"], ["y"])
    with pytest.raises(GraphError, match=r"chain: cannot train operation Erf \('y'\); can train Add, "):
        GraphModule(chain(node, weights={}, out=(2, 3, 7, 5)))
    graph = networks.build("alexnet-cifar")
    with pytest.raises(GraphError, match=r"weight 'conv1.bias' is nothing; expected \[32\]"):
        with_weights(graph, {name: value for name, value in graph.weights.items() if name != "conv1.bias"})

import sys

import numpy as np
import pytest
from tests.graph.small_graphs import relative_error, run

from coinfer.graph.image_input import ImageInput
from coinfer.graph.ir import GraphError
from coinfer.graph.segment import split
from coinfer.graph.torch_import import from_torch

torch = pytest.importorskip("torch")
nn = torch.nn


class Residual(nn.Module):
    """Two exits; batch norm with statistics of its own, dropout, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean = torch.linspace(-1, 1, 8)
        self.norm.running_var = torch.linspace(0.5, 2, 8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout()
        self.early, self.late = nn.Linear(8, 5), nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = nn.functional.max_pool2d(torch.relu(self.branch(x) + x), 2)
        return self.early(x.mean((2, 3))), self.late(self.drop(y.view(y.shape[0], -1)))


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(0)
    module = Residual()
    module.train()
    graph = from_torch(module, torch.zeros(1, 3, 8, 8), "residual", outputs=("early", "late"))
    return module, graph


def test_both_exits_equal_the_module_for_any_batch(residual) -> None:
    module, graph = residual
    assert graph.dynamic_batch
    assert graph.outputs == ("early", "late")
    module.eval()
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            truth = module(x)
        outputs = run(graph, {graph.inputs[0]: x.numpy()}, graph.outputs)
        for name, expected in zip(graph.outputs, truth, strict=True):
            assert relative_error(outputs[name], expected.numpy()) < 1e-4


def test_every_cut_of_every_exit_equals_the_module(residual) -> None:
    module, graph = residual
    module.eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        truth = module(x)
    for exit, name in enumerate(graph.outputs):
        cuts = graph.pruned((name,)).single_cuts()
        assert len(cuts) >= 4
        for cut in cuts[1:-1]:
            values = {graph.inputs[0]: x.numpy()}
            for piece in split(graph, [cut], exit=exit):
                values = run(graph, values, piece.outputs)
            assert relative_error(values[name], truth[exit].numpy()) < 1e-4


def test_work_is_what_torch_counts(residual) -> None:
    module, graph = residual
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, 8, 8))
    assert sum(op.work_flop for op in graph.ops if op.kind in {"Conv", "Gemm"}) == counter.get_total_flops()


def test_the_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    module.train()
    module[1].eval()
    from_torch(module, torch.zeros(1, 4), "kept", image=None)
    assert [part.training for part in module.modules()] == [True, True, False]


class Attention(nn.Module):
    """Patches, one transformer layer, the mean: reshapes that depend on the batch throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.classes = nn.Linear(16, 5)

    def forward(self, x):
        return self.classes(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def test_a_transformer_is_cut_where_one_tensor_crosses() -> None:
    torch.manual_seed(1)
    module = Attention().eval()
    image = ImageInput(32, 32, (0.5,) * 3, (0.5,) * 3)
    graph = from_torch(module, torch.zeros(1, 3, 32, 32), "attention", image=image)
    assert graph.dynamic_batch
    assert graph.image == image
    assert "Shape" not in {op.kind for op in graph.ops}
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        truth = module(x).numpy()
    cuts = graph.useful_cuts()
    assert len(cuts) >= 7
    for cut in cuts[1:-1]:
        values = run(graph, run(graph, {graph.inputs[0]: x.numpy()}, cut.tensors), graph.outputs)
        assert relative_error(values[graph.outputs[0]], truth) < 1e-4


class Stateful(nn.Module):
    """A state with the batch on its second axis, a number, a switch, and a bias that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 6, batch_first=True)

    def forward(self, x, state, scale=1.0, *, bias=None, negate=False):
        y, after = self.layer(x * scale, state)
        y = y if bias is None else y + bias
        return -y if negate else y, after


def test_states_numbers_and_arguments_by_name() -> None:
    torch.manual_seed(2)
    module = Stateful().eval()
    bias = torch.randn(6)
    graph = from_torch(
        module,
        (torch.zeros(1, 3, 4), torch.zeros(1, 1, 6), 0.5),
        "stateful",
        outputs=("y", "after"),
        kwargs={"bias": bias, "negate": True},
        dynamic_axes={"x": {0: "batch", 1: "length"}, "state": {1: "batch"}, "bias": {}},
        shapes={"length": "2..9"},
    )
    assert graph.inputs == ("x", "state", "bias")
    for length in (2, 7):
        x, state = torch.randn(1, length, 4), torch.randn(1, 1, 6)
        with torch.no_grad():
            truth = module(x, state, 0.5, bias=bias, negate=True)
        feeds = {"x": x.numpy(), "state": state.numpy(), "bias": bias.numpy()}
        outputs = run(graph, feeds, graph.outputs)
        for name, expected in zip(graph.outputs, truth, strict=True):
            assert relative_error(outputs[name], expected.numpy()) < 1e-5


def test_a_module_of_one_sample_is_exported_for_one() -> None:
    class Flat(nn.Module):
        def forward(self, x):
            return torch.relu(x.reshape(1, 12))

    graph = from_torch(Flat(), torch.zeros(1, 3, 4), "flat")
    assert not graph.dynamic_batch
    assert graph.tensors[graph.outputs[0]].shape == (1, 12)


@pytest.mark.parametrize(
    ("example", "settings", "says"),
    [
        ("text", {}, "is str; expected a tensor or a list"),
        ([torch.zeros(1, 4)], {"kwargs": {"nope": 1}}, "does not fit forward.*'nope'"),
        ([torch.zeros(1, 4)], {"dynamic_axes": {"y": {0: "batch"}}}, "dynamic_axes names 'y'; the arguments are input"),
        ([torch.zeros(1, 4)], {"dynamic_axes": {"input": {3: "length"}}}, "has no axis 3"),
        ([torch.zeros(1, 5)], {}, "does not run on the example: mat1 and mat2"),
        ([1.0], {}, "no argument of forward is a tensor"),
    ],
)
def test_an_example_that_does_not_fit_is_one_line(example, settings, says: str) -> None:
    with pytest.raises(GraphError, match=says) as caught:
        from_torch(nn.Linear(4, 4), example, "linear", **settings)
    assert "\n" not in str(caught.value)


def test_what_is_no_module_is_named() -> None:
    with pytest.raises(GraphError, match=r"linear: expected a torch\.nn\.Module, got a function"):
        from_torch(nn.functional.relu, torch.zeros(1, 4), "linear")


def test_a_module_that_cannot_be_exported_is_one_line(capfd) -> None:
    class Picky(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(GraphError, match="picky: PyTorch cannot export") as caught:
        from_torch(Picky(), torch.zeros(1, 4), "picky")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert capfd.readouterr() == ("", "")


def test_without_torch_the_message_names_the_cure(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(GraphError, match="needs PyTorch: pip install"):
        from_torch(None, np.zeros((1, 4)), "none")

from pathlib import Path

import numpy as np
import pytest
from tests.tables import analytic_table

from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.graph.zoo import early_exits, networks
from coinfer.options.chain import Speed
from coinfer.options.network import NetworkTable, NetworkTableError, load, network_table
from coinfer.scenario.tables import open_network, shipped_networks


def table_of(graph: ModelGraph) -> tuple[NetworkTable, list]:
    profiles = [analytic_table(graph.pruned((name,))) for name in graph.outputs]
    return network_table(graph, profiles), profiles


@pytest.mark.parametrize(
    "graph", [networks.build("resnet32"), early_exits.build("alexnet-cifar-exits")], ids=lambda graph: graph.name
)
def test_times_and_sizes_are_those_of_the_profile(graph: ModelGraph):
    table, profiles = table_of(graph)
    speed = Speed(table, 1.0, None)
    for k, (output, profile) in enumerate(zip(graph.outputs, profiles, strict=True)):
        chain = graph.pruned((output,))
        cuts = [cut.tensors for cut in chain.useful_cuts()]
        last = len(cuts) - 1
        heads = [speed.segment_s(k, 0, i) for i in range(len(cuts))]
        tails = [speed.segment_s(k, i, last) for i in range(len(cuts))]
        np.testing.assert_allclose(heads, profile.head_s(chain, cuts), rtol=1e-9)
        np.testing.assert_allclose(tails, profile.tail_s(chain, cuts), rtol=1e-9)
        for i, (cut, (name,)) in enumerate(zip(table.exits[k], cuts, strict=True)):
            sizes = profile.payload_bits[name]
            assert cut.payload_bits == (sizes if i else {8: sizes[8]})
        flop = Speed(table, 1.0, 1e9)
        assert flop.segment_s(k, 0, last) == pytest.approx(chain.work_flop / 1e9)


def test_a_saved_table_comes_back(tmp_path: Path):
    table, _ = table_of(networks.build("nin"))
    table.save(tmp_path / "nin.json")
    assert load(tmp_path / "nin.json") == table.rounded()
    assert open_network("nin.json", tmp_path).network == "nin"


@pytest.mark.parametrize("name", shipped_networks())
def test_shipped_tables_belong_to_networks_of_ours(name: str):
    """The large ones are only compared in structure: to hash their weights takes seconds."""
    table = open_network(name)
    graph = open_model(name)
    assert len(table.exits) == len(graph.outputs)
    assert table.work_flop == pytest.approx(graph.pruned(graph.outputs[-1:]).work_flop, rel=1e-4)
    for output, cuts in zip(graph.outputs, table.exits, strict=True):
        chain = graph.pruned((output,))
        assert [cut.tensors for cut in cuts] == [cut.tensors for cut in chain.useful_cuts()]
        assert all(cut.elements == sum(chain.tensors[name].elements for name in cut.tensors) for cut in cuts)
    if graph.params < 5e6:
        assert table.fingerprint == graph.fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:50], "Invalid JSON"),
        (lambda text: text.replace('"whole_s": ', '"whole_s": -'), "whole_s"),
        (lambda text: text.replace('"network"', '"net"'), "network"),
        (lambda text: text.replace('"done_s": 0.0', '"done_s": 1e9', 1), "exit 1 is no chain"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(tmp_path: Path, change, said: str):
    table, _ = table_of(networks.build("nin"))
    path = tmp_path / "nin.json"
    table.save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(NetworkTableError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: no valid network table: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)

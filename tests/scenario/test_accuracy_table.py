"""Measured accuracies in a scenario: taken option by option, and refused where they are of another network."""

from pathlib import Path

import pytest

from coinfer.errors import ScenarioError
from coinfer.profile.accuracy import AccuracyRow, AccuracyTable
from coinfer.scenario.compile import compile_scenario
from coinfer.scenario.load import preset_text, read
from coinfer.scenario.tables import open_network

STATED = "    accuracy: [0.753, 0.770, 0.778]"


def measured(**changes: object) -> AccuracyTable:
    """Every exit, cut and number of bits of the preset's network, each with another accuracy."""
    network = open_network(_network())
    rows = [
        AccuracyRow(exit=e, cut=cut.tensors, bits=bits, correct=100 * e + 10 * i + bits)
        for e, cuts in enumerate(network.exits)
        for i, cut in enumerate(cuts[1:-1], 1)
        for bits in (4, 8, 12, 16)
    ]
    fields = {"model": network.network, "fingerprint": network.fingerprint, "dataset": "test", "samples": 1000}
    return AccuracyTable.model_validate({**fields, "exits": (700, 750, 800), "rows": rows, **changes})


def _network() -> str:
    line = next(line for line in preset_text("sacd").splitlines() if "- network:" in line)
    return line.split()[2]


def compiled(folder: Path, table: AccuracyTable | None, more: str = ""):
    if table is not None:
        table.save(folder / "accuracy.json")
    lines = [line for line in preset_text("sacd").splitlines() if "accuracy" not in line]
    place = next(i for i, line in enumerate(lines) if "exits: [" in line)
    lines.insert(place, f"    accuracy_table: accuracy.json\n{more}")
    return compile_scenario(read("\n".join(lines), "test.yaml", folder))


def test_every_option_has_its_measured_accuracy(tmp_path: Path):
    table = measured()
    found = compiled(tmp_path, table)
    for option, accuracy in zip(found.options[0][0].sidecar_triples, found.world.option_accuracy[0, 0], strict=True):
        exit_, cut, bits = option
        exact = cut in ((), open_network(_network()).exits[0][0].tensors)
        assert accuracy == pytest.approx(table.accuracy(exit_, cut, 32 if exact else bits)), option
    assert len(set(found.world.option_accuracy[0, 0])) > 10


def test_quantising_does_not_make_answers_better(tmp_path: Path):
    """As on real devices: a few more right answers than with 32 bits are chance, and no reason to send so."""
    rows = [row.model_copy(update={"correct": 720}) for row in measured().rows]
    found = compiled(tmp_path, measured(rows=rows))
    assert set(found.world.option_accuracy[0, 0].tolist()) == {0.70, 0.72, 0.75, 0.80}
    first = found.options[0][0].exit == 0
    assert set(found.world.option_accuracy[0, 0][first].tolist()) == {0.70}


def test_a_table_of_another_network_is_refused(tmp_path: Path):
    with pytest.raises(ScenarioError, match=r"accuracy_table: accuracy\.json was measured on network 'x'"):
        compiled(tmp_path, measured(model="x", fingerprint="0" * 64))


def test_a_table_without_these_bits_is_refused(tmp_path: Path):
    with pytest.raises(ScenarioError, match="4 bits was not measured"):
        compiled(tmp_path, measured(rows=()))


def test_no_such_table(tmp_path: Path):
    with pytest.raises(ScenarioError, match=r"no file 'accuracy\.json'; `coinfer exits measure` writes one"):
        compiled(tmp_path, None)


def test_stated_and_measured_accuracy_exclude_each_other(tmp_path: Path):
    with pytest.raises(ScenarioError, match="accuracy: expected either this or accuracy_table"):
        compiled(tmp_path, measured(), more=STATED)

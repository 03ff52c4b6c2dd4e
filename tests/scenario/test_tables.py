import numpy as np
import pytest
from tests.scenario.worlds import SMALL

from coinfer.profile.devices import device_class
from coinfer.scenario import tables
from coinfer.scenario.compile import compile_scenario
from coinfer.scenario.load import read
from coinfer.scenario.spec_nodes import Device


def test_exits_bits_and_accuracies():
    text = SMALL.replace("alexnet", "alexnet-224-exits").replace(
        "bits: [8, 32]", "bits: [4]\n    accuracy_drop: {4: 0.03}"
    )
    text = text.replace("    deadline_s", "    exits: [1, 3]\n    accuracy: [0.7, 0.8]\n    deadline_s")
    compiled = compile_scenario(read(text + "prune: none\n", "x"))
    world = compiled.world
    options = compiled.options[0][0].sidecar_triples
    for (exit_, _, bits), accuracy in zip(options, world.option_accuracy[0, 0], strict=True):
        assert accuracy == pytest.approx({0: 0.7, 2: 0.8}[exit_] - (0.03 if bits == 4 else 0.0))
    assert {exit_ for exit_, *_ in options} == {0, 2}
    assert options[world.local_option[0, 0]] == (2, (), 32)


def test_a_catalogue_class_takes_its_published_time():
    world = compile_scenario(read(SMALL, "x")).world
    alone = world.local_option[0, 0]
    assert world.option_device_s[0, 0, alone] == pytest.approx(
        device_class("raspberry-pi-4").latency_s["alexnet"], rel=0.01
    )
    whole = world.option_server_s[0, 0].max(axis=0)
    assert whole[1] == pytest.approx(device_class("desktop").latency_s["alexnet"], rel=0.05)


def test_the_best_option_is_the_fastest_on_the_mean_link():
    every = compile_scenario(read(SMALL + "prune: none\n", "x"))
    best = compile_scenario(read(SMALL + "keep: best\n", "x"))
    world = every.world
    upload_s = world.option_upload_bits[0, 0] / 1e7
    latency_s = world.option_device_s[0, 0] + upload_s + world.option_server_s[0, 0].min(axis=-1)
    sends = world.option_upload_bits[0, 0] > 0
    fastest = int(np.where(sends, latency_s, np.inf).argmin())
    assert best.options[0][0].sidecar_triples == [every.options[0][0].sidecar_triples[fastest], (0, (), 32)]


@pytest.mark.parametrize("prune", ["hull", "dominated", "none"])
def test_only_the_ends_are_left_where_the_scenario_says_so(prune: str):
    compiled = compile_scenario(read(SMALL + f"cuts: ends\nprune: {prune}\n", "x"))
    assert [cut for _, cut, _ in compiled.options[0][0].sidecar_triples] == [("input",), ()]


def test_energy_by_power_and_by_capacitance():
    busy_s = np.array([0.5, 2.0])
    np.testing.assert_allclose(tables.energy_j(Device(slowdown=1, compute_power_w=3), busy_s), [1.5, 6])
    made = tables.energy_j(Device(slowdown=1, capacitance=1e-26, freq_hz=1e9), busy_s)
    np.testing.assert_allclose(made, 1e-26 * 1e27 * busy_s)


def test_a_deadline_as_a_multiple_of_the_idle_latency():
    text = SMALL.replace("deadline_s: 0.5", "deadline_factor: 2.5")
    every = compile_scenario(read(text + "prune: none\n", "x")).world
    upload_s = every.option_upload_bits[0, 0] / 1e7
    latency_s = every.option_device_s[0, 0, :, None] + np.where(
        upload_s[:, None] > 0, upload_s[:, None] + every.option_server_s[0, 0], 0.0
    )
    np.testing.assert_allclose(every.edge.deadline_s[0, 0], 2.5 * latency_s.min())

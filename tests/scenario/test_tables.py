import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scenario.worlds import SMALL
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.options.compile import compile_options
from coinfer.profile.devices import device_class
from coinfer.scenario import tables
from coinfer.scenario.compile import compile_scenario
from coinfer.scenario.load import read
from coinfer.scenario.network import network_table
from coinfer.scenario.spec import Device, Model
from coinfer.scenario.tables import Label, Options, Speed


def drawn(data: st.DataObject, options: int, servers: int) -> Options:
    """Options with times and sizes that often tie, among them one that sends nothing for each accuracy."""
    number = st.integers(0, 6).map(float)
    rows = [
        (data.draw(number), data.draw(st.integers(1, 6)) * 1.0, [data.draw(number) for _ in range(servers)])
        for _ in range(options)
    ]
    accuracy = [data.draw(st.sampled_from([0.5, 0.7, 0.9])) for _ in range(options)]
    rows += [(data.draw(number), 0.0, [0.0] * servers) for _ in range(3)]
    device_s, bits, server_s = zip(*rows, strict=True)
    labels = tuple(Label(1, str(i), 8) for i in range(len(rows)))
    times = np.array(device_s)
    return Options(labels, times, np.array(bits), np.array(server_s), np.array([*accuracy, 0.5, 0.7, 0.9]), times * 2)


def worth(options: Options, rate_bps: np.ndarray, waiting_s: np.ndarray, weight: float) -> float:
    """The best value of accuracy against latency with these queues before the servers."""
    sends = options.upload_bits[:, None] > 0
    latency_s = options.latency_s(rate_bps) + np.where(sends, waiting_s, 0.0)
    return float((weight * options.accuracy[:, None] - latency_s).max())


@given(st.data(), st.lists(st.floats(0.1, 10), min_size=2, max_size=2), st.floats(0, 20))
@settings(max_examples=150, deadline=None)
def test_pruning_never_loses_the_best(data: st.DataObject, rates: list[float], weight: float):
    """The hull keeps it with idle servers; what is not dominated keeps it under any load."""
    options, rate_bps = drawn(data, data.draw(st.integers(1, 7)), 2), np.array(rates)
    idle, busy = np.zeros(2), np.array([data.draw(st.floats(0, 10)), data.draw(st.floats(0, 10))])
    hull = tables.prune(options, "hull", limited_energy=False)
    strict = tables.prune(options, "dominated", limited_energy=False)
    assert worth(hull, rate_bps, idle, weight) == pytest.approx(worth(options, rate_bps, idle, weight))
    assert worth(strict, rate_bps, busy, weight) == pytest.approx(worth(options, rate_bps, busy, weight))
    for kept in (hull, strict):
        at_home = kept.upload_bits == 0
        assert kept.accuracy[at_home].max() == options.accuracy[options.upload_bits == 0].max()


@given(st.data(), st.floats(0.1, 10), st.floats(0.1, 3))
@settings(max_examples=100, deadline=None)
def test_pruning_keeps_the_most_frugal_where_energy_is_short(data: st.DataObject, rate_bps: float, power_w: float):
    options = drawn(data, data.draw(st.integers(1, 7)), 1)
    kept = tables.prune(options, "hull", limited_energy=True)

    def least_j(some: Options) -> float:
        return float((some.device_j + power_w * some.upload_bits / rate_bps).min())

    assert least_j(kept) == pytest.approx(least_j(options))


def test_options_are_those_of_the_planner():
    """One network, one machine: what the runtime's planner compiles, but for the sizes' order."""
    graph = networks.build("nin")
    profile = analytic_table(graph)
    planned = compile_options(graph, profile, (8, 4))
    speed = Speed(network_table(graph, [profile]), 1.0, None)
    model = Model.model_validate({"network": "nin", "bits": [8, 4]})
    options = tables.all_options(model, Device(slowdown=1), speed, [speed], ends=False)
    ours = np.column_stack([options.device_s, options.upload_bits, options.server_s[:, 0]])
    theirs = np.column_stack([planned.device_s, planned.upload_bits, planned.server_s])
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_exits_bits_and_accuracies():
    text = SMALL.replace("alexnet", "alexnet-224-exits").replace(
        "bits: [8, 32]", "bits: [4]\n    accuracy_drop: {4: 0.03}"
    )
    text = text.replace("    deadline_s", "    exits: [1, 3]\n    accuracy: [0.7, 0.8]\n    deadline_s")
    compiled = compile_scenario(read(text + "prune: none\n", "x"))
    world = compiled.world
    for o, label in enumerate(compiled.labels[0][0]):
        expected = {1: 0.7, 3: 0.8}[label.exit] - (0.03 if label.bits == 4 else 0.0)
        assert world.option_accuracy[0, 0, o] == pytest.approx(expected)
    assert {label.exit for label in compiled.labels[0][0]} == {1, 3}
    local = compiled.labels[0][0][world.local_option[0, 0]]
    assert local == Label(3, "", 32)


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
    assert best.labels[0][0] == (every.labels[0][0][fastest], Label(1, "", 32))


@pytest.mark.parametrize("prune", ["hull", "dominated", "none"])
def test_only_the_ends_are_left_where_the_scenario_says_so(prune: str):
    compiled = compile_scenario(read(SMALL + f"cuts: ends\nprune: {prune}\n", "x"))
    assert [label.cut for label in compiled.labels[0][0]] == ["input", ""]


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

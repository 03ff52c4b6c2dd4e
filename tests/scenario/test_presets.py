import re

import numpy as np
import pytest
from tests.paths import ROOT

from coinfer.options.table import Names
from coinfer.physics.radio import shannon_bps
from coinfer.scenario.compile import Compiled, compile_scenario, fingerprint, open_world
from coinfer.scenario.load import PRESETS, load, preset_text, read
from coinfer.scenario.report import option_rows, summary
from coinfer.scenario.world_check import check

PAPERS = (
    *("cdo-dsac", "mtl-a3c", "sacd", "grle", "grle-s2", "grle-s3", "grle-s4"),
    *("droo", "droo-weights", "droo-on-off", "droo-queues"),
)


@pytest.fixture(scope="module", params=PRESETS)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return open_world(request.param)


def test_a_preset_compiles_into_arrays_that_fit(compiled: Compiled):
    if hasattr(compiled.world, "edge"):
        check(compiled.world)
    told = dict(summary(compiled))
    assert told["scenario"] == compiled.world.name
    rows = list(option_rows(compiled))
    assert len(rows) == sum(len(options.bits) for row in compiled.options for options in row)


def test_the_same_file_gives_the_same_world(compiled: Compiled):
    name = compiled.world.name
    assert fingerprint(open_world(name).world) == fingerprint(compiled.world)
    assert fingerprint(open_world(name, {"slots": 7}).world) != fingerprint(compiled.world)


@pytest.mark.parametrize("name", PAPERS)
def test_every_figure_names_its_source_or_is_marked_as_our_choice(name: str):
    """A section, an equation, the authors' code, or "our choice"; in grle all of them are ours."""
    source = re.compile(r"our choice|III|IV|V\.A|5\.[14]|figure|authors|fits|abstract")
    for number, line in enumerate(preset_text(name).splitlines(), start=1):
        value, _, comment = line.partition("#")
        if re.search(r"\d", value) and not value.startswith(("name", "about")):
            assert source.search(comment), f"{name}:{number}: {line}"


def test_cdo_dsac_is_the_papers():
    spec = load("cdo-dsac").spec
    world = open_world("cdo-dsac").world
    assert (world.edge.servers, world.edge.devices) == (5, 80)
    assert [model.network for model in spec.models] == ["alexnet", "vgg16", "resnet50"]
    assert (spec.arrivals.mean, spec.arrivals.variance) == (2.0, 0.7)
    assert (world.edge.server_capacity == 30).all()
    assert (1 - world.edge.arrival_cdf).sum() == pytest.approx(2.0 * 80 * spec.slot_s, rel=1e-3)
    edges_bps = shannon_bps(world.edge.mean_link.min(), world.edge.bandwidth_hz)
    assert edges_bps > 31.5e6  # 150 m apart
    for rate in (0.4, 1.2):
        assert open_world("cdo-dsac", {"arrivals.mean": rate, "arrivals.variance": 0.175 * rate**2})
    for capacity in (20, 45):
        assert (open_world("cdo-dsac", {"servers.0.capacity": capacity}).world.edge.server_capacity == capacity).all()


@pytest.mark.parametrize(("servers", "blocks", "tasks"), [(2, 3, 30), (4, 6, 60), (9, 18, 110)])
def test_mtl_a3c_covers_the_papers_sweeps(servers: int, blocks: int, tasks: int):
    changes = {
        "servers": [{"flop_per_s": 3e9 + 7e9 * n / servers} for n in range(servers)],
        "blocks": blocks,
        "tasks_per_slot": tasks,
        "arrivals.tasks": tasks,
        "devices.0.count": tasks,
    }
    world = open_world("mtl-a3c", changes).world
    assert world.block_server_s.shape == (1, blocks, servers)
    assert world.block_device_s.sum() == pytest.approx(0.6268 / 0.4, rel=1e-3)  # VGG16 for CIFAR-10 at 0.4 GFLOP/s
    assert (world.edge.mean_link * world.edge.link_bank.min() >= 0.8 * 8e6).all()
    assert (world.edge.mean_link * world.edge.link_bank.max() <= 2.0 * 8e6).all()
    np.testing.assert_allclose(world.block_device_j, 0.64 * world.block_device_s)  # kappa f^3 = 0.64 W
    assert world.block_deadlines


def test_sacd_has_the_papers_actions():
    compiled = open_world("sacd")
    options = compiled.options[0][0]
    assert set(options.exit.tolist()) == {0, 1, 2}
    assert {bits for _, cut, bits in options.sidecar_triples if cut not in {(), ("input",)}} == {4, 8, 12, 16}
    assert compiled.world.edge.link_bank.max() <= 10 * 8e6
    assert (compiled.world.edge.devices, compiled.world.edge.servers, compiled.world.edge.tasks) == (1, 1, 1)


def test_sacd_prefers_what_the_paper_saw():
    """Its section V: with a bad link exit 1 and all on the device; with more bandwidth the cut moves to the input; with
    the best link the last exit costs next to nothing."""
    compiled = open_world("sacd")
    world, options = compiled.world, compiled.options[0][0]

    def fastest(rate_bps: float, exit_: int) -> tuple[Names, float]:
        sends = world.option_upload_bits[0, 0] > 0
        upload_s = world.option_upload_bits[0, 0] / rate_bps
        latency_s = world.option_device_s[0, 0] + np.where(sends, upload_s + world.option_server_s[0, 0, :, 0], 0.0)
        best = min(np.flatnonzero(options.exit == exit_), key=lambda o: latency_s[o])
        return options.sidecar_triples[best][1], float(latency_s[best])

    assert fastest(0.1 * 8e6, 0)[0] == ()
    assert fastest(9 * 8e6, 0)[0] == ("input",)
    assert fastest(9 * 8e6, 2)[1] < 2 * fastest(9 * 8e6, 0)[1]
    assert fastest(0.1 * 8e6, 2)[1] > 2 * fastest(0.1 * 8e6, 0)[1]


@pytest.mark.parametrize("devices", [6, 14])
def test_grle_takes_the_papers_devices(devices: int):
    changes = {"devices.0.count": devices, "tasks_per_slot": devices, "arrivals.tasks": devices}
    world = open_world("grle", changes).world
    assert (world.edge.devices, world.edge.tasks, world.edge.servers) == (devices, devices, 2)
    whole_s = world.option_server_s[0, 0].max(axis=0)
    assert whole_s[0] / whole_s[1] == pytest.approx(0.6, rel=0.01)
    on_device = world.option_upload_bits[0, 0] == 0
    assert world.option_device_s[0, 0][on_device].min() > world.edge.deadline_s.max()


def test_grles_scenarios_differ_in_what_is_uncertain():
    edges = {name: open_world(name).world.edge for name in ("grle", "grle-s2", "grle-s3", "grle-s4")}
    varies = {
        name: (np.ptp(edge.share_bank) > 0, np.ptp(edge.server_factor) > 0, np.ptp(edge.rate_error) > 0)
        for name, edge in edges.items()
    }
    assert varies == {
        "grle": (False, False, False),
        "grle-s2": (True, False, False),
        "grle-s3": (False, True, False),
        "grle-s4": (False, False, True),
    }
    assert all((edge.deadline_s == edges["grle"].deadline_s).all() for edge in edges.values())


def test_droo_has_the_authors_channels():
    """The means of their published data fall from 8.42e-6 to 1.09e-6."""
    world = open_world("droo").world
    assert world.mean_gain[0] == pytest.approx(8.42e-6, rel=0.01)
    assert world.mean_gain[-1] == pytest.approx(1.09e-6, rel=0.01)
    assert world.weight.tolist() == [[1, 1.5] * 5]
    assert len(open_world("droo", {"devices": 30}).world.mean_gain) == 30


def test_city_is_large_and_unlike():
    world = open_world("city").world
    assert (world.edge.devices, world.edge.servers) == (1000, 50)
    assert world.edge.staleness_slots > 0
    assert world.edge.one_path
    means = (1 - world.edge.arrival_cdf).sum(axis=1)[world.edge.arrival_state[0]]
    assert np.quantile(means, 0.999) > 3 * means.mean()
    assert len(np.unique(world.option_server_s[0, 0, 0])) == 4
    assert (world.edge.share_bank == 0).any()


def test_campus_has_six_unlike_servers():
    world = open_world("campus").world
    assert (world.edge.devices, world.edge.servers) == (20, 6)
    assert len(np.unique(world.option_server_s[0, 0, 0])) == 6


def test_the_example_of_the_documentation_compiles():
    page = ROOT / "docs" / "scenarios.md"
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    compiled = compile_scenario(read(text, "scenarios.md"))
    assert compiled.notes == ()
    assert compiled.world.options > 2

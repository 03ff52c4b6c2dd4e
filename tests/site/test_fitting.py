"""A world that is fitted to what a site measured is the world that it was measured in."""

from pathlib import Path

import numpy as np
import pytest
from tests.site.dispatched_site import DispatchedSite
from tests.site.simulated_site import fill
from tests.site.test_operator import coinfer
from tests.site.test_store import batch

from coinfer.errors import UserError
from coinfer.evaluate.simulate import run_policy
from coinfer.scenario.compile import open_world
from coinfer.site.fitting.evidence import decided
from coinfer.site.fitting.fit import fit
from coinfer.site.fitting.scenario_file import write_scenario
from coinfer.site.store import ExperienceStore

KNOWN = """\
name: known
about: two weak devices and three servers of unlike speed
environment: offload
slot_s: 0.1
slots: 250
tasks_per_slot: 16
arrivals: {kind: lognormal, mean: 3, variance: 4, per_s: 0.1}
models:
  - {network: mobilenetv2, deadline_s: [0.2, 0.4]}
devices:
  - {count: 1, slowdown: 12}
  - {count: 1, slowdown: 20}
servers:
  - {slowdown: 1, capacity: 9}
  - {slowdown: 2, capacity: 6}
  - {slowdown: 3}
links: {kind: pairs, rate_bps: [[2.0e+7, 4.0e+7, 8.0e+7], [9.0e+7, 5.0e+7, 3.0e+7]], variation: 0.3}
compute_error: 0.2
"""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory):
    """The world, and the store of a site in it."""
    folder = tmp_path_factory.mktemp("known")
    (folder / "known.yaml").write_text(KNOWN)
    compiled, store = open_world(folder / "known.yaml"), ExperienceStore(folder / "store")
    fill(store, compiled.world)
    store.close()
    return compiled.world, folder / "store"


@pytest.fixture(scope="module")
def fitted(known, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("fitted") / "out"
    said = coinfer("scenario", "from-site", "--store", str(known[1]), "-o", str(folder), "--slot-ms", "100")
    assert f"{folder / 'site.yaml'}: 2 nodes, 3 servers" in said
    return open_world(folder / "site.yaml").world, folder


def test_what_requests_cost_is_found(known, fitted):
    world, found = known[0], fitted[0]
    real = world.option_mask[0, 0]
    counts = real.sum(), found.option_mask[0, 0].sum()
    assert counts[1] - counts[0] in (0, 1)  # one that nobody takes, if the input itself is never sent
    extra = int(counts[1] - counts[0])
    np.testing.assert_allclose(found.option_upload_bits[0, :, extra:], world.option_upload_bits[0], rtol=0.01)
    np.testing.assert_allclose(found.option_server_s[0, :, extra:], world.option_server_s[0], rtol=0.05, atol=1e-4)
    np.testing.assert_allclose(found.option_device_s[0, :, extra:], world.option_device_s[0], rtol=0.05, atol=1e-4)
    np.testing.assert_allclose(found.edge.deadline_s[..., 0], 0.2, rtol=0.05)
    np.testing.assert_allclose(found.edge.deadline_s[..., 1], 0.4, rtol=0.05)


def test_links_servers_and_arrivals_are_found(known, fitted):
    world, found = known[0].edge, fitted[0].edge
    np.testing.assert_allclose(found.mean_link, world.mean_link, rtol=0.1)
    assert found.link_bank.std() == pytest.approx(world.link_bank.std(), rel=0.15)
    assert found.server_capacity.tolist() == [9, 6, np.inf]
    assert found.server_factor.std() == pytest.approx(world.server_factor.std(), rel=0.25)
    means = [float((1 - edge.arrival_cdf).sum()) / edge.slot_s for edge in (world, found)]
    assert means[1] == pytest.approx(means[0], rel=0.1)
    spreads = [_dispersion(edge.arrival_cdf[0]) for edge in (world, found)]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.25)
    assert spreads[0] > 2


@pytest.mark.parametrize("dispersion", [1.0, 1.5, 4.0, 30.0, 1000.0])
@pytest.mark.parametrize("mean", [0.3, 1.02, 40.0])
def test_a_world_has_room_for_all_bursts_that_were_seen(mean: float, dispersion: float, tmp_path: Path):
    site = DispatchedSite()
    told = [(node, record) for node, record in site.play(300)]
    found = fit(
        decided({"id": 0, "node": node, "epoch": 1, "reward": 0.0, **record.model_dump()} for node, record in told)
    )
    found = found._replace(rate_per_s=mean / found.slot_s, dispersion=dispersion)
    edge = open_world(write_scenario(found, tmp_path, "s")).world.edge
    assert float((1 - edge.arrival_cdf).sum()) == pytest.approx(mean, rel=0.01)


@pytest.mark.parametrize("dispersion", [1.0, 4.0])
def test_requests_that_no_slot_has_room_for_are_said_in_one_line(dispersion: float, tmp_path: Path):
    told = (
        {"id": 0, "node": node, "epoch": 1, "reward": 0.0, **one.model_dump()}
        for node, one in DispatchedSite().play(300)
    )
    found = fit(decided(told))
    found = found._replace(rate_per_s=1000 / found.slot_s, dispersion=dispersion)
    with pytest.raises(UserError, match=r"tasks_per_slot: got 256, but .* requests a slot would find no place"):
        open_world(write_scenario(found, tmp_path, "s"))


def _dispersion(cdf: np.ndarray) -> float:
    chances, counts = np.diff(np.append(0.0, np.append(cdf, 1.0))), np.arange(len(cdf) + 1)
    mean = (chances * counts).sum()
    return float((chances * (counts - mean) ** 2).sum() / mean)


def test_greedy_comes_out_alike_in_both(known, fitted):
    worlds = (world._replace(edge=world.edge._replace(slots=100)) for world in (known[0], fitted[0]))
    real, found = (run_policy(world, "sequential-greedy", 4, 1).measures["mean_s"].mean() for world in worlds)
    assert found == pytest.approx(real, rel=0.15)


def test_servers_that_decide_for_others_are_fitted_whatever_one_of_them_tells(tmp_path: Path):
    site = DispatchedSite()
    told = [(node, decision) for node, decision in site.play(900)]
    records = [{"id": 0, "node": node, "epoch": 1, "reward": 0.0, **record.model_dump()} for node, record in told]
    honest = fit(decided(records))
    for record in records:
        if record["node"] == "edge-0":  # the third server takes no time at all, it says
            fields = record["observation"]["fields"]["option_server_s"]
            fields[:] = [
                1e-6 if "edge-2" in at else s for at, s in zip(record["observation"]["addresses"], fields, strict=True)
            ]
    for found in (honest, fit(decided(records))):
        np.testing.assert_allclose(found.kinds[0].server_s[0], site.service_s, rtol=0.01)
        assert found.rate_bps[0, 1:] == pytest.approx(1e8)
        assert found.rate_per_s == pytest.approx(40, rel=0.1)
        assert found.capacity == (17, 17, 17)
    world = open_world(write_scenario(honest, tmp_path, "s")).world
    np.testing.assert_allclose(world.option_server_s[0, 0, 0], site.service_s, rtol=0.01)
    assert world.option_device_s[0, :, world.local_option[0]].min() > 10 * max(site.service_s)


def test_too_little_is_said_in_one_line(tmp_path: Path, known):
    store = ExperienceStore(tmp_path / "few")
    words = ("scenario", "from-site", "--store", str(tmp_path / "few"), "-o", str(tmp_path / "out"))
    with pytest.raises(UserError, match="only 0 decisions with all that was observed; expected at least 100"):
        coinfer(*words)
    store.put("a", batch(*range(150))).result(60)  # nothing was observed
    store.close()
    with pytest.raises(UserError, match="only 0 decisions with all that was observed"):
        coinfer(*words)
    assert not (tmp_path / "out").exists()
    (tmp_path / "site.yaml").write_text("")
    with pytest.raises(UserError, match=r"site\.yaml: there is such a file already"):
        coinfer("scenario", "from-site", "--store", str(known[1]), "-o", str(tmp_path))

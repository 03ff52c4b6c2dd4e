"""Recorded frames in the form of DROO's authors: read, split, played in order; what is wrong is one line."""

import numpy as np
import pytest
import torch
from scipy.io import savemat

from coinfer.envs import wireless_power
from coinfer.errors import UserError
from coinfer.evaluate import frames
from coinfer.scenario.compile import open_world

DEVICES, FRAMES = 4, 50


def arrays(devices: int = DEVICES) -> dict[str, np.ndarray]:
    """Frames with their best modes, found by trying all."""
    world = open_world("droo", {"devices": devices}).world
    tables = wireless_power.load(world)
    state = wireless_power.reset(tables, torch.arange(FRAMES))
    modes = ((torch.arange(2**devices)[:, None] >> torch.arange(devices)) & 1) > 0
    best, which = wireless_power.rates_bps(tables, state, modes).max(-1)
    return {
        "input_h": state.gain.numpy(),
        "output_mode": modes[which].numpy().astype(np.uint8),
        "output_obj": best.numpy()[:, None],
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "frames.mat"
    savemat(path, {**arrays(), "output_a": np.zeros((FRAMES, 1))})
    return path


def opened(path, **changes):
    return open_world("droo", {"devices": DEVICES, "data": str(path), **changes}).world


def test_an_episode_goes_through_the_recorded_frames_in_order(file):
    world = opened(file)
    given = arrays()["input_h"]
    tables, seeds = wireless_power.load(world), torch.tensor([3, 4])
    first = wireless_power.recorded_frame(tables, seeds, torch.zeros(2, dtype=torch.int64))
    for slot in (0, 1, FRAMES - 1, FRAMES):
        state = wireless_power.state_at(tables, seeds, torch.full((2,), slot))
        np.testing.assert_allclose(state.gain.numpy(), given[(first + slot) % FRAMES], rtol=1e-12)
    assert world.frames is not None
    training, judging = world.split()
    np.testing.assert_array_equal(np.concatenate((training.frames.gain, judging.frames.gain)), world.frames.gain)
    assert len(judging.frames.rate_bps) == FRAMES // 5


def test_policies_are_judged_on_the_last_frames_against_the_recorded_best(file):
    world = opened(file, slots=FRAMES // 5)
    best = frames.run(world, "optimum", 2, 1).measures
    np.testing.assert_allclose(best["normalised"], 1.0, rtol=1e-9)
    np.testing.assert_allclose(best["rate_bps"], arrays()["output_obj"][-FRAMES // 5 :].mean(), rtol=1e-9)
    worse = frames.run(world, "all-local", 2, 1).measures
    assert (worse["normalised"] < 0.9).all()
    assert "normalised" not in frames.run(open_world("droo", {"slots": 5}).world, "all-local", 1, 1).measures


def damaged(name: str) -> dict[str, np.ndarray]:
    given = arrays()
    match name:
        case "missing":
            del given["output_mode"]
        case "shape":
            given["output_obj"] = given["output_obj"][:-1]
        case "negative":
            given["input_h"][3, 1] = -1.0
        case "nan":
            given["output_obj"][3] = np.nan
        case "modes":
            given["output_mode"][0, 0] = 2
        case "few":
            given = {key: part[:5] for key, part in given.items()}
        case "devices":
            given = arrays(3)
    return given


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "has no array output_mode; expected input_h, output_mode, output_obj"),
        ("shape", r"output_obj \(49, 1\); expected frames x devices, the same, and frames x 1"),
        ("negative", "input_h holds something else than numbers of at least 0"),
        ("nan", "output_obj holds something else than numbers above 0"),
        ("modes", "output_mode holds something else than 0 or 1"),
        ("few", "5 frames, expected at least 10"),
        ("devices", "frames of 3 devices, the scenario has 4; set devices=3"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, name, message):
    savemat(tmp_path / "frames.mat", damaged(name))
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path / "frames.mat")
    assert "\n" not in str(error.value)


def test_other_files_are_one_line(tmp_path):
    (tmp_path / "frames.mat").write_bytes(b"no matrix at all" * 40)
    (tmp_path / "frames.csv").write_text("1,2\n")
    for name, message in (("frames.mat", "not a MATLAB file"), ("frames.csv", "ends in .mat"), ("no.mat", "no file")):
        with pytest.raises(UserError, match=message) as error:
            opened(tmp_path / name)
        assert "\n" not in str(error.value)


def test_phases_change_weights_and_switch_devices():
    phases = [{"from_slot": 3, "weights": [2.0, 1.0]}, {"from_slot": 5, "off": [0, 2]}]
    tables = wireless_power.load(open_world("droo", {"devices": 3, "phases": phases}).world)
    plain = wireless_power.load(open_world("droo", {"devices": 3}).world)
    for slot, weight, off in ((2, [1.0, 1.5, 1.0], []), (3, [2.0, 1.0, 2.0], []), (5, [1.0, 1.5, 1.0], [0, 2])):
        seeds, slots = torch.tensor([7]), torch.tensor([slot])
        state, other = (wireless_power.state_at(part, seeds, slots) for part in (tables, plain))
        assert state.weight.tolist() == [weight]
        assert (state.gain == 0).nonzero()[:, 1].tolist() == off
        on = state.gain > 0
        assert state.gain[on].equal(other.gain[on])


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"from_slot": 3}, {"from_slot": 3}], r"phases\[1\].from_slot: got 3, expected more than 3"),
        ([{"from_slot": 3, "off": [10]}], r"phases\[0\].off: got device 10, expected numbers below 10"),
    ],
)
def test_phases_that_do_not_fit_are_one_line(phases, message):
    with pytest.raises(UserError, match=message):
        open_world("droo", {"phases": phases})


def test_the_authors_demonstrations():
    world = open_world("droo-on-off").world
    assert (~world.on).sum(1).tolist() == [0, 1, 2, 3, 4, 3, 2, 0, 2]
    swapped = open_world("droo-weights").world
    assert swapped.weight[:, 0].tolist() == [1.0, 1.5, 1.0]
    assert swapped.phase_start.tolist() == [0, 6000, 8000]

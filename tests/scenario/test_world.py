"""What a compiled scenario must be, and what is said where it is not."""

import numpy as np
import pytest
from tests.envs.worlds import random_blocks, random_world

from coinfer.scenario.world import RecordedTasks
from coinfer.scenario.world_check import WorldError, check

RNG = np.random.default_rng(0)
UNLIMITED = np.full(2, np.inf)
WORLD = random_world(
    RNG,
    slots=10,
    tasks=3,
    distinct_devices=True,
    device_class=np.array([0, 1, 0, 1]),
    model_cdf=np.array([0.5, 1.0]),
    arrival_cdf=np.array([[0.2, 0.5, 0.9]]),
    arrival_state=np.zeros((1, 4), int),
    deadline_s=np.ones((2, 2, 2)),
    mean_link=np.ones((1, 4, 2)),
    transmit_power_w=np.ones(2),
    server_capacity=np.array([3, np.inf]),
    download_s=np.zeros(2),
    drop_refused=False,
    task_energy_j=UNLIMITED,
    battery_j=UNLIMITED,
)
BLOCKS = random_blocks(np.random.default_rng(1))

OF_THE_EDGE = [
    ({"slots": 0}, "slots must be at least 1, got 0"),
    ({"slot_s": 0.0}, "slot_s must be above 0, got 0.0"),
    ({"staleness_slots": -1}, "staleness_slots must not be negative, got -1"),
    ({"device_class": np.array([0, 1])}, "mean_link must be [any, U = 2, N = 2], got [1, 4, 2]"),
    ({"device_class": np.array([0, 1, 2, 0])}, "device_class must be below 2"),
    ({"model_cdf": np.array([0.5, 0.9])}, "model_cdf must rise to 1"),
    ({"arrival_cdf": np.array([[0.5, 0.2, 0.9]])}, "arrival_cdf must rise, and not above 1"),
    ({"arrival_cdf": np.array([[0.5, 0.9]])}, "arrival_cdf must be [any, K = 3], got [1, 2]"),
    ({"arrival_state": np.array([[0, 1]])}, "arrival_state must be below 1"),
    ({"deadline_s": np.ones((2, 2, 2)) * [2, 1]}, "deadline_s must be [least, greatest]"),
    ({"deadline_s": np.full((2, 2, 2), np.nan)}, "deadline_s must not be negative or NaN, got nan"),
    (
        {"deadline_s": np.full((2, 2, 2), np.inf), "drop_refused": True},
        "deadline_s must be finite where tasks can be lost",
    ),
    ({"link_bank": np.array([[1.0, -1.0]])}, "link_bank must not be negative or NaN, got -1.0"),
    ({"link_bank": np.zeros((0, 3))}, "link_bank must be [any, any], got [0, 3]"),
    ({"share_bank": np.array([[2.0]])}, "share_bank must not be above 1"),
    ({"share_bank": np.array([[0.0]])}, "share_bank must be above 0 somewhere"),
    ({"rate_error": np.array([0.0])}, "rate_error must be above 0"),
    ({"bandwidth_hz": 0.0}, "bandwidth_hz must be above 0"),
    ({"server_capacity": np.array([1.5, 2.0])}, "server_capacity must be whole or infinite"),
    ({"mean_link": np.full((1, 4, 2), np.inf)}, "mean_link must not be negative or NaN, got inf"),
]


def test_good_worlds_pass():
    check(WORLD)
    check(BLOCKS)


@pytest.mark.parametrize(("changes", "message"), OF_THE_EDGE)
def test_what_is_wrong_with_the_edge_is_named(changes, message):
    with pytest.raises(WorldError) as found:
        check(WORLD._replace(edge=WORLD.edge._replace(**changes)))
    assert str(found.value).startswith(f"scenario random: {message}")
    assert "\n" not in str(found.value)


def test_what_is_wrong_with_the_tables_is_named():
    options = WORLD.options
    sends = WORLD.option_upload_bits + 1.0
    first = np.broadcast_to(np.arange(options) == 0, WORLD.option_mask.shape)
    for changes, message in (
        ({"local_option": WORLD.local_option + 1}, f"local_option must be below {options}"),
        ({"option_upload_bits": sends}, "local_option must name an option that sends nothing"),
        ({"option_mask": np.zeros_like(WORLD.option_mask)}, "option_mask must let every task choose something"),
        ({"option_mask": first, "option_device_s": first * 0.1}, "local_option must name an option that exists"),
        ({"option_accuracy": WORLD.option_accuracy + 1}, "option_accuracy must not be above 1"),
        ({"option_server_s": WORLD.option_server_s[..., :1]}, "option_server_s must be [X = 2, C = 2, O"),
    ):
        with pytest.raises(WorldError, match="scenario random: ") as found:
            check(WORLD._replace(**changes))
        assert message in str(found.value)
    some, devices = np.zeros((2, WORLD.edge.tasks), int), WORLD.edge.devices
    for record, message in (
        (RecordedTasks(some > 0, some, some[:1]), "recorded must hold as many slots of each"),
        (RecordedTasks(some > 0, some + devices, some), f"recorded.device must be below {devices}"),
        (RecordedTasks(some > 0, some, some[:, 1:]), "recorded.model must be [any, K = 3], got [2, 2]"),
    ):
        with pytest.raises(WorldError) as found:
            check(WORLD._replace(edge=WORLD.edge._replace(recorded=record)))
        assert message in str(found.value)
    crowded = WORLD.edge._replace(tasks=5, arrival_cdf=np.zeros((1, 5)))
    with pytest.raises(WorldError, match="needs as many devices as tasks in a slot, got 4 devices and 5 tasks"):
        check(WORLD._replace(edge=crowded))
    limited = BLOCKS.edge._replace(server_capacity=np.full(BLOCKS.edge.servers, 3.0))
    with pytest.raises(WorldError, match="server_capacity must be infinite for blocks"):
        check(BLOCKS._replace(edge=limited))
    with pytest.raises(WorldError, match="backhaul_bps must be above 0"):
        check(BLOCKS._replace(backhaul_bps=0.0))

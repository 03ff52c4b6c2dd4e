"""The device's decision against plain loops, and pruning against the whole set of options."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.options.prune import SPEED_RATIOS, prune
from coinfer.options.table import Options
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device.planning.observation import choice_latency_s, feasible_latency_s, least_latency, observe
from coinfer.runtime.device.planning.plan import route_of
from coinfer.types import DEVICE, OffloadObservation

NOW_S = 100.0


def random_options(rng: np.random.Generator, cuts: int) -> Options:
    """A chain of `cuts` cuts, each with three widths, and the whole on the device."""
    head_s = np.sort(rng.uniform(0, 1, cuts))
    names, bits, device_s, upload, server_s = [], [], [], [], []
    for i in range(cuts):
        size = rng.uniform(1e4, 1e7)
        for width in (32, 16, 8):
            names.append((f"t{i}",))
            bits.append(width)
            device_s.append(head_s[i] + 1e-3)
            upload.append(size * width / 32)
            server_s.append(1 - head_s[i] + 5e-4)
    columns = (np.array([*bits, 32]), np.zeros(len(bits) + 1, int), np.array([*device_s, 1.0]))
    sizes = (np.array([*upload, 0.0]), np.array([*server_s, 0.0])[:, None], np.ones(len(bits) + 1))
    return Options((*names, ("out",)), *columns, *sizes, outputs=(("out",),) * (len(bits) + 1))


def up(rate_bps: float, scale: float, backlog_s: float = 0.0, room: float = 4.0) -> est.ServerEstimate:
    server = est.after_reply(est.first_server(rate_bps, NOW_S), backlog_s, room, NOW_S)
    return server._replace(scale=scale, link=server.link._replace(round_trip_s=0.001))


def plain_latency_s(observation: OffloadObservation, option: int, server: int) -> float:
    """The formula once more, with floats."""
    total = observation.device_backlog_s[0] + observation.option_device_s[0][option]
    bits = observation.option_upload_bits[0][option]
    if bits == 0:
        return total
    total = max(total, observation.uplink_backlog_s[0][server]) + bits / observation.uplink_bps[0][server]
    return max(total, observation.server_backlog_s[server]) + observation.option_server_s[0][option][server]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), servers=st.integers(0, 4), device_scale=st.floats(1, 20))
def test_least_latency_is_the_best_of_all_options_and_servers(seed: int, servers: int, device_scale: float):
    rng = np.random.default_rng(seed)
    options = random_options(rng, 6)
    known = [
        up(10 ** rng.uniform(5, 9), rng.uniform(0.1, 5), rng.uniform(0, 0.5), float(rng.integers(0, 3)))
        for _ in range(servers)
    ]
    observation = observe(options, known, math.inf, NOW_S, device_scale=device_scale, device_backlog_s=0.01)
    decision = least_latency(observation)
    option, server = int(decision.option[0]), int(decision.server[0])
    best = min(
        [plain_latency_s(observation, len(options.bits) - 1, DEVICE)]
        + [
            plain_latency_s(observation, o, n)
            for o in range(len(options.bits) - 1)
            for n in range(servers)
            if observation.server_room[n] > 0
        ]
    )
    assert plain_latency_s(observation, option, server) == pytest.approx(best)
    assert (server == DEVICE) == (options.upload_bits[option] == 0)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), servers=st.integers(0, 4))
def test_one_choice_is_predicted_as_among_all(seed: int, servers: int):
    """Also on dead links, by full servers and by masked options."""
    rng = np.random.default_rng(seed)
    options = random_options(rng, 6)
    known = [up(10 ** rng.uniform(5, 9), rng.uniform(0.1, 5), rng.uniform(0, 0.5)) for _ in range(servers)]
    seen = observe(options, known, math.inf, NOW_S, device_backlog_s=rng.uniform(0, 0.1))
    seen = seen._replace(
        uplink_bps=seen.uplink_bps * (rng.random(servers) > 0.2),
        server_room=seen.server_room * (rng.random(servers) > 0.2),
        option_mask=rng.random(seen.option_mask.shape) > 0.2,
    )
    computes = (rng.random(len(options.bits)) > 0.5) | options.is_local
    for option, row in enumerate(feasible_latency_s(seen, computes)[0]):
        chosen = [choice_latency_s(seen, option, server, computes) for server in (*range(servers), DEVICE)]
        np.testing.assert_allclose(chosen, row, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_pruning_loses_nothing_at_any_rate_and_speed(seed: int):
    rng = np.random.default_rng(seed)
    options = random_options(rng, 8)
    pruned = prune(options, speed_ratios=SPEED_RATIOS)
    assert len(pruned.bits) < len(options.bits)
    assert set(zip(pruned.cuts, pruned.bits.tolist(), strict=True)) <= set(
        zip(options.cuts, options.bits.tolist(), strict=True)
    )
    for rate_bps in np.geomspace(1e4, 1e10, 40):
        for ratio in SPEED_RATIOS[::6]:
            times = [
                (found.device_s * 3 + found.server_s[:, 0] * 3 / ratio + found.upload_bits / rate_bps).min()
                for found in (options, pruned)
            ]
            assert times[1] == pytest.approx(times[0], rel=1e-12)


def test_what_is_under_way_to_one_server_does_not_hold_up_the_other():
    options = random_options(np.random.default_rng(3), 4)
    busy = est.after_send(up(1e7, 0.5), 2e7, 0.1, NOW_S)
    observation = observe(options, [busy, up(1e7, 0.5)], math.inf, NOW_S)
    assert observation.uplink_backlog_s.tolist() == [[pytest.approx(2.0), 0.0]]
    assert observation.server_backlog_s.tolist() == [pytest.approx(2.1), 0.0]
    assert least_latency(observation).server[0] == 1


def test_servers_that_are_down_or_full_are_not_chosen():
    options = random_options(np.random.default_rng(0), 4)
    fast, slow = up(1e9, 0.01), up(1e9, 0.5)
    assert least_latency(observe(options, [slow, fast], 1.0, NOW_S)).server[0] == 1
    down = est.after_failure(est.after_failure(fast, NOW_S), NOW_S)
    assert least_latency(observe(options, [slow, down], 1.0, NOW_S)).server[0] == 0
    full = est.after_refusal(fast, 5.0, NOW_S)
    assert least_latency(observe(options, [slow, full], 1.0, NOW_S)).server[0] == 0
    assert least_latency(observe(options, [down, full], 1.0, NOW_S)).server[0] == DEVICE


def test_a_measured_service_time_replaces_the_scaled_profile():
    options = random_options(np.random.default_rng(1), 4)
    server = est.after_service(up(1e9, 1.0), est.Work(options.pieces[0]), 0.123, 0.5, NOW_S)
    observation = observe(options, [server], math.inf, NOW_S)
    same = [i for i, cut in enumerate(options.cuts) if cut == options.cuts[0]]
    assert observation.option_server_s[0, same, 0] == pytest.approx(0.123 + 0.001)


def test_routes_say_what_each_node_does():
    options = random_options(np.random.default_rng(2), 2)
    route = route_of(options, 2, 1, ["a:1", "b:2"], 0.5)
    assert [(hop.node, hop.cut, hop.bits) for hop in route.hops] == [("device", ("t0",), 8), ("b:2", ("out",), 32)]
    assert route.deadline_s == 0.5
    local = route_of(options, 6, DEVICE, ["a:1", "b:2"], 0.5)
    assert [hop.node for hop in local.hops] == ["device"]

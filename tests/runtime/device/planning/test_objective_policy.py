"""What a objective chooses, against plain loops over all options; and pruning loses no objective anything."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.device.planning.test_observation import NOW_S, plain_latency_s, up
from tests.tables import analytic_table, made_up_accuracy

from coinfer.graph.zoo import early_exits
from coinfer.options.compile import compile_options
from coinfer.options.prune import SPEED_RATIOS, Rule, prune
from coinfer.options.table import Options
from coinfer.runtime.device.objective import GOALS, LIMITS, Objective, ObjectiveError
from coinfer.runtime.device.planning.objective_policy import choose, policy_for
from coinfer.runtime.device.planning.observation import least_latency, observe
from coinfer.types import DEVICE, OffloadObservation

GRAPH = early_exits.build("alexnet-cifar-exits")
OPTIONS = compile_options(GRAPH, analytic_table(GRAPH), (32, 12, 8, 4), made_up_accuracy(GRAPH))


def random_options(rng: np.random.Generator, exits: int, cuts: int) -> Options:
    """Several exits with several cuts each, in three widths; accuracies often tie."""
    rows = []
    for exit_ in range(exits):
        whole_s = 0.5 + 0.5 * exit_
        head_s = np.sort(rng.uniform(0, whole_s, cuts))
        for i, size in enumerate(rng.uniform(1e4, 1e7, cuts)):
            for width in (16, 8, 4):
                accuracy = 0.7 + 0.05 * exit_ - rng.integers(0, 4) * 0.02
                rows.append(((f"t{i}",), width, exit_, head_s[i], size * width / 16, whole_s - head_s[i], accuracy))
        rows.append(((f"e{exit_}",), 32, exit_, whole_s, 0.0, 0.0, 0.7 + 0.05 * exit_))
    cut, bits, exit_, device_s, upload_bits, server_s, accuracy = zip(*rows, strict=True)
    arrays = map(np.array, (bits, exit_, device_s, upload_bits, [[one] for one in server_s], accuracy))
    return Options(cut, *arrays, outputs=tuple((f"e{e}",) for e in exit_))


def rule_of(energy_counts: bool) -> Rule:
    return "dominated" if energy_counts else "hull"


def draw_objective(rng: np.random.Generator) -> tuple[Objective, float]:
    """An objective and a deadline; each limit may be absent, easy, or out of reach."""
    return (
        Objective(
            goal=GOALS[rng.integers(3)],
            min_accuracy=float(rng.choice([0.0, 0.66, 0.7, 0.74, 0.79, 1.0])),
            energy_j=float(rng.choice([math.inf, 0.05, 0.5, 2.0, 10.0])),
            power_w=float(rng.choice([0.0, 3.0])) or 0.1,
            transmit_power_w=float(rng.choice([0.0, 1.0])),
        ),
        float(rng.choice([math.inf, 1e-3, 0.1, 0.5, 2.0])),
    )


def draw_servers(rng: np.random.Generator):
    return [
        up(10 ** rng.uniform(5, 9), rng.uniform(0.05, 2), rng.uniform(0, 0.3), float(rng.integers(0, 3)))
        for _ in range(rng.integers(0, 3))
    ]


def observation_of(
    options: Options, objective: Objective, deadline_s: float, servers, scale: float = 1.0
) -> OffloadObservation:
    return observe(
        options,
        servers,
        deadline_s,
        NOW_S,
        device_scale=scale,
        device_backlog_s=0.01,
        device_power_w=objective.power_w,
        energy_j=objective.energy_j,
    )


def plain_energy_j(objective: Objective, observation: OffloadObservation, option: int, server: int) -> float:
    on_air_s = 0.0
    if server != DEVICE:
        on_air_s = observation.option_upload_bits[0][option] / observation.uplink_bps[0][server]
    return observation.option_device_s[0][option] * objective.power_w + on_air_s * objective.transmit_power_w


def plain_costs(
    objective: Objective, observation: OffloadObservation
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """Latency, lacking accuracy and energy of everything that can be done."""
    costs = {}
    for option, bits in enumerate(observation.option_upload_bits[0]):
        nodes = [DEVICE] if bits == 0 else [n for n, room in enumerate(observation.server_room) if room > 0]
        for node in nodes:
            energy_j = plain_energy_j(objective, observation, option, node)
            accuracy = observation.option_accuracy[0][option]
            costs[option, node] = (plain_latency_s(observation, option, node), -accuracy, energy_j)
    return costs


def plain_worth(objective: Objective, deadline_s: float, costs: dict) -> tuple:
    """What the best choice is worth, in the order in which it counts, by loops."""
    limits = (deadline_s, -objective.min_accuracy, objective.energy_j)
    left = dict(costs)
    for which, limit in enumerate(limits):
        fits = {key: cost for key, cost in left.items() if cost[which] <= limit}
        left = fits or left
    worths = [worth_of(objective, deadline_s, cost) for cost in left.values()]
    return min(worths)


def worth_of(objective: Objective, deadline_s: float, cost: tuple[float, float, float]) -> tuple:
    limits = (deadline_s, -objective.min_accuracy, objective.energy_j)
    misses = tuple(max(c - limit, 0.0) if limit < math.inf else 0.0 for c, limit in zip(cost, limits, strict=True))
    return (*misses, cost[GOALS.index(objective.goal)], cost[0])


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_choice_is_the_best_of_all_by_brute_force(seed: int):
    rng = np.random.default_rng(seed)
    options = random_options(rng, int(rng.integers(1, 4)), 4)
    objective, deadline_s = draw_objective(rng)
    observation = observation_of(options, objective, deadline_s, draw_servers(rng))
    decision = choose(objective, observation)
    costs = plain_costs(objective, observation)
    chosen = costs[int(decision.option[0]), int(decision.server[0])]
    assert worth_of(objective, deadline_s, chosen) == pytest.approx(plain_worth(objective, deadline_s, costs), rel=1e-9)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_limit_that_something_meets_with_those_before_it_is_met(seed: int):
    rng = np.random.default_rng(seed)
    objective, deadline_s = draw_objective(rng)
    observation = observation_of(random_options(rng, 3, 3), objective, deadline_s, draw_servers(rng))
    decision = choose(objective, observation)
    costs = plain_costs(objective, observation)
    chosen = costs[int(decision.option[0]), int(decision.server[0])]
    unmet = objective.unmet(chosen[0], deadline_s, -chosen[1], chosen[2])
    for limit in unmet:
        better = [
            cost
            for cost in costs.values()
            if limit not in (missed := objective.unmet(cost[0], deadline_s, -cost[1], cost[2]))
            and not {name for name in missed if LIMITS.index(name) < LIMITS.index(limit)} - set(unmet)
        ]
        assert not better, f"{limit} could have been met"


def same_worth(
    objective: Objective, deadline_s: float, options: Options, pruned: Options, servers, scale: float
) -> None:
    worths = []
    for some in (options, pruned):
        observation = observation_of(some, objective, deadline_s, servers, scale)
        decision = choose(objective, observation)
        cost = plain_costs(objective, observation)[int(decision.option[0]), int(decision.server[0])]
        worths.append(worth_of(objective, deadline_s, cost))
    assert worths[1] == pytest.approx(worths[0], rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_pruning_changes_no_choice_at_any_rate_and_speed(seed: int):
    rng = np.random.default_rng(seed)
    options = random_options(rng, 3, 5)
    objective, deadline_s = draw_objective(rng)
    pruned = prune(options, rule_of(objective.counts_energy), speed_ratios=SPEED_RATIOS)
    assert len(pruned.bits) < len(options.bits) or objective.counts_energy
    for rate_bps, ratio in product(np.geomspace(1e5, 1e9, 9), SPEED_RATIOS[::6]):
        server = up(rate_bps, 3.0 / ratio, backlog_s=float(rng.choice([0.0, 0.1])))
        server = server._replace(link=server.link._replace(round_trip_s=0.0))
        same_worth(objective, deadline_s, options, pruned, [server], 3.0)


@pytest.mark.parametrize("energy_counts", [False, True])
def test_pruning_a_real_network_with_exits(energy_counts: bool):
    pruned = prune(OPTIONS, rule_of(energy_counts), speed_ratios=SPEED_RATIOS)
    assert len(pruned.bits) < len(OPTIONS.bits)
    assert pruned.exit[pruned.upload_bits == 0].tolist() == [0, 1, 2], "each exit may stay on the device"
    limits = product(
        GOALS, (0.0, 0.7, 0.75, 0.9), (math.inf, 0.1, 1.0), (1.0, math.inf) if energy_counts else [math.inf]
    )
    for goal, least, deadline_s, energy_j in limits:
        if goal == "energy" and not energy_counts:
            continue
        objective = Objective(goal, least, energy_j, 3.0, 1.0)
        for rate_bps, ratio in product((1e4, 1e5, 1e6, 1e7), SPEED_RATIOS[::12]):
            server = up(rate_bps, 5.0 / ratio)
            server = server._replace(link=server.link._replace(round_trip_s=0.0))
            same_worth(objective, deadline_s, OPTIONS, pruned, [server], 5.0)


def test_a_plain_objective_is_least_latency():
    assert policy_for(Objective()) is least_latency
    rng = np.random.default_rng(3)
    for _ in range(20):
        observation = observation_of(random_options(rng, 2, 4), Objective(), 0.3, draw_servers(rng))
        ours, plain = choose(Objective(), observation), least_latency(observation)
        assert (ours.option, ours.server) == (plain.option, plain.server)


def test_tighter_limits_move_the_choice_as_one_would_expect():
    def accuracy(objective: Objective, deadline_s: float) -> float:
        observation = observation_of(OPTIONS, objective, deadline_s, [up(2e6, 0.2)], 5.0)
        return float(OPTIONS.accuracy[choose(objective, observation).option[0]])

    limits = (0.0, 0.72, 0.76)
    accurate = [accuracy(Objective(min_accuracy=least), 9.0) for least in limits]
    assert accurate == sorted(accurate)
    assert all(found >= least for found, least in zip(accurate, limits, strict=True))
    best = [accuracy(Objective("accuracy"), limit_s) for limit_s in (1e-4, 0.05, 0.2, 9.0)]
    assert best == sorted(best)
    assert best[-1] == OPTIONS.accuracy.max()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"goal": "speed"}, "goal is 'speed'; expected one of latency, accuracy, energy"),
        ({"min_accuracy": 75.0}, "min_accuracy is 75; expected a share from 0 to 1"),
        ({"min_accuracy": math.nan}, "min_accuracy is nan"),
        ({"energy_j": 0.0}, "energy_j is 0; expected joules above 0"),
        ({"energy_j": 1.0}, "needs the device's power"),
        ({"goal": "energy"}, "needs the device's power"),
        ({"power_w": -1.0}, "power_w is -1; expected watts"),
        ({"transmit_power_w": math.inf}, "transmit_power_w is inf"),
    ],
)
def test_objectives_that_cannot_be_are_refused_in_one_line(settings, said):
    with pytest.raises(ObjectiveError, match=said) as found:
        Objective(**settings)
    assert "\n" not in str(found.value)

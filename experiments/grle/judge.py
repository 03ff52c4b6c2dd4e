"""Judge what `train.py` trained, beside rules, bounds and untrained networks, on the same held-out episodes.

    nice -n 10 python experiments/grle/judge.py

Learner i plays the episodes of seed i, and so do the rules, so differences are paired by seed. Every policy is judged
by what truly happens. Writes results/judged.json; what is there already is not played again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from cases import FOLDER, HARD, HARDEST, SCHEMES, SEEDS, VARIANTS, WORLDS, World, settings_of, weights_file
from torch import Tensor

from coinfer.envs.batched_env import reward_of
from coinfer.evaluate import oracles
from coinfer.evaluate.simulate import Maker, run_policy
from coinfer.policies.bounds import slot
from coinfer.policies.heuristics.offload import sequential_accurate
from coinfer.policies.learned.imitation.candidate_policy import CandidatePolicy, take_options
from coinfer.rl.algorithms.grle import critic_of, make_policy, useful_options
from coinfer.scenario.compile import Compiled
from coinfer.types import OffloadDecision, OffloadObservation, Policy

RESULTS = FOLDER / "results" / "judged.json"
SLOTS, EPISODES = 50, 2
FIRST = 1000
"""First seed of the held-out episodes."""
MEASURES = ("timely_accuracy", "in_time", "throughput", "reward")
DEVICES = (6, 8, 10, 12, 14)


def descent(compiled: Compiled, search: Callable[..., slot.Optimum], *, early_exits: bool = True) -> Policy[Tensor]:
    """Return a policy that searches for the slot's best decision by the critic on what is observed.

    Args:
        compiled: the scenario.
        search: `slot.coordinate_descent`, or `slot.exhaustive` for few tasks.
        early_exits: whether all exits may answer.
    """
    options, critic, start = (
        useful_options(compiled.world, early_exits=early_exits),
        critic_of(compiled),
        sequential_accurate(),
    )

    def decide(observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        seen = take_options(observation, options)
        least = 2.0 * seen.task_mask.shape[-1]

        def cost(choice: Tensor) -> Tensor:
            return least - critic(seen, choice)

        extra = {"start": start(seen)} if search is slot.coordinate_descent else {}
        found = search(seen, cost, **extra).decision
        return found._replace(option=options[found.option])

    return decide


def judge(name: str, world: World, maker: Maker | None = None, oracle: oracles.Oracle | None = None) -> None:
    """Play a policy through the held-out episodes of a world, and keep its measures.

    Args:
        name: of the row; a known policy if there is no maker.
        world: where it plays.
        maker: from a seed to the policy.
        oracle: makes a decider that knows the truth, instead.
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = results.setdefault(world.name, {})
    if name in rows:
        return
    compiled = world.compiled(SLOTS)
    run = run_policy(
        compiled.world, name, SEEDS, EPISODES, maker, reward=reward_of(compiled.reward), oracle=oracle, first=FIRST
    )
    rows[name] = {measure: [round(float(v), 5) for v in run.measures[measure]] for measure in MEASURES}
    results.setdefault("accuracies", {})[world.name] = sorted(set(np.ravel(compiled.world.option_accuracy).tolist()))
    RESULTS.write_text(json.dumps(results, indent=0) + "\n")
    print(world.name, name, round(float(np.mean(rows[name]["timely_accuracy"])), 4), flush=True)


def trained(
    name: str, scheme: str, changes: Mapping[str, object], home: World, world: World
) -> dict[str, CandidatePolicy]:
    """Return the policies of the ten learners as one: trained, untrained, without candidates, and with more.

    Args:
        name: of the scheme or variant.
        scheme: one of `SCHEMES`.
        changes: of the settings.
        home: world of the training.
        world: where they play.
    """
    path = weights_file(name, home)
    if not path.exists():
        return {}
    weights, settings, compiled = np.load(path), settings_of(scheme, dict(changes)), world.compiled()
    flat, begun = (torch.from_numpy(weights[part]) for part in ("trained", "untrained"))
    return {
        name: make_policy(settings, compiled, flat),
        f"{name}, untrained": make_policy(settings, compiled, begun),
        f"{name}, network alone": make_policy(settings, compiled, flat, count=1),
        f"{name}, 48 candidates": make_policy(replace(settings, noisy=32), compiled, flat, count=48),
    }


def with_truth(policy: CandidatePolicy) -> oracles.Oracle:
    """Return a decider with the same network, whose critic knows the true times and rates.

    Args:
        policy: trained.
    """
    return lambda tables: lambda state, observation: policy.decide(observation, oracles.true_observation(tables, state))


def policy_with_truth(policy: Policy[Tensor]) -> oracles.Oracle:
    """Return a decider that gives the policy the true times and rates.

    Args:
        policy: of one observation.
    """
    return lambda tables: lambda state, observation: policy(oracles.true_observation(tables, state))


def judge_world(world: World) -> None:
    """Play rules, bounds and the schemes that were trained in this world.

    Args:
        world: one of `WORLDS`.
    """
    searched = descent(world.compiled(), slot.coordinate_descent)
    judge("sequential-accurate", world)
    judge("sequential-greedy", world)
    judge("coordinate descent", world, lambda seed: searched)
    knows_more = world.scenario in {"grle-s3", "grle-s4"}
    if knows_more:
        judge("coordinate descent, knows the truth", world, oracle=policy_with_truth(searched))
    for scheme in SCHEMES:
        policies = trained(scheme, scheme, {}, world, world)
        every = world == HARD or scheme == "grle"
        for name, policy in policies.items():
            if every or name == scheme or (world == HARDEST and name.endswith("48 candidates")):
                judge(name, world, lambda seed, policy=policy: policy)
        if scheme == "grle" and policies and knows_more:
            judge("grle, critic knows the truth", world, oracle=with_truth(policies["grle"]))


def main() -> None:
    """Judge everything that is trained and not judged yet."""
    torch.set_num_threads(1)
    for world in WORLDS:
        judge_world(world)
    for name, (scheme, changes, where) in VARIANTS.items():
        for world in where:
            for row, policy in trained(name, scheme, changes, world, world).items():
                if row == name or (world == HARDEST and row.endswith("48 candidates")):
                    judge(row, world, lambda seed, policy=policy: policy)
    for devices in DEVICES:
        world = World(devices=devices, deadlines=0.6)
        judge_world(world)
        for row, policy in trained("grle", "grle", {}, World(devices=10, deadlines=0.6), world).items():
            if row in {"grle", "grle, 48 candidates"}:
                elsewhere = row.replace("grle", "grle, trained with 10 devices")
                judge(elsewhere, world, lambda seed, policy=policy: policy)
    few = World(devices=4, deadlines=0.6)
    judge("exhaustive", few, lambda seed: descent(few.compiled(), slot.exhaustive))
    judge("coordinate descent", few, lambda seed: descent(few.compiled(), slot.coordinate_descent))


if __name__ == "__main__":
    main()

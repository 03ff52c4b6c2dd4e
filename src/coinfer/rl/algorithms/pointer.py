"""The pointer policy for servers that batch and load: imitation, then PPO, many learners at once.

The policy (`policies.learned.pointer`) corrects the price that a rule gives to each choice, task after task; untrained
it is the rule (`policies.heuristics.demand`). For some episodes a teacher decides, whose choices it learns with the
values of the states; then it plays itself and is improved by PPO (`rl.algorithms.ppo`). A slot is one step, whose
log-probability is the sum over its tasks, each given those before it, as the numbers of a task's choices hold what was
chosen before. What each part gains is in experiments/gpu-edge.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from coinfer.envs.batched_env import reward_of
from coinfer.errors import TrainingError
from coinfer.evaluate import serving_oracles
from coinfer.evaluate.oracles import Decider, Oracle
from coinfer.evaluate.serving_slots import demand_greedy, rule_weights
from coinfer.physics import random
from coinfer.policies.heuristics.demand import DemandWeights
from coinfer.policies.learned.pointer.net import PointerNet, PointerPolicy
from coinfer.rl.algorithms.ppo import PpoSettings, make_learner
from coinfer.rl.core.batched_optim import MASKED, descend, sample_categorical, uniform
from coinfer.rl.core.envs.serving import Choose, ServingEnv, ServingState
from coinfer.rl.core.loop import Loop, LoopSettings, Point
from coinfer.rl.core.on_policy import ActorCritic, Rollout, judge, mean_over_units, rollout_of
from coinfer.rl.core.records import Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld

REWARD_SCALE = 0.1
"""Of rewards, so that returns are about 1."""
_ACTS, _HELD_OUT = range(2)
TEACHERS: dict[str, Callable[[OffloadWorld], Oracle]] = {
    "demand": lambda world: demand_greedy(rule_weights(world)),
    "slot": lambda _: serving_oracles.serving_descent,
    "forecast": lambda _: serving_oracles.serving_forecast(10),
}
"""The best rule, and searches that know no more than the policy, for a world."""


@dataclass(frozen=True)
class PointerSettings:
    """Settings of a training."""

    learner: PpoSettings = field(
        default_factory=lambda: PpoSettings(
            1e-3, 0.97, 20, 0.95, epochs=3, minibatches=4, entropy=1e-3, max_grad_norm=None
        )
    )
    rounds: int = 3000
    """Slots that each world plays."""
    worlds: int = 32
    """Worlds of each learner."""
    teacher: str = ""
    """Of `TEACHERS`; none if empty."""
    imitated: int = 0
    """Episodes in which the teacher decides; they count as rounds."""
    epochs: int = 5
    """Passes over each of these episodes."""
    weights: DemandWeights | None = None
    """Of the rule; None for those of `rule_weights`."""
    deciders: int = 1
    """Who share out the tasks of each slot and do not know what the others send; they have one policy."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers of actor and critic, which are apart."""
    without: tuple[str, ...] = ()
    """Features that are hidden, see `PointerNet`."""


PRESETS = {
    "quick": PointerSettings(rounds=1500, worlds=16),
    "paper": PointerSettings(rounds=20_000),
}
"""Settings by name; there is no paper, `paper` is a long training."""


def scale_s(world: OffloadWorld) -> float:
    """Return the time that is one unit of the policy's scores: a part of a load, or else of what a server computes.

    Args:
        world: whose servers batch or load.
    """
    assert world.serving is not None
    if world.serving.loads:
        return 0.05 * float(world.serving.load_s.mean())
    return 0.25 * float(world.option_server_s[world.option_server_s > 0].mean())


def train(
    settings: TrainSettings, *, pointer_settings: PointerSettings | None = None, **options: Unpack[RunOptions]
) -> TrainingResult:
    """Train a pointer policy for every seed, side by side.

    Args:
        settings: scenario, seeds, length and preset.
        pointer_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    compiled, world = settings.open()
    chosen = pointer_settings or settings.find_preset(PRESETS)
    if world.serving is None:
        raise TrainingError(f"scenario {world.name}: its servers neither batch nor load, which is what pointer is for")
    if settings.device != "cpu":
        raise TrainingError("pointer plays its worlds one by one in plain Python: train it with --device cpu")
    if chosen.teacher and chosen.weights is not None and (chosen.weights.at_home or chosen.weights.loads_at_home):
        raise TrainingError("a teacher may send tasks away from home: train without one, or with weights not at home")
    if settings.steps is not None:
        chosen = replace(chosen, rounds=max(1, settings.steps // chosen.worlds))
    weights, unit_s = chosen.weights or rule_weights(world), scale_s(world)
    env = ServingEnv(world, reward_of(compiled.reward), chosen.worlds, weights, unit_s, chosen.deciders)
    net = PointerNet(env.known.choices, chosen.hidden, chosen.without)
    learner = make_learner(chosen.learner, net, settings.learner_seeds())
    horizon = chosen.learner.horizon
    every = max(1, chosen.rounds // (5 * horizon)) * horizon
    loop_settings = LoopSettings(chosen.rounds, 0, 1, log_every=horizon, assess_every=every)
    loop = Loop(loop_settings, env, learner)  # pyright: ignore[reportArgumentType]
    record = settings_record(settings, "pointer", world, replace(chosen, weights=weights))

    def make_policies(trained: ActorCritic) -> tuple[PointerPolicy, ...]:
        return tuple(PointerPolicy(net, row, weights, unit_s) for row in trained.flat.detach())

    return train_loop("pointer", loop, make_policies, record, play=_player(chosen, env), **options)


def _player(settings: PointerSettings, env: ServingEnv) -> Callable[[Loop], None]:
    slots = env.world.edge.slots

    def play(loop: Loop) -> None:
        teacher = TEACHERS[settings.teacher](env.world)(env.tables) if loop.round < settings.imitated * slots else None
        count = slots if teacher else settings.learner.horizon
        batch = _rollout(loop, env, settings.learner, min(count, loop.settings.rounds - loop.round), teacher)
        learner = cast(ActorCritic, loop.learner)
        if teacher is None:
            loop.learn(cast(Transition, batch))
        else:
            for _ in range(settings.epochs):
                loop.count(imitate(settings.learner, learner, batch))
        _finish_round(loop, env)

    return play


def imitate(settings: PpoSettings, learner: ActorCritic, batch: Rollout) -> dict[str, Tensor]:
    """Make updates of one pass over a teacher's decisions: of its choices, and of what came of them.

    Args:
        settings: of the learner; its minibatches are as large as PPO's.
        learner: the learners; changed.
        batch: [L, n, ..] what the teacher played.

    Returns:
        Metrics [L] by name.
    """
    parts = max(1, batch.action.shape[1] * settings.minibatches // (settings.horizon * 16))
    losses = []
    for part in range(parts):
        rows = Rollout(*(field[:, part::parts] for field in batch))
        judged, units = judge(learner.net, learner.flat, rows), rows.unit_mask()
        tasks = rows.task_mask.sum((1, 2)).clamp(min=1)
        actor = -judged.log_prob.sum((1, 2)) / tasks
        critic = mean_over_units((rows.target - judged.value).square(), units)
        descend(learner.optimiser, actor + settings.value_weight * critic)
        losses.append(actor.detach())
    return {"imitation_loss": torch.stack(losses).mean(0)}


def _rollout(loop: Loop, env: ServingEnv, settings: PpoSettings, count: int, teacher: Decider | None) -> Rollout:
    """Play some slots, by the learners or a teacher, and return them without the places that no task took."""
    learner, steps, ended = cast(ActorCritic, loop.learner), list[Transition](), list[Tensor]()
    for number in range(count):
        played = env.play(cast(ServingState, loop.state), chooser(learner, loop.round, explore=True), teacher)
        loop.state, loop.observation, loop.ended = played.state, played.observation, played.truncated
        loop.count({"reward": played.reward, **played.metrics})
        loop.round += 1
        valued = number == count - 1 or bool(played.truncated.any())  # of other steps, the next one tells the value
        after = env.observe(played.final) if valued else played.observation
        reward = REWARD_SCALE * played.reward
        steps.append(Transition(*played.observation, played.action, reward, torch.ones_like(reward), *after))
        ended.append(played.truncated)
        if number < count - 1:
            loop.record_point()
    places = max(1, max(int(step.task_mask.sum(-1).max()) for step in steps))
    cut = [_cut(step, places, env) for step in steps]
    return rollout_of(learner.net, learner.copies(), cut, ended, settings.gamma, settings.lam)


def _cut(step: Transition, places: int, env: ServingEnv) -> Transition:
    """Return a step with fewer places for tasks; those of the next observation are not read."""
    now = env.first_places(step.observation, places)
    return Transition(*now, step.action[..., :places], *step[4:6], *env.first_places(step.next_observation, places))


def chooser(learner: ActorCritic, call: int, *, explore: bool) -> Choose:
    """Return a function that makes the choices of one slot.

    Args:
        learner: the learners.
        call: number of the slot; the same one draws the same numbers.
        explore: whether to draw; else the choices of greatest score.
    """
    flat = learner.flat.detach()

    @torch.no_grad()
    def choose(rows: Tensor, mask: Tensor, place: int) -> Tensor:
        logits = torch.where(mask, cast(PointerNet, learner.net).scores(flat, rows), MASKED)
        if not explore:
            return logits.argmax(-1)
        keys = random.key(random.key(learner.seeds, _ACTS), torch.tensor(place))
        return sample_categorical(logits.softmax(-1) * mask, uniform(keys, call, tuple(mask.shape[1:-1])))

    return choose


def _finish_round(loop: Loop, env: ServingEnv) -> None:
    loop.record_point()
    if loop.settings.assesses(loop.round):
        figures = assess(env, cast(ActorCritic, loop.learner))
        loop.assessed.append(Point(loop.round, {name: part.tolist() for name, part in figures.items()}))


def assess(env: ServingEnv, learner: ActorCritic) -> dict[str, Tensor]:
    """Return mean figures [L] over an episode of held-out worlds, which are the same for every learner.

    Args:
        env: the environment, with the number of worlds to play.
        learner: the learners; none of them explores.
    """
    state, _ = env.reset(random.key(torch.zeros_like(learner.seeds), _HELD_OUT))
    sums: dict[str, Tensor] = {}
    for number in range(env.world.edge.slots):
        played = env.play(state, chooser(learner, number, explore=False))
        for name, part in {"reward": played.reward, **played.metrics}.items():
            sums[name] = sums.get(name, 0.0) + part.double().mean(1)
        state = played.state
    tasks = sums.pop("tasks").clamp(min=1e-12)
    slots = env.world.edge.slots
    return {"reward": sums["reward"] / slots, "latency_s": -sums["reward"] / tasks, "in_time": sums["in_time"] / tasks}

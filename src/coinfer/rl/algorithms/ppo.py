"""PPO (Schulman et al., 2017) with masks, for environments `offload` and `blocks`: many learners at once.

The clipped objective, generalised advantages, several epochs of minibatches, an entropy bonus and advantages that are
normalised in each minibatch. The value loss is not clipped, and a time limit is not an end: the value of the last
observation stands for what would have come.

In `offload` the decision of a slot is one unit, whose log-probability is the sum over its tasks, with the scenario's
reward; networks know options by number and see `whole_features`, so there must be one network and one class of devices.
In `blocks` every task is a unit with a head for each block, as in `mtl_a3c`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer.envs.batched_env import reward_of
from coinfer.errors import TrainingError
from coinfer.physics import random
from coinfer.policies.learned.actor_critic import ActorCriticForm, ActorCriticNet
from coinfer.policies.learned.features import whole_features
from coinfer.policies.learned.net_policy import NetPolicy
from coinfer.rl.algorithms.distributed_dqn import HeadValues
from coinfer.rl.core.batched_optim import Adam, descend, linear_decay
from coinfer.rl.core.blocks_training import BlocksSettings, train_on_blocks, with_rounds
from coinfer.rl.core.envs.options import OptionEnv
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.on_policy import ActorCritic, Rollout, judge, mean_over_units, normalised, play
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.compile import Compiled, open_world
from coinfer.scenario.load import parse_changes
from coinfer.scenario.world import BlocksWorld, OffloadWorld

_SHUFFLE = 7


@dataclass(frozen=True)
class PpoSettings:
    """Settings of the learner."""

    learning_rate: float = 3e-4
    gamma: float = 0.99
    horizon: int = 128
    """Steps of a rollout in each world."""
    lam: float = 0.95
    """Of the generalised advantages."""
    epochs: int = 4
    """Passes over a rollout."""
    minibatches: int = 4
    """Parts of a rollout, each an update."""
    clip: float = 0.2
    """How far the ratio of probabilities may move before its gradient stops."""
    entropy: float = 0.0
    """Weight of the entropy."""
    value_weight: float = 0.5
    normalise: bool = True
    """Whether advantages are normalised in each minibatch."""
    max_grad_norm: float | None = 0.5
    """Limit to the norm of each learner's gradient; None for no limit."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which the learning rate falls to 0; None if it stays."""


def make_learner(
    settings: PpoSettings, net: ActorCriticForm, seeds: Tensor, *, sampled: bool = False, coherent: bool = False
) -> ActorCritic:
    """Return L learners with Adam.

    Args:
        settings: settings of every learner.
        net: form of the networks.
        seeds: [L] int64
        sampled: as in `ActorCritic`.
        coherent: as in `ActorCritic`.
    """

    def optimiser(flat: Tensor) -> Adam:
        return Adam(flat, settings.learning_rate, settings.max_grad_norm)

    return ActorCritic(net, optimiser, updater(settings), seeds, sampled=sampled, coherent=coherent)


def updater(settings: PpoSettings) -> Callable[[ActorCritic, Rollout], dict[str, Tensor]]:
    """Return the updates of several epochs over a rollout.

    Args:
        settings: settings of every learner.
    """

    def update(learner: ActorCritic, batch: Rollout) -> dict[str, Tensor]:
        metrics: list[dict[str, Tensor]] = []
        for _ in range(settings.epochs):
            order = _shuffled(learner, batch.action.shape[1])
            for part in order.chunk(settings.minibatches, 1):
                found = loss_of(settings, learner, _rows(batch, part))
                descend(learner.optimiser, found.loss, linear_decay(learner.updates, settings.learning_rate_decay))
                learner.updates += 1
                metrics.append(found.metrics)
        return {name: torch.stack([one[name] for one in metrics]).mean(0) for name in metrics[0]}

    return update


class Loss(NamedTuple):
    """The loss of a minibatch, and figures of it."""

    loss: Tensor
    """[L]"""
    metrics: dict[str, Tensor]
    """[L] by name."""


def loss_of(settings: PpoSettings, learner: ActorCritic, batch: Rollout) -> Loss:
    """Return the loss of a minibatch at the learner's parameters.

    Args:
        settings: settings of every learner.
        learner: the learners.
        batch: [L, n, ..] part of a rollout.
    """
    judged, units = judge(learner.net, learner.flat, batch), batch.unit_mask()
    advantage = normalised(batch.advantage, units) if settings.normalise else batch.advantage
    # Heads that agree and draw coherently make one choice, whose log-probability is the mean of theirs, not the sum.
    heads = learner.net.heads if learner.coherent else 1
    ratio = ((judged.log_prob - batch.log_prob) / heads).exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    actor = mean_over_units(-torch.minimum(ratio * advantage, clipped * advantage), units)
    critic = mean_over_units((batch.target - judged.value).square(), units)
    entropy = mean_over_units(judged.entropy, units)
    loss = actor + settings.value_weight * critic - settings.entropy * entropy
    stopped = mean_over_units(((ratio - 1).abs() > settings.clip).to(ratio.dtype), units)
    metrics = {"actor_loss": actor, "critic_loss": critic, "entropy": entropy, "clipped": stopped}
    return Loss(loss, {name: part.detach() for name, part in metrics.items()})


def _shuffled(learner: ActorCritic, count: int) -> Tensor:
    """Return a random order [L, count] of each learner's steps, which depends on its key and updates only."""
    keys = random.key(random.key(learner.seeds, _SHUFFLE), learner.updates)
    return random.bits(keys[:, None], torch.arange(count, device=keys.device)).argsort(-1)


def _rows(batch: Rollout, order: Tensor) -> Rollout:
    """Return the steps of a rollout with these numbers [L, n]."""

    def taken(part: Tensor) -> Tensor:
        return part.gather(1, order.reshape(*order.shape, *[1] * (part.dim() - 2)).expand(-1, -1, *part.shape[2:]))

    return Rollout(*map(taken, batch))


@dataclass(frozen=True)
class OffloadSettings:
    """Settings of a training in environment `offload`."""

    learner: PpoSettings
    rounds: int = 1000
    """Slots that each world plays."""
    worlds: int = 16
    """Worlds of each learner."""
    trunk: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic, which are apart."""
    falls: bool = False
    """Whether the learning rate falls to 0 over the training."""


PRESETS = {
    "quick": OffloadSettings(PpoSettings(2e-3, 0.0, 32, entropy=1e-3), 1500, falls=True),
    "paper": OffloadSettings(PpoSettings(3e-4, 0.99, 128), 10_000),
}
"""Settings for `offload` by name; there is no paper, `paper` are the usual values."""
_QUICK = PpoSettings(3e-4, 0.0, 10, 0.95, 4, 4, entropy=1e-3)
_BLOCKS = BlocksSettings(_QUICK, worlds=8, others=0.0, imposed=1.0, sampled=True)
BLOCKS_PRESETS = {
    "quick": with_rounds(_BLOCKS, 600),
    "predicted": with_rounds(replace(_BLOCKS, trunk=(32, 32), state="predicted", sampled=False, marginal=True), 300),
    "paper": with_rounds(BlocksSettings(replace(_QUICK, gamma=0.95), worlds=8, sampled=True), 6000),
}
"""Settings for `blocks` by name; `TrainSettings.steps` is rounds times worlds for both."""


def train(
    settings: TrainSettings,
    *,
    offload_settings: OffloadSettings | None = None,
    blocks_settings: BlocksSettings[PpoSettings] | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train PPO for every seed, side by side, in environment `offload` or `blocks`.

    Args:
        settings: scenario, seeds, length and preset.
        offload_settings: settings to use in `offload` instead of the preset that `settings` names.
        blocks_settings: the same for `blocks`.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    compiled = open_world(settings.scenario, parse_changes(settings.changes))
    if isinstance(compiled.world, BlocksWorld):
        chosen = blocks_settings or settings.find_preset(BLOCKS_PRESETS)

        def make(net: ActorCriticForm, seeds: Tensor) -> ActorCritic:
            return make_learner(chosen.learner, net, seeds, sampled=chosen.sampled, coherent=chosen.coherent)

        play_one, chunk = _player(chosen.learner), chosen.learner.horizon
        return train_on_blocks(
            "ppo", settings, chosen, make, lambda one: one.flat, play=play_one, chunk=chunk, **options
        )
    return _train_offload(compiled, settings, offload_settings or settings.find_preset(PRESETS), **options)


def _player(settings: PpoSettings) -> Callable[[Loop], None]:
    return lambda loop: play(loop, settings.horizon, settings.gamma, settings.lam)


def _train_offload(
    compiled: Compiled, settings: TrainSettings, chosen: OffloadSettings, **options: Unpack[RunOptions]
) -> TrainingResult:
    world = _check_world(compiled)
    if settings.steps is not None:
        chosen = replace(chosen, rounds=max(1, settings.steps // chosen.worlds))
    if chosen.falls:
        updates = -(-chosen.rounds // chosen.learner.horizon) * chosen.learner.epochs * chosen.learner.minibatches
        chosen = replace(chosen, learner=replace(chosen.learner, learning_rate_decay=(0, updates)))
    env = OptionEnv(world, reward_of(compiled.reward), chosen.worlds, whole_features, settings.device)
    inputs = world.edge.tasks * (5 + world.edge.servers) + 3 * world.edge.servers
    net = ActorCriticNet(inputs, world.edge.tasks, env.choices, trunk=chosen.trunk, trunks="apart", first="he")
    horizon = chosen.learner.horizon
    every = max(1, chosen.rounds // (10 * horizon)) * horizon
    loop_settings = LoopSettings(chosen.rounds, 0, 1, log_every=horizon, assess_every=every, assess_rounds=50)
    loop = Loop(loop_settings, env, make_learner(chosen.learner, net, settings.learner_seeds()))

    def make_policies(learner: ActorCritic) -> tuple[nn.Module, ...]:
        form = HeadValues(net)
        return tuple(NetPolicy(form, row, whole_features) for row in learner.flat.detach().cpu())

    record = settings_record(settings, "ppo", world, chosen)
    return train_loop(
        "ppo", loop, make_policies, record, options_by_index=True, play=_player(chosen.learner), **options
    )


def _check_world(compiled: Compiled) -> OffloadWorld:
    """Return the world if networks that know options by number can learn in it."""
    world = compiled.world
    if not isinstance(world, OffloadWorld):
        raise TrainingError(f"scenario {world.name}: ppo learns in environments offload and blocks")
    if world.edge.models * world.edge.classes != 1:
        kinds = f"{world.edge.models} networks on {world.edge.classes} classes of devices"
        raise TrainingError(
            f"scenario {world.name}: ppo knows options by number, for one network on one class of devices, got {kinds}"
        )
    return world

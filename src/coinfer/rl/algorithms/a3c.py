"""A3C for decisions of several heads: gradients of one or more workers, applied to one central set of parameters.

The loss of a worker's rollout is equation (20) of multi-task A3C (IEEE TMC 2024): the mean of the heads' policy losses
(18), each with the same k-step advantage (16, 17), plus the value loss (19). The optimiser is its RMSProp (23, 24) or
Adam.

Departures, and what the paper leaves open:
- The paper samples minibatches from a replay memory, which the loss of the policy that played them does not allow; here
  a minibatch is a rollout of a worker, `horizon` times `worlds` slots.
- It names a random exploration that falls from 1 to 0.01 beside the entropy. The policy is random itself; only the
  entropy is kept, with a weight of our choice.
- All heads of a task draw with one random number (`rl.core.on_policy`).
- In deterministic mode all workers copy the central parameters, play and differentiate at the same time, and their
  gradients are applied one after another in a fixed order: as in A3C, those of later workers are stale. Asynchronous
  mode (`threads`) is `rl.core.async_workers`. `rl.distributed.parameter_server` does both on a cluster.

`train` is the paper's baseline A3C for environment `blocks`: one joint head over all (N + 1)^M placements of a task.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from coinfer.policies.learned.actor_critic import ActorCriticForm
from coinfer.rl.core.async_workers import RolloutPlayer, play_threads
from coinfer.rl.core.batched_optim import Adam, Optimiser, RmsProp, linear_decay
from coinfer.rl.core.blocks_training import (
    BlocksJob,
    BlocksSettings,
    MakePlayer,
    network_of,
    train_on_blocks,
    with_rounds,
)
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.on_policy import ActorCritic, Rollout, judge, mean_over_units, normalised, play
from coinfer.rl.core.records import Env
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings


@dataclass(frozen=True)
class A3cSettings:
    """Settings of the learner."""

    learning_rate: float = 0.01
    """Of actor and critic, which share an optimiser (5.1)."""
    gamma: float = 0.95
    """Discount (5.1)."""
    horizon: int = 20
    """Steps of a rollout at most, t_max of (16); not given."""
    lam: float = 1.0
    """1 for the paper's k-step returns, less for generalised advantages."""
    workers: int = 8
    """5.3: the best of 1 to 8."""
    entropy: float = 0.01
    """Weight of the entropy, beta of (18); not given."""
    value_weight: float = 1.0
    """Weight of the value loss, 1 in (20)."""
    optimiser: str = "rmsprop"
    """`rmsprop` as printed, or `adam`."""
    momentum: float = 0.99
    """alpha of (23); not given."""
    epsilon: float = 1e-5
    """Of (24); not given."""
    max_grad_norm: float | None = 0.5
    """Limit to the norm of a gradient; None for no limit."""
    normalise: bool = True
    """Whether advantages are normalised over a worker's rollout."""
    tie: float = 0.0
    """Weight of the penalty on the distance of tied trunks."""
    threads: int = 0
    """0 for deterministic mode; else workers are threads, or processes of a cluster, that wait for each other after so
    many rollouts."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which the learning rate falls to 0 in deterministic mode; None if it stays."""


def make_learner(
    settings: A3cSettings, net: ActorCriticForm, seeds: Tensor, *, sampled: bool = False, coherent: bool = False
) -> ActorCritic:
    """Return L learners with the settings' workers and optimiser.

    Args:
        settings: settings of every learner.
        net: form of the networks.
        seeds: [L] int64
        sampled: as in `ActorCritic`.
        coherent: as in `ActorCritic`.
    """

    def optimiser(flat: Tensor) -> Optimiser:
        if settings.optimiser == "adam":
            return Adam(flat, settings.learning_rate, settings.max_grad_norm)
        limits = (settings.max_grad_norm, settings.momentum, settings.epsilon)
        return RmsProp(flat, settings.learning_rate, *limits)

    return ActorCritic(net, optimiser, updater(settings), seeds, settings.workers, sampled=sampled, coherent=coherent)


def updater(settings: A3cSettings) -> Callable[[ActorCritic, Rollout], dict[str, Tensor]]:
    """Return the update of deterministic mode: each worker's gradient on its copy, applied in the workers' order.

    Args:
        settings: settings of every learner.
    """

    def update(learner: ActorCritic, batch: Rollout) -> dict[str, Tensor]:
        gradient, metrics = gradient_of(settings, learner, learner.copies(), batch)
        apply_in_order(settings, learner, gradient.unflatten(0, (-1, learner.workers)).unbind(1))
        return metrics

    return update


def apply_in_order(settings: A3cSettings, learner: ActorCritic, gradients: Sequence[Tensor]) -> None:
    """Apply the workers' gradients one after another, as deterministic mode does.

    Args:
        settings: settings of every learner.
        learner: has the central parameters, which change.
        gradients: [L, P] of each worker, in the workers' order.
    """
    for gradient in gradients:
        learner.optimiser.apply(gradient.clone(), linear_decay(learner.updates, settings.learning_rate_decay))
        learner.updates += 1


def gradient_of(
    settings: A3cSettings, learner: ActorCritic, flat: Tensor, batch: Rollout
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the gradients of (20) on copies of the parameters, [m, P], and metrics [m].

    Args:
        settings: settings of every learner.
        learner: gives the form of the networks.
        flat: [m, P] copies of the parameters.
        batch: [m, n, ..] the workers' rollouts.
    """
    copies = flat.detach().requires_grad_()
    with torch.enable_grad():
        judged, units = judge(learner.net, copies, batch), batch.unit_mask()
        advantage = normalised(batch.advantage, units) if settings.normalise else batch.advantage
        heads = learner.net.heads
        actor = -(judged.log_prob * advantage + settings.entropy * judged.entropy) / heads
        critic = (batch.target - judged.value).square()
        parts = mean_over_units(actor, units), mean_over_units(critic, units)
        loss = parts[0] + settings.value_weight * parts[1] + settings.tie * learner.net.distance(copies)
        (gradient,) = torch.autograd.grad(loss.sum(), copies)
    entropy = mean_over_units(judged.entropy.detach() / heads, units)
    return gradient, {"actor_loss": parts[0].detach(), "critic_loss": parts[1].detach(), "entropy": entropy}


def rollout_player(settings: A3cSettings, env: Env[Any], learner: ActorCritic) -> RolloutPlayer:
    """Return what workers need to play rollouts and to compute their gradients.

    Args:
        settings: settings of every learner.
        env: the workers' worlds.
        learner: form of the networks, and keys.
    """

    def gradient(learner: ActorCritic, flat: Tensor, batch: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        return gradient_of(settings, learner, flat, batch)

    return RolloutPlayer(env, learner, settings.gamma, settings.lam, gradient)


def player(settings: A3cSettings) -> Callable[[Loop], None]:
    """Return what plays and learns from one rollout, or with threads from several of every worker.

    Args:
        settings: settings of every learner.
    """

    def play_once(loop: Loop) -> None:
        if settings.threads:
            workers = rollout_player(settings, loop.env, cast(ActorCritic, loop.learner))
            play_threads(loop, workers, settings.horizon, settings.threads)
        else:
            play(loop, settings.horizon, settings.gamma, settings.lam)

    return play_once


def job_player(job: BlocksJob[A3cSettings]) -> RolloutPlayer:
    """Return the same of a training in environment `blocks`, in any process.

    Args:
        job: description of the training.
    """
    features, net, heads = network_of(job.world, job.settings)
    learner = make_blocks_learner(job.settings, net, job.learner_seeds())
    return rollout_player(job.settings.learner, job.env(features, heads), learner)


def make_blocks_learner(chosen: BlocksSettings[A3cSettings], net: ActorCriticForm, seeds: Tensor) -> ActorCritic:
    """Return L learners for environment `blocks`.

    Args:
        chosen: settings of the training.
        net: form of the networks.
        seeds: [L] int64
    """
    return make_learner(chosen.learner, net, seeds, sampled=chosen.sampled, coherent=chosen.coherent)


def train_a3c(
    scheme: str,
    settings: TrainSettings,
    chosen: BlocksSettings[A3cSettings],
    make_player: MakePlayer | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train A3C with any heads in environment `blocks`.

    Args:
        scheme: name that the result carries.
        settings: scenario, seeds and device.
        chosen: settings of loop, networks and learner.
        make_player: has the workers play in other processes (`rl.distributed.ray_workers.cluster_player`); None to
            train in this one.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if the scenario, a change or the folder is not valid.
    """
    return train_on_blocks(
        scheme,
        settings,
        chosen,
        lambda net, seeds: make_blocks_learner(chosen, net, seeds),
        lambda one: one.flat,
        play=player(chosen.learner),
        make_player=make_player,
        chunk=chosen.learner.horizon * max(1, chosen.learner.threads),
        **options,
    )


QUICK = BlocksSettings(A3cSettings(workers=4, learning_rate=1e-3, horizon=5, gamma=0.0), worlds=2, sampled=True)
"""A slot hardly reaches the next one, so the future counts nothing."""
JOINT = replace(QUICK, learner=replace(QUICK.learner, learning_rate=3e-4, horizon=20), joint=True)
PRESETS = {
    "quick": with_rounds(replace(JOINT, worlds=1, others=0.0, imposed=1.0), 1200),
    "paper": with_rounds(BlocksSettings(A3cSettings(), worlds=1, joint=True, state="paper", sampled=True), 6000),
}
"""Settings by name; `TrainSettings.steps` is rounds times workers times worlds."""


def train(
    settings: TrainSettings,
    *,
    blocks_settings: BlocksSettings[A3cSettings] | None = None,
    make_player: MakePlayer | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train A3C with one joint head for every seed, side by side.

    Args:
        settings: scenario, seeds, length and preset.
        blocks_settings: settings to use instead of the preset that `settings` names.
        make_player: as in `train_a3c`.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid, or there are too many placements for one head.
    """
    chosen = replace(blocks_settings or settings.find_preset(PRESETS), joint=True)
    return train_a3c("a3c", settings, chosen, make_player, **options)

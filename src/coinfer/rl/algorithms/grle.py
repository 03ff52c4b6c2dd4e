"""GRLE (Li, Iosifidis, Zhang, GLOBECOM 2022, arXiv 2210.13464) and what it is compared with: GRL, DROOE and DROO.

Each slot the network's outputs become candidates, a critic scores them by the physics on what is believed, the best one
is carried out and remembered, and the network is trained to give it (`rl.core.imitation`). The four schemes differ in
two things only:

| | all exits | last exit only |
|---|---|---|
| graph network | GRLE | GRL |
| fully connected network of DROO | DROOE | DROO |

Of the paper only the abstract is known to us, so all else is our choice. Memory, batch and interval of updates are
those of DROO's authors (1024, 128, 10) in preset `paper`. Departures from DROO: several worlds are played side by
side; some candidates come from noisy outputs (after LyDROO, IEEE TWC 2021; here Gumbel's noise, so that they are
samples of the softmax); in preset `quick`, what is remembered is improved by one pass of coordinate descent on the
critic, task after task, while what is carried out is not; an option on the device is left out
if it cannot be in time for any deadline.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from coinfer.envs.batched_env import reward_of
from coinfer.errors import TrainingError
from coinfer.policies.learned.imitation.candidate_policy import CandidatePolicy, decision_candidates
from coinfer.policies.learned.imitation.critic import Critic
from coinfer.policies.learned.imitation.flat_net import FlatNet
from coinfer.policies.learned.imitation.graph_net import GraphNet
from coinfer.policies.learned.imitation.packed import pack, unpack
from coinfer.rl.core.batched_optim import uniform
from coinfer.rl.core.envs.options import OptionEnv
from coinfer.rl.core.imitation import Head, Imitation, ImitationSettings, choice_loss
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.records import Observation
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.compile import Compiled
from coinfer.scenario.spec import EarlyExitReward
from coinfer.scenario.world import OffloadWorld


@dataclass(frozen=True)
class GrleSettings:
    """Settings of a training."""

    loop: LoopSettings
    learner: ImitationSettings
    worlds: int = 4
    """W, worlds of each learner."""
    graph: bool = True
    """Whether the network is a graph network (GRLE, GRL) or fully connected (DROOE, DROO)."""
    early_exits: bool = True
    """Whether all exits may answer, or the most accurate options only."""
    noisy: int = 8
    """Candidates of noisy outputs while training, among `learner.candidates`."""
    hidden: int = 24
    """Numbers of an edge of the graph network."""
    rounds: int = 2
    """Rounds of messages of the graph network."""
    ordered: bool = True
    """As in `GraphNet`."""
    layers: tuple[int, ...] = (120, 80)
    """Widths of the hidden layers of the fully connected network."""

    def net(self, world: OffloadWorld, options: int) -> GraphNet | FlatNet:
        """Return the form of the network.

        Args:
            world: the compiled scenario.
            options: number of options that a task may take.
        """
        if self.graph:
            return GraphNet(world.edge.servers, self.hidden, self.rounds, self.ordered)
        return FlatNet(world.edge.tasks, options, world.edge.servers, self.layers)


def with_rounds(settings: GrleSettings, rounds: int) -> GrleSettings:
    """Return settings whose training spans a number of rounds; the learning rate falls over the last 60 % of them.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: slots that each world plays, at least 1.
    """
    updates = max(1, rounds // settings.loop.update_every * settings.loop.updates)
    loop = replace(settings.loop, rounds=rounds, assess_every=max(1, rounds // 8))
    return replace(
        settings, loop=loop, learner=replace(settings.learner, learning_rate_decay=(updates * 2 // 5, updates))
    )


PRESETS = {
    "quick": with_rounds(
        GrleSettings(
            LoopSettings(1, warmup=0, capacity=1024, batch=64, update_every=2, assess_rounds=25),
            ImitationSettings(candidates=24, learning_rate=5e-3, max_grad_norm=1.0, sweeps=1),
        ),
        200,
    ),
    "paper": with_rounds(
        GrleSettings(
            LoopSettings(1, warmup=0, capacity=1024, batch=128, update_every=10, assess_rounds=100),
            ImitationSettings(candidates=24, learning_rate=1e-3, max_grad_norm=1.0),
            worlds=1,
        ),
        10_000,
    ),
}
"""Settings by name; `TrainSettings.steps` is rounds times worlds."""
SCHEMES = {"grle": (True, True), "grl": (True, False), "drooe": (False, True), "droo": (False, False)}
"""Whether it has a graph network, and whether all exits may answer."""


def train(
    settings: TrainSettings,
    *,
    scheme: str = "grle",
    grle_settings: GrleSettings | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train one of the four schemes for every seed, side by side.

    Args:
        settings: scenario, seeds, length and preset.
        scheme: one of `SCHEMES`, which decides over the network and the exits.
        grle_settings: settings to use instead of the preset that `settings` names.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    graph, early_exits = SCHEMES[scheme]
    chosen = replace(grle_settings or settings.find_preset(PRESETS), graph=graph, early_exits=early_exits)
    if settings.steps is not None:
        chosen = with_rounds(chosen, max(1, settings.steps // chosen.worlds))
    compiled, world = settings.open()
    loop = make_loop(chosen, compiled, settings.learner_seeds(), settings.device)

    def make_policies(learner: Imitation) -> tuple[CandidatePolicy, ...]:
        return tuple(make_policy(chosen, compiled, row[None]) for row in learner.flat.detach().cpu())

    known = len(useful_options(world, early_exits=early_exits)) == world.options
    trained = train_loop(
        scheme,
        loop,
        make_policies,
        settings_record(settings, scheme, world, chosen),
        options_by_index=not (graph and known),
        **options,
    )
    return trained._replace(dynamic_axes=("BKON" if known else "BKN") if graph else "B")


def make_loop(settings: GrleSettings, compiled: Compiled, seeds: Tensor, device: str = "cpu") -> Loop[Imitation]:
    """Return a training of one of the four schemes at its beginning.

    Args:
        settings: of loop, learner and network.
        compiled: the scenario; its environment is `offload`.
        seeds: [L] int64, of the learners.
        device: PyTorch device.

    Raises:
        TrainingError: if the scenario has no deadlines or another reward.
    """
    world, critic = _offload_world(compiled), critic_of(compiled)
    options = useful_options(world, early_exits=settings.early_exits).to(device)
    env = OptionEnv(world, reward_of(compiled.reward), settings.worlds, pack, device, options=options)

    def score(observation: Observation, candidates: Tensor) -> Tensor:
        return critic(unpack(observation.features, world.edge.servers, observation.task_mask), candidates)

    head = Head(partial(_noisy_candidates, settings.noisy), choice_loss)
    net = settings.net(world, len(options))
    learner = Imitation(settings.learner, net, _same, head, score, seeds)
    return Loop(settings.loop, env, learner, share=learner.improved_label)


def make_policy(settings: GrleSettings, compiled: Compiled, flat: Tensor, count: int | None = None) -> CandidatePolicy:
    """Return the policy of trained networks, which has the same noise in every slot.

    Args:
        settings: of loop, learner and network.
        compiled: the scenario; its numbers of tasks and servers matter for the fully connected network only.
        flat: [L, P] the learners' parameters; see `CandidatePolicy`.
        count: number of candidates; that of the training by default, 1 for the network alone.
    """
    world = _offload_world(compiled)
    options = useful_options(world, early_exits=settings.early_exits)
    net = settings.net(world, len(options))
    taken = None if len(options) == world.options else options
    count = count or settings.learner.candidates
    return CandidatePolicy(net, flat, critic_of(compiled), count, min(settings.noisy, count - 1), taken)


def critic_of(compiled: Compiled) -> Critic:
    """Return the critic with the parameters of the scenario's reward.

    Args:
        compiled: a scenario.

    Raises:
        TrainingError: if the scenario has another reward than GRLE's.
    """
    reward = compiled.reward
    if not isinstance(reward, EarlyExitReward):
        kind = reward.kind if reward else "none"
        raise TrainingError(f"scenario {compiled.world.name}: reward {kind}; this scheme scores by reward early-exit")
    return Critic(reward.latency_weight, reward.late_penalty)


def useful_options(world: OffloadWorld, *, early_exits: bool) -> Tensor:
    """Return the numbers [O'] of the options that some task can use.

    Options on the device that are too late for every deadline are none, unless nothing else is left.

    Args:
        world: a compiled scenario.
        early_exits: whether options of less than the greatest accuracy count.
    """
    edge = world.edge
    deadline_s = edge.deadline_s.reshape(edge.models, edge.classes, 2).max(-1)[..., None]
    useful = world.option_mask & ((world.option_upload_bits > 0) | (world.option_device_s <= deadline_s))
    if not early_exits:
        accuracy = np.where(world.option_mask, world.option_accuracy, -np.inf)
        useful &= accuracy == accuracy.max(-1, keepdims=True)
    every = useful.any((0, 1)) if useful.any(-1).all() else world.option_mask.any((0, 1))
    return torch.as_tensor(np.flatnonzero(every))


def _noisy_candidates(noisy: int, outputs: Tensor, mask: Tensor, count: int, keys: Tensor, call: int) -> Tensor:
    """Return candidates [L, W, S, K], some of them with Gumbel's noise (`imitation.Candidates`)."""
    if not noisy:
        return decision_candidates(outputs, mask, count)
    shape = (outputs.shape[1], noisy, *outputs.shape[2:])
    noise = -(-uniform(keys, call, shape).clamp(1e-6, 1 - 1e-6).log()).log()
    return decision_candidates(outputs, mask, count, noise)


def _same(features: Tensor) -> Tensor:
    return features


def _offload_world(compiled: Compiled) -> OffloadWorld:
    if not isinstance(compiled.world, OffloadWorld):
        raise TrainingError(f"scenario {compiled.world.name}: this scheme learns in environment offload only")
    return compiled.world

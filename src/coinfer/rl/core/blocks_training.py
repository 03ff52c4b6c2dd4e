"""Training of learners that place every block: what the schemes of environment `blocks` share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer.errors import TrainingError
from coinfer.policies.learned.actor_critic import ActorCriticForm, ActorCriticNet
from coinfer.policies.learned.blocks.features import FEATURES, BlocksFeatures, BlocksHeads, width
from coinfer.policies.learned.blocks.place_scores import PlaceScores, predicted_state
from coinfer.policies.learned.blocks.policy import BlocksNetPolicy
from coinfer.rl.core.envs.blocks import BlocksEnv
from coinfer.rl.core.loop import AnyLearner, Loop, LoopSettings
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.compile import Compiled
from coinfer.scenario.spec import LateReward
from coinfer.scenario.world import BlocksWorld

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LearnerSettings = TypeVar("LearnerSettings", bound="DataclassInstance")
MAX_JOINT = 20_000
"""Choices of one joint head at most: 6 blocks on 4 servers have 15,625, 7 blocks 78,125, 6 blocks on 6 servers
117,649."""


@dataclass(frozen=True)
class BlocksSettings(Generic[LearnerSettings]):
    """Settings of a training: loop, state, networks and learner."""

    learner: LearnerSettings
    worlds: int = 4
    """Worlds of each learner or worker."""
    rounds: int = 600
    """Slots that each world plays in the whole training."""
    trunk: tuple[int, ...] = (128, 64)
    """Widths of the trunk's layers."""
    head: tuple[int, ...] = ()
    """Widths of the hidden layers of each head."""
    trunks: Literal["shared", "tied", "apart"] = "shared"
    """As in `ActorCriticNet`."""
    state: Literal["paper", "queues", "predicted"] = "queues"
    """What networks see: `paper_state` or `queue_state` of `blocks.features`; `predicted` stands for `place_scores`,
    state and network, whose hidden layers are then `trunk`."""
    joint: bool = False
    """Whether one head chooses among all placements of a task, instead of a head for each block."""
    sampled: bool = False
    """Whether trained policies draw their choices, instead of taking the most probable ones."""
    coherent: bool = True
    """Whether heads of a task draw with one number, as in `rl.core.on_policy`."""
    others: float = 0.3
    """Part of each task's reward that is the mean of its slot, as in `BlocksEnv`."""
    imposed: float = 0.0
    """Weight of the time that a task makes others wait in its own reward, as in `BlocksEnv`."""
    marginal: bool = False
    """Whether that time is the exact one, as in `BlocksEnv`."""
    log_every: int = 20
    assess_every: int = 0
    """Rounds between two assessments on held-out worlds; 0 for one at the end only."""
    assess_rounds: int = 10
    """Slots that an assessment plays."""
    warmup: int = 0
    """Rounds of random choices before the first update; 0 for on-policy learners."""
    batch: int = 256
    """Slots that a learner with a memory samples for an update."""
    capacity: int = 4000
    """Slots that a memory holds."""


@dataclass(frozen=True)
class BlocksJob(Generic[LearnerSettings]):
    """Description of a training, for every process that takes part in it."""

    settings: BlocksSettings[LearnerSettings]
    world: BlocksWorld
    late_weight: float
    """Weight of the time after the limits."""
    seeds: list[int]
    """L seeds of learners."""
    device: str = "cpu"
    """PyTorch device of learners and worlds."""
    threads: int = 1
    """Threads of PyTorch in each process."""

    def learner_seeds(self) -> Tensor:
        """Return the learners' seeds, [L] int64."""
        return torch.tensor(self.seeds, dtype=torch.int64, device=self.device)

    def env(self, features: BlocksFeatures, heads: BlocksHeads, *, by_head: bool = False) -> BlocksEnv:
        """Return the worlds of the learners.

        Args:
            features: maps an observation to the inputs of the networks.
            heads: what the choices of the networks' heads mean.
            by_head: as in `BlocksEnv`.
        """
        chosen = self.settings
        weights = (self.late_weight, chosen.others, chosen.imposed)
        ways = {"by_head": by_head, "marginal": chosen.marginal}
        return BlocksEnv(self.world, chosen.worlds, features, heads, *weights, self.device, **ways)


MakePlayer = Callable[[BlocksJob[Any]], AbstractContextManager[Callable[[Loop[Any]], None]]]
"""Returns a context manager that yields a function in place of `Loop.play`."""


def with_rounds(settings: BlocksSettings[LearnerSettings], rounds: int) -> BlocksSettings[LearnerSettings]:
    """Return settings whose loop plays a number of rounds, with some ten assessments.

    Args:
        settings: the settings to change; the learner's settings stay as they are.
        rounds: at least 1.
    """
    return replace(settings, rounds=rounds, assess_every=max(1, rounds // 10), log_every=max(1, rounds // 50))


def train_on_blocks(
    scheme: str,
    settings: TrainSettings,
    chosen: BlocksSettings[LearnerSettings],
    make_learner: Callable[[ActorCriticForm, Tensor], AnyLearner],
    weights: Callable[[AnyLearner], Tensor],
    *,
    play: Callable[[Loop[AnyLearner]], None] = Loop.play,
    make_player: MakePlayer | None = None,
    chunk: int = 1,
    by_head: bool = False,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train learners in a scenario of environment `blocks`, with the reward of multi-task A3C.

    Args:
        scheme: name that the result carries.
        settings: scenario, seeds and device; `preset` is only recorded.
        chosen: settings of loop, networks and learner.
        make_learner: makes the learner from the form of its networks and the seeds [L].
        weights: returns the parameters [L, P] of a learner's networks that decide.
        play: plays one or several rounds of the loop.
        make_player: has workers in other processes play instead; None to play in this one.
        chunk: rounds that `play` plays at once; curves and assessments are at multiples of it.
        by_head: whether rewards are those of heads instead of tasks.
        options: as in `RunOptions`.

    Returns:
        The trained policies, one for each seed, with their curves.

    Raises:
        UserError: if the scenario, a change or the folder is not valid.
    """
    compiled, world = settings.open_blocks()
    features, net, heads = network_of(world, chosen)
    learner = make_learner(net, settings.learner_seeds())
    workers = len(learner.keys) // settings.seeds
    rounds = chosen.rounds if settings.steps is None else max(1, settings.steps // (chosen.worlds * workers))
    chosen = chosen if settings.steps is None else with_rounds(chosen, rounds)
    seeds, threads = settings.learner_seeds().tolist(), torch.get_num_threads()
    job = BlocksJob(chosen, world, _late_weight(compiled), seeds, settings.device, threads)
    loop = Loop(_loop_settings(chosen, chunk), job.env(features, heads, by_head=by_head), learner)

    def make_policies(one: AnyLearner) -> tuple[nn.Module, ...]:
        rows = weights(one).detach()
        draws = {"sampled": chosen.sampled, "coherent": chosen.coherent}
        return tuple(BlocksNetPolicy(net, row, features, heads, **draws) for row in rows)

    record = settings_record(settings, scheme, world, chosen)
    with make_player(job) if make_player else nullcontext(play) as play_loop:
        return train_loop(scheme, loop, make_policies, record, options_by_index=False, play=play_loop, **options)


def network_of(
    world: BlocksWorld, chosen: BlocksSettings[LearnerSettings]
) -> tuple[BlocksFeatures, ActorCriticForm, BlocksHeads]:
    """Return the inputs of the networks, their form, and what the choices of their heads mean.

    Args:
        world: a compiled scenario.
        chosen: settings of a training.

    Raises:
        TrainingError: as for `heads_of`.
    """
    predicted = chosen.state == "predicted"
    heads = heads_of(world, joint=chosen.joint or predicted, one_cut=predicted)
    if predicted:
        return predicted_state, PlaceScores(chosen.trunk), heads
    features = FEATURES[chosen.state]
    inputs = width(features, world.blocks, world.edge.servers)
    form = (chosen.trunk, chosen.head, chosen.trunks)
    return features, ActorCriticNet(inputs, heads.heads, heads.choices, world.edge.tasks, True, *form), heads


def heads_of(world: BlocksWorld, *, joint: bool, one_cut: bool = False) -> BlocksHeads:
    """Return the heads of a network for a world.

    Args:
        world: a compiled scenario.
        joint: whether one head chooses among all placements.
        one_cut: whether only among those with at most one cut.

    Raises:
        TrainingError: if one head would have more than `MAX_JOINT` choices.
    """
    heads = BlocksHeads(world.blocks, world.edge.servers, joint, one_cut)
    if heads.choices > MAX_JOINT:
        ways = f"{world.blocks} blocks on {world.edge.servers} servers have {heads.choices:,} placements"
        raise TrainingError(f"scenario {world.name}: {ways}; one joint head takes {MAX_JOINT:,}, mtl-a3c takes more")
    return heads


def _loop_settings(chosen: BlocksSettings[LearnerSettings], chunk: int) -> LoopSettings:
    """Return the loop's settings, with curves and assessments at multiples of a chunk."""

    def multiple(every: int) -> int:
        return -(-every // chunk) * chunk

    return LoopSettings(
        chosen.rounds,
        chosen.warmup,
        chosen.capacity,
        chosen.batch,
        log_every=multiple(chosen.log_every),
        assess_every=multiple(chosen.assess_every),
        assess_rounds=chosen.assess_rounds,
    )


def _late_weight(compiled: Compiled) -> float:
    return compiled.reward.weight if isinstance(compiled.reward, LateReward) else 0.0

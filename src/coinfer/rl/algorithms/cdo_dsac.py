"""CDO-DSAC (Xu, Chen, Tu; SEKE 2023, DOI 10.18293/SEKE2023-150): k soft actor-critic agents that explore in parallel,
share what they saw, and from time to time take over the best one's parameters. Seeds and agents are batched: learner
l is agent l % k of seed l // k, and everything is one batch.

What the printed algorithm leaves open, and what we do:
- The actor gives a Gaussian, then tanh, then a step to 0 or 1, which has no gradient and may pick no server or several.
  Here: a categorical for every task (`rl.algorithms.sac`), which is what "there is only one e_i = 1" asks for.
- Equation 5 has no entropy in the target; with it (discrete SAC, reference 14) equations 2 and 3 are what is learned.
- The target actor of equation 8 is used nowhere in the printed losses; discrete SAC needs none, and there is none.
- Each agent's memory D_e is uploaded to the shared D before anything is drawn; here a slot is uploaded at once, so
  agent i's own memory is the part of D that it wrote (every k-th block of W records).
- Equation 1 rewards the slot's sum. Here every task learns from its own latency and an even share of the future, the
  agents' common goal being the same sum: with one number for some 16 tasks, most of what a task sees is the others.
- The largest average return is not believed but measured on common worlds (`rl.core.broadcast`).
- omega counts episodes in the paper; here it counts updates.
- Discount 0.99 over rewards that are never 0 gives values of which an action changes a thousandth. So rewards are
  centred: less the running mean reward per task (Naik et al. 2024, "Reward centering"). Which action is best stays.
- The state is not normalised in the paper. Preset `paper` has its network (256, 512, 256 over the whole state, side by
  side) and Table I; the other presets score every placement of every task with one small network, which knows what the
  physics predicts of it (`policies.learned.placements`), and have a discount of 0.8: a slot's work is done within some
  ten slots.
- Tasks that choose at once cannot agree who takes which of several equal servers, and with drawn choices none of them
  can rely on what the physics predicts of the tasks ahead; learning then drifts away from a good start. So the inputs
  tell each task which placement that prediction has it take: what all can agree on. It is these inputs that make the
  difference, not the training: the best of a few random networks is nearly as good, and neither several agents nor
  their shared memory nor the broadcast gained anything that could be seen (experiments/cdo-dsac).
- Target entropy H_0, memory, batch and length of an episode are not given: see `CdoSettings`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placement_policy import (
    Form,
    MakeFeatures,
    MakePlacements,
    PlacementNet,
    features_for,
    flat_inputs,
    placements_for,
    policies_of,
)
from coinfer.policies.learned.placements import PLACEMENT_FEATURES, joint
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.batched_optim import add_prefix, strip_prefix
from coinfer.rl.core.broadcast import best_learners, broadcast, select_best
from coinfer.rl.core.loop import Loop, LoopSettings, assess
from coinfer.rl.core.placement_env import PlacementEnv, trim_tasks
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld

_JUDGED = 200


@dataclass(frozen=True)
class CdoSettings:
    """Defaults are preset `quick`."""

    agents: int = 5
    """k, one for each edge server in the paper."""
    worlds: int = 2
    """Of each agent."""
    rounds: int = 1000
    """Slots that each world plays."""
    update_every: int = 2
    """Rounds to an update."""
    batch: int = 16
    """Slots that an agent samples for an update."""
    memory: int = 1500
    """Slots in the shared memory of a seed. A task's value depends on what the others do, so old slots mislead."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""
    form: Form = "places"
    """`places`: a shared network scores every placement; `flat`: the paper's, over the whole state; `ranked`: the same
    with the servers by rising load, in the state and in the choices."""
    running_queues: bool = True
    """Whether the inputs know the running queues (`policies.learned.placements.running_s`), or those at the slot's
    beginning."""
    cuts: Literal["fixed", "joint"] = "fixed"
    """`fixed`: CDLP's; `joint`: the agent chooses among CDLP's surviving options too (CIAS-PnO, our variant)."""
    broadcast_every: int = 50
    """omega, in updates; 0 for never."""
    judge_rounds: int = 25
    """Slots that the updater plays in each world to judge an agent."""
    judge_worlds: int = 4
    centring: float = 0.005
    """Weight of the newest batch in the running mean reward; 0 for no centring."""
    assess_every: int = 50
    """Rounds to an assessment on held-out worlds."""
    warmup: int = 20
    """Rounds of random choices."""
    sac: SacSettings = field(
        default_factory=lambda: SacSettings(
            gamma=0.8,
            tau=0.01,
            actor_learning_rate=1e-3,
            critic_learning_rate=1e-3,
            temperature_learning_rate=1e-2,
            initial_temperature=0.05,
            target_entropy=(0.3, 0.02),
            target_entropy_updates=300,
            learning_rate_decay=(250, 500),
        )
    )


PAPER = CdoSettings(
    rounds=1_000_000,
    update_every=1,
    batch=256,
    memory=100_000,
    hidden=(256, 512, 256),
    form="flat",
    broadcast_every=1000,
    assess_every=10_000,
    sac=SacSettings(
        gamma=0.99, tau=5e-3, actor_learning_rate=1e-4, critic_learning_rate=3e-4, temperature_learning_rate=1e-4,
        initial_temperature=0.2, target_entropy=(0.4, 0.4),
    ),
)  # fmt: skip
"""Table I; 10^5 episodes of 100 slots in ten worlds are a million rounds."""
PRESETS = {"quick": CdoSettings(), "paper": PAPER}


def preset(name: str, **changes: Any) -> CdoSettings:
    """Return a preset with other values for some settings."""
    return replace(PRESETS[name], **changes)


def with_rounds(settings: CdoSettings, rounds: int) -> CdoSettings:
    """Return settings for so many rounds: the target entropy falls over 60 % of them, learning rates (if they decay at
    all) over the second half."""
    rounds = max(1, rounds)
    updates = max(1, rounds // settings.update_every)
    sac = replace(settings.sac, target_entropy_updates=max(1, int(0.6 * updates)))
    if sac.learning_rate_decay is not None:
        sac = replace(sac, learning_rate_decay=(updates // 2, updates))
    return replace(settings, rounds=rounds, assess_every=max(10, rounds // 20), sac=sac)


class CdoDsac:
    """S * k agents as one learner of `rl.core.loop`.

    Args:
        keys: [S * k] int64, where the agents' random numbers come from.
        judge_env: the worlds in which the updater judges the agents.
    """

    def __init__(self, settings: CdoSettings, actor: Net, critic: Net, keys: Tensor, judge_env: PlacementEnv):
        self.settings, self.keys, self.judge_env = settings, keys, judge_env
        self.sac = Sac(settings.sac, actor, critic, keys)
        self.mean_reward = torch.zeros(len(keys), device=keys.device)
        self.centred = torch.zeros((), device=keys.device)
        """Batches that were centred."""
        self.broadcast_count = torch.zeros(len(keys), device=keys.device)
        """How often each agent's parameters were broadcast."""

    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [S * k, W, K]."""
        return self.sac.act(observation, call, explore)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Learn from one batch, broadcast if it is time, and return metrics [S * k]."""
        if self.settings.form == "places":
            batch = trim_tasks(batch)
        metrics = self.sac.update(self._centre(batch))
        every = self.settings.broadcast_every
        if every and self.sac.updates % every == 0:
            self.broadcast()
        return metrics

    def broadcast(self, reported: Tensor | None = None) -> None:
        """Judge all agents and copy each seed's best over the others.

        Args:
            reported: [S * k] returns that the agents report of themselves.
        """
        selection = select_best(self.measure, self.settings.agents, reported)
        source, target = broadcast(selection)
        self.sac.copy(source, target)
        self.broadcast_count[best_learners(selection)] += 1

    def measure(self) -> Tensor:
        """Return returns [S * k] on worlds that are new at every judgement and the same for all agents; NaN for an
        agent with a parameter that is not finite, however well its first choice may do."""
        seed = _JUDGED + self.sac.updates
        returns = assess(self.judge_env, self, self.settings.judge_rounds, seed=seed)["reward"]
        return torch.where(self.sac.all_finite(), returns, torch.nan)

    @torch.no_grad()
    def _centre(self, batch: Transition) -> Transition:
        if not self.settings.centring:
            return batch
        task_mask = batch.task_mask.to(batch.reward.dtype)
        now = batch.reward.sum((1, 2)) / task_mask.sum((1, 2)).clamp(min=1)
        self.centred += 1
        weight = torch.maximum(1 / self.centred, torch.full_like(self.centred, self.settings.centring))
        self.mean_reward += weight * (now - self.mean_reward)
        return batch._replace(reward=batch.reward - self.mean_reward[:, None, None] * task_mask)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold, by name."""
        own = {"mean_reward": self.mean_reward, "centred": self.centred, "broadcast_count": self.broadcast_count}
        return add_prefix("sac", self.sac.tensors()) | own

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        self.sac.restore(strip_prefix("sac", tensors))
        self.mean_reward.copy_(tensors["mean_reward"])
        self.centred.copy_(tensors["centred"])
        self.broadcast_count.copy_(tensors["broadcast_count"])


def best_agents(learner: CdoDsac) -> Tensor:
    """Return the learner [S] that each seed ships: the one that the updater would broadcast now."""
    return best_learners(select_best(learner.measure, learner.settings.agents))


def placements_of(settings: CdoSettings) -> MakePlacements:
    """Return what the tasks choose from."""
    return joint if settings.cuts == "joint" else placements_for(settings.form)


def features_of(settings: CdoSettings, max_tasks: int | None = None) -> MakeFeatures:
    """Return what the networks take in; `max_tasks` as in `policies.learned.placements.running_s`."""
    return features_for(settings.form, settings.running_queues, max_tasks)


def make_net(settings: CdoSettings, world: OffloadWorld, last_gain: float = 1.0) -> Net:
    """Return the form of actor and critics; `last_gain` as in `policies.learned.nets.Mlp`."""
    if settings.form == "places":
        return PlacementNet(PLACEMENT_FEATURES, settings.hidden, last_gain)
    edge = world.edge
    places = edge.servers + 1 if settings.cuts == "fixed" else edge.servers * world.options
    return Mlp(flat_inputs(edge.tasks, edge.servers), settings.hidden, edge.tasks, places, last_gain=last_gain)


def share_memory(agents: int) -> Callable[[Transition], Transition]:
    """Return the map from steps of S * k agents [S * k, W, ..] to those of S memories [S, k * W, ..]."""
    return lambda step: Transition(*(part.unflatten(0, (-1, agents)).flatten(1, 2) for part in step))


def make_loop(
    settings: CdoSettings,
    world: OffloadWorld,
    seeds: Tensor,
    device: str | torch.device = "cpu",
    agent: int | None = None,
) -> Loop[CdoDsac]:
    """Return everything that trains S seeds, ready for `rl.core.loop.run`.

    Args:
        seeds: [S] int64.
        agent: only this agent of each seed, as it is beside the others; it broadcasts nothing
            (`rl.distributed.coordinator`).
    """
    agents = torch.arange(settings.agents, device=device)
    if agent is not None:
        agents, settings = agents[agent : agent + 1], replace(settings, agents=1, broadcast_every=0)
    keys = random.key(seeds.to(device)[:, None], agents).flatten()

    def make_env(worlds: int) -> PlacementEnv:
        return PlacementEnv(world, worlds, features_of(settings), placements_of(settings), device)

    actor, critic = make_net(settings, world, last_gain=0.1), make_net(settings, world)
    learner = CdoDsac(settings, actor, critic, keys, make_env(settings.judge_worlds))
    loop_settings = LoopSettings(
        rounds=settings.rounds,
        warmup=settings.warmup,
        capacity=settings.memory,
        batch=settings.batch,
        update_every=settings.update_every,
        log_every=settings.assess_every,
        assess_every=settings.assess_every,
    )
    ring = torch.arange(len(keys), device=device) // settings.agents
    return Loop(loop_settings, make_env(settings.worlds), learner, share_memory(settings.agents), ring)


class TrainingJob(NamedTuple):
    """What every process that takes part in a training must know."""

    settings: CdoSettings
    world: OffloadWorld
    seeds: list[int]
    """S"""
    device: str = "cpu"
    threads: int = 1
    """Of PyTorch, in each process."""

    def loop(self, agent: int | None = None) -> Loop[CdoDsac]:
        """Return the loop of all agents, or of one agent of each seed."""
        seeds = torch.tensor(self.seeds, dtype=torch.int64, device=self.device)
        return make_loop(self.settings, self.world, seeds, self.device, agent)


MakePlayer = Callable[[TrainingJob], AbstractContextManager[Callable[[Loop[CdoDsac]], None]]]


def train(
    settings: TrainSettings,
    *,
    scheme: str = "cdo-dsac",
    cuts: Literal["fixed", "joint"] = "fixed",
    make_player: MakePlayer | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train as many agents as `CdoSettings` has; a seed ships the one that does best on common worlds.

    Agents learn from each task's latency, whatever the scenario's reward is. A step is a decided slot; a seed's worlds
    decide side by side, and so do its agents.

    Args:
        scheme: the name that the result carries.
        cuts: as in `CdoSettings`.
        make_player: plays elsewhere, with the loop kept here: `rl.distributed.ray_workers.cluster_player`.
        options: as in `RunOptions`.

    Raises:
        UserError: if scenario, preset or folder are not as they must be; one line.
    """
    _, world = settings.open()
    chosen = replace(settings.named_preset(PRESETS), cuts=cuts)
    if settings.steps is not None:
        chosen = with_rounds(chosen, settings.steps // (chosen.agents * chosen.worlds))
    record = settings_record(settings, scheme, world, chosen)

    def make_policies(learner: CdoDsac) -> tuple[nn.Module, ...]:
        rows = learner.sac.actor_flat.detach()[best_agents(learner)].cpu()
        return policies_of(learner.sac.actor, rows, features_of(chosen, world.edge.tasks), placements_of(chosen))

    seeds = settings.learner_seeds()
    if make_player is None:
        return train_loop(scheme, make_loop(chosen, world, seeds, settings.device), make_policies, record, **options)
    loop = make_loop(chosen, world, seeds.cpu())
    with make_player(TrainingJob(chosen, world, seeds.tolist(), settings.device, torch.get_num_threads())) as play:
        return train_loop(scheme, loop, make_policies, record, play=play, **options)

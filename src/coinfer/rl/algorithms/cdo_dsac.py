"""CDO-DSAC (Xu, Chen, Tu; SEKE 2023, DOI 10.18293/SEKE2023-150): k soft actor-critic agents that explore in parallel,
share what they saw, and from time to time take over the best one's parameters. Seeds and agents are stacked: learner
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
  side) and Table I; the other presets score every place of every task with one small network, which knows what the
  physics predicts of it (`policies.learned.placements`), and have a discount of 0.8: a slot's work is
  done within some ten slots.
- Tasks that choose at once cannot agree who takes which of several equal servers, and with drawn choices none of them
  can rely on what the physics predicts of the tasks ahead; learning then drifts away from a good start. So the inputs
  tell each task which place that prediction has it take: what all can agree on. It is these inputs that make the
  difference, not the training: the best of a few random networks is nearly as good, and neither several agents nor
  their shared memory nor the broadcast gained anything that could be seen (experiments/cdo-dsac).
- Target entropy H_0, memory, batch and length of an episode are not given: see `CdoSettings`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placement_policy import MakeFeatures, PlacementNet, features_for, placements_for
from coinfer.policies.learned.placements import PLACEMENT_FEATURES, Placements, joint
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.batched_optim import add_prefix, strip_prefix
from coinfer.rl.core.broadcast import broadcast, select_best
from coinfer.rl.core.loop import Loop, LoopSettings, assess
from coinfer.rl.core.placement_env import PlacementEnv, trim_tasks
from coinfer.rl.core.records import Observation, Transition
from coinfer.scenario.world import OffloadWorld
from coinfer.types import OffloadObservation

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
    """Slots that an agent draws for an update."""
    memory: int = 1500
    """Slots in the shared memory of a seed. A task's value depends on what the others do, so old slots mislead."""
    hidden: tuple[int, ...] = (32, 32)
    form: str = "places"
    """`places`: a shared network scores every place; `flat`: the paper's, over the whole state; `ranked`: the same with
    the servers by rising load, in the state and in the choices."""
    running_queues: bool = True
    """Whether the inputs know the running queues (`policies.learned.placements.running_s`), or those at the
    slot's beginning."""
    cuts: str = "fixed"
    """`fixed`: CDLP's; `joint`: the agent chooses among CDLP's surviving options too (CIAS-PnO, our variant)."""
    broadcast_every: int = 50
    """omega, in updates; 0 for never."""
    judge_rounds: int = 25
    judge_worlds: int = 4
    centring: float = 0.005
    """Share of the way that the mean reward goes in an update; 0 for none."""
    assess_every: int = 50
    warmup: int = 20
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


def with_rounds(settings: CdoSettings, rounds: int) -> CdoSettings:
    """The same with so many rounds, the wanted entropy falling over 60 % of them; where the rates fall, over the second
    half."""
    rounds = max(1, rounds)
    updates = max(1, rounds // settings.update_every)
    sac = replace(settings.sac, target_entropy_updates=max(1, int(0.6 * updates)))
    if sac.learning_rate_decay is not None:
        sac = replace(sac, learning_rate_decay=(updates // 2, updates))
    return replace(settings, rounds=rounds, assess_every=max(10, rounds // 20), sac=sac)


class CdoDsac:
    """S * k agents as one learner of `rl.core.loop`."""

    def __init__(self, settings: CdoSettings, actor: Net, critic: Net, keys: Tensor, judge: PlacementEnv):
        self.settings, self.keys, self.judge = settings, keys, judge
        self.sac = Sac(settings.sac, actor, critic, keys)
        self.mean_reward = torch.zeros(len(keys), device=keys.device)
        self.centred = torch.zeros((), device=keys.device)
        self.broadcast_count = torch.zeros(len(keys), device=keys.device)
        """How often each agent's parameters were broadcast."""

    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        return self.sac.act(observation, call, explore)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        if self.settings.form == "places":
            batch = trim_tasks(batch)
        metrics = self.sac.update(self._centre(batch))
        every = self.settings.broadcast_every
        if every and self.sac.updates % every == 0:
            self.broadcast()
        return metrics

    def broadcast(self, reported: Tensor | None = None) -> None:
        """Judges all agents and copies each seed's best over the others."""
        selection = select_best(self.measure, self.settings.agents, reported)
        source, to = broadcast(selection)
        self.sac.copy(source, to)
        best = selection.best + torch.arange(len(selection.best), device=selection.best.device) * self.settings.agents
        self.broadcast_count[best] += 1

    def measure(self) -> Tensor:
        """Returns [S * k] on worlds that are new at every judgement and the same for all agents; NaN for networks that
        hold what is no number, however well their first choice may do."""
        returns = assess(self.judge, self, self.settings.judge_rounds, seed=_JUDGED + self.sac.updates)["reward"]
        return torch.where(self.sac.all_finite(), returns, torch.nan)

    @torch.no_grad()
    def _centre(self, batch: Transition) -> Transition:
        if not self.settings.centring:
            return batch
        task_mask = batch.task_mask.to(batch.reward.dtype)
        now = batch.reward.sum((1, 2)) / task_mask.sum((1, 2)).clamp(min=1)
        self.centred += 1
        share = torch.maximum(1 / self.centred, torch.full_like(self.centred, self.settings.centring))
        self.mean_reward += share * (now - self.mean_reward)
        return batch._replace(reward=batch.reward - self.mean_reward[:, None, None] * task_mask)

    def tensors(self) -> dict[str, Tensor]:
        own = {"mean_reward": self.mean_reward, "centred": self.centred, "broadcast_count": self.broadcast_count}
        return add_prefix("sac", self.sac.tensors()) | own

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.sac.restore(strip_prefix("sac", tensors))
        for name in ("mean_reward", "centred", "broadcast_count"):
            getattr(self, name).copy_(tensors[name])


def best_agents(learner: CdoDsac) -> Tensor:
    """[S] numbers of the learners that each seed ships: what the updater would broadcast now."""
    selection = select_best(learner.measure, learner.settings.agents)
    return selection.best + torch.arange(len(selection.best), device=selection.best.device) * learner.settings.agents


def placements_of(settings: CdoSettings) -> Callable[[OffloadObservation], Placements]:
    return joint if settings.cuts == "joint" else placements_for(settings.form)


def features_of(settings: CdoSettings, most: int | None = None) -> MakeFeatures:
    """`most` as of `policies.learned.placements.running_s`."""
    return features_for(settings.form, settings.running_queues, most)


def make_net(settings: CdoSettings, world: OffloadWorld, last_gain: float = 1.0) -> Net:
    if settings.form == "places":
        return PlacementNet(PLACEMENT_FEATURES, settings.hidden, last_gain)
    edge = world.edge
    inputs = edge.tasks * (4 + edge.servers) + 2 * edge.servers
    places = edge.servers + 1 if settings.cuts == "fixed" else edge.servers * world.options
    return Mlp(inputs, settings.hidden, edge.tasks, places, last_gain=last_gain)


def share_memory(agents: int) -> Callable[[Transition], Transition]:
    """From steps of S * k agents [S * k, W, ..] to those of S memories [S, k * W, ..]."""
    return lambda step: Transition(*(part.unflatten(0, (-1, agents)).flatten(1, 2) for part in step))


def make_loop(
    settings: CdoSettings,
    world: OffloadWorld,
    seeds: Tensor,
    device: str | torch.device = "cpu",
    only: int | None = None,
) -> Loop:
    """Everything that trains S seeds [S], ready for `rl.core.loop.run`.

    Args:
        only: this agent of each seed alone, as it is beside the others; it broadcasts nothing
            (`rl.distributed.coordinator`).
    """
    agents = torch.arange(settings.agents, device=device)
    if only is not None:
        agents, settings = agents[only : only + 1], replace(settings, agents=1, broadcast_every=0)
    keys = random.key(seeds.to(device)[:, None], agents).flatten()

    def make_env(worlds: int) -> PlacementEnv:
        return PlacementEnv(world, worlds, features_of(settings), placements_of(settings), device)

    actor, critic = make_net(settings, world, last_gain=0.1), make_net(settings, world)
    learner = CdoDsac(settings, actor, critic, keys, make_env(settings.judge_worlds))
    of_loop = LoopSettings(
        rounds=settings.rounds,
        warmup=settings.warmup,
        capacity=settings.memory,
        batch=settings.batch,
        update_every=settings.update_every,
        log_every=settings.assess_every,
        assess_every=settings.assess_every,
    )
    ring = torch.arange(len(keys), device=device) // settings.agents
    return Loop(of_loop, make_env(settings.worlds), learner, share_memory(settings.agents), ring)


def preset(name: str, **changes: Any) -> CdoSettings:
    return replace(PRESETS[name], **changes)

"""CDO-DSAC (Xu, Chen, Tu; SEKE 2023, DOI 10.18293/SEKE2023-150): k soft actor-critic agents explore in parallel, share
their replay memory, and from time to time copy the best agent's parameters. Seeds and agents are one batch: learner l
is agent l % k of seed l // k.

Our choices where the printed algorithm is incomplete, and departures from it:
- The paper's actor returns a Gaussian, then tanh, then a step to 0 or 1, which has no gradient and may choose no server
  or several. Here it is a categorical for every task (`rl.algorithms.sac`), as "there is only one e_i = 1" requires.
- Equation 5 has no entropy in the target; with the entropy (discrete SAC, reference 14) the agents learn equations 2
  and 3.
- The target actor of equation 8 does not occur in the printed losses; discrete SAC needs none, so we have none.
- In the paper, each agent uploads its memory D_e to the shared D before it samples; here it uploads every slot at once,
  so agent i's own memory is the part of D that it wrote (every k-th block of W records).
- Equation 1 rewards the slot's sum. Here every task learns from its own latency and an even share of the future; the
  agents' common goal is the same sum. With one number for some 16 tasks, most of a task's reward is the others' doing.
- The updater does not believe the reported returns but measures them on common worlds (`rl.core.broadcast`).
- Algorithm 1 makes one update for each pass of its outer loop, which we read as an episode of unknown length. In preset
  `paper` an episode is one slot in each of an agent's ten worlds, which go on for 100 slots; then every agent learns
  once, so omega counts both. Elsewhere omega counts updates.
- With discount 0.99 and rewards that are never 0, an action changes about a thousandth of a value. So the running mean
  reward per task is subtracted (Naik et al. 2024, "Reward centering"), which keeps the best action.
- The state is not normalised in the paper. Preset `paper` has its network (256, 512, 256 over the whole state, side by
  side) and Table I; preset `quick` scores every placement of every task with one small network, whose inputs include
  predictions of the physics (`policies.learned.placement.placements`), and has a discount of 0.8: a slot's work is done
  within some ten slots.
- Tasks that choose at the same time cannot agree which of them takes which of several equal servers, and as choices are
  drawn, no task can rely on the predicted choices of the tasks ahead; learning then drifts away from a good start. So
  the inputs include the placement that the prediction assigns to each task, on which all of them can agree. These
  inputs make most of the difference: the best of 21 random networks, though not a single one, is nearly as good as what
  training ends with, and neither several agents nor their shared memory nor the broadcast gained anything measurable
  (experiments/cdo-dsac).
- Target entropy H_0, memory, batch and length of an episode are not given: see `CdoSettings`. The batch of `paper` is
  64, as 256 take three times as long.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placement.placements import PLACEMENT_FEATURES, joint
from coinfer.policies.learned.placement.policy import (
    Form,
    MakeFeatures,
    MakePlacements,
    PlacementNet,
    features_for,
    flat_inputs,
    placements_for,
    policies_of,
)
from coinfer.rl.algorithms.sac import Sac, SacSettings
from coinfer.rl.core.batched_optim import add_prefix, strip_prefix
from coinfer.rl.core.broadcast import best_learners, broadcast, select_best
from coinfer.rl.core.envs.placements import PlacementEnv, trim_tasks
from coinfer.rl.core.loop import Loop, LoopSettings, assess
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld

_JUDGED = 200


@dataclass(frozen=True)
class CdoSettings:
    """Defaults are preset `quick`."""

    agents: int = 5
    """k; one agent for each edge server in the paper."""
    worlds: int = 2
    """Worlds of each agent."""
    rounds: int = 1000
    """Slots that each world plays."""
    update_every: int = 2
    """Rounds between two updates."""
    batch: int = 16
    """Slots that an agent samples for an update."""
    memory: int = 1500
    """Slots in the shared memory of a seed. A task's value depends on the others' choices, so old slots mislead."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""
    bfloat16: bool = False
    """As in `policies.learned.nets.Mlp`; not for `places`. Policies are exported without."""
    form: Form = "places"
    """`places`: a shared network scores every placement; `flat`: the paper's network over the whole state; `ranked`:
    the same with the servers in the order of their load, in the state and in the choices."""
    running_queues: bool = True
    """Whether the inputs count the tasks ahead in the slot (`policies.learned.placement.placements.running_s`), or only
    the queues at its beginning."""
    cuts: Literal["fixed", "joint"] = "fixed"
    """`fixed`: CDLP chooses the cuts; `joint`: the agent chooses among CDLP's surviving options too (CIAS-PnO, our
    variant)."""
    broadcast_every: int = 50
    """omega: updates between two broadcasts; 0 for none."""
    judge_rounds: int = 25
    """Slots that the updater plays in each world to judge an agent."""
    judge_worlds: int = 4
    """Worlds in which the updater judges an agent."""
    centring: float = 0.005
    """Weight of the newest batch in the running mean reward; 0 for no centring."""
    assess_every: int = 50
    """Rounds between two assessments on held-out worlds."""
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
    worlds=10,
    rounds=100_000,
    update_every=1,
    batch=64,
    memory=100_000,
    hidden=(256, 512, 256),
    bfloat16=True,
    form="flat",
    broadcast_every=1000,
    assess_every=1000,
    sac=SacSettings(
        gamma=0.99, tau=5e-3, actor_learning_rate=1e-4, critic_learning_rate=3e-4, temperature_learning_rate=1e-4,
        initial_temperature=0.2, target_entropy=(0.4, 0.4),
    ),
)  # fmt: skip
"""Table I; a round is an episode: a slot in each of ten worlds of an agent, and an update."""
PRESETS = {"quick": CdoSettings(), "paper": PAPER}


def with_rounds(settings: CdoSettings, rounds: int) -> CdoSettings:
    """Return settings whose training and schedules span a number of rounds.

    The target entropy changes over the first 60 % of the rounds; the learning rates fall over the second half, unless
    `learning_rate_decay` is None.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: slots that each world plays; less than 1 counts as 1.
    """
    rounds = max(1, rounds)
    updates = max(1, rounds // settings.update_every)
    sac = replace(settings.sac, target_entropy_updates=max(1, int(0.6 * updates)))
    if sac.learning_rate_decay is not None:
        sac = replace(sac, learning_rate_decay=(updates // 2, updates))
    return replace(settings, rounds=rounds, assess_every=max(10, rounds // 20), sac=sac)


class CdoDsac:
    """S * k agents as one learner of `rl.core.loop`.

    Args:
        settings: settings of the agents and the updater.
        actor: form of the actors' networks.
        critic: form of the critics' networks.
        keys: [S * k] int64 keys of the agents' random numbers.
        judge_env: the worlds in which the updater judges the agents.
    """

    def __init__(self, settings: CdoSettings, actor: Net, critic: Net, keys: Tensor, judge_env: PlacementEnv):
        self.settings, self.keys, self.judge_env = settings, keys, judge_env
        self.sac = Sac(settings.sac, actor, critic, keys)
        self.mean_reward = torch.zeros(len(keys), device=keys.device)
        self.centred = torch.zeros((), device=keys.device)
        """Number of centred batches."""
        self.broadcast_count = torch.zeros(len(keys), device=keys.device)
        """How often each agent's parameters were broadcast."""

    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return choices [S * k, W, K] int64.

        Args:
            observation: [S * k, W, ..] the worlds to decide in.
            call: number of this draw; the same call draws the same numbers.
            explore: whether to draw; if false, take the most probable choices.
        """
        return self.sac.act(observation, call, explore)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Update all agents once, and broadcast every `broadcast_every` updates.

        Args:
            batch: [S * k, n, ..] steps with rewards [S * k, n, K].

        Returns:
            Metrics [S * k] by name.
        """
        if self.settings.form == "places":
            batch = trim_tasks(batch)
        metrics = self.sac.update(self._centre(batch))
        every = self.settings.broadcast_every
        if every and self.sac.updates % every == 0:
            self.broadcast()
        return metrics

    def broadcast(self, reported: Tensor | None = None) -> None:
        """Judge all agents and copy each seed's best to the others.

        Args:
            reported: [S * k] returns that the agents report of themselves; they decide nothing.
        """
        selection = select_best(self.measure, self.settings.agents, reported)
        source, target = broadcast(selection)
        self.sac.copy(source, target)
        self.broadcast_count[best_learners(selection)] += 1

    def measure(self) -> Tensor:
        """Return the agents' returns [S * k] on worlds that are the same for all and new after every update; NaN for an
        agent with a parameter that is not finite."""
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
        """Return the learner's state for checkpoints, by name."""
        state = {"mean_reward": self.mean_reward, "centred": self.centred, "broadcast_count": self.broadcast_count}
        return add_prefix("sac", self.sac.tensors()) | state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        self.sac.restore(strip_prefix("sac", tensors))
        self.mean_reward.copy_(tensors["mean_reward"])
        self.centred.copy_(tensors["centred"])
        self.broadcast_count.copy_(tensors["broadcast_count"])


def placements_of(settings: CdoSettings) -> MakePlacements:
    """Return the function that lists the placements of the tasks.

    Args:
        settings: `cuts` and `form` decide.
    """
    return joint if settings.cuts == "joint" else placements_for(settings.form)


def features_of(settings: CdoSettings, max_tasks: int | None = None) -> MakeFeatures:
    """Return the function that computes the networks' inputs.

    Args:
        settings: `form` and `running_queues` decide.
        max_tasks: as in `policies.learned.placement.placements.running_s`.
    """
    return features_for(settings.form, settings.running_queues, max_tasks)


def make_net(settings: CdoSettings, world: OffloadWorld, last_gain: float = 1.0) -> Net:
    """Return the form of the actors' or critics' networks.

    Args:
        settings: `form`, `hidden`, `bfloat16` and `cuts` decide.
        world: the compiled scenario, for numbers of tasks, servers and options.
        last_gain: as in `policies.learned.nets.Mlp`.
    """
    if settings.form == "places":
        return PlacementNet(PLACEMENT_FEATURES, settings.hidden, last_gain)
    edge = world.edge
    places = edge.servers + 1 if settings.cuts == "fixed" else edge.servers * world.options
    inputs = flat_inputs(edge.tasks, edge.servers)
    return Mlp(inputs, settings.hidden, edge.tasks, places, last_gain=last_gain, bfloat16=settings.bfloat16)


def _share_memory(agents: int) -> Callable[[Transition], Transition]:
    """Return the function that maps steps [S * k, W, ..] of the agents to steps [S, k * W, ..] of S memories."""
    return lambda step: Transition(*(part.unflatten(0, (-1, agents)).flatten(1, 2) for part in step))


def make_loop(
    settings: CdoSettings,
    world: OffloadWorld,
    seeds: Tensor,
    device: str | torch.device = "cpu",
    agent: int | None = None,
) -> Loop[CdoDsac]:
    """Return the loop that trains S seeds, ready for `rl.core.loop.run`.

    Args:
        settings: settings of the agents and the training.
        world: the compiled scenario.
        seeds: [S] int64 seeds.
        device: PyTorch device of agents and worlds.
        agent: number of the only agent of each seed to train, with the random numbers that it has beside the others and
            without broadcasts (`rl.distributed.coordinator`); None for all agents.
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
    return Loop(loop_settings, make_env(settings.worlds), learner, _share_memory(settings.agents), ring)


class TrainingJob(NamedTuple):
    """Description of a training, for every process that takes part in it."""

    settings: CdoSettings
    world: OffloadWorld
    seeds: list[int]
    """S seeds."""
    device: str = "cpu"
    """PyTorch device of agents and worlds."""
    threads: int = 1
    """Threads of PyTorch in each process."""

    def loop(self, agent: int | None = None) -> Loop[CdoDsac]:
        """Return the loop of all agents, or of one agent of each seed.

        Args:
            agent: number of the agent; None for all.
        """
        seeds = torch.tensor(self.seeds, dtype=torch.int64, device=self.device)
        return make_loop(self.settings, self.world, seeds, self.device, agent)


MakePlayer = Callable[[TrainingJob], AbstractContextManager[Callable[[Loop[CdoDsac]], None]]]
"""Returns a context manager that yields a function in place of `Loop.play`."""


def train(
    settings: TrainSettings,
    *,
    scheme: str = "cdo-dsac",
    cuts: Literal["fixed", "joint"] = "fixed",
    make_player: MakePlayer | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train k agents for every seed; each seed exports the one with the greatest return on common worlds.

    Agents learn from each task's latency, whatever the scenario's reward is. `settings.steps` counts the slots that a
    seed's agents decide together.

    Args:
        settings: scenario, seeds, length and preset.
        scheme: name that the result carries.
        cuts: as in `CdoSettings`.
        make_player: has the agents play in other processes (`rl.distributed.ray_workers.cluster_player`); None to train
            in this one.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    _, world = settings.open()
    chosen = replace(settings.find_preset(PRESETS), cuts=cuts)
    if settings.steps is not None:
        chosen = with_rounds(chosen, settings.steps // (chosen.agents * chosen.worlds))
    record = settings_record(settings, scheme, world, chosen)

    def make_policies(learner: CdoDsac) -> tuple[nn.Module, ...]:
        best = best_learners(select_best(learner.measure, learner.settings.agents))
        rows = learner.sac.actor_flat.detach()[best].cpu()
        return policies_of(learner.sac.actor, rows, features_of(chosen, world.edge.tasks), placements_of(chosen))

    seeds = settings.learner_seeds()
    if make_player is None:
        return train_loop(scheme, make_loop(chosen, world, seeds, settings.device), make_policies, record, **options)
    loop = make_loop(chosen, world, seeds.cpu())
    with make_player(TrainingJob(chosen, world, seeds.tolist(), settings.device, torch.get_num_threads())) as play:
        return train_loop(scheme, loop, make_policies, record, play=play, **options)

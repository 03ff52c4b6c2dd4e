"""DDPG after Wu et al. (IEEE TII 2020, DOI 10.1109/TII.2020.3017573), the baseline of CDO-DSAC: one central agent. Its
deterministic actor has a tanh output for every task and placement; each task takes the allowed placement with the
greatest output. Gaussian noise explores; one critic judges state and outputs; both have target networks.

Of Wu's settings we keep noise 0.2, ReLU and tanh, tau and the learning rates; widths are those of CDO-DSAC, as its
paper says of its baselines (V.A). Our choices: memory and batch are those of CDO-DSAC; the reward is the slot's sum,
centred as in `rl.algorithms.cdo_dsac`; the noise falls to a quarter, and large outputs are penalised
(`output_penalty`). The rest of Wu's work (sampling rates, deficit queues, shares in closed form) belongs to its own
problem.

Form `flat` is the published one: the whole state, side by side. Form `ranked` is the same with equal servers in the
order of their load, as in Online RL's table; a fixed choice of places then already responds to the loads. Form `places`
has the inputs of CDO-DSAC, one small network that scores every place, and a critic that sums over tasks. With
`softmax_temperature` the critic judges the decision instead of the outputs that led to it. Tuning chose this
temperature, more updates in a round, and learning rates that decay (see experiments/cdo-dsac).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import Unpack

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placement.placements import PLACEMENT_FEATURES
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
from coinfer.rl.core.batched_optim import (
    MASKED,
    Adam,
    add_prefix,
    descend,
    interpolate,
    linear_decay,
    soft_update,
    strip_prefix,
    uniform,
)
from coinfer.rl.core.envs.placements import PlacementEnv
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.records import Observation, Transition
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings, settings_record, train_loop
from coinfer.scenario.world import OffloadWorld

_ACTOR, _CRITIC, _NOISE = range(3)


@dataclass(frozen=True)
class DdpgSettings:
    """Defaults are the published form with a short training."""

    worlds: int = 20
    """Worlds of each learner."""
    rounds: int = 2000
    """Slots that each world plays."""
    batch: int = 128
    """Slots sampled for an update."""
    memory: int = 10_000
    """Slots in the replay memory."""
    hidden: tuple[int, ...] = (256, 512, 256)
    """Widths of the hidden layers."""
    form: Form = "flat"
    """`flat`, `ranked` or `places`, see the module."""
    running_queues: bool = True
    """As in `cdo_dsac.CdoSettings`, for form `places`."""
    softmax_temperature: float | None = None
    """Temperature of a softmax over the actor's outputs, through which the actor gets its gradient; the critic then
    sees the decision, 1 at the placement of each task. None if the critic sees the outputs."""
    updates: int = 1
    """Updates in each round."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which both learning rates fall to 0; None if they stay."""
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    gamma: float = 0.9
    """Discount of the next slot's value."""
    tau: float = 5e-3
    """Weight of the networks in an update of the target networks."""
    noise: tuple[float, float] = (0.2, 0.05)
    """Standard deviation of the noise at first and at last."""
    noise_updates: int = 1500
    """Updates over which the noise changes from the first to the last."""
    reward_scale: float = 0.05
    """Factor of the slot's sum of rewards, for values of about 1 with some 20 tasks."""
    centring: float = 0.005
    """As in `cdo_dsac.CdoSettings`."""
    assess_every: int = 250
    """Rounds between two assessments on held-out worlds."""
    warmup: int = 20
    """Rounds whose outputs are only noise."""
    max_grad_norm: float | None = 10.0
    """Limit to the norm of each learner's gradient; None for no limit."""
    output_penalty: float = 0.01
    """Weight of the squared outputs before tanh in the actor's loss, which keeps them from all ending at 1, where
    placements cannot be distinguished."""


QUICK = DdpgSettings(
    worlds=10, rounds=1000, batch=32, memory=1500, hidden=(32, 32), form="places",
    actor_learning_rate=1e-3, critic_learning_rate=3e-3, gamma=0.8, tau=0.02, noise_updates=600,
    softmax_temperature=0.3, learning_rate_decay=(500, 1000), assess_every=50,
)  # fmt: skip
"""About a minute."""
PAPER = DdpgSettings(rounds=500_000, gamma=0.99, batch=256, memory=100_000, noise=(0.2, 0.2), assess_every=10_000)
"""Widths, discount and episodes as CDO-DSAC's paper shares them with its baselines."""
PRESETS = {"quick": QUICK, "paper": PAPER}


def with_rounds(settings: DdpgSettings, rounds: int) -> DdpgSettings:
    """Return settings whose training and schedules span a number of rounds.

    The noise falls over the first 60 % of the rounds; the learning rates fall over the second half, unless
    `learning_rate_decay` is None.

    Args:
        settings: the settings to change, for instance a preset's.
        rounds: slots that each world plays; less than 1 counts as 1.
    """
    rounds = max(1, rounds)
    updates = rounds * settings.updates
    if settings.learning_rate_decay is not None:
        settings = replace(settings, learning_rate_decay=(updates // 2, updates))
    noise_updates = max(1, int(0.6 * updates))
    return replace(settings, rounds=rounds, noise_updates=noise_updates, assess_every=max(10, rounds // 20))


class Ddpg:
    """L central agents, one for each seed.

    Args:
        settings: settings of every agent.
        actor: form of the actors' networks.
        critic: form of the critics' networks.
        keys: [L] int64 keys of the agents' random numbers.
    """

    def __init__(self, settings: DdpgSettings, actor: Net, critic: Mlp, keys: Tensor):
        self.settings, self.actor, self.critic, self.keys, self.updates = settings, actor, critic, keys, 0
        self.actor_flat = actor.initial(random.key(keys, _ACTOR)).requires_grad_()
        self.critic_flat = critic.initial(random.key(keys, _CRITIC)).requires_grad_()
        self.targets = [self.actor_flat.detach().clone(), self.critic_flat.detach().clone()]
        self.mean_reward = torch.zeros(len(keys), device=keys.device)
        self._adam = [
            Adam(self.actor_flat, settings.actor_learning_rate, settings.max_grad_norm),
            Adam(self.critic_flat, settings.critic_learning_rate, settings.max_grad_norm),
        ]

    @torch.no_grad()
    def act(self, observation: Observation, call: int, explore: bool = True) -> Tensor:
        """Return the actors' outputs [L, W, K, C] in [-1, 1]; only noise during the warm-up.

        Args:
            observation: [L, W, ..] the worlds to decide in.
            call: number of the round; the same call draws the same noise.
            explore: whether to add noise.
        """
        outputs = self._outputs(self.actor_flat, observation.features)
        if not explore:
            return outputs
        noise = _gauss(random.key(self.keys, _NOISE), call, outputs.shape[1:])
        if call < self.settings.warmup:
            return noise
        std = interpolate(self.settings.noise, self.updates, self.settings.noise_updates)
        return (outputs + std * noise).clamp(-1, 1)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        """Update critics, actors and target networks once.

        Args:
            batch: [L, n, ..] steps with rewards [L, n, K].

        Returns:
            Metrics [L] by name.
        """
        scale = linear_decay(self.updates, self.settings.learning_rate_decay)
        target = self._target_values(batch)
        actions = self._critic_actions(batch.action, batch.mask)
        value = self._value(self.critic_flat, batch.features, actions, batch.task_mask)
        loss = (value - target).square().mean(-1)
        descend(self._adam[1], loss, scale)
        descend(self._adam[0], self._actor_loss(batch), scale)
        for target_flat, source in zip(self.targets, (self.actor_flat, self.critic_flat), strict=True):
            soft_update(target_flat, source.detach(), self.settings.tau)
        self.updates += 1
        return {"critic_loss": loss.detach(), "value": value.detach().mean(-1)}

    @torch.no_grad()
    def _target_values(self, batch: Transition) -> Tensor:
        """Return target values [L, B]."""
        task_mask = batch.task_mask.to(batch.reward.dtype)
        reward = batch.reward.sum(-1) * self.settings.reward_scale
        if self.settings.centring:
            mean = reward.sum(1) / task_mask.sum((1, 2)).clamp(min=1)
            weight = max(self.settings.centring, 1 / (self.updates + 1))
            self.mean_reward += weight * (mean - self.mean_reward)
            reward = reward - self.mean_reward[:, None] * task_mask.sum(-1)
        after = self._critic_actions(self._outputs(self.targets[0], batch.next_features), batch.next_mask)
        ahead = self._value(self.targets[1], batch.next_features, after, batch.next_task_mask)
        return reward + self.settings.gamma * batch.continues * ahead

    def _actor_loss(self, batch: Transition) -> Tensor:
        """Return the actors' losses [L]."""
        raw = self.actor(self.actor_flat, batch.features)
        actions = self._soft_actions(raw.tanh(), batch.mask)
        value = self._value(self.critic_flat.detach(), batch.features, actions, batch.task_mask).mean(-1)
        tasks = batch.task_mask.to(batch.reward.dtype).flatten(1).sum(1).clamp(min=1)
        size = (raw.square() * batch.task_mask[..., None]).flatten(1).sum(1) / tasks
        return self.settings.output_penalty * size - value

    def _outputs(self, flat: Tensor, features: Tensor) -> Tensor:
        return self.actor(flat, features).tanh()

    def _critic_actions(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """Return the critic's inputs for outputs [L, B, K, C]."""
        if self.settings.softmax_temperature is None:
            return outputs
        place = torch.where(mask, outputs, -torch.inf).argmax(-1)
        return functional.one_hot(place, outputs.shape[-1]).to(outputs.dtype)

    def _soft_actions(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """Return a differentiable form of `_critic_actions`."""
        if self.settings.softmax_temperature is None:
            return outputs
        return torch.where(mask, outputs / self.settings.softmax_temperature, MASKED).softmax(-1)

    def _value(self, flat: Tensor, features: Tensor, outputs: Tensor, task_mask: Tensor) -> Tensor:
        """Return the critic's values [L, B] of outputs [L, B, K, C]."""
        if self.settings.form != "places":
            inputs = torch.cat((features, (outputs * task_mask[..., None]).flatten(2)), -1)
            return self.critic(flat, inputs)[..., 0, 0]
        count, slots, tasks = features.shape[:3]
        inputs = torch.cat((features.flatten(3), outputs), -1).flatten(1, 2)
        value = self.critic(flat, inputs[:, :, None])[..., 0, 0].reshape(count, slots, tasks)
        return (value * task_mask).sum(-1)

    def _parts(self) -> dict[str, Tensor]:
        return {
            "actor": self.actor_flat, "critic": self.critic_flat, "target_actor": self.targets[0],
            "target_critic": self.targets[1], "mean_reward": self.mean_reward,
        }  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Return the learner's state for checkpoints, by name."""
        parts = {name: part.detach() for name, part in self._parts().items()} | {"updates": torch.tensor(self.updates)}
        return parts | add_prefix("adam.0", self._adam[0].tensors()) | add_prefix("adam.1", self._adam[1].tensors())

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the learner's state to a saved one.

        Args:
            tensors: what `tensors` returned, of a learner with the same settings; copied.
        """
        for name, part in self._parts().items():
            part.copy_(tensors[name])
        self.updates = int(tensors["updates"])
        for number in range(2):
            self._adam[number].restore(strip_prefix(f"adam.{number}", tensors))


def _gauss(keys: Tensor, call: int, shape: torch.Size) -> Tensor:
    """Return standard normal numbers [L, *shape] that depend on keys and call only (Box and Muller 1958)."""
    pair = uniform(keys, call, (2, *shape))
    return (-2 * (1 - pair[:, 0]).log()).sqrt() * (2 * torch.pi * pair[:, 1]).cos()


def features_of(settings: DdpgSettings, max_tasks: int | None = None) -> MakeFeatures:
    """Return the function that computes the networks' inputs.

    Args:
        settings: `form` and `running_queues` decide.
        max_tasks: as in `policies.learned.placement.placements.running_s`.
    """
    return features_for(settings.form, settings.running_queues, max_tasks)


def placements_of(settings: DdpgSettings) -> MakePlacements:
    """Return the function that lists the placements of the tasks.

    Args:
        settings: `form` decides.
    """
    return placements_for(settings.form)


def make_nets(settings: DdpgSettings, world: OffloadWorld) -> tuple[Net, Mlp]:
    """Return the forms of the actor's and the critic's networks.

    Args:
        settings: `form` and `hidden` decide.
        world: the compiled scenario, for numbers of tasks and servers.
    """
    edge = world.edge
    places = edge.servers + 1
    if settings.form == "places":
        inputs = places * (PLACEMENT_FEATURES + 1)
        return PlacementNet(PLACEMENT_FEATURES, settings.hidden, 0.1), Mlp(inputs, settings.hidden, 1, 1, shared=True)
    inputs = flat_inputs(edge.tasks, edge.servers)
    actor = Mlp(inputs, settings.hidden, edge.tasks, places, last_gain=0.1)
    return actor, Mlp(inputs + edge.tasks * places, settings.hidden, 1, 1)


def make_loop(
    settings: DdpgSettings, world: OffloadWorld, seeds: Tensor, device: str | torch.device = "cpu"
) -> Loop[Ddpg]:
    """Return the loop that trains L agents, ready for `rl.core.loop.run`.

    Args:
        settings: settings of the agents and the training.
        world: the compiled scenario.
        seeds: [L] int64 seeds.
        device: PyTorch device of agents and worlds.
    """
    keys = random.key(seeds.to(device), 0)
    env = PlacementEnv(world, settings.worlds, features_of(settings), placements_of(settings), device)
    loop_settings = LoopSettings(
        rounds=settings.rounds,
        warmup=0,
        capacity=settings.memory,
        batch=settings.batch,
        updates=settings.updates,
        log_every=settings.assess_every,
        assess_every=settings.assess_every,
    )
    return Loop(loop_settings, env, Ddpg(settings, *make_nets(settings, world), keys))


def train(settings: TrainSettings, **options: Unpack[RunOptions]) -> TrainingResult:
    """Train one agent for every seed, from the slot's latency, whatever the scenario's reward is.

    Args:
        settings: scenario, seeds, length and preset.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    _, world = settings.open()
    chosen = settings.find_preset(PRESETS)
    if settings.steps is not None:
        chosen = with_rounds(chosen, settings.steps // chosen.worlds)

    def make_policies(learner: Ddpg) -> tuple[nn.Module, ...]:
        rows = learner.actor_flat.detach().cpu()
        return policies_of(learner.actor, rows, features_of(chosen, world.edge.tasks), placements_of(chosen))

    loop = make_loop(chosen, world, settings.learner_seeds(), settings.device)
    return train_loop("ddpg", loop, make_policies, settings_record(settings, "ddpg", world, chosen), **options)

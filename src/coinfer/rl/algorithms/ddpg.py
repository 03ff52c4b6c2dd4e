"""DDPG after Wu et al. (IEEE TII 2020, DOI 10.1109/TII.2020.3017573), the baseline of CDO-DSAC: one central agent, a
deterministic actor with a tanh output for every task and place, of which each task takes the greatest allowed one;
Gaussian noise explores; one critic of state and outputs; target networks of both.

Of Wu's settings we keep noise 0.2, ReLU and tanh, the target rate and the rates of learning; widths are those of
CDO-DSAC, as its paper says of its baselines (V.A). Our choices: memory and batch are CDO-DSAC's; reward is the slot's
sum, centred as in `rl.algorithms.cdo_dsac`; the noise falls to a quarter, and large
outputs are held back (`output_penalty`). What Wu's work has beside DDPG (sampling rates,
deficit queues, shares in closed form) belongs to its own problem.

Form `flat` is the published one: the whole state, side by side. Form `ranked` is the same with equal servers in the
order of their load, as Online RL's table has them; a fixed choice of places is then already an answer to the loads.
Form `places` gives it what CDO-DSAC has: the same inputs, one small network that scores every place, and a critic that
sums over tasks. With `softmax_temperature` the critic judges what was done rather than the numbers that led to it;
that, more updates to a round and learning rates that decay are what tuning brought (see experiments/cdo-dsac).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp, Net
from coinfer.policies.learned.placement_policy import (
    MakeFeatures,
    MakePlacements,
    PlacementNet,
    features_for,
    placements_for,
)
from coinfer.policies.learned.placements import PLACEMENT_FEATURES
from coinfer.rl.core.batched_optim import MASKED, Adam, add_prefix, linear_decay, soft_update, strip_prefix, uniform
from coinfer.rl.core.loop import Loop, LoopSettings
from coinfer.rl.core.placement_env import PlacementEnv
from coinfer.rl.core.records import Observation, Transition
from coinfer.scenario.world import OffloadWorld

_ACTOR, _CRITIC, _NOISE = range(3)


@dataclass(frozen=True)
class DdpgSettings:
    worlds: int = 20
    """As many as all agents of CDO-DSAC together."""
    rounds: int = 2000
    batch: int = 128
    memory: int = 10_000
    hidden: tuple[int, ...] = (256, 512, 256)
    form: str = "flat"
    running_queues: bool = True
    """As in `cdo_dsac.CdoSettings`, for form `places`."""
    softmax_temperature: float | None = None
    """The critic is told what was carried out, 1 at the place of each task, and the actor has its slope through a
    softmax of its outputs divided by this; None: the critic is told the outputs themselves."""
    updates: int = 1
    """To a round."""
    learning_rate_decay: tuple[int, int] | None = None
    """Updates between which both rates fall to 0."""
    actor_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-3
    gamma: float = 0.9
    tau: float = 5e-3
    noise: tuple[float, float] = (0.2, 0.05)
    """Standard deviation, at first and at last."""
    noise_updates: int = 1500
    scale: float = 0.05
    """Of the slot's sum of rewards, so that values are about 1: some 20 tasks."""
    centring: float = 0.005
    assess_every: int = 250
    warmup: int = 20
    """Rounds whose outputs are noise alone."""
    max_grad_norm: float | None = 10.0
    output_penalty: float = 0.01
    """Weight of the squared outputs before tanh in the actor's loss, so that they do not all end at 1, where places are
    not told apart."""


QUICK = DdpgSettings(
    worlds=10, rounds=1000, batch=32, memory=1500, hidden=(32, 32), form="places",
    actor_learning_rate=1e-3, critic_learning_rate=3e-3, gamma=0.8, tau=0.02, noise_updates=600,
    softmax_temperature=0.3, learning_rate_decay=(500, 1000), assess_every=50,
)  # fmt: skip
"""What learns something in a minute."""
PAPER = DdpgSettings(rounds=500_000, gamma=0.99, batch=256, memory=100_000, noise=(0.2, 0.2), assess_every=10_000)
"""Widths, discount and episodes as CDO-DSAC's paper shares them with its baselines."""
PRESETS = {"quick": QUICK, "paper": PAPER}


def with_rounds(settings: DdpgSettings, rounds: int) -> DdpgSettings:
    """The same with so many rounds, the noise falling over 60 % of them; where the rates fall, over
    the second half."""
    rounds = max(1, rounds)
    updates = rounds * settings.updates
    if settings.learning_rate_decay is not None:
        settings = replace(settings, learning_rate_decay=(updates // 2, updates))
    falls = max(1, int(0.6 * updates))
    return replace(settings, rounds=rounds, noise_updates=falls, assess_every=max(10, rounds // 20))


class Ddpg:
    """L agents, one a seed."""

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
        """Outputs [L, W, K, C]."""
        outputs = self._outputs(self.actor_flat, observation.features)
        if not explore:
            return outputs
        first, last = self.settings.noise
        spread = first + (last - first) * min(1.0, self.updates / self.settings.noise_updates)
        noise = _gauss(random.key(self.keys, _NOISE), call, outputs.shape[1:])
        if call < self.settings.warmup:
            return noise
        return (outputs + spread * noise).clamp(-1, 1)

    def update(self, batch: Transition) -> dict[str, Tensor]:
        settings = self.settings
        task_mask = batch.task_mask.to(batch.reward.dtype)
        reward = batch.reward.sum(-1) * settings.scale
        with torch.no_grad():
            if settings.centring:
                mean = reward.sum(1) / task_mask.sum((1, 2)).clamp(min=1)
                share = max(settings.centring, 1 / (self.updates + 1))
                self.mean_reward += share * (mean - self.mean_reward)
                reward = reward - self.mean_reward[:, None] * task_mask.sum(-1)
            after = self._critic_actions(self._outputs(self.targets[0], batch.next_features), batch.next_mask)
            ahead = self._value(self.targets[1], batch.next_features, after, batch.next_task_mask)
            target = reward + settings.gamma * batch.continues * ahead
        carried_out = self._critic_actions(batch.action, batch.mask)
        found = self._value(self.critic_flat, batch.features, carried_out, batch.task_mask)
        loss = (found - target).square().mean(-1)
        share = linear_decay(self.updates, settings.learning_rate_decay)
        self._adam[1].step(loss, share)
        raw = self.actor(self.actor_flat, batch.features)
        soft = self._soft_actions(raw.tanh(), batch.mask)
        gain = self._value(self.critic_flat.detach(), batch.features, soft, batch.task_mask).mean(-1)
        spread = (raw.square() * batch.task_mask[..., None]).flatten(1).sum(1) / task_mask.flatten(1).sum(1).clamp(
            min=1
        )
        self._adam[0].step(settings.output_penalty * spread - gain, share)
        for target, source in zip(self.targets, (self.actor_flat, self.critic_flat), strict=True):
            soft_update(target, source.detach(), settings.tau)
        self.updates += 1
        return {"critic_loss": loss.detach(), "value": found.detach().mean(-1)}

    def _outputs(self, flat: Tensor, features: Tensor) -> Tensor:
        return self.actor(flat, features).tanh()

    def _critic_actions(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """What the critic is told of outputs [L, B, K, C]."""
        if self.settings.softmax_temperature is None:
            return outputs
        place = torch.where(mask, outputs, -torch.inf).argmax(-1)
        return functional.one_hot(place, outputs.shape[-1]).to(outputs.dtype)

    def _soft_actions(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """The same so that the actor has a slope."""
        if self.settings.softmax_temperature is None:
            return outputs
        return torch.where(mask, outputs / self.settings.softmax_temperature, MASKED).softmax(-1)

    def _value(self, flat: Tensor, features: Tensor, outputs: Tensor, task_mask: Tensor) -> Tensor:
        """[L, B] of outputs [L, B, K, C]."""
        if self.settings.form != "places":
            inputs = torch.cat((features, (outputs * task_mask[..., None]).flatten(2)), -1)
            return self.critic(flat, inputs)[..., 0, 0]
        count, slots, tasks = features.shape[:3]
        inputs = torch.cat((features.flatten(3), outputs), -1).flatten(1, 2)
        value = self.critic(flat, inputs[:, :, None])[..., 0, 0].reshape(count, slots, tasks)
        return (value * task_mask).sum(-1)

    def tensors(self) -> dict[str, Tensor]:
        kept = {
            "actor": self.actor_flat.detach(), "critic": self.critic_flat.detach(), "target_actor": self.targets[0],
            "target_critic": self.targets[1], "mean_reward": self.mean_reward, "updates": torch.tensor(self.updates),
        }  # fmt: skip
        return kept | add_prefix("adam.0", self._adam[0].tensors()) | add_prefix("adam.1", self._adam[1].tensors())

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, part in (
            ("actor", self.actor_flat), ("critic", self.critic_flat), ("target_actor", self.targets[0]),
            ("target_critic", self.targets[1]), ("mean_reward", self.mean_reward),
        ):  # fmt: skip
            part.copy_(tensors[name])
        self.updates = int(tensors["updates"])
        for number in range(2):
            self._adam[number].restore(strip_prefix(f"adam.{number}", tensors))


def _gauss(keys: Tensor, call: int, shape: torch.Size) -> Tensor:
    """Standard normal [L, *shape], counted (Box and Muller 1958)."""
    pair = uniform(keys, call, (2, *shape))
    return (-2 * (1 - pair[:, 0]).log()).sqrt() * (2 * torch.pi * pair[:, 1]).cos()


def features_of(settings: DdpgSettings, most: int | None = None) -> MakeFeatures:
    """`most` as of `policies.learned.placements.running_s`."""
    return features_for(settings.form, settings.running_queues, most)


def placements_of(settings: DdpgSettings) -> MakePlacements:
    return placements_for(settings.form)


def make_nets(settings: DdpgSettings, world: OffloadWorld) -> tuple[Net, Mlp]:
    """Actor and critic."""
    edge = world.edge
    places = edge.servers + 1
    if settings.form == "places":
        inputs = places * (PLACEMENT_FEATURES + 1)
        return PlacementNet(PLACEMENT_FEATURES, settings.hidden, 0.1), Mlp(inputs, settings.hidden, 1, 1, shared=True)
    inputs = edge.tasks * (4 + edge.servers) + 2 * edge.servers
    actor = Mlp(inputs, settings.hidden, edge.tasks, places, last_gain=0.1)
    return actor, Mlp(inputs + edge.tasks * places, settings.hidden, 1, 1)


def make_loop(settings: DdpgSettings, world: OffloadWorld, seeds: Tensor, device: str | torch.device = "cpu") -> Loop:
    keys = random.key(seeds.to(device), 0)
    env = PlacementEnv(world, settings.worlds, features_of(settings), placements_of(settings), device)
    of_loop = LoopSettings(
        rounds=settings.rounds,
        warmup=0,
        capacity=settings.memory,
        batch=settings.batch,
        updates=settings.updates,
        log_every=settings.assess_every,
        assess_every=settings.assess_every,
    )
    return Loop(of_loop, env, Ddpg(settings, *make_nets(settings, world), keys))

"""TorchRL's discrete SAC, for the benchmarks: an implementation that shares nothing with ours.

Loss, target networks, memory and networks are TorchRL's, put together as in its example for CartPole, whose settings
are the defaults here. Its collector and logs are left out, because they would only slow it down: the caller steps the
worlds.
"""

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Categorical, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import MLP, ProbabilisticActor
from torchrl.objectives import DiscreteSACLoss, SoftUpdate


@dataclass(frozen=True)
class TorchRlSettings:
    gamma: float = 0.99
    batch: int = 256
    learning_rate: float = 3e-4
    """Learning rate of actor, critics and temperature."""
    entropy: float = 0.2
    """Target entropy as a share of the greatest."""
    tau: float = 0.005
    capacity: int = 1_000_000


class TorchRlSac:
    """A learner that maps features [W, F] to one of C choices each."""

    def __init__(self, inputs: int, choices: int, hidden: tuple[int, ...], settings: TorchRlSettings, seed: int):
        torch.manual_seed(seed)

        def network() -> MLP:
            return MLP(in_features=inputs, out_features=choices, num_cells=list(hidden), activation_class=nn.ReLU)

        self.logits = network()
        actor = ProbabilisticActor(
            TensorDictModule(self.logits, ["observation"], ["logits"]),
            in_keys=["logits"],
            out_keys=["action"],
            spec=Categorical(choices),
            distribution_class=torch.distributions.Categorical,
        )
        self.loss = DiscreteSACLoss(
            actor,
            TensorDictModule(network(), ["observation"], ["action_value"]),
            action_space="categorical",
            num_actions=choices,
            loss_function="l2",
            target_entropy_weight=settings.entropy,
            delay_qvalue=True,
        )
        self.loss.make_value_estimator(gamma=settings.gamma)
        self.targets = SoftUpdate(self.loss, tau=settings.tau)
        self.optimiser = torch.optim.Adam(self.loss.parameters(), lr=settings.learning_rate)
        storage = LazyTensorStorage(settings.capacity)
        self.memory = TensorDictReplayBuffer(storage=storage, batch_size=settings.batch)

    @torch.no_grad()
    def act(self, features: Tensor) -> Tensor:
        """Draw choices [W] from the policy."""
        return torch.distributions.Categorical(logits=self.logits(features)).sample()

    @torch.no_grad()
    def best(self, features: Tensor) -> Tensor:
        """Return the most probable choices [W]."""
        return self.logits(features).argmax(-1)

    def remember(self, features: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, after: Tensor) -> None:
        """Remember one step [W, ..] of the worlds. A time limit is not `terminated`."""
        terminated = terminated[:, None]
        parts = {"reward": reward[:, None], "done": terminated, "terminated": terminated, "observation": after}
        count = len(action)
        step = TensorDict({"observation": features, "action": action, "next": TensorDict(parts, [count])}, [count])
        self.memory.extend(step)

    def update(self) -> None:
        losses = self.loss(self.memory.sample())
        self.optimiser.zero_grad()
        (losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_alpha"]).backward()
        self.optimiser.step()
        self.targets.step()

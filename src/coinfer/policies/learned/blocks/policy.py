"""A trained actor-critic of one learner as a policy that places every block; a module, so that `export` can take it."""

import torch
from torch import Tensor, nn

from coinfer.policies.learned.actor_critic import ActorCriticForm
from coinfer.policies.learned.blocks.features import BlocksFeatures, BlocksHeads
from coinfer.types import BlocksDecision, BlocksObservation

_GOLDEN = 0.6180339887498949


class BlocksNetPolicy(nn.Module):
    """The allowed choice of greatest probability of each head, or one that is drawn.

    Draws follow from the believed link rates alone, which are as good as random and known to whoever decides; so the
    same observation gives the same decision, in PyTorch and in ONNX Runtime. It computes in float64, though the network
    was trained in float32, so that two runtimes decide alike if two choices are nearly equal.

    Args:
        net: form of the network.
        flat: [P] its parameters.
        features: from an observation to the network's inputs.
        heads: what its choices mean.
        sampled: whether choices are drawn.
    """

    flat: Tensor

    def __init__(
        self, net: ActorCriticForm, flat: Tensor, features: BlocksFeatures, heads: BlocksHeads, *, sampled: bool = False
    ):
        super().__init__()
        self.net, self.features, self.heads, self.sampled = net, features, heads, sampled
        self.register_buffer("flat", flat.detach().cpu()[None].clone())

    @torch.no_grad()
    def forward(self, observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        """Return the decisions, [B, K, M].

        Args:
            observation: [B, K, ..] tensors.
        """
        wide = BlocksObservation(*(field.double() if field.is_floating_point() else field for field in observation))
        logits = self.net(self.flat.double().to(wide.deadline_s.device), self.features(wide)[None]).logits[0]
        logits = torch.where(self.heads.mask(wide), logits, -torch.inf)
        return BlocksDecision(self.heads.places(self._drawn(logits, wide) if self.sampled else logits.argmax(-1)))

    def _drawn(self, logits: Tensor, o: BlocksObservation[Tensor]) -> Tensor:
        head = torch.arange(1, self.heads.heads + 1, device=logits.device)
        product = o.uplink_bps.sum(-1, keepdim=True) * (head * _GOLDEN)
        cumulated = logits.softmax(-1).cumsum(-1)
        drawn = (product - product.floor()).flatten(-2)[..., None] * cumulated[..., -1:]
        return (cumulated <= drawn).sum(-1).clamp(max=self.heads.choices - 1)

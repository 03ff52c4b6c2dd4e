"""A trained actor-critic of one learner as a policy that places every block; a module, so that `export` can take it."""

import torch
from torch import Tensor, nn

from coinfer.policies.heuristics.blocks_schedule import with_last_moved
from coinfer.policies.learned.actor_critic import ActorCriticForm
from coinfer.policies.learned.blocks.features import BlocksFeatures, BlocksHeads
from coinfer.policies.sampling import spread
from coinfer.types import BlocksDecision, BlocksObservation

_FRACTION = 0.7548776662466927
"""Of a whole number of bits per second, an irrational one: the fractions of its multiples look random."""


class BlocksNetPolicy(nn.Module):
    """The allowed choice of greatest probability of each head, or one that is drawn.

    Coherent draws are those of the training (`rl.core.on_policy`). Random numbers follow from the believed link rates,
    which are as good as random and known to whoever decides; so the same observation gives the same decision, in
    PyTorch and in ONNX Runtime. It computes in float64, though the network was trained in float32, so that two runtimes
    decide alike if two choices are nearly equal. If heads choose placements with one cut, the task that ends last is
    then placed anew (`with_last_moved`).

    Args:
        net: form of the network.
        flat: [P] its parameters.
        features: from an observation to the network's inputs.
        heads: what its choices mean.
        sampled: whether choices are drawn, in slots of several tasks.
        coherent: whether they are drawn coherently.
    """

    flat: Tensor

    def __init__(
        self,
        net: ActorCriticForm,
        flat: Tensor,
        features: BlocksFeatures,
        heads: BlocksHeads,
        *,
        sampled: bool = False,
        coherent: bool = True,
    ):
        super().__init__()
        self.net, self.features, self.heads = net, features, heads
        self.sampled, self.coherent = sampled, coherent
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
        best = logits.argmax(-1)
        place = self.heads.places(self._drawn(logits, wide, best) if self.sampled else best)
        return BlocksDecision(with_last_moved(wide, place) if self.heads.one_cut else place)

    def _drawn(self, logits: Tensor, o: BlocksObservation[Tensor], best: Tensor) -> Tensor:
        """Return choices [B, K * heads] that are drawn; the best one for a task that shares its slot with nobody."""
        drawn = self._numbers(o).flatten(-2)
        cumulated = logits.softmax(-1).cumsum(-1)
        drawn = drawn[..., None] * cumulated[..., -1:]
        chosen = (cumulated <= drawn).sum(-1).clamp(max=self.heads.choices - 1)
        return torch.where(o.task_mask.sum(-1, keepdim=True) > 1, chosen, best)

    def _numbers(self, o: BlocksObservation[Tensor]) -> Tensor:
        """Return numbers in [0, 1) for all heads of all tasks, [B, K, heads]."""
        tasks, heads = o.task_mask.shape[-1], self.heads.heads
        rates_bps = o.uplink_bps.floor().sum(-1)  # whole numbers have one sum in whatever order
        if self.coherent:
            return spread(rates_bps.sum(-1) * _FRACTION, tasks)[..., None].expand(*rates_bps.shape, heads)
        numbers = rates_bps[..., None] * (
            torch.arange(1, heads + 1, device=rates_bps.device, dtype=rates_bps.dtype) * _FRACTION
        )
        return numbers - numbers.floor()

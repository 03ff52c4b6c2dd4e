"""DROO's decision as a module: the network, its order-preserving candidates, and the rate that each would give.

`rl.algorithms.droo` trains the network with the same inputs; `export` writes the whole decision, scores included, into
one ONNX file.
"""

import math

import torch
from torch import Tensor, nn

from coinfer.physics.frame_rates import ungrouped_rates_bps
from coinfer.physics.wireless_power import EXPORT_ROUNDS
from coinfer.policies.learned.imitation.quantisers import order_preserving
from coinfer.policies.learned.nets import Net
from coinfer.scenario.world import WirelessPowerWorld


def gain_inputs(gain: Tensor, mean_gain: Tensor, power: float) -> Tensor:
    """Return channel gains as inputs of a network: a power of them, standardised if they are exponential.

    Args:
        gain: [.., N]
        mean_gain: [N] means of the gains.
        power: above 0; 1 keeps the gain, less brings small gains apart.
    """
    mean = math.gamma(1 + power)
    deviation = math.sqrt(math.gamma(1 + 2 * power) - mean**2)
    return ((gain / mean_gain) ** power - mean) / deviation


def weight_inputs(weight: Tensor) -> Tensor:
    """Return weights as inputs of a network: logarithms of their ratios to the mean, as the best modes do not change if
    all weights are scaled.

    Args:
        weight: [.., N], above 0.
    """
    return (weight / weight.mean(-1, keepdim=True)).log()


class FramePolicy(nn.Module):
    """The candidate of the greatest rate, for any weights and channels of N devices.

    It computes in float64, as `net_policy.NetPolicy` does.

    Args:
        net: its outputs [.., N, 1] are logits of sending.
        flat: [P], its parameters.
        world: compiled scenario, for the constants of the rates and the mean gains.
        power: of `gain_inputs`.
        candidates: number of candidates, at most N + 1.
        reads_weights: whether the network reads the weights after the gains.
    """

    flat: Tensor
    mean_gain: Tensor

    def __init__(
        self,
        net: Net,
        flat: Tensor,
        world: WirelessPowerWorld,
        power: float,
        candidates: int,
        *,
        reads_weights: bool = False,
    ):
        super().__init__()
        self.net, self.world, self.power, self.candidates = net, world, power, candidates
        self.reads_weights = reads_weights
        self.register_buffer("flat", flat.detach().double()[None].clone())
        self.register_buffer("mean_gain", torch.as_tensor(world.mean_gain).double())

    @torch.no_grad()
    def forward(self, gain: Tensor, weight: Tensor) -> Tensor:
        """Return the modes [B, N] bool, true for a device that sends.

        Args:
            gain: [B, N] channel gains; 0 if a device is off.
            weight: [B, N] weights of the devices' rates.
        """
        gain, weight = gain.double(), weight.double()
        inputs = gain_inputs(gain, self.mean_gain, self.power)
        if self.reads_weights:
            inputs = torch.cat((inputs, weight_inputs(weight)), -1)
        logits = self.net(self.flat, inputs[None])[0, ..., 0]
        candidates = order_preserving(logits, self.candidates)
        rates = ungrouped_rates_bps(self.world, gain, weight, candidates, EXPORT_ROUNDS)
        best = rates.argmax(-1)[..., None, None].expand(-1, 1, gain.shape[-1])
        return candidates.gather(1, best)[:, 0]

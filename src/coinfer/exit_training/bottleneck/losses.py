"""Losses of a network that learns from another one, and from labels of mixed pictures."""

import torch.nn.functional as F
from torch import Tensor


def distillation(mine: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Return how far answers are from those of the teacher (knowledge distillation, Hinton et al. 2015), a scalar.

    Args:
        mine: [B, classes] float32 logits of who learns.
        theirs: the same of the teacher.
        temperature: by which both are divided.
    """
    divergence = F.kl_div(
        F.log_softmax(mine / temperature, 1),
        F.log_softmax(theirs / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def mixed_label_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the cross entropy of pictures that are mixed with the one before them (`augment.mix`), a scalar.

    Args:
        logits: [B, classes] float32.
        labels: [B] of the pictures themselves.
        weights: [B] of a picture itself in its mixture.
    """
    own, others = (F.cross_entropy(logits, truth, reduction="none") for truth in (labels, labels.roll(1)))
    return (weights * own + (1 - weights) * others).mean()

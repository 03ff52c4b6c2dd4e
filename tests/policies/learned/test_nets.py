"""Batched networks are so many single ones of PyTorch."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from coinfer.physics import random
from coinfer.policies.learned.nets import Mlp


def keys(learners: int) -> Tensor:
    return random.key(torch.zeros(learners, dtype=torch.int64), torch.arange(learners))


def plain(net: Mlp, flat: Tensor) -> nn.Sequential:
    """The same network of one learner in PyTorch's own modules."""
    layers: list[nn.Module] = []
    for weight, bias in net.layers(flat[None]):
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight[0].T.detach().clone(), bias[0, 0].detach().clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_networks_are_those_of_pytorch():
    net = Mlp(5, (8, 6), 2, 3)
    flat, features = net.initial(keys(4)), torch.randn(4, 7, 5)
    found = net(flat, features)
    for learner in range(4):
        target = plain(net, flat[learner])(features[learner])
        torch.testing.assert_close(found[learner].flatten(1), target, atol=1e-6, rtol=1e-5)


def test_bfloat16_is_close_and_learns_float32_parameters():
    net = Mlp(20, (64, 32), 2, 3)
    flat, features = net.initial(keys(2)).requires_grad_(), torch.randn(2, 50, 20)
    exact = net(flat, features)
    close = replace(net, bfloat16=True)(flat, features)
    assert close.dtype == torch.float32
    assert 0 < float((close - exact).detach().abs().max()) < 0.02 * float(exact.detach().abs().max())
    (want,) = torch.autograd.grad(exact.square().sum(), flat)
    (found,) = torch.autograd.grad(close.square().sum(), flat)
    assert found.dtype == torch.float32
    assert float((found - want).norm() / want.norm()) < 0.02


def test_a_shared_network_treats_tasks_alike():
    net = Mlp(5, (8,), 4, 3, shared=True, normalise=True)
    flat, features = net.initial(keys(2)), torch.randn(2, 7, 4, 5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(flat, features)[:, :, order], net(flat, features[:, :, order]))


def test_first_weights_depend_on_their_own_seed_only():
    net = Mlp(50, (30,), 1, 2)
    flat = net.initial(keys(5))
    torch.testing.assert_close(net.initial(keys(5)[3:4])[0], flat[3], atol=0, rtol=0)
    first = flat[:, : 50 * 30]
    assert first.abs().max() <= 1 / math.sqrt(50)
    assert abs(float(first.std()) * math.sqrt(3 * 50) - 1) < 0.03
    assert not torch.equal(flat[0], flat[1])

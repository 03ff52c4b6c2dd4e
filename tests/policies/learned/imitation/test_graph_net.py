"""The graph network takes any number of devices, servers and options, and has no order of its own for them."""

from dataclasses import replace

import pytest
import torch
from tests.policies.learned.imitation.slots import compiled, observed
from torch import Tensor

from coinfer.policies.learned.imitation.graph_net import GraphNet
from coinfer.policies.learned.imitation.packed import pack, unpack
from coinfer.types import OffloadObservation, fields_of

NET = GraphNet(2, hidden=6, rounds=2)
WEIGHTS = NET.initial(torch.tensor([4])).double()


def logits(observation: OffloadObservation[Tensor], net: GraphNet = NET, weights: Tensor = WEIGHTS) -> Tensor:
    """Logits by device, option and server, [B, K, O, N]."""
    found = net.logits(weights, OffloadObservation(*(field[None] for field in observation)))[0]
    return found.unflatten(-1, observation.option_server_s.shape[-2:])


def permuted(observation: OffloadObservation[Tensor], letter: str, order: Tensor) -> OffloadObservation[Tensor]:
    axes = {
        name: ["B" if axis == "*B" else axis for axis in field.axes]
        for name, field in fields_of(OffloadObservation).items()
    }
    return OffloadObservation(
        **{
            name: field.index_select(axes[name].index(letter), order) if letter in axes[name] else field
            for name, field in observation._asdict().items()
        }
    )


@pytest.mark.parametrize(("letter", "axis", "count"), [("K", 1, 5), ("O", 2, 10), ("N", 3, 2)])
@pytest.mark.parametrize("ordered", [True, False])
def test_permuted_vertices_permute_the_outputs(letter: str, axis: int, count: int, ordered: bool):
    observation, net = observed(compiled("grle-s2")), replace(NET, ordered=ordered)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    whole = logits(observation, net)
    found, expected = logits(permuted(observation, letter, order), net), whole.index_select(axis, order)
    # an option on the device has one entry, of the first server: the others mean nothing
    shown = permuted(observation, letter, order)
    means = (shown.option_upload_bits > 0)[..., None].expand(found.shape) & shown.task_mask[..., None, None]
    if letter == "N":
        found, expected = found[means], expected[means]
        assert len(found)
    torch.testing.assert_close(found, expected)


def test_late_and_much_later_are_told_apart():
    """A server waits for a task that arrives late, so others are late for as long."""
    observation = observed(compiled())
    late, later = (observation._replace(uplink_bps=observation.uplink_bps / slower) for slower in (300, 3000))
    assert (logits(late) - logits(later)).abs().amax((-1, -2))[observation.task_mask].min() > 0.005


def test_who_arrives_earlier_matters_and_entries_without_a_task_do_not():
    observation = observed(compiled())
    plain = logits(observation)
    others = observation._replace(deadline_s=torch.where(observation.task_mask, observation.deadline_s, 7.0))
    torch.testing.assert_close(logits(others)[observation.task_mask], plain[observation.task_mask])
    assert not torch.allclose(logits(observation, replace(NET, ordered=False)), plain)


def test_one_network_serves_other_numbers_of_devices_servers_and_options():
    servers = [{"slowdown": 1.0}, {"slowdown": 2.0}, {"slowdown": 3.0}]
    other = compiled(devices=3, servers=servers, models__0__exits=[1, 5], models__0__accuracy=[0.6, 0.9])
    assert logits(observed(other)).shape == (6, 3, 4, 3)


def test_learners_do_not_depend_on_those_beside_them():
    flat = NET.initial(torch.arange(3))
    features = pack(observed(compiled())).float().unflatten(0, (3, 2))
    together = NET(flat, features)
    for learner in range(3):
        alone = NET(flat[learner : learner + 1], features[learner : learner + 1])
        torch.testing.assert_close(together[learner : learner + 1], alone)
    assert NET.initial(torch.tensor([2])).equal(flat[2:])


def test_a_packed_observation_comes_back():
    observation = observed(compiled("grle-s2"))
    found = unpack(pack(observation), 2, observation.task_mask)
    for name, field in observation._asdict().items():
        if name not in ("option_device_j", "energy_left_j", "observation_age_s"):
            limited = field.clamp(max=1e9) if field.is_floating_point() else field
            assert getattr(found, name).equal(limited), name

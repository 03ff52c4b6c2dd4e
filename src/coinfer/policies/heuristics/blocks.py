"""Baselines for worlds that place every block (multi-task A3C, IEEE TMC 2024). Places: 0 the device, n server n - 1.

Every one is a function from a seed to a policy, as in `heuristics.offload`.
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from coinfer.physics import latency
from coinfer.policies.sampling import spread, uniform
from coinfer.types import BlocksDecision, BlocksObservation, fields_of

NEVER_S = 1e3
"""Replaces times that are infinite, because a server is out or out of reach, where networks read them."""
BlocksPolicy = Callable[[BlocksObservation[Tensor]], BlocksDecision[Tensor]]


def device_only(seed: int = 0) -> BlocksPolicy:
    """Return a policy that runs every block on the task's device.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda observation: BlocksDecision(observation.block_mask.long() * 0)


def server_only(seed: int = 0) -> BlocksPolicy:
    """Return a policy that runs all blocks of a task on one server, that of least predicted latency for the task alone.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        o = observation
        arrives_s = _seconds(o.block_input_bits[..., :1], o.uplink_bps)
        done_s = latency.end_s(arrives_s, _free_s(o)[..., None, 1:], o.block_server_s.sum(-2))
        return reachable(o, (done_s.argmin(-1) + 1)[..., None].expand(o.block_mask.shape))

    return decide


def apdi(seed: int = 0) -> BlocksPolicy:
    """Return the paper's APDI: a task's blocks are spread evenly over the servers, and neighbours stay together.

    The next task begins one server further.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        mask, servers = observation.block_mask.long(), observation.uplink_bps.shape[-1]
        blocks = mask.sum(-1, keepdim=True).clamp(min=1)
        share = torch.div((mask.cumsum(-1) - 1).clamp(min=0) * servers, blocks, rounding_mode="floor")
        first = torch.arange(mask.shape[-2], device=mask.device)[:, None]
        return reachable(observation, (share + first) % servers + 1)

    return decide


def rpdi(seed: int = 0) -> BlocksPolicy:
    """Return the paper's RPDI: each block goes to the device or any server, each equally likely.

    Args:
        seed: of the random numbers.
    """
    calls = count()

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        drawn = uniform(seed, next(calls), observation.block_mask.shape, observation.block_mask.device)
        return reachable(observation, (drawn * (observation.uplink_bps.shape[-1] + 1)).long())

    return decide


def greedy(seed: int = 0) -> BlocksPolicy:
    """Return the paper's Greedy: task after task, block after block goes to the server of least load.

    The load is the work that waits and that of the blocks placed before, also those of the slot's other tasks.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda observation: _least_loaded(observation, with_device=False)


def greedy_device(seed: int = 0) -> BlocksPolicy:
    """Return Greedy with the task's own device as one more place: the paper reports a local delay of its Greedy, which
    "each block selects the server with a lower load" cannot have.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda observation: _least_loaded(observation, with_device=True)


def best_cut(seed: int = 0) -> BlocksPolicy:
    """Return a policy of least predicted latency of each task over all placements of its blocks.

    It ignores the slot's other tasks.

    Args:
        seed: ignored; the policy is deterministic.
    """
    return lambda o: BlocksDecision(fastest_places(o, _free_s(o)[..., None, :].expand(*o.task_mask.shape, -1)))


def sequential_greedy(seed: int = 0) -> BlocksPolicy:
    """Return `best_cut` task after task, each adding its work to the queues that the next one sees.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        free_s, chosen = _free_s(observation)[..., None, :], []
        for k in range(observation.task_mask.shape[-1]):
            task = _one_task(observation, k)
            place = fastest_places(task, free_s)
            work_s = task.block_server_s.gather(-1, (place - 1).clamp(min=0)[..., None])[..., 0]
            counts = (place > 0) & task.block_mask & task.task_mask[..., None]
            free_s = free_s.scatter_add(-1, place, torch.where(counts, work_s, 0.0))
            chosen.append(place)
        return BlocksDecision(torch.cat(chosen, -2))

    return decide


def list_schedule(seed: int = 0) -> BlocksPolicy:
    """Return a policy that runs every task whole in one place, the slot's tasks shared out by `planned_servers`.

    Args:
        seed: ignored; the policy is deterministic.
    """

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        o = observation
        place = _whole_latency_s(o, _scheduled_free_s(o)).argmin(-1)
        return reachable(o, place[..., None].expand(o.block_mask.shape))

    return decide


def proportional(seed: int = 0) -> BlocksPolicy:
    """Return a policy that runs every task whole on a server, shared out in proportion to their speeds.

    Random numbers that are spread evenly give each server its part of every slot. It does not look at queues; a task
    that cannot reach its server stays on its device.

    Args:
        seed: of the random numbers.
    """
    calls = count()

    def decide(observation: BlocksObservation[Tensor]) -> BlocksDecision[Tensor]:
        o = observation
        speed = torch.where(o.server_room > 0, 1 / _mean_work_s(o).clamp(min=1e-9), 0.0)
        bounds = speed.cumsum(-1) / speed.sum(-1, keepdim=True).clamp(min=1e-9)
        first = uniform(seed, next(calls), o.task_mask.shape[:-1], speed.device)
        drawn = spread(first, o.task_mask.shape[-1])[..., None]
        place = (bounds[..., None, :] <= drawn).sum(-1).clamp(max=speed.shape[-1] - 1) + 1
        return reachable(o, place[..., None].expand(o.block_mask.shape))

    return decide


def planned_servers(o: BlocksObservation[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the server of each task of a slot, [.., K] from 0, if every task took one, and backlogs [.., N].

    Equal tasks are shared out best by the sorted list of the times at which server n would be done with its j-th of
    them: the k-th task gets the k-th of these times. A task's work is the mean of the slot's. The backlog of a server
    that is out is `NEVER_S` more than the longest.

    Args:
        o: with any leading batch axes.
    """
    up = o.server_room > 0
    longest_s = torch.where(up, o.server_backlog_s, 0.0).amax(-1, keepdim=True)
    backlog_s = torch.where(up, o.server_backlog_s, longest_s + NEVER_S)
    tasks, servers = o.uplink_bps.shape[-2:]
    number = torch.arange(1, tasks + 1, device=backlog_s.device, dtype=backlog_s.dtype)[:, None]
    done_s = backlog_s[..., None, :] + number * _mean_work_s(o)[..., None, :].clamp(min=1e-9)
    return (done_s.flatten(-2).argsort(-1)[..., :tasks] % servers).gather(-1, _rank(o)), backlog_s


def _scheduled_free_s(o: BlocksObservation[Tensor]) -> Tensor:
    """Return when each place would be free for each task of a slot, [.., K, N + 1], if `planned_servers` took them."""
    server, backlog_s = planned_servers(o)
    takes = (server[..., None] == torch.arange(backlog_s.shape[-1], device=server.device)) & o.task_mask[..., None]
    taken = takes.to(backlog_s.dtype)
    free_s = backlog_s[..., None, :] + (taken.cumsum(-2) - taken) * _mean_work_s(o)[..., None, :]
    return torch.cat([o.device_backlog_s[..., None], free_s], -1)


def _mean_work_s(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the time of a whole task on each server, [.., N], in the mean over the slot's tasks."""
    mask = o.task_mask.to(o.deadline_s.dtype)[..., None]
    return (o.block_server_s.sum(-2) * mask).sum(-2) / mask.sum(-2).clamp(min=1)


def _rank(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the number of each task among those of its slot that exist, [.., K]."""
    return (o.task_mask.long().cumsum(-1) - 1).clamp(min=0)


def _whole_latency_s(o: BlocksObservation[Tensor], free_s: Tensor) -> Tensor:
    """Return the latency of each task if all its blocks ran in one place, [.., K, N + 1], free at these times."""
    upload_s = _seconds(o.block_input_bits[..., :1], o.uplink_bps.clamp(min=1e-3))
    ready_s = torch.nn.functional.pad(upload_s + o.uplink_backlog_s[..., None], (1, 0))
    work_s = torch.cat([o.block_device_s.sum(-1, keepdim=True), o.block_server_s.sum(-2)], -1)
    return latency.end_s(ready_s, free_s, work_s)


def fastest_places(observation: BlocksObservation[Tensor], free_s: Tensor) -> Tensor:
    """Return the placement of least latency of each task if it were alone behind given queues, [.., K, M].

    Args:
        observation: with any leading batch axes.
        free_s: [.., K, N + 1] seconds until the device (not read) and each server has done its earlier work.
    """
    done_s, previous_places = _earliest_ends_s(observation, free_s)
    place, places = done_s.argmin(-1, keepdim=True), []
    for previous in reversed(previous_places):
        places.append(place)
        place = previous.gather(-1, place)
    return torch.cat(places[::-1], -1)


def least_latency_s(observation: BlocksObservation[Tensor], free_s: Tensor) -> Tensor:
    """Return the least latency of each task if it were alone behind given queues, [.., K].

    Args:
        observation: with any leading batch axes.
        free_s: [.., K, N + 1] as for `fastest_places`.
    """
    return _earliest_ends_s(observation, free_s)[0].amin(-1)


def _earliest_ends_s(o: BlocksObservation[Tensor], free_s: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return when each task could end in each place, [.., K, N + 1], and for every block the best place before it.

    An earlier end of a block is never worse for the next block, so only the earliest time at which each place can have
    done the blocks so far has to be known (Bellman).
    """
    work_s = torch.cat([o.block_device_s[..., None], o.block_server_s], -1)
    done_s = torch.where(torch.arange(work_s.shape[-1], device=work_s.device) > 0, torch.inf, 0.0 * work_s[..., 0, :])
    free_s = torch.cat([o.device_backlog_s[..., None], free_s[..., 1:]], -1)
    links_bps, previous_places = link_rates_bps(o), []
    radio_s = o.uplink_backlog_s[..., None]
    for m in range(work_s.shape[-2]):
        leaves_s = torch.where(links_bps.isinf(), done_s[..., :, None], _after_radio(done_s, radio_s)[..., :, None])
        arrives_s = leaves_s + _seconds(o.block_input_bits[..., m, None, None], links_bps)
        arrival_s, previous = arrives_s.min(-2)
        exists = o.block_mask[..., m, None]
        previous_places.append(torch.where(exists, previous, torch.arange(previous.shape[-1], device=previous.device)))
        done_s = torch.where(exists, latency.end_s(arrival_s, free_s, work_s[..., m, :]), done_s)
    return done_s, previous_places


def _least_loaded(o: BlocksObservation[Tensor], *, with_device: bool) -> BlocksDecision[Tensor]:
    """Return the place of least load of each block, which its work is added to."""
    work_s = torch.cat([o.block_device_s[..., None], o.block_server_s], -1) * o.block_mask[..., None]
    places, load_s = torch.zeros_like(o.block_mask, dtype=torch.int64), _free_s(o)
    for k in range(work_s.shape[-3]):
        load_s[..., 0] = o.device_backlog_s[..., k] if with_device else torch.inf
        for m in range(work_s.shape[-2]):
            place = load_s.argmin(-1, keepdim=True)
            load_s = load_s.scatter_add(-1, place, work_s[..., k, m, :].gather(-1, place))
            places[..., k, m] = place[..., 0]
    return reachable(o, places)


def reachable(observation: BlocksObservation[Tensor], place: Tensor) -> BlocksDecision[Tensor]:
    """Return these places, but the device instead of a server that is out or out of reach.

    Args:
        observation: with any leading batch axes.
        place: [.., K, M] places of the blocks.
    """
    reached = (observation.server_room > 0)[..., None, :] & (observation.uplink_bps > 0)
    reached = torch.nn.functional.pad(reached, (1, 0), value=True)
    return BlocksDecision(torch.where(reached.gather(-1, place), place, 0))


def _after_radio(done_s: Tensor, radio_s: Tensor) -> Tensor:
    """Return when data that are done [.., P] can leave: from the device not before its radio is free."""
    return torch.cat([torch.maximum(done_s[..., :1], radio_s), done_s[..., 1:]], -1)


def link_rates_bps(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the rate from place to place, [.., K, N + 1, N + 1]; infinite from a place to itself.

    Args:
        o: with any leading batch axes.
    """
    servers = o.uplink_bps.shape[-1]
    between = o.backhaul_bps[..., None, None].expand(*o.uplink_bps.shape, servers)
    from_device = torch.nn.functional.pad(o.uplink_bps, (1, 0))[..., None, :]
    links = torch.cat([from_device, torch.cat([o.uplink_bps[..., None], between], -1)], -2)
    place = torch.arange(servers + 1, device=links.device)
    return torch.where(place[:, None] == place, torch.inf, links)


def _seconds(bits: Tensor, rate_bps: Tensor) -> Tensor:
    """Return the time of a transfer; nothing takes no time even on a broken link."""
    return torch.where(bits > 0, bits / rate_bps, 0.0)


def _free_s(o: BlocksObservation[Tensor]) -> Tensor:
    """Return the backlog of each place, [.., N + 1]; infinite for a server that is out, 0 for the devices.

    The backlog of a device depends on the task.
    """
    backlog_s = torch.where(o.server_room > 0, o.server_backlog_s, torch.inf)
    return torch.nn.functional.pad(backlog_s, (1, 0))


def _one_task(observation: BlocksObservation[Tensor], k: int) -> BlocksObservation[Tensor]:
    """Return the observation of task k alone; K becomes 1."""
    axes = {name: field.axes for name, field in fields_of(BlocksObservation).items() if "K" in field.axes}
    fields: dict[str, Tensor] = {
        name: getattr(observation, name).narrow(letters.index("K") - len(letters), k, 1)
        for name, letters in axes.items()
    }
    return observation._replace(**fields)

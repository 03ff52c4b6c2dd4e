"""First come, first served: many queues of many worlds at once, without a loop over tasks.

A task that is ready at r and takes s turns the time x at which its queue is free into max(x, r) + s. Such functions
compose: x -> max(x + A, M), where A is the sum of the services and M the finish time of the last task if the queue was
free from the beginning. So the finish times of all tasks are a prefix scan, in log2(K) rounds, which is the identity
`finish = cumsum(service) + cummax(ready - previous cumsum)` for any number of queues at once. The same identity over
pairs of tasks takes K^2 comparisons, but no sorting.

Admission: a server holds at most `capacity` tasks, admitted and unfinished. When a slot begins and before anything is
sent, places are given in the order of the tasks' numbers; a task that finds none is refused.
"""

import numpy as np
import torch
from torch import Tensor

_NUMBER_BITS = 14
"""Bits for a task's number in sort keys; with 31 for its time and 18 for its queue, they fit into 63."""
NEVER_S = 1e30
"""Added or subtracted to exclude something: as good as infinite, but finite, so that 0 times it is 0."""


def service_order(queue: Tensor, ready_s: Tensor | None = None) -> Tensor:
    """Return the numbers [.., K] of the tasks sorted by queue, then readiness, then number.

    Args:
        queue: [.., K] int, queue of each task.
        ready_s: [.., K]; if None, all tasks are ready at the same time.
    """
    if ready_s is None:
        return queue.argsort(dim=-1, stable=True)
    if ready_s.dtype == torch.float32 and ready_s.device.type == "cpu" and queue.shape[-1] <= 1 << _NUMBER_BITS:
        return _packed_order(queue, ready_s)
    by_time = ready_s.argsort(dim=-1, stable=True)
    return by_time.gather(-1, queue.gather(-1, by_time).argsort(dim=-1, stable=True))


def _packed_order(queue: Tensor, ready_s: Tensor) -> Tensor:
    """Return the same order by one sort of whole numbers: queue, bits of the time, number of the task.

    Times are at least 0, so their bits are in the order of the times. NumPy sorts such rows several times as fast as
    PyTorch finds an order of floats. A queue's number must be below 2^18.
    """
    number = torch.arange(queue.shape[-1])
    bits = (ready_s + 0.0).view(torch.int32).long()
    keys = (((queue.long() << 31) | bits) << _NUMBER_BITS) | number
    return torch.as_tensor(np.sort(keys.numpy(), axis=-1)) & ((1 << _NUMBER_BITS) - 1)


def ordered_finish_s(queue: Tensor, ready_s: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> Tensor:
    """Return the finish times [.., K] of tasks that are already sorted by `service_order`.

    Args:
        queue: [.., K] int, queue of each task; the tasks of one queue are neighbours.
        ready_s: [.., K] when each task joins its queue.
        service_s: [.., K] time that its service takes.
        active: [.., K] bool, false if a task passes through the queue without using it; its finish time then means
            nothing.
        free_s: [.., K] when the task's queue has done all work that came before these tasks.
    """
    total_s = service_s * active
    finish_s = (ready_s + service_s) + _inactive_penalty_s(active, service_s.dtype)
    step = 1
    while step < queue.shape[-1]:
        other = queue[..., step:] != queue[..., :-step]
        earlier_s = (finish_s[..., :-step] + total_s[..., step:]).masked_fill_(other, -NEVER_S)
        before_s = total_s[..., :-step].masked_fill(other, 0.0)
        torch.maximum(finish_s[..., step:], earlier_s, out=finish_s[..., step:])
        total_s[..., step:] += before_s
        step *= 2
    return torch.maximum(free_s + total_s, finish_s)


def finish_s(queue: Tensor, ready_s: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> Tensor:
    """Return the finish times [.., K] of tasks in any order.

    Args:
        queue: [.., K] int, queue of each task.
        ready_s: [.., K] when each task joins its queue.
        service_s: [.., K] time that its service takes.
        active: [.., K] bool, false if a task does not use its queue; its finish time then means nothing.
        free_s: [.., K] when the task's queue has done all work that came before these tasks.
    """
    order = service_order(queue, ready_s)
    arranged = (array.gather(-1, order) for array in (queue, ready_s, service_s, active, free_s))
    return torch.empty_like(ready_s).scatter_(-1, order, ordered_finish_s(*arranged))


def pairwise_finish_s(queue: Tensor, ready_s: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> Tensor:
    """Return what `finish_s` does, from all pairs of tasks: for few tasks, and for export with any number of them.

    Args:
        queue: [.., K] int, queue of each task.
        ready_s: [.., K] when each task joins its queue.
        service_s: [.., K] time that its service takes.
        active: [.., K] bool, false if a task does not use its queue; its finish time then means nothing.
        free_s: [.., K] when the task's queue has done all work that came before these tasks.
    """
    number = torch.arange(queue.shape[-1], device=queue.device)
    own, other = ready_s[..., :, None], ready_s[..., None, :]
    first = (other < own) | ((other == own) & (number <= number[:, None]))
    before = first & (queue[..., :, None] == queue[..., None, :]) & active[..., None, :]
    work_s = torch.matmul(before.to(service_s.dtype), (service_s * active)[..., None])[..., 0]
    begin_s = torch.where(before, (ready_s + service_s - work_s)[..., None, :], -NEVER_S).amax(-1)
    return work_s + torch.maximum(free_s, begin_s)


def busy_until_s(free_s: Tensor, queue: Tensor, finish_s: Tensor, active: Tensor) -> Tensor:
    """Return when each queue [.., Q] has done its earlier work and these tasks.

    Args:
        free_s: [.., Q] when the earlier work is done, at least 0.
        queue: [.., K] int below Q, also for tasks that are not active.
        finish_s: [.., K] finish times; finite also for tasks that are not active.
        active: [.., K] bool, whether the task uses its queue.
    """
    return free_s.scatter_reduce(-1, queue, finish_s * active, "amax")


def counts(queue: Tensor, active: Tensor, queues: int) -> Tensor:
    """Return the number of active tasks in each queue, [.., queues] int64.

    Args:
        queue: [.., K] int below `queues`, also for tasks that are not active.
        active: [.., K] bool, whether the task counts.
        queues: number of queues.
    """
    zero = torch.zeros((*queue.shape[:-1], queues), dtype=torch.int64, device=queue.device)
    return zero.scatter_add_(-1, queue, active.long())


def sums(queue: Tensor, values: Tensor, queues: int) -> Tensor:
    """Return the sum of the values in each queue, [.., queues].

    Args:
        queue: [.., K] int below `queues`.
        values: [.., K], 0 for what must not count.
        queues: number of queues.
    """
    zero = torch.zeros((*queue.shape[:-1], queues), dtype=values.dtype, device=queue.device)
    return zero.scatter_add_(-1, queue, values)


def admission(server: Tensor, asks: Tensor, room: Tensor) -> Tensor:
    """Return which tasks [.., K] (bool) get a place on their server; lower numbers come first.

    Args:
        server: [.., K] int, an index into N also if the task asks for nothing.
        asks: [.., K] bool, whether the task asks for a place.
        room: [.., N] places that each server has left; may be infinite.
    """
    queue = torch.where(asks, server, room.shape[-1])
    order = service_order(queue)
    ahead = ranks(queue.gather(-1, order), counts(server, asks, room.shape[-1]))
    return asks & (torch.empty_like(ahead).scatter_(-1, order, ahead) < room.gather(-1, server))


def ranks(queue: Tensor, tasks: Tensor) -> Tensor:
    """Return how many tasks are ahead of each task in its queue, [.., K] int.

    Args:
        queue: [.., K] int, sorted; Q stands for no queue.
        tasks: [.., Q] tasks of each queue, from `counts`.
    """
    begins = torch.nn.functional.pad(tasks.cumsum(-1), (1, 0))
    return torch.arange(queue.shape[-1], device=queue.device) - begins.gather(-1, queue)


def elapse(backlog_s: Tensor, passed_s: float) -> Tensor:
    """Return the part of a backlog that is left after some time, at least 0.

    Args:
        backlog_s: any shape; unchanged.
        passed_s: time that passes, at least 0.
    """
    return (backlog_s - passed_s).clamp_(min=0)


def _inactive_penalty_s(active: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 if active, else a time that is as good as minus infinity."""
    return (active.to(dtype) - 1.0) * NEVER_S

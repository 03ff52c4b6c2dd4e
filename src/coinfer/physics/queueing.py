"""First come, first served: many queues of many worlds at once, without a loop over tasks.

A task that is ready at r and takes s turns the time x at which its queue is free into max(x, r) + s. Such functions
compose: x -> max(x + A, M), where A is the sum of the services and M the finish time of the last task if the queue was
free from the beginning. So the finish times of all tasks are a prefix scan, in log2(K) rounds, which is the identity
`finish = cumsum(service) + cummax(ready - previous cumsum)` for any number of queues at once. The same identity over
pairs of tasks takes K^2 comparisons, but no sorting.

Admission: a server holds at most `capacity` tasks, admitted and unfinished. When a slot begins and before anything is
sent, places are given in the order of the tasks' numbers; a task that finds none is refused.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_NUMBER_BITS = 14
"""Bits for a task's number in sort keys; with 31 for its time and 17 for its queue, they fit into 63."""
NEVER_S = 1e30
"""Added or subtracted to exclude something: as good as infinite, but finite, so that 0 times it is 0."""


def service_order(queue: Tensor | None, ready_s: Tensor | None = None, number: Tensor | None = None) -> Tensor:
    """Return the numbers [.., K] of the tasks sorted by queue, then readiness, then number.

    Args:
        queue: [.., K] int, queue of each task; if None, all tasks are in one queue.
        ready_s: [.., K]; if None, all tasks are ready at the same time. One of the two must be given.
        number: [.., K] int64, numbers of the tasks, not falling; if None, 0 to K - 1.
    """
    some = queue if ready_s is None else ready_s
    assert some is not None
    if some.device.type == "cpu" and some.shape[-1] <= 1 << _NUMBER_BITS and some.dtype != torch.float64:
        return _packed_order(queue, ready_s, torch.arange(some.shape[-1]) if number is None else number)
    order = some.argsort(dim=-1, stable=True)
    if queue is not None and ready_s is not None:
        order = order.gather(-1, queue.gather(-1, order).argsort(dim=-1, stable=True))
    return order if number is None else number.gather(-1, order)


def _packed_order(queue: Tensor | None, ready_s: Tensor | None, number: Tensor) -> Tensor:
    """Return the same order by one sort of whole numbers: queue, bits of the time, number of the task.

    Times are at least 0, so their bits are in the order of the times. NumPy sorts such rows several times as fast as
    PyTorch finds an order, and short whole numbers faster than long ones. A queue's number must be below 2^17.
    """
    number_bits = 32 if queue is None else _NUMBER_BITS
    if ready_s is None:
        assert queue is not None
        keys = (queue.int() << number_bits).bitwise_or_(number.int())
    else:
        keys = (ready_s + 0.0).view(torch.int32).long()
        keys <<= number_bits
        keys |= number
        if queue is not None:
            keys |= queue.long() << (31 + number_bits)
    keys.numpy().sort(axis=-1)
    return keys.bitwise_and_((1 << number_bits) - 1).long()


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


class QueueRows(NamedTuple):
    """The tasks that use each queue, if that is known before it is known when they are ready.

    Tasks are numbered from 1. Number 0 is no task, which is ready at 0 and takes 0: the places of a queue that are not
    used have it, and come first.
    """

    task: Tensor
    """[.., Q, L] int64, numbers of the tasks of each queue, not falling."""
    service_s: Tensor
    """[.., 1 + K]"""
    free_s: Tensor
    """[.., Q, 1] when each queue has done all work that came before these tasks."""


def queue_rows(queue: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> QueueRows:
    """Return the rows of queues for `row_finish_s`; L is the greatest number of tasks in a queue.

    Args:
        queue: [.., K] int below Q, also for tasks that are not active.
        service_s: [.., 1 + K] time that each task's service takes, after 0 for no task.
        active: [.., K] bool, whether the task uses its queue.
        free_s: [.., Q] when the queue has done all work that came before these tasks.
    """
    queues, last = free_s.shape[-1], queue.shape[-1] - 1
    tasks = counts(queue, active, queues)
    longest = max(1, int(tasks.amax()) if tasks.numel() else 0)
    position = torch.arange(longest, device=queue.device) + (tasks.cumsum(-1) - longest)[..., None]
    used = torch.arange(longest, 0, -1, device=queue.device) <= tasks[..., None]
    by_queue = service_order(torch.where(active, queue, queues))
    task = by_queue.gather(-1, position.clamp_(0, last).flatten(-2)).reshape(used.shape)
    return QueueRows((task + 1) * used, service_s, free_s[..., None])


def row_finish_s(rows: QueueRows, ready_s: Tensor, otherwise_s: Tensor) -> Tensor:
    """Return what `finish_s` does, [.., 1 + K], after 0 for no task.

    Args:
        rows: of the queues.
        ready_s: [.., 1 + K] when each task joins its queue, at least 0, after 0 for no task.
        otherwise_s: [.., 1 + K] what to return for tasks that do not use their queue; is overwritten.
    """
    order = service_order(None, _taken(ready_s, rows.task), rows.task)
    service_s = _taken(rows.service_s, order)
    total_s = service_s.cumsum(-1)
    begin_s = _taken(ready_s, order).add_(service_s).sub_(total_s).cummax(-1).values
    done_s = torch.maximum(rows.free_s, begin_s).add_(total_s)
    finish_s = otherwise_s.scatter_(-1, order.flatten(-2), done_s.flatten(-2))
    finish_s[..., 0].zero_()
    return finish_s


def _taken(values: Tensor, task: Tensor) -> Tensor:
    """Return the values [.., 1 + K] of the tasks [.., Q, L]."""
    return values.gather(-1, task.flatten(-2)).reshape(task.shape)


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

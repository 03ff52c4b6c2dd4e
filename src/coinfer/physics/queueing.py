"""First come, first served: many queues of many worlds at once, without a loop over tasks.

A task that is ready at r and takes s turns the time x at which its queue is free into max(x, r) + s. Such functions
compose: x -> max(x + A, M), A the summed services and M the finish time of the last task if the queue was free from the
beginning. So the finish times of all tasks are a prefix scan, in log2(K) rounds, which is the identity
`finish = cumsum(service) + cummax(ready - previous cumsum)` (design, section 3) for any number of queues at once.

Admission: a server holds at most `capacity` tasks, admitted and unfinished. Places are given in the order of the tasks'
numbers when a slot begins, before anything is sent; a task that finds none is refused.
"""

import torch
from torch import Tensor

NEVER_S = 1e30
"""Added or taken away where something must not count: as good as infinite, but 0 times it is 0."""


def in_order(queue: Tensor, ready_s: Tensor | None = None) -> Tensor:
    """Numbers [.., K] of the tasks, by queue, then readiness, then number; without `ready_s` all are ready at once."""
    if ready_s is None:
        return queue.argsort(dim=-1, stable=True)
    by_time = ready_s.argsort(dim=-1, stable=True)
    return by_time.gather(-1, queue.gather(-1, by_time).argsort(dim=-1, stable=True))


def finish_in_order_s(queue: Tensor, ready_s: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> Tensor:
    """Finish times [.., K] of tasks in the order of service, those of one queue side by side.

    Args:
        queue: [.., K] int.
        ready_s: [.., K]
        service_s: [.., K]
        active: [.., K] false where a task passes through the queue without using it; its result means nothing.
        free_s: [.., K] when the task's queue is done with all that came before these tasks.
    """
    total_s = service_s * active
    finish_s = (ready_s + service_s) + _barred(active, service_s.dtype)
    step = 1
    while step < queue.shape[-1]:
        same = (queue[..., step:] == queue[..., :-step]).to(service_s.dtype)
        here_s = total_s[..., step:]
        earlier_s = finish_s[..., :-step] + here_s + (same - 1.0) * NEVER_S
        finish_s = _with_tail(finish_s, step, torch.maximum(earlier_s, finish_s[..., step:]))
        total_s = _with_tail(total_s, step, here_s + total_s[..., :-step] * same)
        step *= 2
    return torch.maximum(free_s + total_s, finish_s)


def finish_s(queue: Tensor, ready_s: Tensor, service_s: Tensor, active: Tensor, free_s: Tensor) -> Tensor:
    """Finish times [.., K] of tasks in any order; arguments and meaning as in `finish_in_order_s`."""
    order = in_order(queue, ready_s)
    arranged = (array.gather(-1, order) for array in (queue, ready_s, service_s, active, free_s))
    return torch.empty_like(ready_s).scatter_(-1, order, finish_in_order_s(*arranged))


def busy_until_s(free_s: Tensor, queue: Tensor, finish_s: Tensor, active: Tensor) -> Tensor:
    """When each queue [.., Q], never before 0, is done with these tasks [.., K] too."""
    return free_s.scatter_reduce(-1, queue, finish_s * active, "amax")


def counts(queue: Tensor, active: Tensor, queues: int) -> Tensor:
    """Active tasks of each queue, [.., queues] int64."""
    zero = torch.zeros((*queue.shape[:-1], queues), dtype=torch.int64, device=queue.device)
    return zero.scatter_add_(-1, queue, active.long())


def sums(queue: Tensor, values: Tensor, queues: int) -> Tensor:
    """Sum of the values of each queue, [.., queues]."""
    zero = torch.zeros((*queue.shape[:-1], queues), dtype=values.dtype, device=queue.device)
    return zero.scatter_add_(-1, queue, values)


def admitted(server: Tensor, asks: Tensor, room: Tensor) -> Tensor:
    """Which tasks [.., K] get a place: those whose server has more room [.., N] than tasks with lower numbers ask for.

    `server` is an index into N also where a task asks for nothing.
    """
    queue = torch.where(asks, server, room.shape[-1])
    order = in_order(queue)
    ahead = ranks(queue.gather(-1, order), counts(server, asks, room.shape[-1]))
    return asks & (torch.empty_like(ahead).scatter_(-1, order, ahead) < room.gather(-1, server))


def ranks(queue: Tensor, tasks: Tensor) -> Tensor:
    """How many tasks [.., K] stand before each in its queue, given `counts` [.., Q] and the queues in order; a queue
    number of Q stands for no queue."""
    begins = torch.nn.functional.pad(tasks.cumsum(-1), (1, 0))
    return torch.arange(queue.shape[-1], device=queue.device) - begins.gather(-1, queue)


def elapse(backlog_s: Tensor, passed_s: float) -> Tensor:
    """What is left of a backlog after some time."""
    return (backlog_s - passed_s).clamp_(min=0)


def _barred(active: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where active, else as good as minus infinity."""
    return (active.to(dtype) - 1.0) * NEVER_S


def _with_tail(values: Tensor, start: int, tail: Tensor) -> Tensor:
    return torch.cat((values[..., :start], tail), dim=-1)

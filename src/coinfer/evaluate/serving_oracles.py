"""Deciders for servers that batch and load: rules that know the servers as observed, and searches that know the truth.

The rules know what an observation tells, and the requests and networks on the servers as old as it is
(`envs.serving.known_queues`). The searches know the true state, and with a horizon all tasks of the next slots.
"""

from collections import deque

import torch
from torch import Tensor

from coinfer.envs import offload, serving
from coinfer.envs.core import State
from coinfer.evaluate.oracles import Decider, Oracle, true_observation
from coinfer.evaluate.serving_worlds import Numbered, PlainWorlds
from coinfer.policies.heuristics.serving import later, plan
from coinfer.types import OffloadDecision, OffloadObservation

ROUNDS = 8
"""Of a search, at most."""


def serving_greedy(tables: offload.Tables) -> Decider:
    """Return the rule that knows batches and loads: task after task goes where it adds least to the latency of all.

    Args:
        tables: from `offload.load`.
    """
    return _decider(tables, rounds=1)


def amortised_greedy(load_weight: float) -> Oracle:
    """Return the same rule, but the task that has a network loaded counts only a part of that.

    Args:
        load_weight: the part, 0 to 1.
    """
    return lambda tables: _decider(tables, rounds=1, load_weight=load_weight)


def serving_descent(tables: offload.Tables) -> Decider:
    """Return the same rule with a search: the tasks of the slot are looked at until none improves alone.

    Args:
        tables: from `offload.load`.
    """
    return _decider(tables, rounds=ROUNDS)


def serving_forecast(slots: int) -> Oracle:
    """Return a search that takes the tasks of the last slots for those of the next, and decides for all of them.

    Args:
        slots: number of slots that it looks back and ahead.
    """
    return lambda tables: _decider(tables, rounds=ROUNDS, past=slots)


def serving_horizon(slots: int) -> Oracle:
    """Return a search that knows the truth and the tasks of the next slots, and decides for all of them together.

    Args:
        slots: number of slots after the present one.
    """
    return lambda tables: _decider(tables, rounds=ROUNDS, horizon=slots)


def _decider(
    tables: offload.Tables, *, rounds: int, past: int = 0, horizon: int = 0, load_weight: float = 1.0
) -> Decider:
    known, slot_s = PlainWorlds(tables), tables.edge.edge.slot_s
    history: deque[list[Numbered]] = deque(maxlen=past)

    def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
        assert state.queues is not None
        if bool((state.slot == 0).all()):
            history.clear()
        servers = known.servers(state.queues if horizon else serving.known_queues(state))
        tasks = [known.tasks(state, true_observation(tables, state) if horizon else observation, own=True)]
        tasks += [known.future(state, ahead) for ahead in range(1, horizon + 1)]
        tasks += history
        history.append(tasks[0])
        option = torch.zeros_like(state.draws.device)
        server = torch.full_like(option, -1)
        for world, states in enumerate(servers):
            together = [later(task, n * slot_s) for n, slot in enumerate(tasks) for _, task in slot[world]]
            choices = plan(states, together, rounds, load_weight)
            for (k, _), choice in zip(tasks[0][world], choices, strict=False):
                option[world, k], server[world, k] = choice.option, choice.server
        return OffloadDecision(option, server)

    return decide

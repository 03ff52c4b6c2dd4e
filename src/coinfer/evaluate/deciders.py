"""Several deciders in one world, none of whom knows what the others send: knowledge `own`."""

import torch
from torch import Tensor

from coinfer.envs import offload
from coinfer.envs.core import State
from coinfer.evaluate.oracles import Decider, Oracle
from coinfer.types import OffloadDecision, OffloadObservation


def apart(oracle: Oracle, deciders: int) -> Oracle:
    """Return deciders who share out the tasks of each slot evenly, and remember their own only.

    Each sees the servers as late as the world says, without what the others have sent since.

    Args:
        oracle: makes each of them; one that reads the state's servers as they are knows what no policy can.
        deciders: D, at least 1; task k is that of decider k % D.
    """

    def of(tables: offload.Tables) -> Decider:
        parts = [oracle(tables) for _ in range(deciders)]

        def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
            owner = torch.arange(observation.task_mask.shape[-1], device=observation.task_mask.device) % deciders
            option = torch.zeros_like(observation.task_mask, dtype=torch.int64)
            server = option - 1
            for number, part in enumerate(parts):
                mine = owner == number
                draws = state.draws._replace(task_mask=state.draws.task_mask & mine)
                seen = observation._replace(task_mask=observation.task_mask & mine)
                decision = part(state._replace(draws=draws), seen)
                option = torch.where(mine, decision.option, option)
                server = torch.where(mine, decision.server, server)
            return OffloadDecision(option, server)

        return decide

    return of

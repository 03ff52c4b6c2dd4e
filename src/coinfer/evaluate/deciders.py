"""Several deciders in one world, none of whom knows what the others send: knowledge `own`."""

from collections.abc import Iterator

import torch
from torch import Tensor

from coinfer.envs import offload
from coinfer.envs.core import State
from coinfer.evaluate.oracles import Decider, Oracle
from coinfer.types import DEVICE, OffloadDecision, OffloadObservation


def parts(
    state: State, observation: OffloadObservation[Tensor], deciders: int
) -> Iterator[tuple[State, OffloadObservation[Tensor]]]:
    """Yield state and observation of each decider, with its own tasks only: task k is that of decider k % D.

    Args:
        state: at the beginning of a slot.
        observation: of it.
        deciders: D, at least 1.
    """
    owner = torch.arange(observation.task_mask.shape[-1], device=observation.task_mask.device) % deciders
    for number in range(deciders):
        mine = owner == number
        draws = state.draws._replace(task_mask=state.draws.task_mask & mine)
        yield state._replace(draws=draws), observation._replace(task_mask=observation.task_mask & mine)


def merged(decisions: list[OffloadDecision[Tensor]]) -> OffloadDecision[Tensor]:
    """Return the decision of all deciders, in the order of `parts`.

    Args:
        decisions: what each decided; of others' tasks it may say anything.
    """
    option, server = torch.zeros_like(decisions[0].option), torch.full_like(decisions[0].server, DEVICE)
    for number, decision in enumerate(decisions):
        mine = slice(number, None, len(decisions))
        option[:, mine], server[:, mine] = decision.option[:, mine], decision.server[:, mine]
    return OffloadDecision(option, server)


def apart(oracle: Oracle, deciders: int) -> Oracle:
    """Return deciders who share out the tasks of each slot evenly, and remember their own only.

    Each sees the servers as late as the world says, without what the others have sent since.

    Args:
        oracle: makes each of them; one that reads the state's servers as they are knows what no policy can.
        deciders: D, at least 1.
    """

    def of(tables: offload.Tables) -> Decider:
        each = [oracle(tables) for _ in range(deciders)]

        def decide(state: State, observation: OffloadObservation[Tensor]) -> OffloadDecision[Tensor]:
            shared = zip(each, parts(state, observation, deciders), strict=True)
            return merged([one(*part) for one, part in shared])

        return decide

    return of

"""A site whose devices decide in a simulated world: its experience, as real nodes would tell it."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from coinfer.envs import offload, rewards
from coinfer.physics import random
from coinfer.policies.heuristics.offload import sequential_greedy
from coinfer.scenario.world import OffloadWorld
from coinfer.site.agent.observed import observed
from coinfer.site.messages import Batch, Decision
from coinfer.site.store import ExperienceStore
from coinfer.types import OffloadObservation

START_S = 1.7e9


def simulated(world: OffloadWorld, seed: int = 0) -> Iterator[tuple[str, Decision]]:
    """What the devices of one episode decide and experience, each for itself."""
    tables, policy = offload.load(world), sequential_greedy(0)
    state = offload.reset(tables, random.key(torch.zeros(1, dtype=torch.int64), seed))
    numbers, rng = defaultdict[str, int](int), np.random.default_rng(seed)
    for slot in range(world.edge.slots):
        observation = offload.observe(tables, state)
        decision = policy(observation)
        stepped = offload.step(tables, state, decision, rewards.latency)
        offsets = np.sort(rng.random(world.edge.tasks))
        for k in torch.nonzero(state.draws.task_mask[0])[:, 0].tolist():
            node = f"device-{int(state.draws.device[0, k])}"
            times = {name: float(getattr(stepped.outcome, name)[0, k]) for name in stepped.outcome._fields}
            server = int(decision.server[0, k])
            yield (
                node,
                Decision(
                    seq=numbers[node],
                    at_s=START_S + (slot + offsets[k]) * world.edge.slot_s,
                    model="m",
                    policy="sequential greedy",
                    option=int(decision.option[0, k]),
                    server=server,
                    executed_on="device" if server < 0 else f"edge-{server}:1",
                    **{name: times[name] for name in ("device_s", "upload_s", "queue_s", "server_s", "latency_s")},
                    observation=observed(_of_task(observation, k), [f"edge-{n}:1" for n in range(world.edge.servers)]),
                ),
            )
            numbers[node] += 1
        state = stepped.state


def _of_task(observation: OffloadObservation, k: int) -> OffloadObservation[np.ndarray]:
    """The observation of one task alone."""
    by_task = {"server_backlog_s", "server_room", "observation_age_s"}
    parts = {name: part[0].numpy() for name, part in observation._asdict().items()}
    return OffloadObservation(**{name: p if name in by_task else p[k : k + 1] for name, p in parts.items()})


def fill(store: ExperienceStore, world: OffloadWorld) -> int:
    """Stores an episode, and says how many decisions it has."""
    by_node = defaultdict[str, list[Decision]](list)
    for node, decision in simulated(world):
        by_node[node].append(decision)
    for node, decisions in by_node.items():
        for first in range(0, len(decisions), 200):
            store.put(node, Batch(epoch=1, records=decisions[first : first + 200])).result(60)
    return sum(map(len, by_node.values()))

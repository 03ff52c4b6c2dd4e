"""The paper's sweeps: preset mtl-a3c with other numbers of servers, blocks and tasks, limits, links and networks."""

from typing import cast

from coinfer.scenario.compile import Compiled, open_world
from coinfer.scenario.world import BlocksWorld
from coinfer.units import GIGA

SERVERS_GFLOP = (10, 15, 12, 18, 14, 10, 16, 12, 20)
"""The preset's servers, and those that the sweep adds; our choice."""
LOW_BPS, HIGH_BPS = 6.4e6, 16e6
SERVERS, BLOCKS, RATES = range(2, 10), range(3, 19, 3), range(30, 111, 20)
LIMITS_S, LINKS = (1, 3, 5, 7), (0.5, 0.75, 1.0, 1.5, 2.0)
NETWORKS = ("nin", "alexnet-cifar", "vgg16-cifar", "resnet32")
DEFAULTS = {"servers": 4, "blocks": 6, "tasks": 60, "link": 1.0, "network": "vgg16-cifar", "limit_s": None}
POINTS: dict[str, dict[str, object]] = {
    "default": {},
    **{f"{n} servers": {"servers": n} for n in SERVERS},
    **{f"{m} blocks": {"blocks": m} for m in BLOCKS},
    **{f"{k} tasks a slot": {"tasks": k} for k in RATES},
    **{f"{link} x link rate": {"link": link} for link in LINKS},
}
"""The sweeps that change the delay of a rule, by name."""


def changes_at(
    servers: int = 4,
    blocks: int = 6,
    tasks: int = 60,
    link: float = 1.0,
    limit_s: float | None = None,
    network: str = "vgg16-cifar",
    **more: object,
) -> dict[str, object]:
    """Return the changes to the preset at a point of a sweep, by dotted key.

    Args:
        servers: number of servers.
        blocks: number of blocks of the network.
        tasks: tasks released in a slot; the devices are as many.
        link: factor on the link rates.
        limit_s: the limit of every block; None for those of the preset.
        network: name of the network.
        more: other changes by dotted key.
    """
    changes: dict[str, object] = {
        "servers": [{"flop_per_s": speed * GIGA} for speed in SERVERS_GFLOP[:servers]],
        "blocks": blocks,
        "tasks_per_slot": tasks,
        "arrivals.tasks": tasks,
        "devices.0.count": tasks,
        "links.low_bps": LOW_BPS * link,
        "links.high_bps": HIGH_BPS * link,
        "models.0.network": network,
        **more,
    }
    if limit_s is not None:
        changes["models.0.deadline_s"] = [limit_s]
    return changes


def compiled_at(**point: object) -> Compiled:
    """Return the compiled scenario of a point; the arguments are those of `changes_at`."""
    return open_world("mtl-a3c", changes_at(**point))  # pyright: ignore[reportArgumentType]


def world_at(**point: object) -> BlocksWorld:
    """Return the world of `compiled_at`."""
    return cast(BlocksWorld, compiled_at(**point).world)

"""The rules for worlds that place every block, by name."""

from collections.abc import Callable

from coinfer.policies.heuristics import blocks
from coinfer.policies.heuristics.blocks_schedule import cut_schedule

BLOCKS: dict[str, Callable[[int], blocks.BlocksPolicy]] = {
    "rpdi": blocks.rpdi,
    "apdi": blocks.apdi,
    "device-only": blocks.device_only,
    "server-only": blocks.server_only,
    "greedy": blocks.greedy,
    "greedy-device": blocks.greedy_device,
    "best-cut": blocks.best_cut,
    "sequential-greedy": blocks.sequential_greedy,
    "proportional": blocks.proportional,
    "list-schedule": blocks.list_schedule,
    "cut-schedule": cut_schedule,
}
"""Names on the command line."""

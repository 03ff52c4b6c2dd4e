"""A compiled scenario in words and rows for a person."""

from collections.abc import Iterator

import numpy as np

from coinfer.physics.radio import shannon_bps
from coinfer.scenario.compile import Compiled
from coinfer.scenario.world import BlocksWorld, Edge, QueueWorld, WirelessPowerWorld
from coinfer.units import BITS_PER_BYTE, MEGA

_KILO = 1e3


def summary(compiled: Compiled) -> Iterator[tuple[str, str]]:
    """Yield the main figures of a scenario as pairs of name and text.

    Args:
        compiled: of any environment.
    """
    world = compiled.world
    yield "scenario", world.name
    if isinstance(world, QueueWorld):
        yield "arrivals at a device", f"{world.arrival_bits / _KILO:g} kbit a frame"
        world = world.frames
    if isinstance(world, WirelessPowerWorld):
        yield "environment", "wireless-power"
        yield "devices", str(len(world.mean_gain))
        yield "mean channel gains", f"{world.mean_gain.min():.3g} to {world.mean_gain.max():.3g}"
        return
    edge = world.edge
    blocks = isinstance(world, BlocksWorld)
    yield "environment", "blocks" if blocks else "offload"
    yield "episode", f"{edge.slots} slots of {edge.slot_s:g} s"
    yield "devices", f"{edge.devices} in {edge.classes} classes"
    yield "servers", str(edge.servers)
    yield "tasks in a slot", _tasks(edge)
    yield "networks", str(edge.models)
    if blocks:
        yield "blocks", str(world.blocks)
    else:
        counts = world.option_mask.sum(axis=-1)
        yield "options of a task", f"{counts.min()} to {counts.max()}"
    yield "links, mean", _links(edge)
    yield "deadlines", _deadlines(edge)
    yield "knowledge of servers", f"{edge.staleness_slots * edge.slot_s:g} s old"


def option_rows(compiled: Compiled) -> Iterator[tuple[str, ...]]:
    """Yield each option of each network on each class of devices as a row of texts.

    Args:
        compiled: without options it yields nothing; of the servers' times the row shows the least and the greatest.
    """
    for network, row in zip(compiled.networks if compiled.options else (), compiled.options, strict=True):
        for device, options in zip(compiled.devices, row, strict=True):
            for o, (exit_, cut, bits) in enumerate(options.sidecar_triples):
                server_ms = options.server_s[o] * _KILO
                yield (
                    network,
                    device,
                    str(exit_ + 1),
                    ", ".join(cut) or "nothing",
                    str(bits) if cut else "",
                    f"{options.upload_bits[o] / BITS_PER_BYTE / _KILO:.1f}",
                    f"{options.device_s[o] * _KILO:.1f}",
                    f"{server_ms.min():.1f}-{server_ms.max():.1f}" if cut else "",
                    f"{options.accuracy[o]:.3f}",
                )


def _tasks(edge: Edge) -> str:
    mean = (1 - edge.arrival_cdf).sum(axis=1)[edge.arrival_state].mean()
    return f"{mean:.3g} on average, {edge.tasks} at most"


def _links(edge: Edge) -> str:
    mean = edge.mean_link * edge.link_bank.mean()
    rates_bps = mean if edge.bandwidth_hz is None else shannon_bps(mean, edge.bandwidth_hz)
    low, high = np.quantile(rates_bps, [0.05, 0.95]) / MEGA
    return f"{np.median(rates_bps) / MEGA:.3g} Mbit/s" + (f" ({low:.3g} to {high:.3g})" if high > low else "")


def _deadlines(edge: Edge) -> str:
    low, high = edge.deadline_s.min(), edge.deadline_s.max()
    if np.isinf(low):
        return "none"
    return f"{low:.3g} s" if low == high else f"{low:.3g} to {high:.3g} s"

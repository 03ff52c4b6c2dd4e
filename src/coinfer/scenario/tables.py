"""The compile step of networks: tables of options, or of blocks, for every class of devices and every server."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from coinfer.partition.hull import Hull
from coinfer.physics.compute import compute_j, compute_s
from coinfer.profile.accuracy import AccuracyError, AccuracyTable
from coinfer.profile.devices import device_class
from coinfer.profile.table import ProfileError
from coinfer.scenario.errors import ScenarioError
from coinfer.scenario.load import Key, Scenario
from coinfer.scenario.network import ChainCut, NetworkTable, even_blocks, open_network
from coinfer.scenario.traces import find_file
from coinfer.units import FLOAT32_BITS, bytes_of_bits

Accuracy = Callable[[int, str, int], float]
"""Of an exit (from 0), the tensor that is sent (empty for the input and for nothing, which lose nothing), and bits."""


class Speed(NamedTuple):
    """How fast one computer runs one network."""

    table: NetworkTable
    factor: float
    """Times slower than the table's machine."""
    flop_per_s: float | None
    """Instead of the table's times: arithmetic only."""

    def segment_s(self, exit_: int, first: int, last: int) -> float:
        """Time from one cut of an exit's chain to another."""
        start, end = self.table.exits[exit_][first], self.table.exits[exit_][last]
        if first == last:
            return 0.0
        if self.flop_per_s is not None:
            return float(compute_s(end.done_flop - start.done_flop, self.flop_per_s))
        return self.factor * (self.table.call_s + end.done_s - start.done_s + start.enter_s + end.leave_s)

    def coding_s(self, elements: int, per_byte: Mapping[int, float], bits: int) -> float:
        """Time to encode or decode a tensor."""
        if self.flop_per_s is not None:
            return 0.0
        return self.factor * bytes_of_bits(elements * FLOAT32_BITS) * per_byte.get(bits, 0.0)


class Label(NamedTuple):
    """What an option means."""

    exit: int
    """From 1."""
    cut: str
    """The tensor that is sent; empty where nothing is."""
    bits: int


class Options(NamedTuple):
    """All ways to run one network from one class of devices. N servers."""

    labels: tuple[Label, ...]
    device_s: np.ndarray
    """[O]"""
    upload_bits: np.ndarray
    """[O]"""
    server_s: np.ndarray
    """[O, N]"""
    accuracy: np.ndarray
    """[O]"""
    device_j: np.ndarray
    """[O]"""

    def take(self, index: np.ndarray) -> "Options":
        """The options at these indices."""
        arrays = [array[index] for array in self[1:]]
        return Options(tuple(self.labels[i] for i in index), *arrays)

    def latency_s(self, rate_bps: np.ndarray) -> np.ndarray:
        """[O, N] with nobody else there, over links of these rates [N]."""
        upload_s = self.upload_bits[:, None] / rate_bps
        return self.device_s[:, None] + np.where(self.upload_bits[:, None] > 0, upload_s + self.server_s, 0.0)


def open_networks(scenario: Scenario) -> list[NetworkTable]:
    """The table of each model of a scenario.

    Raises:
        ScenarioError: where a network or one of its exits is not there.
    """
    found = []
    for i, model in enumerate(scenario.spec.models):
        try:
            table = open_network(model.network, scenario.folder)
        except ScenarioError as error:
            raise scenario.error(("models", i, "network"), str(error)) from None
        if model.exits and model.exits[-1] > len(table.exits):
            raise scenario.error(
                ("models", i, "exits"), f"got exit {model.exits[-1]}, expected 1 to {len(table.exits)}"
            )
        found.append(table)
    return found


def speeds(scenario: Scenario, kind: str, tables: Sequence[NetworkTable]) -> list[list[Speed]]:
    """How fast each class of `devices` or `servers` runs each network, [class][model].

    Raises:
        ScenarioError: where the catalogue or the profiles lack what is asked for.
    """
    classes = getattr(scenario.spec, kind)
    return [[_speed(scenario, (kind, i), one, table) for table in tables] for i, one in enumerate(classes)]


def _speed(scenario: Scenario, key: Key, computer: Any, table: NetworkTable) -> Speed:
    if computer.flop_per_s is not None:
        return Speed(table, 1.0, computer.flop_per_s)
    if computer.slowdown is not None:
        return Speed(table, computer.slowdown, None)
    if computer.catalogue is not None:
        try:
            whole_s = device_class(computer.catalogue).network_s(table.network, table.work_flop)
        except ProfileError as error:
            raise scenario.error((*key, "catalogue"), str(error)) from None
        return Speed(table, whole_s / table.whole_s, None)
    for i, name in enumerate(computer.profiles):
        try:
            measured = open_network(name, scenario.folder)
        except ScenarioError as error:
            raise scenario.error((*key, "profiles", i), str(error)) from None
        if measured.fingerprint == table.fingerprint:
            return Speed(measured, 1.0, None)
    raise scenario.error((*key, "profiles"), f"none of them is of network {table.network!r}")


def exits_of(model: Any, table: NetworkTable) -> list[int]:
    """Indices of the exits that may answer."""
    return [number - 1 for number in model.exits] if model.exits else [len(table.exits) - 1]


def stated_accuracy(model: Any, table: NetworkTable) -> Accuracy:
    """What the scenario's file says."""
    whole = dict(zip(exits_of(model, table), model.accuracy, strict=True))
    return lambda exit_, cut, bits: max(whole[exit_] - (model.accuracy_drop.get(bits, 0.0) if cut else 0.0), 0.0)


def accuracy_of(scenario: Scenario, number: int, table: NetworkTable) -> Accuracy:
    """Measured or stated accuracy of a model of the scenario.

    Raises:
        ScenarioError: where the accuracy table is not there, damaged, or of another network.
    """
    model, key = scenario.spec.models[number], ("models", number, "accuracy_table")
    if model.accuracy_table is None:
        return stated_accuracy(model, table)
    path = find_file(model.accuracy_table, scenario.folder)
    if path is None:
        raise scenario.error(key, f"no file {model.accuracy_table!r}; `coinfer exits measure` writes one")
    try:
        measured = AccuracyTable.load(path)
    except AccuracyError as error:
        raise scenario.error(key, str(error)) from None
    if measured.fingerprint != table.fingerprint:
        told = f"{path.name} was measured on network {measured.model!r} ({measured.fingerprint[:12]})"
        raise scenario.error(key, f"{told}, expected {table.network!r} ({table.fingerprint[:12]})")

    def accuracy(exit_: int, cut: str, bits: int) -> float:
        try:
            found = measured.accuracy(exit_, (cut,), bits if cut else FLOAT32_BITS)
            return min(found, measured.accuracy(exit_))  # more than exact is chance
        except AccuracyError as error:
            raise scenario.error(key, str(error)) from None

    return accuracy


def all_options(
    model: Any,
    device: Any,
    on_device: Speed,
    on_server: Sequence[Speed],
    ends: bool,
    accuracy: Accuracy | None = None,
) -> Options:
    """Every exit, cut and number of bits.

    Args:
        ends: only the whole network here or there.
        accuracy: what the model's file states where it is not given.
    """
    rows = []
    accuracy = accuracy or stated_accuracy(model, on_device.table)
    for exit_ in exits_of(model, on_device.table):
        cuts = on_device.table.exits[exit_]
        last = len(cuts) - 1
        for i in (0,) if ends else range(last):
            for bits, size in payloads(cuts[i], i == 0, model).items():
                encode_s = on_device.coding_s(cuts[i].elements, on_device.table.encode_s_per_byte, bits)
                server_s = [
                    speed.segment_s(exit_, i, last)
                    + speed.coding_s(cuts[i].elements, speed.table.decode_s_per_byte, bits)
                    for speed in on_server
                ]
                label = Label(exit_ + 1, cuts[i].tensor, bits)
                device_s = on_device.segment_s(exit_, 0, i) + encode_s
                right = accuracy(exit_, cuts[i].tensor if i else "", bits)
                rows.append((label, device_s, size, server_s, right))
        here_s = on_device.segment_s(exit_, 0, last)
        right = accuracy(exit_, "", FLOAT32_BITS)
        rows.append((Label(exit_ + 1, "", FLOAT32_BITS), here_s, 0.0, [0.0] * len(on_server), right))
    labels, device_s, upload_bits, server_s, right = zip(*rows, strict=True)
    return Options(
        labels,
        np.array(device_s),
        np.array(upload_bits),
        np.array(server_s),
        np.array(right),
        energy_j(device, np.array(device_s)),
    )


def payloads(cut: ChainCut, is_input: bool, model: Any) -> dict[int, float]:
    """Bits sent at a cut by bits per element: an image input as its own bytes, any other as it is."""
    if is_input:
        widths = list(cut.payload_bits) if len(cut.payload_bits) == 1 else [FLOAT32_BITS]
    else:
        widths = list(dict.fromkeys(model.bits))
    if model.sizes == "plain":
        return {bits: float(cut.elements * bits) for bits in widths}
    return {bits: cut.payload_bits[bits] for bits in widths if bits in cut.payload_bits}


def energy_j(device: Any, busy_s: np.ndarray) -> np.ndarray:
    """Energy of a device that computes for so long."""
    if device.capacitance is not None:
        return np.asarray(compute_j(device.capacitance, device.freq_hz, device.freq_hz * busy_s))
    return device.compute_power_w * busy_s


def prune(options: Options, how: str, limited_energy: bool) -> Options:
    """Leave out options that cannot be the best; always one for each exit's accuracy that sends nothing.

    Args:
        how: `hull`, `dominated` or `none`, as the scenario says.
        limited_energy: whether a frugal option may be best although it is slower.
    """
    if how == "none":
        return options
    if how == "dominated":
        return options.take(np.flatnonzero(~_dominated(options)))
    kept = set[int]()
    for level in np.unique(options.accuracy):
        among = np.flatnonzero(options.accuracy >= level)
        costs = [(options.device_s[:, None] + options.server_s)[among, n] for n in range(options.server_s.shape[1])]
        if limited_energy:
            costs.append(options.device_j[among])
        for cost in costs:
            kept.update(among[Hull.build(cost, options.upload_bits[among]).options].tolist())
    return options.take(np.array(sorted(kept)))


def _dominated(options: Options) -> np.ndarray:
    """[O] where another option is nowhere worse and somewhere better, or the same and earlier."""
    worth = np.column_stack([options.device_s, options.upload_bits, options.server_s, -options.accuracy])
    no_worse = (worth[:, None] <= worth[None]).all(axis=-1)
    better = (worth[:, None] < worth[None]).any(axis=-1)
    earlier = np.arange(len(worth))[:, None] < np.arange(len(worth))
    return np.asarray((no_worse & (better | earlier)).any(axis=0))


def best_only(options: Options, rate_bps: np.ndarray) -> Options:
    """The fastest of the most accurate options over links of these rates [N] with nobody else there, and the fastest of
    them that sends nothing."""
    top = options.accuracy == options.accuracy.max()
    sends = options.upload_bits > 0
    fastest_s = np.where(top, options.latency_s(rate_bps).min(axis=1), np.inf)
    alone_s = np.where(top & ~sends, options.device_s, np.inf)
    return options.take(np.unique([np.where(sends, fastest_s, np.inf).argmin(), alone_s.argmin()]))


class Blocks(NamedTuple):
    """The blocks of one network, M of them."""

    cuts: tuple[int, ...]
    """[M + 1]"""
    input_bits: np.ndarray
    """[M]"""


def blocks_of(model: Any, table: NetworkTable, count: int) -> Blocks:
    """Even blocks of the exit that answers.

    Raises:
        ValueError: where the network has fewer.
    """
    exit_ = exit_of(model, table)
    cuts = table.exits[exit_]
    chosen = even_blocks(cuts, count)
    sizes = [next(iter(payloads(cuts[i], i == 0, model).values())) for i in chosen[:-1]]
    return Blocks(chosen, np.array(sizes))


def exit_of(model: Any, table: NetworkTable) -> int:
    """Index of the only exit that a model of `blocks` uses."""
    return model.exits[0] - 1 if model.exits else len(table.exits) - 1


def block_times_s(speed: Speed, exit_: int, cuts: Sequence[int]) -> np.ndarray:
    """[M] time of each block."""
    return np.array([speed.segment_s(exit_, a, b) for a, b in pairwise(cuts)])

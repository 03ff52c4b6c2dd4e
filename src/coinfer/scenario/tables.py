"""What a scenario's networks cost on its devices and servers: names and figures in the file become tables."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from coinfer.errors import ScenarioError, UserError, short_repr
from coinfer.options.chain import Encoding, Speed, chain_options
from coinfer.options.network import NetworkTable, NetworkTableError
from coinfer.options.network import load as load_network
from coinfer.options.table import Accuracy, Options, measured_accuracy, stated_accuracy
from coinfer.physics.compute import compute_j
from coinfer.profile.accuracy import AccuracyError, AccuracyTable
from coinfer.profile.devices import device_class
from coinfer.profile.table import ProfileError
from coinfer.resources import DATA, NETWORKS
from coinfer.scenario.load import Key, Source
from coinfer.scenario.spec import BaseScenario, Model
from coinfer.scenario.spec_nodes import Computer, Device
from coinfer.scenario.traces import find_file


def open_networks(spec: BaseScenario, source: Source) -> list[NetworkTable]:
    """Return the table of each model of a scenario.

    Args:
        spec: names the networks.
        source: locates files and errors.

    Raises:
        ScenarioError: if a network or one of its exits does not exist.
    """
    opened: list[NetworkTable] = []
    for i, model in enumerate(spec.models):
        try:
            table = open_network(model.network, source.folder)
        except UserError as error:
            raise source.error(("models", i, "network"), str(error)) from None
        if model.exits and model.exits[-1] > len(table.exits):
            raise source.error(("models", i, "exits"), f"got exit {model.exits[-1]}, expected 1 to {len(table.exits)}")
        opened.append(table)
    return opened


def open_network(name: str, folder: Path | None = None) -> NetworkTable:
    """Return a shipped network by name, or the one in a file.

    Args:
        name: of a shipped network, or of a `.json` file.
        folder: where a file is looked for first.

    Raises:
        ScenarioError: if neither exists.
        NetworkTableError: if the file is no network table.
    """
    if name.endswith(".onnx"):
        raise ScenarioError(
            f"{short_repr(name)} is a network without its costs; "
            f"`coinfer scenario profile {name} -o FILE.json` measures it"
        )
    path = find_file(name if name.endswith(".json") else f"{NETWORKS.relative_to(DATA)}/{name}.json", folder)
    if path is None:
        raise ScenarioError(
            f"no network {short_repr(name)}; expected a .json file or one of {', '.join(shipped_networks())}"
        )
    return load_network(path)


@cache
def shipped_networks() -> tuple[str, ...]:
    """Return the names of the networks that come with coinfer."""
    return tuple(sorted(path.stem for path in NETWORKS.glob("*.json")))


def speeds(
    computers: Sequence[Computer], key: str, networks: Sequence[NetworkTable], source: Source
) -> list[list[Speed]]:
    """Return how fast each class of computers runs each network, [class][network].

    Args:
        computers: classes of devices or of servers.
        key: `devices` or `servers`, for errors.
        networks: tables of the scenario's models.
        source: locates files and errors.

    Raises:
        ScenarioError: if the catalogue or the profiles lack a class or network.
    """
    return [[_speed(one, (key, i), table, source) for table in networks] for i, one in enumerate(computers)]


def _speed(computer: Computer, key: Key, table: NetworkTable, source: Source) -> Speed:
    if computer.flop_per_s is not None:
        return Speed(table, 1.0, computer.flop_per_s)
    if computer.slowdown is not None:
        return Speed(table, computer.slowdown, None)
    if computer.catalogue is not None:
        try:
            whole_s = device_class(computer.catalogue).network_s(table.network, table.work_flop)
        except ProfileError as error:
            raise source.error((*key, "catalogue"), str(error)) from None
        return Speed(table, whole_s / table.whole_s, None)
    for i, name in enumerate(computer.profiles or ()):
        try:
            measured = open_network(name, source.folder)
        except (ScenarioError, NetworkTableError) as error:
            raise source.error((*key, "profiles", i), str(error)) from None
        if measured.fingerprint == table.fingerprint:
            return Speed(measured, 1.0, None)
    raise source.error((*key, "profiles"), f"none of them is of network {table.network!r}")


def exits_of(model: Model, table: NetworkTable) -> list[int]:
    """Return the indices of the exits that may answer, rising.

    Args:
        model: may name exits; without, the last one answers.
        table: of the model's network.
    """
    return [number - 1 for number in model.exits] if model.exits else [len(table.exits) - 1]


def encoding_of(model: Model) -> Encoding:
    """Return how a model's tensors are encoded for the link.

    Args:
        model: gives allowed bits, and whether measured sizes count.
    """
    return Encoding(model.bits, plain=model.sizes == "plain", codes=model.bottleneck)


def accuracy_of(model: Model, key: Key, table: NetworkTable, source: Source) -> Accuracy:
    """Return the measured or stated accuracy of a model.

    Args:
        model: states it, or names a table.
        key: of the model in the file, for errors.
        table: of the model's network.
        source: locates files and errors.

    Raises:
        ScenarioError: if the accuracy table does not exist, is damaged, or belongs to another network.
    """
    if model.accuracy_table is None:
        exact = dict(zip(exits_of(model, table), model.accuracy, strict=True))
        return stated_accuracy(exact, model.accuracy_drop)
    key = (*key, "accuracy_table")
    path = find_file(model.accuracy_table, source.folder)
    if path is None:
        raise source.error(key, f"no file {model.accuracy_table!r}; `coinfer exits measure` writes one")
    try:
        measured = AccuracyTable.load(path)
    except AccuracyError as error:
        raise source.error(key, str(error)) from None
    if measured.fingerprint != table.fingerprint:
        measured_on = f"{path.name} was measured on network {measured.model!r} ({measured.fingerprint[:12]})"
        raise source.error(key, f"{measured_on}, expected {table.network!r} ({table.fingerprint[:12]})")
    return measured_accuracy(measured)


def model_options(
    model: Model, device: Speed, servers: Sequence[Speed], accuracy: Accuracy, *, ends_only: bool = False
) -> Options:
    """Return every way to run a model on a device and N servers.

    Args:
        model: gives exits and allowed bits.
        device: speed of the device for the model's network.
        servers: [N] speeds of the servers for it.
        accuracy: of each exit with each encoding.
        ends_only: leave out the cuts inside the network.

    Raises:
        SizeError: if the size of something that is sent is not known.
        AccuracyError: if `accuracy` lacks one of the options.
    """
    exits = exits_of(model, device.table)
    return chain_options(device, servers, exits, encoding_of(model), accuracy, ends_only=ends_only)


def energy_j(device: Device, busy_s: np.ndarray) -> np.ndarray:
    """Return the energy of a device that computes, of the shape of `busy_s`.

    Args:
        device: with a constant power, or with capacitance and frequency (E = kappa f^2 cycles).
        busy_s: computing time, of any shape.
    """
    if device.capacitance is not None and device.freq_hz is not None:
        return np.asarray(compute_j(device.capacitance, device.freq_hz, device.freq_hz * busy_s))
    return device.compute_power_w * busy_s

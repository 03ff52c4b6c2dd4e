"""From a scenario to a world: all that an environment needs, as arrays."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coinfer.physics.radio import free_space_gain
from coinfer.scenario import arrivals as arrive
from coinfer.scenario import tables
from coinfer.scenario.channels import Links, build_links, server_shares, workload_path
from coinfer.scenario.load import Scenario, load
from coinfer.scenario.spec import Reward
from coinfer.scenario.tables import Label, Options, Speed
from coinfer.scenario.traces import load_workload
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld, WirelessPowerWorld, World, check
from coinfer.units import GIGA

MOST_LOST = 0.01
"""Largest share of arrivals that may find no place in a slot."""
MOST_SLOTS = 10_000_000
"""Slots of a measured workload."""
_QUANTILES = 64


class Compiled(NamedTuple):
    """A world and what a person wants to know about it."""

    world: World
    networks: tuple[str, ...]
    """[X] names."""
    devices: tuple[str, ...]
    """[C] what each class of devices is."""
    labels: tuple[tuple[tuple[Label, ...], ...], ...]
    """[X][C] what each option means; empty for other environments than `offload`."""
    reward: Reward | None
    """The settings of what a learner is paid for; DROO's world has its own."""
    notes: tuple[str, ...]
    """Where the world departs from what the file asks for, one line each."""


def open_world(name: str | Path, changes: Mapping[str, Any] | None = None) -> Compiled:
    """The world of a preset or a file; arguments and errors as `load.load`."""
    return compile_scenario(load(name, changes))


def compile_scenario(scenario: Scenario) -> Compiled:
    """All arrays of a scenario, checked.

    Raises:
        ScenarioError: naming file, line and key of what cannot be compiled.
    """
    spec = scenario.spec
    if spec.environment == "wireless-power":
        return Compiled(_wireless_power(spec), (), (), (), None, ())
    rng = np.random.default_rng(spec.seed)
    networks = tables.open_networks(scenario)
    on_device = tables.speeds(scenario, "devices", networks)
    server_classes = tables.speeds(scenario, "servers", networks)
    on_server = [speeds for speeds, one in zip(server_classes, spec.servers, strict=True) for _ in range(one.count)]
    device_class = np.repeat(np.arange(len(spec.devices)), [device.count for device in spec.devices])
    links = build_links(scenario, len(device_class), len(on_server), rng)
    come, notes = _arrivals(scenario)
    rates = _class_rates(links, device_class)
    if spec.environment == "blocks":
        world, least_s = _blocks(scenario, networks, on_device, on_server)
        labels = ()
    else:
        options = _options(scenario, on_device, on_server, rates)
        world, labels = _offload(spec.name, options)
        least_s = np.array([[one.latency_s(rates[c]).min() for c, one in enumerate(row)] for row in options])
    edge = _edge(spec, device_class, links, come, server_shares(spec, rng), _deadlines(spec, least_s))
    world = world._replace(edge=edge)
    check(world)
    classes = tuple(_named(device) for device in spec.devices)
    names = tuple(table.network for table in networks)
    return Compiled(world, names, classes, labels, spec.reward, (*links.notes, *notes))


def _named(computer: Any) -> str:
    """How a person would call it."""
    if computer.flop_per_s is not None:
        return f"{computer.flop_per_s / GIGA:g} GFLOP/s"
    if computer.slowdown is not None:
        return f"slowdown {computer.slowdown:g}"
    return computer.catalogue or f"measured ({computer.profiles[0]})"


def fingerprint(world: World) -> str:
    """SHA-256 over all that the world holds, hex; two runs saw the same world only where it is equal."""
    digest = hashlib.sha256()
    _digest(digest, world)
    return digest.hexdigest()


def _digest(digest: Any, value: Any) -> None:
    if hasattr(value, "_asdict"):
        for name, item in value._asdict().items():
            digest.update(name.encode())
            _digest(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    else:
        digest.update(repr(value).encode())


def _edge(
    spec: Any, device_class: np.ndarray, links: Links, come: arrive.Arrivals, shares: np.ndarray, deadline_s: np.ndarray
) -> Edge:
    part = np.cumsum([model.share for model in spec.models])
    each = [server for server in spec.servers for _ in range(server.count)]
    return Edge(
        slots=spec.slots,
        slot_s=spec.slot_s,
        tasks=spec.tasks_per_slot,
        distinct_devices=spec.distinct_devices,
        device_class=device_class,
        model_cdf=np.append(part[:-1] / part[-1], 1.0),
        arrival_cdf=come.cdf,
        arrival_state=come.level[None],
        deadline_s=deadline_s,
        device_factor=_around_one(spec.compute_error),
        server_factor=_around_one(spec.compute_error),
        mean_link=links.mean,
        link_bank=links.bank,
        bandwidth_hz=links.bandwidth_hz,
        shared_bandwidth=links.shared,
        rate_error=_around_one(spec.rate_error),
        transmit_power_w=np.array([device.transmit_power_w for device in spec.devices]),
        server_capacity=_or_infinite([server.capacity for server in each]),
        share_bank=shares,
        staleness_slots=spec.staleness_slots,
        download_s=np.array([server.download_s for server in each]),
        drop_refused=spec.refused == "drop",
        task_energy_j=_or_infinite([device.task_energy_j for device in spec.devices]),
        battery_j=_or_infinite([device.battery_j for device in spec.devices]),
        one_path=spec.links.kind == "traces" and spec.links.one_path,
    )


def _or_infinite(values: list[float | None]) -> np.ndarray:
    return np.array([np.inf if value is None else value for value in values], dtype=float)


def _around_one(error: float) -> np.ndarray:
    """Evenly spread values within this fraction of 1."""
    if error == 0:
        return np.ones(1)
    return 1 + error * (2 * (np.arange(_QUANTILES) + 0.5) / _QUANTILES - 1)


def _class_rates(links: Links, device_class: np.ndarray) -> np.ndarray:
    """[C, N] mean rate from the devices of a class to each server."""
    mean_bps = links.mean_bps()
    return np.array([mean_bps[device_class == c].mean(axis=0) for c in range(device_class.max() + 1)])


def _arrivals(scenario: Scenario) -> tuple[arrive.Arrivals, tuple[str, ...]]:
    """The table of arrivals, and a note where some find no place."""
    most = scenario.spec.tasks_per_slot
    found = _arrival_table(scenario, most)
    if found.lost > MOST_LOST:
        enough = next(
            (n for n in (2**i for i in range(13)) if _arrival_table(scenario, n).lost <= MOST_LOST / 10), 4096
        )
        raise scenario.error(
            ("tasks_per_slot",),
            f"got {most}, but {found.lost:.1%} of {found.offered:.3g} requests a slot would find no place; {enough} is "
            "enough",
        )
    lost = f"{found.lost:.2%} of the requests find no place in a slot (tasks_per_slot {most})"
    return found, (lost,) if found.lost > MOST_LOST / 10 else ()


def _arrival_table(scenario: Scenario, most: int) -> arrive.Arrivals:
    spec, settings = scenario.spec, scenario.spec.arrivals
    match settings.kind:
        case "fixed":
            return arrive.fixed(settings.tasks, most)
        case "poisson":
            return arrive.poisson(settings.rate_per_s * spec.slot_s, most)
        case "lognormal":
            return arrive.lognormal(settings.mean, settings.variance, spec.slot_s / settings.per_s, most)
        case _:
            return _measured(scenario, most)


def _measured(scenario: Scenario, most: int) -> arrive.Arrivals:
    spec, settings = scenario.spec, scenario.spec.arrivals
    workload = load_workload(workload_path(scenario), settings.series)
    try:
        workload = workload.window(settings.start_s, settings.length_s)
    except ValueError as error:
        raise scenario.error(("arrivals", "start_s"), f"{settings.file} {error}") from None
    end_s = settings.start_s + workload.period_s
    if workload.period_s < spec.slot_s:
        raise scenario.error(
            ("arrivals", "length_s"),
            f"{settings.file} has no whole slot of {spec.slot_s:g} s between {settings.start_s:g} s and {end_s:g} s",
        )
    if workload.period_s > MOST_SLOTS * spec.slot_s:
        raise scenario.error(
            ("arrivals", "length_s"),
            f"{settings.file} has more than {MOST_SLOTS:,} slots of {spec.slot_s:g} s; take a part with length_s",
        )
    counts = arrive.superposed(workload.per_bin(spec.slot_s), settings.copies)
    return arrive.measured(counts * settings.scale, most)


def _options(
    scenario: Scenario, on_device: list[list[Speed]], on_server: list[list[Speed]], rates: np.ndarray
) -> list[list[Options]]:
    """[X][C]"""
    spec = scenario.spec
    found = []
    for x, model in enumerate(spec.models):
        row, accuracy = [], tables.accuracy_of(scenario, x, on_device[0][x].table)
        for c, device in enumerate(spec.devices):
            servers = [speeds[x] for speeds in on_server]
            options = tables.all_options(model, device, on_device[c][x], servers, spec.cuts == "ends", accuracy)
            if not (options.upload_bits > 0).any():
                raise scenario.error(("models", x, "bits"), f"{model.network} has no measured sizes at these bits")
            if spec.keep == "best":
                options = tables.best_only(options, rates[c])
            limited = device.task_energy_j is not None or device.battery_j is not None
            row.append(tables.prune(options, "none" if spec.keep == "best" else spec.prune, limited))
        found.append(row)
    return found


def _offload(name: str, options: list[list[Options]]) -> tuple[Any, Any]:
    """The world without its edge, and the labels."""
    most = max(len(one.labels) for row in options for one in row)

    def padded(field: str) -> np.ndarray:
        return np.array([[_padded(getattr(one, field), most) for one in row] for row in options])

    local = [[int(np.where(one.upload_bits == 0, one.accuracy, -1.0).argmax()) for one in row] for row in options]
    mask = [[np.arange(most) < len(one.labels) for one in row] for row in options]
    world = OffloadWorld(
        name=name,
        edge=_NO_EDGE,
        option_device_s=padded("device_s"),
        option_upload_bits=padded("upload_bits"),
        option_server_s=padded("server_s"),
        option_accuracy=padded("accuracy"),
        option_device_j=padded("device_j"),
        option_mask=np.array(mask),
        local_option=np.array(local),
    )
    return world, tuple(tuple(one.labels for one in row) for row in options)


_NO_EDGE: Any = None


def _padded(array: np.ndarray, most: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((most - len(array), *array.shape[1:]))])


def _blocks(
    scenario: Scenario, networks: list[Any], on_device: list[list[Speed]], on_server: list[list[Speed]]
) -> tuple[Any, np.ndarray]:
    """The world without its edge, and the least latency [X, C]: all on the device."""
    spec = scenario.spec
    blocks, exits = [], [tables.exit_of(model, table) for model, table in zip(spec.models, networks, strict=True)]
    for x, (model, table) in enumerate(zip(spec.models, networks, strict=True)):
        try:
            blocks.append(tables.blocks_of(model, table, spec.blocks))
        except ValueError as error:
            raise scenario.error(("blocks",), f"got {spec.blocks}, but {model.network} {error}") from None
        except StopIteration:
            raise scenario.error(
                ("models", x, "bits"), f"{model.network} has no measured sizes at these bits"
            ) from None
    here = [[tables.block_times_s(one[x], exits[x], blocks[x].cuts) for one in on_device] for x in range(len(blocks))]
    there = [[tables.block_times_s(one[x], exits[x], blocks[x].cuts) for one in on_server] for x in range(len(blocks))]
    device_s = np.array(here)
    joules = [[tables.energy_j(device, times) for device, times in zip(spec.devices, row, strict=True)] for row in here]
    world = BlocksWorld(
        name=spec.name,
        edge=_NO_EDGE,
        block_device_s=device_s,
        block_server_s=np.array(there).swapaxes(1, 2),
        block_input_bits=np.array([one.input_bits for one in blocks]),
        block_device_j=np.array(joules),
        block_mask=np.ones((len(blocks), spec.blocks), dtype=bool),
        accuracy=np.array([model.accuracy[0] for model in spec.models]),
        backhaul_bps=spec.backhaul_bps,
    )
    return world, device_s.sum(axis=-1)


def _deadlines(spec: Any, least_s: np.ndarray) -> np.ndarray:
    """[X, C, 2]"""
    found = np.full((*least_s.shape, 2), np.inf)
    for x, model in enumerate(spec.models):
        if model.deadline_s:
            found[x] = (model.deadline_s[0], model.deadline_s[-1])
        elif model.deadline_factor:
            found[x] = model.deadline_factor * least_s[x][:, None]
    return found


def _wireless_power(spec: Any) -> WirelessPowerWorld:
    distance_m = spec.nearest_m + spec.step_m * np.arange(spec.devices)
    return WirelessPowerWorld(
        name=spec.name,
        slots=spec.slots,
        mean_gain=free_space_gain(distance_m, spec.antenna_gain, spec.carrier_hz, spec.path_loss_exponent),
        weight=np.resize(np.array(spec.weights), spec.devices),
        power_w=spec.power_w,
        harvest_efficiency=spec.harvest_efficiency,
        cycles_per_bit=spec.cycles_per_bit,
        capacitance=spec.capacitance,
        noise_w=spec.noise_w,
        bandwidth_hz=spec.bandwidth_hz,
        overhead=spec.overhead,
    )

"""From a scenario to a world: everything that an environment needs, as arrays."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.options.blocks import block_times_s, blocks_of
from coinfer.options.chain import SizeError, Speed
from coinfer.options.network import NetworkTable
from coinfer.options.prune import Rule, best_only, prune
from coinfer.options.table import Options
from coinfer.physics.radio import free_space_gain
from coinfer.profile.accuracy import AccuracyError
from coinfer.scenario import tables
from coinfer.scenario.arrivals import Arrivals, build_arrivals
from coinfer.scenario.channels import Links, build_links, server_shares
from coinfer.scenario.compile_serving import build_serving
from coinfer.scenario.frame_data import load_frames
from coinfer.scenario.load import Scenario, Source, load
from coinfer.scenario.spec import BaseScenario, BlocksScenario, OffloadScenario, Reward, WirelessPowerScenario
from coinfer.scenario.spec_nodes import Computer, Device
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld, QueueWorld, WirelessPowerWorld, World
from coinfer.scenario.world_check import check
from coinfer.units import GIGA

_QUANTILES = 64


class Compiled(NamedTuple):
    """A world, and what a person wants to know about it."""

    world: World
    networks: tuple[str, ...]
    """[X] names."""
    devices: tuple[str, ...]
    """[C] description of each class of devices."""
    options: tuple[tuple[Options, ...], ...]
    """[X][C] what the options of a task are; empty for other environments than `offload`."""
    reward: Reward | None
    """Settings of a learner's reward; None for DROO's world, which has its own."""
    notes: tuple[str, ...]
    """Departures of the world from the file, one line each."""


def open_world(name: str | Path, changes: Mapping[str, object] | None = None) -> Compiled:
    """Return the world of a preset or a file.

    Args:
        name: of a preset, or path of a file.
        changes: values to put in, by dotted key (`load.load`).

    Raises:
        ScenarioError: naming file, line and key of what is wrong or cannot be compiled.
    """
    return compile_scenario(load(name, changes))


def compile_scenario(scenario: Scenario) -> Compiled:
    """Return all arrays of a scenario, checked.

    Args:
        scenario: as `load.load` returned it.

    Raises:
        ScenarioError: naming file, line and key of what cannot be compiled.
    """
    spec, source = scenario
    if isinstance(spec, WirelessPowerScenario):
        return Compiled(_wireless_power(spec, source), (), (), (), None, ())
    rng = np.random.default_rng(spec.seed)
    networks = tables.open_networks(spec, source)
    on_device = tables.speeds(spec.devices, "devices", networks, source)
    server_classes = tables.speeds(spec.servers, "servers", networks, source)
    on_server = [speeds for speeds, one in zip(server_classes, spec.servers, strict=True) for _ in range(one.count)]
    device_class = np.repeat(np.arange(len(spec.devices)), [device.count for device in spec.devices])
    links = build_links(spec, source, len(device_class), len(on_server), rng)
    arrivals, notes = build_arrivals(spec, source)
    rates, shares = _class_rates(links, device_class), server_shares(spec, rng)
    options: list[list[Options]] = []
    if isinstance(spec, BlocksScenario):
        costs = _block_costs(spec, source, networks, on_device, on_server)
        edge = _edge(spec, device_class, links, arrivals, shares, _deadlines(spec, costs.device_s.sum(axis=-1)))
        world: OffloadWorld | BlocksWorld = _blocks_world(spec, edge, costs)
    else:
        options = _options(spec, source, on_device, on_server, rates)
        least_s = np.array([[one.latency_s(rates[c]).min() for c, one in enumerate(row)] for row in options])
        edge = _edge(spec, device_class, links, arrivals, shares, _deadlines(spec, least_s))
        world = _offload_world(spec, edge, options)._replace(serving=build_serving(spec, source, options))
    check(world)
    return Compiled(
        world,
        networks=tuple(table.network for table in networks),
        devices=tuple(_describe(device) for device in spec.devices),
        options=tuple(map(tuple, options)),
        reward=spec.reward,
        notes=(*links.notes, *notes),
    )


def _describe(computer: Computer) -> str:
    """Return a short description of a computer's speed."""
    if computer.flop_per_s is not None:
        return f"{computer.flop_per_s / GIGA:g} GFLOP/s"
    if computer.slowdown is not None:
        return f"slowdown {computer.slowdown:g}"
    return computer.catalogue or f"measured ({', '.join((computer.profiles or ())[:1])})"


def fingerprint(world: World) -> str:
    """Return the SHA-256 of a world in hex; two runs saw the same world only if it is equal.

    Args:
        world: every field and array counts, with its name.
    """
    digest = hashlib.sha256()
    _add_to_digest(digest.update, world)
    return digest.hexdigest()


def _add_to_digest(update: Callable[[bytes | memoryview], None], value: object) -> None:
    """Add a value to a digest: named tuples field by field, arrays with type and shape."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, item in zip(getattr(value, "_fields"), value, strict=True):  # noqa: B009
            if item is not None or name not in getattr(value, "_field_defaults"):  # noqa: B009  # what a world does without changes nothing
                update(name.encode())
                _add_to_digest(update, item)
    elif isinstance(value, np.ndarray):
        update(f"{value.dtype}{value.shape}".encode())
        update(np.ascontiguousarray(value).data)
    else:
        update(repr(value).encode())


def _edge(
    spec: BaseScenario,
    device_class: np.ndarray,
    links: Links,
    arrivals: Arrivals,
    shares: np.ndarray,
    deadline_s: np.ndarray,
) -> Edge:
    part = np.cumsum([model.share for model in spec.models])
    servers = [server for server in spec.servers for _ in range(server.count)]
    return Edge(
        slots=spec.slots,
        slot_s=spec.slot_s,
        tasks=spec.tasks_per_slot,
        distinct_devices=spec.distinct_devices,
        device_class=device_class,
        model_cdf=np.append(part[:-1] / part[-1], 1.0),
        arrival_cdf=arrivals.cdf,
        arrival_state=arrivals.level[None],
        model_mix=_model_mix(spec.arrivals.shift, part, len(arrivals.cdf)) if spec.arrivals.kind == "markov" else None,
        deadline_s=deadline_s,
        device_factor=_error_quantiles(spec.compute_error),
        server_factor=_error_quantiles(spec.compute_error),
        mean_link=links.mean,
        link_bank=links.bank,
        bandwidth_hz=links.bandwidth_hz,
        shared_bandwidth=links.shared,
        rate_error=_error_quantiles(spec.rate_error),
        transmit_power_w=np.array([device.transmit_power_w for device in spec.devices]),
        server_capacity=_infinity_for_none([server.capacity for server in servers]),
        share_bank=shares,
        staleness_slots=spec.staleness_slots,
        download_s=np.array([server.download_s for server in servers]),
        drop_refused=spec.refused == "drop",
        task_energy_j=_infinity_for_none([device.task_energy_j for device in spec.devices]),
        battery_j=_infinity_for_none([device.battery_j for device in spec.devices]),
        one_path=spec.links.kind == "traces" and spec.links.one_path,
        recorded=arrivals.recorded,
    )


def _model_mix(shift: int, part: np.ndarray, states: int) -> np.ndarray | None:
    """Return cumulative shares [A, X] of networks that take over each other's shares (`MarkovArrivals.shift`)."""
    if not shift:
        return None
    share = np.diff(part, prepend=0.0) / part[-1]
    mix = np.stack([np.roll(share, i * shift) for i in range(states)]).cumsum(axis=1)
    mix[:, -1] = 1.0
    return mix


def _infinity_for_none(values: list[float | None]) -> np.ndarray:
    return np.array([np.inf if value is None else value for value in values], dtype=float)


def _error_quantiles(error: float) -> np.ndarray:
    """Return evenly spread values within this fraction of 1."""
    if error == 0:
        return np.ones(1)
    return 1 + error * (2 * (np.arange(_QUANTILES) + 0.5) / _QUANTILES - 1)


def _class_rates(links: Links, device_class: np.ndarray) -> np.ndarray:
    """Return [C, N] mean rate from the devices of a class to each server."""
    mean_bps = links.mean_bps()
    return np.array([mean_bps[device_class == c].mean(axis=0) for c in range(device_class.max() + 1)])


def _options(
    spec: OffloadScenario,
    source: Source,
    on_device: Sequence[Sequence[Speed]],
    on_server: Sequence[Sequence[Speed]],
    rates_bps: np.ndarray,
) -> list[list[Options]]:
    """Return what each network may do on each class of devices, [X][C], given the mean link rates [C, N]."""
    rows: list[list[Options]] = []
    for x, model in enumerate(spec.models):
        servers, row = [speeds[x] for speeds in on_server], list[Options]()
        accuracy = tables.accuracy_of(model, ("models", x), on_device[0][x].table, source)
        for c, device in enumerate(spec.devices):
            try:
                options = tables.model_options(model, on_device[c][x], servers, accuracy, ends_only=spec.cuts == "ends")
            except SizeError as error:
                raise source.error(("models", x, "bits"), f"{model.network}: {error}") from None
            except AccuracyError as error:
                raise source.error(("models", x, "accuracy_table"), str(error)) from None
            row.append(best_only(options, rates_bps[c]) if spec.keep == "best" else prune(options, _rule(spec, device)))
        rows.append(row)
    return rows


def _rule(spec: OffloadScenario, device: Device) -> Rule:
    """Return the rule of pruning for a device; what goes by latency alone must not leave anything out if energy is
    limited."""
    limited = device.task_energy_j is not None or device.battery_j is not None
    return "dominated" if spec.prune in ("hull", "near-best") and limited else spec.prune


def _offload_world(spec: OffloadScenario, edge: Edge, options: Sequence[Sequence[Options]]) -> OffloadWorld:
    max_options = max(len(one.bits) for row in options for one in row)

    def pad_field(field: Callable[[int, Options], np.ndarray]) -> np.ndarray:
        return np.array([[_pad_options(field(c, one), max_options) for c, one in enumerate(row)] for row in options])

    local = [[int(np.where(one.is_local, one.accuracy, -1.0).argmax()) for one in row] for row in options]
    return OffloadWorld(
        name=spec.name,
        edge=edge,
        option_device_s=pad_field(lambda _, one: one.device_s),
        option_upload_bits=pad_field(lambda _, one: one.upload_bits),
        option_server_s=pad_field(lambda _, one: one.server_s),
        option_accuracy=pad_field(lambda _, one: one.accuracy),
        option_device_j=pad_field(lambda c, one: tables.energy_j(spec.devices[c], one.device_s)),
        option_mask=pad_field(lambda _, one: ~one.is_local | (spec.local == "choice")),
        local_option=np.array(local),
    )


def _pad_options(array: np.ndarray, most: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((most - len(array), *array.shape[1:]), array.dtype)])


class _BlockCosts(NamedTuple):
    device_s: np.ndarray
    """[X, C, M]"""
    server_s: np.ndarray
    """[X, M, N]"""
    input_bits: np.ndarray
    """[X, M]"""


def _block_costs(
    spec: BlocksScenario,
    source: Source,
    networks: Sequence[NetworkTable],
    on_device: Sequence[Sequence[Speed]],
    on_server: Sequence[Sequence[Speed]],
) -> _BlockCosts:
    device_s, server_s, input_bits = [], [], []
    for x, (model, table) in enumerate(zip(spec.models, networks, strict=True)):
        (exit_,) = tables.exits_of(model, table)
        try:
            blocks = blocks_of(table.exits[exit_], spec.blocks, tables.encoding_of(model))
        except SizeError as error:
            raise source.error(("models", x, "bits"), f"{model.network}: {error}") from None
        except ValueError as error:
            raise source.error(("blocks",), f"got {spec.blocks}, but {model.network} {error}") from None
        device_s.append([block_times_s(speeds[x], exit_, blocks.cuts) for speeds in on_device])
        server_s.append([block_times_s(speeds[x], exit_, blocks.cuts) for speeds in on_server])
        input_bits.append(blocks.input_bits)
    return _BlockCosts(np.array(device_s), np.array(server_s).swapaxes(1, 2), np.array(input_bits))


def _blocks_world(spec: BlocksScenario, edge: Edge, costs: _BlockCosts) -> BlocksWorld:
    devices = spec.devices
    joules = [[tables.energy_j(*one) for one in zip(devices, row, strict=True)] for row in costs.device_s]
    return BlocksWorld(
        name=spec.name,
        edge=edge,
        block_device_s=costs.device_s,
        block_server_s=costs.server_s,
        block_input_bits=costs.input_bits,
        block_device_j=np.array(joules),
        block_mask=np.ones((len(spec.models), spec.blocks), dtype=bool),
        accuracy=np.array([model.accuracy[0] for model in spec.models]),
        backhaul_bps=spec.backhaul_bps,
        block_deadlines=spec.deadline_of == "block",
    )


def _deadlines(spec: BaseScenario, least_s: np.ndarray) -> np.ndarray:
    """[X, C, 2]"""
    deadlines = np.full((*least_s.shape, 2), np.inf)
    for x, model in enumerate(spec.models):
        if model.deadline_s:
            deadlines[x] = (model.deadline_s[0], model.deadline_s[-1])
        elif model.deadline_factor:
            deadlines[x] = model.deadline_factor * least_s[x][:, None]
    return deadlines


def _wireless_power(spec: WirelessPowerScenario, source: Source) -> WirelessPowerWorld | QueueWorld:
    distance_m = spec.nearest_m + spec.step_m * np.arange(spec.devices)
    phases = spec.phases or ()
    weight = np.stack([np.resize(np.array(spec.weights), spec.devices)] * (1 + len(phases)))
    on = np.ones(weight.shape, bool)
    for row, phase in enumerate(phases, 1):
        weight[row] = np.resize(np.array(phase.weights or spec.weights), spec.devices)
        on[row, list(phase.off or ())] = False
    world = WirelessPowerWorld(
        name=spec.name,
        slots=spec.slots,
        mean_gain=free_space_gain(distance_m, spec.antenna_gain, spec.carrier_hz, spec.path_loss_exponent),
        phase_start=np.array([0, *(phase.from_slot for phase in phases)]),
        weight=weight,
        on=on,
        power_w=spec.power_w,
        harvest_efficiency=spec.harvest_efficiency,
        cycles_per_bit=spec.cycles_per_bit,
        capacitance=spec.capacitance,
        noise_w=spec.noise_w,
        bandwidth_hz=spec.bandwidth_hz,
        overhead=spec.overhead,
        frames=None if spec.data is None else load_frames(spec.data, spec.devices, source),
    )
    queues = spec.queues
    return world if queues is None else QueueWorld(world, queues.arrival_bits, queues.rate_weight_bits)

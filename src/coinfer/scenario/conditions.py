"""What may be wrong between values of a scenario that are right one by one."""

from collections.abc import Iterator, Sequence

from coinfer.scenario.spec import AnyScenario, BaseScenario, BlocksScenario, Model, WirelessPowerScenario
from coinfer.scenario.spec_arrivals import FixedArrivals, RecordedArrivals
from coinfer.scenario.spec_links import PairLinks, RadioLinks, UniformLinks, WalkLinks
from coinfer.scenario.spec_nodes import Computer, Device
from coinfer.scenario.yaml_file import Key

MAX_DEVICES, MAX_SERVERS = 1_000_000, 1000
MAX_LINKS = 20_000_000
"""More would not fit into memory."""
Fault = tuple[Key, str]
"""Key of a value, and what is wrong with it."""


def contradictions(spec: AnyScenario) -> Iterator[Fault]:
    """Yield the values of a scenario that do not fit together.

    Args:
        spec: each of its values is within its own range.
    """
    if isinstance(spec, WirelessPowerScenario):
        yield from _phases(spec)
        return
    yield from _sizes(spec)
    yield from _computers("devices", spec.devices)
    yield from _computers("servers", spec.servers)
    yield from _tasks(spec)
    for i, model in enumerate(spec.models):
        yield from _model(("models", i), model, spec)
    yield from _links(spec)
    share = spec.server_share
    if share and share.low > share.high:
        yield ("server_share", "low"), f"got {share.low:g}, expected at most high, {share.high:g}"
    if isinstance(spec, BlocksScenario):
        yield from _blocks(spec)


def _phases(spec: WirelessPowerScenario) -> Iterator[Fault]:
    before = 0
    for i, phase in enumerate(spec.phases or ()):
        if phase.from_slot <= before:
            yield (
                ("phases", i, "from_slot"),
                f"got {phase.from_slot}, expected more than {before}",
            )
        before = phase.from_slot
        beyond = [device for device in phase.off or () if device >= spec.devices]
        if beyond:
            yield ("phases", i, "off"), f"got device {beyond[0]}, expected numbers below {spec.devices}"


def _sizes(spec: BaseScenario) -> Iterator[Fault]:
    devices = sum(device.count for device in spec.devices)
    servers = sum(server.count for server in spec.servers)
    for key, count, limit in (("devices", devices, MAX_DEVICES), ("servers", servers, MAX_SERVERS)):
        if count > limit:
            yield (key,), f"got {count:,}, expected at most {limit:,}"
    links = devices * servers * (spec.links.placements if isinstance(spec.links, RadioLinks) else 1)
    if links > MAX_LINKS:
        yield ("links",), f"devices x servers x placements are {links:,}, expected at most {MAX_LINKS:,}"


def _computers(kind: str, computers: Sequence[Computer]) -> Iterator[Fault]:
    speeds = ("catalogue", "slowdown", "flop_per_s", "profiles")
    for i, computer in enumerate(computers):
        keys = [name for name in speeds if getattr(computer, name) is not None]
        if len(keys) != 1:
            yield (kind, i), f"has {' and '.join(keys) or 'no speed'}; expected exactly one of {', '.join(speeds)}"
        if not isinstance(computer, Device):
            continue
        if (computer.capacitance is None) != (computer.freq_hz is None):
            yield (kind, i), "capacitance and freq_hz belong together"
        if computer.capacitance is not None and computer.compute_power_w:
            yield (kind, i, "compute_power_w"), "expected either this or capacitance with freq_hz"


def _tasks(spec: BaseScenario) -> Iterator[Fault]:
    devices = sum(device.count for device in spec.devices)
    if spec.distinct_devices and spec.tasks_per_slot > devices:
        yield (
            ("tasks_per_slot",),
            f"got {spec.tasks_per_slot}, expected at most {devices}, as many as devices, which are distinct",
        )
    if isinstance(spec.arrivals, RecordedArrivals) and spec.distinct_devices:
        yield ("distinct_devices",), "got true; recorded requests have their devices"
    if isinstance(spec.arrivals, FixedArrivals) and spec.arrivals.tasks > spec.tasks_per_slot:
        yield (
            ("arrivals", "tasks"),
            f"got {spec.arrivals.tasks}, expected at most tasks_per_slot, {spec.tasks_per_slot}",
        )


def _model(key: Key, model: Model, spec: BaseScenario) -> Iterator[Fault]:
    stated = {"accuracy", "accuracy_drop"} & model.model_fields_set
    if model.accuracy_table is not None and stated:
        yield (*key, min(stated)), "expected either this or accuracy_table"
    if model.accuracy_table is None and len(model.accuracy) != len(model.exits or (1,)):
        expected = (
            f"{len(model.exits)} values, one for each exit"
            if model.exits
            else "one value, as only the last exit answers"
        )
        yield (*key, "accuracy"), f"got {len(model.accuracy)} values, expected {expected}"
    if model.exits and list(model.exits) != sorted(set(model.exits)):
        yield (*key, "exits"), "expected rising numbers"
    if model.deadline_s and model.deadline_s[0] > model.deadline_s[-1]:
        yield (*key, "deadline_s"), "expected [least, greatest]"
    if model.deadline_s and model.deadline_factor:
        yield (*key, "deadline_factor"), "expected either this or deadline_s"
    if isinstance(spec, BlocksScenario) and model.exits and len(model.exits) > 1:
        yield (*key, "exits"), "expected at most one exit; blocks do not choose"
    if spec.refused == "drop" and not (model.deadline_s or model.deadline_factor):
        yield key, "needs deadline_s or deadline_factor, as refused tasks are lost and count as waiting until then"


def _links(spec: BaseScenario) -> Iterator[Fault]:
    links = spec.links
    if isinstance(links, UniformLinks | WalkLinks) and links.low_bps > links.high_bps:
        yield ("links", "low_bps"), f"got {links.low_bps:g}, expected at most high_bps, {links.high_bps:g}"
    if isinstance(links, PairLinks):
        yield from _pairs(links, *(sum(one.count for one in kind) for kind in (spec.devices, spec.servers)))
    if isinstance(links, RadioLinks):
        for i, device in enumerate(spec.devices):
            if not device.transmit_power_w:
                yield ("devices", i, "transmit_power_w"), "missing or 0; a radio link needs the power of its sender"
        if links.nearest_m >= links.diameter_m / 2:
            yield (
                ("links", "nearest_m"),
                f"got {links.nearest_m:g}, expected below half the diameter, {links.diameter_m / 2:g}",
            )


def _pairs(links: PairLinks, devices: int, servers: int) -> Iterator[Fault]:
    if len(links.rate_bps) != devices:
        yield ("links", "rate_bps"), f"got {len(links.rate_bps)} rows, expected {devices}, one for each device"
    for i, row in enumerate(links.rate_bps):
        if len(row) != servers:
            yield ("links", "rate_bps", i), f"got {len(row)} rates, expected {servers}, one for each server"


def _blocks(spec: BlocksScenario) -> Iterator[Fault]:
    for i, server in enumerate(spec.servers):
        if server.capacity is not None:
            yield ("servers", i, "capacity"), "got one; in blocks servers queue without limit, leave it away"
    if spec.refused == "drop":
        yield ("refused",), "got drop; in blocks no task is refused"

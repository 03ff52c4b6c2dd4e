"""Whether the arrays of a compiled scenario fit together."""

from collections.abc import Iterator

import numpy as np

from coinfer.errors import UserError
from coinfer.scenario.world import BlocksWorld, Edge, OffloadWorld


class WorldError(UserError):
    """A compiled scenario whose arrays do not fit together; the message is one line for a person."""


def check(world: OffloadWorld | BlocksWorld) -> None:
    """Check that the arrays of a world fit together.

    Args:
        world: of the environment `offload` or `blocks`.

    Raises:
        WorldError: naming the field, its value and what it must be.
    """
    edge = world.edge
    sizes = {"U": edge.devices, "N": edge.servers, "C": edge.classes, "X": edge.models, "K": edge.tasks}
    sizes["A"] = len(edge.arrival_cdf)
    sizes |= {"O": world.options} if isinstance(world, OffloadWorld) else {"M": world.blocks}
    for name, letters in {**_EDGE_AXES, **_AXES[type(world)]}.items():
        holder = edge if name in Edge._fields else world
        _check_array(world.name, name, np.asarray(getattr(holder, name)), letters, sizes)
    if edge.model_mix is not None:
        _check_array(world.name, "model_mix", edge.model_mix, "AX", sizes)
    for name, array in edge.recorded._asdict().items() if edge.recorded else ():
        _check_array(world.name, f"recorded.{name}", array, "?K", sizes)
    if isinstance(world, OffloadWorld) and world.serving is not None:
        for name, letters in _SERVING_AXES.items():
            _check_array(world.name, name, getattr(world.serving, name), letters, sizes)
    for name, good, problem in _conditions(world):
        if not good:
            raise WorldError(f"scenario {world.name}: {name} {problem}")


# '?' is any size but 0.
_EDGE_AXES = {
    "device_class": "U",
    "model_cdf": "X",
    "arrival_cdf": "?K",
    "arrival_state": "??",
    "deadline_s": "XC2",
    "device_factor": "?",
    "server_factor": "?",
    "mean_link": "?UN",
    "link_bank": "??",
    "rate_error": "?",
    "transmit_power_w": "C",
    "server_capacity": "N",
    "share_bank": "??",
    "download_s": "N",
    "task_energy_j": "C",
    "battery_j": "C",
}
_AXES: dict[type, dict[str, str]] = {
    OffloadWorld: {
        "option_device_s": "XCO",
        "option_upload_bits": "XCO",
        "option_server_s": "XCON",
        "option_accuracy": "XCO",
        "option_device_j": "XCO",
        "option_mask": "XCO",
        "local_option": "XC",
    },
    BlocksWorld: {
        "block_device_s": "XCM",
        "block_server_s": "XMN",
        "block_input_bits": "XM",
        "block_device_j": "XCM",
        "block_mask": "XM",
        "accuracy": "X",
    },
}
_SERVING_AXES = {
    "option_piece": "XCO",
    "piece_network": "?",
    "batch_ratio": "XN?",
    "memory_bytes": "N",
    "network_bytes": "X",
    "load_s": "XN",
}
_MAY_BE_INFINITE = {"deadline_s", "server_capacity", "task_energy_j", "battery_j", "batch_ratio", "memory_bytes"}


def _check_array(world: str, name: str, array: np.ndarray, letters: str, sizes: dict[str, int]) -> None:
    expected = [sizes.get(letter, int(letter) if letter.isdigit() else 0) for letter in letters]
    if (
        array.ndim != len(expected)
        or array.size == 0
        or any(w and w != n for n, w in zip(array.shape, expected, strict=True))
    ):
        shape = ", ".join(f"{letter} = {w}" if w else "any" for letter, w in zip(letters, expected, strict=True))
        raise WorldError(f"scenario {world}: {name} must be [{shape}], got {list(array.shape)}")
    good = array >= 0 if name in _MAY_BE_INFINITE else (array >= 0) & np.isfinite(array)
    if not good.all():
        raise WorldError(f"scenario {world}: {name} must not be negative or NaN, got {array[~good].flat[0]}")


def _conditions(world: OffloadWorld | BlocksWorld) -> Iterator[tuple[str, bool, str]]:
    """Yield field, whether it is good, and what it must be; a later condition may rely on the earlier ones."""
    edge = world.edge
    yield "slots", edge.slots >= 1, f"must be at least 1, got {edge.slots}"
    yield "slot_s", 0 < edge.slot_s < np.inf, f"must be above 0, got {edge.slot_s}"
    yield "staleness_slots", edge.staleness_slots >= 0, f"must not be negative, got {edge.staleness_slots}"
    if edge.distinct_devices:
        problem = f"needs as many devices as tasks in a slot, got {edge.devices} devices and {edge.tasks} tasks"
        yield "distinct_devices", edge.tasks <= edge.devices, problem
    yield "device_class", bool((edge.device_class < edge.classes).all()), f"must be below {edge.classes}"
    yield "model_cdf", bool((np.diff(edge.model_cdf) >= 0).all() and edge.model_cdf[-1] == 1), "must rise to 1"
    rises = (np.diff(edge.arrival_cdf, axis=1) >= 0).all() and (edge.arrival_cdf <= 1).all()
    yield "arrival_cdf", bool(rises), "must rise, and not above 1"
    if (recorded := edge.recorded) is not None:
        alike = len({len(part) for part in recorded}) == 1
        yield "recorded", alike, "must hold as many slots of each"
        yield "recorded.device", bool((recorded.device < edge.devices).all()), f"must be below {edge.devices}"
        yield "recorded.model", bool((recorded.model < edge.models).all()), f"must be below {edge.models}"
        yield "recorded", not edge.distinct_devices, "goes without distinct_devices"
    states = edge.arrival_cdf.shape[0]
    yield "arrival_state", bool((edge.arrival_state < states).all()), f"must be below {states}"
    yield "deadline_s", bool((edge.deadline_s[..., 0] <= edge.deadline_s[..., 1]).all()), "must be [least, greatest]"
    loses = edge.drop_refused or np.isfinite(edge.task_energy_j).any() or np.isfinite(edge.battery_j).any()
    lasting = bool(loses and np.isinf(edge.deadline_s).any())
    yield "deadline_s", not lasting, "must be finite where tasks can be lost (drop_refused, or a limit on energy)"
    yield "share_bank", bool((edge.share_bank <= 1).all()), "must not be above 1"
    yield "share_bank", bool((edge.share_bank > 0).any()), "must be above 0 somewhere"
    yield "rate_error", bool((edge.rate_error > 0).all()), "must be above 0"
    yield "bandwidth_hz", edge.bandwidth_hz is None or 0 < edge.bandwidth_hz < np.inf, "must be above 0"
    capacity = edge.server_capacity
    if isinstance(world, BlocksWorld):
        yield "server_capacity", bool(np.isinf(capacity).all()), "must be infinite for blocks"
        yield "block_mask", bool(world.block_mask[:, 0].all()), "must have a first block of every network"
        yield "backhaul_bps", world.backhaul_bps > 0, f"must be above 0, got {world.backhaul_bps}"
        return
    yield "server_capacity", bool((capacity[np.isfinite(capacity)] % 1 == 0).all()), "must be whole or infinite"
    finite = world.serving is None or bool(np.isfinite(capacity).all())
    yield "server_capacity", finite, "must be finite where servers batch or load"
    yield "option_accuracy", bool((world.option_accuracy <= 1).all()), "must not be above 1"
    local = world.local_option[..., None]
    yield "local_option", bool((local < world.options).all()), f"must be below {world.options}"
    exists = np.take_along_axis(world.option_mask | (world.option_device_s > 0), local, -1)
    yield "local_option", bool(exists.all()), "must name an option that exists"
    yield "option_mask", bool(world.option_mask.any(-1).all()), "must let every task choose something"
    sends = bool(np.take_along_axis(world.option_upload_bits, local, -1).any())
    yield "local_option", not sends, "must name an option that sends nothing"

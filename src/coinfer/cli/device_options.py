"""The options that say how a device works; `infer`, `watch` and `gateway` share them."""

from pathlib import Path
from typing import Any

from coinfer.addresses import parse_servers
from coinfer.cli import options as option
from coinfer.cli.option_group import with_group
from coinfer.errors import UserError
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig
from coinfer.runtime.device.objective import Goal, Objective

_PARAMETERS: dict[str, tuple[Any, Any]] = {
    "servers": (option.Servers, ""),
    "deadline_ms": (option.DeadlineMs, 0.0),
    "bits": (option.OfferedBits, None),
    "jpeg": (option.Jpeg, None),
    "slowdown": (option.Slowdown, DEFAULTS.slowdown),
    "threads": (option.Threads, DEFAULTS.threads),
    "provider": (option.Provider, DEFAULTS.provider),
    "table": (option.ProfileFile, None),
    "shape": (option.Shape, None),
    "limit": (option.Limit, None),
    "goal": (option.Goal, DEFAULTS.objective.goal),
    "min_accuracy": (option.MinAccuracy, DEFAULTS.objective.min_accuracy),
    "energy_mj": (option.EnergyMj, 0.0),
    "power_w": (option.PowerW, DEFAULTS.objective.power_w),
    "transmit_power_w": (option.TransmitPowerW, DEFAULTS.objective.transmit_power_w),
    "accuracy": (option.Accuracy, None),
    "confidence": (option.Confidence, ""),
    "confidence_loss": (option.ConfidenceLoss, None),
    "policy": (option.PolicyFile, None),
    "site": (option.Site, None),
    "controller": (option.ControllerAddress, ""),
    "name": (option.NodeName, ""),
    "dispatch": (option.Dispatch, False),
    "dispatch_cut": (option.DispatchCut, False),
    "insecure": (option.Insecure, False),
    "traces": (option.Traces, ""),
}


def parse_device(
    *,
    servers: str,
    deadline_ms: float,
    bits: str | None,
    jpeg: int | None,
    table: Path | None,
    shape: list[str] | None,
    limit: list[str] | None,
    goal: Goal,
    min_accuracy: float,
    energy_mj: float,
    power_w: float,
    transmit_power_w: float,
    confidence: str,
    traces: str,
    **same: Any,
) -> DeviceConfig:
    """Return the settings that the options ask for.

    Args:
        servers: `host:port`, separated by commas.
        deadline_ms: of each request; 0 is none.
        bits: widths separated by commas; None leaves them to what was measured.
        jpeg: quality; None sends pixels unchanged.
        table: file of measured times.
        shape: each `NAME=SIZES`.
        limit: each `NAME=NUMBER`.
        goal: of the objective.
        min_accuracy: of the objective.
        energy_mj: of the objective; 0 is no limit.
        power_w: of the objective.
        transmit_power_w: of the objective.
        confidence: entropies separated by commas; empty for none.
        traces: collector, to which this process tells its traces from now on; empty for none.
        same: options that are fields of `DeviceConfig` as they are.

    Raises:
        UserError: if an option is not understood, or would do nothing.
    """
    addresses, in_site = parse_servers(servers, "--servers"), same["controller"] or same["site"]
    for name in ("dispatch", "dispatch_cut"):
        if same[name] and not (addresses or in_site):
            text = f"--{name.replace('_', '-')}: there is no server to choose another one"
            raise UserError(f"{text}; expected --servers or --controller too")
    for name in ("name", "insecure"):
        if same[name] and not in_site:
            raise UserError(f"--{name} is for members of a site; expected --controller too")
    option.start_traces(traces, "coinfer-device")
    return DeviceConfig(
        servers=addresses,
        deadline_s=option.limit_or_inf(deadline_ms / 1e3),
        objective=Objective(goal, min_accuracy, option.limit_or_inf(energy_mj / 1e3), power_w, transmit_power_w),
        bits=None if bits is None else option.parse_bits(bits),
        jpeg_quality=jpeg,
        confidence=option.parse_confidence(confidence),
        profile=table,
        shapes=option.parse_shapes(shape),
        limits=option.parse_limits(limit),
        **same,
    )


with_device_options = with_group("device", _PARAMETERS, parse_device)
"""Gives a command the options about devices, which it gets as one argument `device`."""

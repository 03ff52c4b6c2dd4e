"""Results as figures that can be kept in a file and compared with others: see `golden`."""

import base64
import hashlib
import json
import math
import platform
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

DIGITS = 6


def number(value: Any) -> float | None:
    """A result of arithmetic to so many digits; nothing for what is not finite."""
    value = float(value)
    return float(f"{value:.{DIGITS}g}") + 0.0 if math.isfinite(value) else None


def numbers(values: Iterable[Any]) -> list[float | None]:
    return [number(value) for value in values]


def summary(array: Any) -> list[float | None]:
    """Of arrays too long to write down: size, mean, mean square, and a few of the values."""
    flat = np.asarray(array, dtype=float).reshape(-1)
    flat = np.where(np.isfinite(flat), flat, -1.0)
    picked = flat[np.linspace(0, len(flat) - 1, 4).astype(int)] if len(flat) else []
    return numbers([len(flat), flat.mean() if len(flat) else 0, (flat**2).mean() if len(flat) else 0, *picked])


def sha(data: Any) -> str:
    """Of bytes, or of what JSON makes of a value."""
    raw = data if isinstance(data, bytes | memoryview) else json.dumps(data, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()[:24]


def packed(choices: Iterable[Any]) -> dict[str, str]:
    """Choices, small whole numbers, in a few characters."""
    flat = np.concatenate([np.asarray(part).reshape(-1) for part in choices]).astype(np.int8)
    return {"Packed": base64.b85encode(zlib.compress(flat.tobytes(), 9)).decode()}


def unpacked(value: dict[str, str]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b85decode(value["Packed"])), np.int8)


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Of every tensor, whatever it is called."""
    parts = (tensor.detach().cpu().contiguous() for tensor in tensors.values())
    found = {sha(f"{part.dtype}{list(part.shape)}".encode() + part.numpy().tobytes())[:10] for part in parts}
    return {"Digests": sorted(found)}


def machine() -> dict[str, str]:
    """What the last bits of a training depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "flags"))][:2]
    except OSError:
        cpu = [platform.processor()]
    return {
        "cpu": cpu[0],
        "features": sha(cpu),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def differences(recorded: Any, found: Any, same_machine: bool, where: str = "", tolerance: float = 0.0) -> list[str]:
    """Where two figures of a case are not equal.

    Text and whole numbers must be equal. Floats may differ in the last digits on the machine of the recording, and by a
    hundredth elsewhere, where one of two equally good servers may be taken; what is named `loose` (curves of trainings)
    by a fifth. `Packed` choices must be equal there, and all but one in fifty elsewhere. `Digests` are compared on the
    machine of the recording only: no tensor that was recorded may be missing.
    """
    tolerance = tolerance or (2e-5 if same_machine else 1e-2)
    if isinstance(recorded, dict) and isinstance(found, dict):
        if "Packed" in recorded and "Packed" in found:
            return _choices(recorded, found, same_machine, where)
        if "Digests" in recorded and "Digests" in found:
            lost = set(recorded["Digests"]) - set(found["Digests"]) if same_machine else ()
            return [f"{where}: {len(lost)} of {len(recorded['Digests'])} tensors are others"] if lost else []
        if sorted(recorded) != sorted(found):
            return [f"{where}: recorded {sorted(recorded)}, found {sorted(found)}"]
        return [
            line
            for key in recorded
            for line in differences(
                recorded[key],
                found[key],
                same_machine,
                f"{where} {key}",
                0.2 if key == "loose" and not same_machine else tolerance,
            )
        ]
    if isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        pairs = enumerate(zip(recorded, found, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, same_machine, f"{where}[{i}]", tolerance)]
    if isinstance(recorded, float) and isinstance(found, float):
        close = math.isclose(recorded, found, rel_tol=tolerance, abs_tol=tolerance * 1e-2)
        return [] if close else [f"{where}: recorded {recorded}, found {found}"]
    return [] if recorded == found else [f"{where}: recorded {recorded!r}, found {found!r}"]


def _choices(recorded: dict[str, str], found: dict[str, str], same_machine: bool, where: str) -> list[str]:
    a, b = unpacked(recorded), unpacked(found)
    if a.shape != b.shape:
        return [f"{where}: recorded {len(a)} choices, found {len(b)}"]
    differ, allowed = int((a != b).sum()), 0 if same_machine else len(a) // 50
    return [f"{where}: {differ} of {len(a)} choices are others"] if differ > allowed else []

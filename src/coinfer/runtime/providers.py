"""What computes: an execution provider of ONNX Runtime, or OpenVINO's own runtime, by a short name.

Some compile a network before they run it, which may take minutes. What they compile is kept in the user's cache folder,
in a folder for each network and piece: some of them tell networks apart by their structure alone, not by their weights.
"""

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from coinfer.errors import UserError, short_repr
from coinfer.files import cache_folder

CPU = "cpu"
OPENVINO = "openvino"
_SUFFIX = "ExecutionProvider"
_REMOTE = ("azure",)
"""Providers that send inputs elsewhere."""
_CACHE_OPTIONS: Mapping[str, Callable[[str], dict[str, str]]] = {
    "tensorrt": lambda folder: {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
    },
    "nvtensorrtrtx": lambda folder: {"nv_runtime_cache_path": folder},
    "openvino": lambda folder: {"cache_dir": folder},
    "coreml": lambda folder: {"ModelCacheDirectory": folder},
    "migraphx": lambda folder: {"migraphx_model_cache_dir": folder},
    "vitisai": lambda folder: {"cache_dir": folder},
}
"""The options by which a provider keeps what it has compiled in a folder."""


def onnxruntime_providers() -> dict[str, str]:
    """Return the providers of the installed ONNX Runtime: its name by our short name, the preferred one first."""
    import onnxruntime as ort  # slow to import: the command line reads names of settings before it computes

    names = {name.removesuffix(_SUFFIX).lower(): name for name in ort.get_available_providers()}
    return {short: name for short, name in names.items() if short not in _REMOTE}


def available() -> tuple[str, ...]:
    """Return the short names of what can compute here; `cpu` is always among them."""
    own = (OPENVINO,) if find_spec("openvino") else ()
    return tuple(dict.fromkeys((*onnxruntime_providers(), *own)))


def check_provider(name: str, what: str = "provider") -> str:
    """Return a provider's name, checked.

    Args:
        name: short name.
        what: calls it in the error.

    Raises:
        UserError: if it is not installed; the message lists what is.
    """
    if name not in available():
        raise UserError(
            f"{what} is {short_repr(name)}, which is not installed here; there are {', '.join(available())}"
        )
    return name


def is_onnxruntime(name: str) -> bool:
    """Return true if ONNX Runtime runs this provider; else it is OpenVINO's own runtime.

    Args:
        name: short name of an installed provider.
    """
    return name in onnxruntime_providers()


def compiles(name: str) -> bool:
    """Return true if a provider compiles networks before it runs them.

    Args:
        name: short name.
    """
    return name in _CACHE_OPTIONS


def session_providers(name: str, kept: Path | None) -> list[tuple[str, dict[str, str]]]:
    """Return what an ONNX Runtime session is opened with: the provider with its options, and the processor behind it.

    Args:
        name: short name of an installed provider of ONNX Runtime.
        kept: folder for what it compiles; None keeps nothing.
    """
    known = onnxruntime_providers()
    options = _CACHE_OPTIONS[name](str(kept)) if kept is not None and compiles(name) else {}
    return [(known[name], options), *([] if name == CPU else [(known[CPU], {})])]


def engine_folder(name: str, fingerprint: str, piece: str) -> Path | None:
    """Return the folder in which a provider keeps what it compiled for a piece of a network, made if it is missing.

    Args:
        name: short name of the provider.
        fingerprint: of the network.
        piece: name of the piece.

    Returns:
        None if the provider compiles nothing, or there is no folder that can be written, as without a home directory or
        on a read-only disk.
    """
    if not compiles(name):
        return None
    try:
        key = hashlib.sha256(piece.encode()).hexdigest()[:12]
        folder = cache_folder("engines") / name / f"{fingerprint[:16]}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder

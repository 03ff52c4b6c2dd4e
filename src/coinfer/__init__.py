"""Collaborative DNN inference at the edge. The names listed in `__all__` are the public interface; start with `Device`.

with coinfer.Device("resnet50", servers=["127.0.0.1:8001"], deadline_s=0.5) as device:
    result = device.infer("cat.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING

from coinfer.version import __version__

if TYPE_CHECKING:
    from coinfer.envs.adapters.gymnasium_env import make_env, make_vector_env
    from coinfer.envs.adapters.sb3_env import make_sb3_env
    from coinfer.evaluate.simulate import run_policy
    from coinfer.graph.image_input import ImageInput
    from coinfer.graph.ir import ModelGraph
    from coinfer.graph.open_model import open_model
    from coinfer.graph.pictures import PictureSettings
    from coinfer.graph.segment import save_model
    from coinfer.graph.torch_import import from_torch
    from coinfer.graph.zoo.early_exits import with_exits
    from coinfer.options.compile import compile_options
    from coinfer.partition.hull import Hull
    from coinfer.policies.candidates import candidates_of, predicted_s
    from coinfer.policies.onnx import load_policy
    from coinfer.profile.accuracy import AccuracyTable
    from coinfer.profile.devices import device_slowdown
    from coinfer.runtime.device.admission import RefusedError
    from coinfer.runtime.device.config import DeviceConfig
    from coinfer.runtime.device.device import Device
    from coinfer.runtime.device.objective import Objective
    from coinfer.runtime.device.result import Result
    from coinfer.runtime.images import load_images
    from coinfer.runtime.open_telemetry import start_tracing
    from coinfer.runtime.profiling import profile_for
    from coinfer.runtime.tracing import trace_context
    from coinfer.scenario.compile import open_world
    from coinfer.types import DEVICE, OffloadDecision, OffloadObservation

__all__ = [
    "DEVICE",
    "AccuracyTable",
    "Device",
    "DeviceConfig",
    "Hull",
    "ImageInput",
    "ModelGraph",
    "Objective",
    "OffloadDecision",
    "OffloadObservation",
    "PictureSettings",
    "RefusedError",
    "Result",
    "__version__",
    "candidates_of",
    "compile_options",
    "device_slowdown",
    "from_torch",
    "load_images",
    "load_policy",
    "make_env",
    "make_sb3_env",
    "make_vector_env",
    "open_model",
    "open_world",
    "predicted_s",
    "profile_for",
    "run_policy",
    "save_model",
    "start_tracing",
    "trace_context",
    "with_exits",
]

_HOMES = {
    "DEVICE": "coinfer.types",
    "AccuracyTable": "coinfer.profile.accuracy",
    "Device": "coinfer.runtime.device.device",
    "DeviceConfig": "coinfer.runtime.device.config",
    "Hull": "coinfer.partition.hull",
    "ImageInput": "coinfer.graph.image_input",
    "ModelGraph": "coinfer.graph.ir",
    "Objective": "coinfer.runtime.device.objective",
    "OffloadDecision": "coinfer.types",
    "OffloadObservation": "coinfer.types",
    "PictureSettings": "coinfer.graph.pictures",
    "RefusedError": "coinfer.runtime.device.admission",
    "Result": "coinfer.runtime.device.result",
    "candidates_of": "coinfer.policies.candidates",
    "compile_options": "coinfer.options.compile",
    "device_slowdown": "coinfer.profile.devices",
    "from_torch": "coinfer.graph.torch_import",
    "load_images": "coinfer.runtime.images",
    "load_policy": "coinfer.policies.onnx",
    "make_env": "coinfer.envs.adapters.gymnasium_env",
    "make_sb3_env": "coinfer.envs.adapters.sb3_env",
    "make_vector_env": "coinfer.envs.adapters.gymnasium_env",
    "open_model": "coinfer.graph.open_model",
    "open_world": "coinfer.scenario.compile",
    "predicted_s": "coinfer.policies.candidates",
    "profile_for": "coinfer.runtime.profiling",
    "run_policy": "coinfer.evaluate.simulate",
    "save_model": "coinfer.graph.segment",
    "start_tracing": "coinfer.runtime.open_telemetry",
    "trace_context": "coinfer.runtime.tracing",
    "with_exits": "coinfer.graph.zoo.early_exits",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import coinfer` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'coinfer' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"coinfer.{name} needs {error.name}: pip install '.[train]' in coinfer's folder") from None


def __dir__() -> list[str]:
    """Return the public names, for completion and `dir`, which import nothing."""
    return sorted({*globals(), *__all__})

"""Collaborative DNN inference at the edge. What is listed here is the public face; start with `Device`.

with coinfer.Device("resnet50", servers=["127.0.0.1:8001"], deadline_s=0.5) as device:
    result = device.infer("cat.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING

from coinfer.version import __version__

if TYPE_CHECKING:
    from coinfer.envs.adapters.gymnasium_env import make_env
    from coinfer.graph.ir import ModelGraph
    from coinfer.graph.open_model import open_model
    from coinfer.policies.onnx import load_policy
    from coinfer.runtime.device.config import DeviceConfig
    from coinfer.runtime.device.device import Device
    from coinfer.runtime.device.objective import Objective
    from coinfer.runtime.device.result import Result
    from coinfer.runtime.images import load_images

__all__ = [
    "Device",
    "DeviceConfig",
    "ModelGraph",
    "Objective",
    "Result",
    "__version__",
    "load_images",
    "load_policy",
    "make_env",
    "open_model",
]

_HOMES = {
    "Device": "coinfer.runtime.device.device",
    "DeviceConfig": "coinfer.runtime.device.config",
    "ModelGraph": "coinfer.graph.ir",
    "Objective": "coinfer.runtime.device.objective",
    "Result": "coinfer.runtime.device.result",
    "load_images": "coinfer.runtime.images",
    "load_policy": "coinfer.policies.onnx",
    "make_env": "coinfer.envs.adapters.gymnasium_env",
    "open_model": "coinfer.graph.open_model",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, so that `import coinfer` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'coinfer' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"coinfer.{name} needs {error.name}: pip install 'coinfer[train]'") from None

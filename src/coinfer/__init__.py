"""Collaborative DNN inference at the edge.

`with coinfer.Device(model="resnet50", servers=["127.0.0.1:8001"], deadline_s=0.5) as device: device.infer(image)`
"""

from typing import TYPE_CHECKING, Any

from coinfer.version import __version__

if TYPE_CHECKING:
    from coinfer.graph.ir import ModelGraph
    from coinfer.graph.zoo.networks import open_model
    from coinfer.runtime.device.device import Device, Result

__all__ = ["Device", "ModelGraph", "Result", "__version__", "open_model"]

_HOMES = {
    "Device": "coinfer.runtime.device.device",
    "Result": "coinfer.runtime.device.device",
    "ModelGraph": "coinfer.graph.ir",
    "open_model": "coinfer.graph.zoo.networks",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `import coinfer` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'coinfer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

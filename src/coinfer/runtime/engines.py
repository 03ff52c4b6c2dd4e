"""The inference engines that may run a network."""

from typing import Literal, get_args

Engine = Literal["onnxruntime", "openvino"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

"""A detector for pictures of 320 x 320, exported from PyTorch: depthwise separable convolutions, two heads, and NMS.

Its weights are random. Times and sizes do not depend on that; what it finds does.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import coinfer
from coinfer.graph.image_input import image_property

SIDE, CLASSES, BOXES, MAX_FOUND = 320, 20, 3, 50
WIDTHS = ((32, 2), (64, 2), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
"""Channels and stride of each block."""


def separable(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, before, 3, stride, 1, groups=before), nn.ReLU6(), nn.Conv2d(before, after, 1), nn.ReLU6()
    )


class Detector(nn.Module):
    """Answers boxes [N, A, 4] in pixels of the input and scores [N, classes, A] of A anchors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = [3, *(width for width, _ in WIDTHS)]
        blocks = [separable(*pair, stride) for pair, (_, stride) in zip(pairwise(widths), WIDTHS, strict=True)]
        self.first, self.second = nn.Sequential(*blocks[:6]), nn.Sequential(*blocks[6:])
        self.heads = nn.ModuleList(nn.Conv2d(width, BOXES * (4 + CLASSES), 3, padding=1) for width in (256, 512))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        near = self.first(images)
        far = self.second(near)
        maps = [head(x).flatten(2) for head, x in zip(self.heads, (near, far), strict=True)]
        parts = [one.reshape(-1, 4 + CLASSES, BOXES * one.shape[-1]) for one in maps]
        found = torch.cat(parts, 2)
        corner, size = found[:, :2].sigmoid() * SIDE, found[:, 2:4].sigmoid() * SIDE / 4
        return torch.cat([corner, corner + size], 1).transpose(1, 2), found[:, 4:].sigmoid()


def write(path: Path) -> None:
    """Write the detector with its NMS as an ONNX file that says how it takes pictures.

    Args:
        path: of the file.
    """
    plain = coinfer.from_torch(Detector(), torch.zeros(1, 3, SIDE, SIDE), "detector", ["all_boxes", "all_scores"])
    coinfer.save_model(plain, path)
    model = onnx.load(path)
    graph = model.graph
    del graph.output[:]
    limits = {
        "most": np.array([MAX_FOUND]),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.5], np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in limits.items())
    graph.initializer.append(numpy_helper.from_array(np.array(2), "column"))
    names = ["all_boxes", "all_scores", "most", "overlap", "least"]
    graph.node.append(helper.make_node("NonMaxSuppression", names, ["chosen"], "nms"))
    graph.node.append(helper.make_node("Gather", ["chosen", "column"], ["anchor"], "pick", axis=1))
    graph.node.append(helper.make_node("Gather", ["all_boxes", "anchor"], ["boxes"], "gather", axis=1))
    graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, None, 4]))
    graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.INT64, [None, 3]))
    for value in graph.input:  # NMS counts through the samples of a batch, so one at a time
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.value_info[:]
    image = coinfer.ImageInput(SIDE, SIDE, (0.0,) * 3, (1.0,) * 3, fit="letterbox")
    model.metadata_props.append(image_property(image))
    onnx.save(model, path)

"""Draw what a detector finds on a photograph; edge servers do a part of the work if that is faster.

python examples/detect.py detector.onnx photo.jpg found.png 127.0.0.1:8001

The detector's outputs are boxes [.., 4] as x1, y1, x2, y2 in pixels of its input, and scores [..]; or one map of
probabilities [1, 1, height, width], as detectors of text have it. How it takes pictures is in its metadata, or in
detector.input.yaml beside it.
"""

import sys
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import coinfer

LEAST_SCORE = 0.3


def boxes_and_scores(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    first, *others = outputs.values()
    if not others:  # a map of probabilities: a box around each spot
        spots, count = ndimage.label(first[0, 0] > LEAST_SCORE)
        places = ndimage.find_objects(spots)
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places]).reshape(-1, 4)
        return boxes, ndimage.maximum(first[0, 0], spots, np.arange(1, count + 1))
    boxes = next(one for one in outputs.values() if one.shape[-1] == 4).reshape(-1, 4)
    scores = next(one for one in outputs.values() if one.dtype.kind == "f" and one.shape[-1] != 4).reshape(-1)
    return boxes[: len(scores)], scores


def main(model: str, photo: str, drawn: str, *servers: str) -> None:
    graph = coinfer.open_model(model)
    assert graph.image is not None, f"{model} does not say how it takes pictures"
    picture = Image.open(photo).convert("RGB")
    with coinfer.Device(graph, servers=servers) as device:
        result = device.infer(picture)
    left, top, right, bottom = graph.image.view(*picture.size)
    scale = np.array([right - left, bottom - top] * 2) / ([graph.image.width, graph.image.height] * 2)
    draw = ImageDraw.Draw(picture)
    for box, score in zip(*boxes_and_scores(result.outputs), strict=True):
        x1, y1, x2, y2 = (box * scale + [left, top] * 2).round().astype(int).tolist()
        if score > LEAST_SCORE and x2 > x1 and y2 > y1:
            draw.rectangle((x1, y1, x2, y2), outline=(255, 0, 0), width=3)
            print(f"{score:.2f} at {x1},{y1} to {x2},{y2}")
    picture.save(drawn)
    print(f"{drawn}: answered by {result.executed_on} in {1e3 * result.outcome.latency_s:.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Read the text on a picture with two networks, one that finds lines and one that reads them.

python examples/read_text.py finder.onnx reader.onnx photo.jpg 127.0.0.1:8001

Made for the networks of PP-OCR, as the package rapidocr-onnxruntime (Apache-2.0) brings them: the finder answers a map
of probabilities, the reader the probabilities of characters, which its metadata lists.
"""

import sys

import numpy as np
from PIL import Image
from scipy import ndimage

import coinfer

SIDE, LINE_HEIGHT = 640, 48
LEAST_SCORE = 0.3
GROWN = 0.8
"""Lines are found thinner than they are: their boxes grow by this share of their height."""


def find_lines(device: coinfer.Device, picture: Image.Image) -> list[Image.Image]:
    (found,) = device.infer(picture).outputs.values()
    spots, _ = ndimage.label(found[0, 0] > LEAST_SCORE)
    image = device.graph.image
    assert image is not None
    left, top, right, _ = image.view(*picture.size)
    scale = (right - left) / image.width
    lines = []
    for y, x in ndimage.find_objects(spots):
        grown = GROWN * (y.stop - y.start)
        box = (x.start - grown, y.start - grown, x.stop + grown, y.stop + grown)
        lines.append(picture.crop([round(v * scale + (left, top)[i % 2]) for i, v in enumerate(box)]))
    return lines


def read_line(device: coinfer.Device, line: Image.Image, characters: list[str]) -> str:
    width = max(round(line.width * LINE_HEIGHT / line.height), 16)
    pixels = np.asarray(line.resize((width, LINE_HEIGHT)))[:, :, ::-1]
    values = (pixels.transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32)
    best = device.infer({device.graph.inputs[0]: values}).output[0].argmax(axis=-1)
    changes = best[np.insert(np.diff(best) != 0, 0, True)]  # what repeats is one character, 0 is none
    return "".join(characters[i - 1] if i <= len(characters) else " " for i in changes if i)


def main(finder: str, reader: str, photo: str, *servers: str) -> None:
    pictures = coinfer.PictureSettings(size=SIDE, mean=0.5, std=0.5, colors="bgr", fit="letterbox")
    finds = coinfer.open_model(finder, pictures=pictures)
    reads = coinfer.open_model(reader, {"x": (1, 3, LINE_HEIGHT, "16..2048")})
    characters = next(one.value for one in reads.proto.metadata_props if one.key == "character").splitlines()
    with coinfer.Device(finds, servers=servers) as eyes, coinfer.Device(reads, servers=servers) as mind:
        for line in find_lines(eyes, Image.open(photo).convert("RGB")):
            print(read_line(mind, line, characters))


if __name__ == "__main__":
    main(*sys.argv[1:])

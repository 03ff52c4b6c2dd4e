"""Videos of our own: the shipped photographs, a few frames each."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from coinfer.runtime.images import load_images

SIZE = (160, 120)


def pictures(count: int) -> list[np.ndarray]:
    """So many frames, uint8 [height, width, 3]; a photograph lasts for five of them."""
    photos = [np.asarray(Image.fromarray(picture).resize(SIZE)) for _, picture in load_images()]
    return [photos[i // 5 % len(photos)] for i in range(count)]


def write_clip(path: Path, count: int = 15, fps: int = 15) -> Path:
    """A video of MPEG-4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_gif(path: Path, count: int = 4, duration_ms: int = 100) -> Path:
    """An animated picture."""
    first, *others = map(Image.fromarray, pictures(5 * count)[::5])
    first.save(path, save_all=True, append_images=others, duration=duration_ms)
    return path

"""The labelled pictures of the demo: ten of each class of CIFAR-10's test set, as JPEG like the copies trained on.

    python experiments/exits/make_pictures.py --data FOLDER

FOLDER holds `cifar10_lossless_subset.npz`. Takes the first ten test pictures of each class there, whatever the network
makes of them, and writes them to the package.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from coinfer.profile.dataset import load_labelled
from coinfer.resources import MODELS

EACH = 10
QUALITY = 75
"""With colours at half the resolution, as in the copies."""


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = load_labelled(parser.parse_args().data / "cifar10_lossless_subset.npz", "test")
    of_class = [np.flatnonzero(data.labels == label)[:EACH] for label in range(len(data.class_names))]
    chosen = np.stack(of_class, axis=1).flatten()  # one of each class after the other
    files = [jpeg(data.images[i]) for i in chosen]
    np.savez(
        MODELS / "pictures" / "cifar10_test.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=data.labels[chosen].astype(np.uint8),
        class_names=np.array(data.class_names),
    )


if __name__ == "__main__":
    main()

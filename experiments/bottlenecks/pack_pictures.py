"""Packs a folder of pictures (`train` and `val`, each with a sub-folder for each class) as pictures of one size.

python experiments/bottlenecks/pack_pictures.py imagenette2-160/ --out runs/imagenette --side 96
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps
from rich.console import Console

from coinfer.progress import progress_bar

SPLITS = {"train": "train", "val": "test"}
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main(
    source: Path,
    out: Annotated[Path, typer.Option(help="Folder of NAME-train.npz and NAME-test.npz.")],
    side: Annotated[int, typer.Option(help="Height and width in pixels; the middle of each picture is kept.")] = 96,
) -> None:
    """Pack all pictures."""
    out.mkdir(parents=True, exist_ok=True)
    classes = sorted(folder.name for folder in (source / "train").iterdir() if folder.is_dir())
    for split, name in SPLITS.items():
        paths = [
            (path, label)
            for label, folder in enumerate(classes)
            for path in sorted((source / split / folder).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        images = np.empty((len(paths), side, side, 3), np.uint8)
        with progress_bar(Console(), f"{split} pictures") as report:
            for i, (path, _) in enumerate(paths):
                with Image.open(path) as picture:
                    images[i] = np.asarray(ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC))
                report(i + 1, len(paths), "")
        labels = np.array([label for _, label in paths], np.uint8)
        np.savez_compressed(out / f"{out.name}-{name}.npz", images=images, labels=labels, class_names=np.array(classes))


if __name__ == "__main__":
    typer.run(main)

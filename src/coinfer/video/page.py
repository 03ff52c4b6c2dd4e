"""A page for the eye: the newest answered frame with what was found, as a motion JPEG, on this machine only."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import uvicorn
from PIL import Image, ImageDraw, ImageFont
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse

from coinfer.runtime.edge.http_server import listen

HOST = "127.0.0.1"
WIDEST = 960
"""Wider frames are shown smaller."""
QUALITY = 80
_POLL_S = 0.02
_HTML = """<!doctype html><meta charset="utf-8"><title>coinfer watch</title>
<style>body{margin:0;background:#111;display:grid;place-items:center;min-height:100vh}img{max-width:100%}</style>
<img src="/stream" alt="the newest answered frame">
"""


class Page:
    """Serves the newest answered frame, as a context manager.

    Args:
        port: 0 takes any free port.

    Raises:
        PortError: if the port is taken.
    """

    def __init__(self, port: int):
        self._shown: tuple[np.ndarray, tuple[str, ...]] | None = None
        self._count = 0
        app = Starlette()
        app.add_route("/", self._page)
        app.add_route("/stream", self._stream)
        self._sockets = listen(HOST, port)
        self.port: int = self._sockets[0].getsockname()[1]
        """Where it is served."""
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="coinfer-page", daemon=True)

    def __enter__(self) -> "Page":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def show(self, picture: np.ndarray, lines: Sequence[str]) -> None:
        """Show a frame from now on; it is drawn only if somebody looks.

        Args:
            picture: uint8 [height, width, 3] RGB.
            lines: of text on it.
        """
        self._shown = (picture, tuple(lines))
        self._count += 1

    def _serve(self) -> None:
        asyncio.run(self._server.serve(self._sockets))

    async def _page(self, request: Request) -> HTMLResponse:
        return HTMLResponse(_HTML)

    async def _stream(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._parts(), media_type="multipart/x-mixed-replace; boundary=frame")

    async def _parts(self) -> AsyncIterator[bytes]:
        sent = 0
        while not self._server.should_exit:
            if self._shown is None or sent == self._count:
                await asyncio.sleep(_POLL_S)
                continue
            sent, shown = self._count, self._shown
            jpeg = await asyncio.to_thread(draw, *shown)
            yield b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)


def draw(picture: np.ndarray, lines: Sequence[str]) -> bytes:
    """Return a frame with lines of text on it, as JPEG.

    Args:
        picture: uint8 [height, width, 3] RGB.
        lines: of text, from the top.
    """
    image = Image.fromarray(picture)
    image.thumbnail((WIDEST, WIDEST))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(image.height // 24, 12))
    for i, line in enumerate(lines):
        at = (8, 8 + i * int(1.3 * font.size))  # type: ignore[union-attr]
        pen.rectangle(pen.textbbox(at, line, font=font), fill="black")
        pen.text(at, line, font=font, fill="white")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()

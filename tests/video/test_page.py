"""The page shows the newest answered frame, with words on it."""

import io
import urllib.request

import numpy as np
import pytest
from PIL import Image

from coinfer.errors import UserError
from coinfer.video.page import Page, draw

PICTURE = np.full((60, 80, 3), 120, np.uint8)


def test_a_browser_gets_one_jpeg_after_the_other():
    with Page(0) as page:
        base = f"http://127.0.0.1:{page.port}"
        with urllib.request.urlopen(base, timeout=60) as reply:
            assert b'src="/stream"' in reply.read()
        page.show(PICTURE, ["cat 90%"])
        with urllib.request.urlopen(f"{base}/stream", timeout=60) as reply:
            assert reply.headers["Content-Type"].startswith("multipart/x-mixed-replace")
            first = part(reply)
            page.show(PICTURE // 2, ["dog 80%"])
            second = part(reply)
    assert first.size == second.size == (80, 60)
    assert np.asarray(first).mean() > np.asarray(second).mean() + 20


def part(reply) -> Image.Image:
    assert reply.readline() == b"--frame\r\n"
    assert reply.readline() == b"Content-Type: image/jpeg\r\n"
    size = int(reply.readline().partition(b":")[2])
    assert reply.readline() == b"\r\n"
    image = Image.open(io.BytesIO(reply.read(size)))
    assert reply.readline() == b"\r\n"
    return image


def test_words_are_drawn_on_the_frame():
    plain, written = (Image.open(io.BytesIO(draw(PICTURE, lines))) for lines in ([], ["cat 90%"]))
    changed = np.abs(np.asarray(plain, int) - np.asarray(written, int)).max(axis=2) > 40
    assert changed[:30].any()
    assert not changed[45:].any()


def test_a_taken_port_is_told_in_one_line():
    with Page(0) as page, pytest.raises(UserError, match=rf"{page.port}.*taken"):
        Page(page.port)

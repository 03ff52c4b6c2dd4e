"""Frames come out of files, streams and pictures as they went in; what is no video is told in one line."""

import http.server
import re
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.video.clips import SIZE, pictures, write_clip, write_gif

from coinfer.errors import UserError
from coinfer.runtime.images import load_images
from coinfer.video.sources import FOLDER_FPS, SourceError, open_source, printable_name


def test_a_file_gives_its_frames_with_their_times(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4")
    with open_source(str(path)) as source:
        assert (source.fps, source.is_live) == (15.0, False)
        frames = list(source.frames)
        np.testing.assert_allclose([frame.at_s for frame in frames], np.arange(15) / 15, atol=1e-3)
        for frame, right in zip(frames, pictures(15), strict=True):
            assert frame.picture().shape == (*SIZE[::-1], 3)
            assert np.abs(frame.picture().astype(int) - right).mean() < 12  # what compression leaves


def test_a_gif_gives_its_frames_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with open_source(str(write_gif(tmp_path / "four.gif"))) as source:
        frames = list(source.frames)
    assert source.fps == 10
    np.testing.assert_allclose([frame.at_s for frame in frames], [0.0, 0.1, 0.2, 0.3])
    assert np.abs(frames[2].picture().astype(int) - pictures(20)[10]).mean() < 25


def test_a_folder_gives_its_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    from coinfer.resources import PHOTOS

    with open_source(str(PHOTOS)) as source:
        frames = list(source.frames)
    assert frames[1].at_s == 1 / FOLDER_FPS
    for frame, (_, picture) in zip(frames, load_images(), strict=True):
        np.testing.assert_array_equal(frame.picture(), picture)


def test_a_url_is_a_live_source(tmp_path: Path):
    write_clip(tmp_path / "clip.ts")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://me:secret@127.0.0.1:{server.server_address[1]}"
        with open_source(f"{url}/clip.ts") as source:
            assert source.is_live
            assert "secret" not in source.name
            assert len(list(source.frames)) >= 10  # a live stream may hold the last ones back
        with pytest.raises(SourceError, match=r"127\.0\.0\.1:\d+/none\.ts: cannot be reached or read \(.*404") as told:
            open_source(f"{url}/none.ts").__enter__()
        assert "secret" not in str(told.value)
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none.mp4", r"none.mp4: no such file; expected a video, a camera's number"),
        ("text.mp4", r"text.mp4: not a video that can be read \(Invalid data"),
        ("cut.mp4", r"cut.mp4: not a video that can be read"),
        ("sound.wav", r"sound.wav: holds no video, only audio"),
        ("no.gif", r"no.gif: not a picture that can be read"),
        ("empty", r"empty: no picture in it"),
        ("999", r"camera 999: cannot be opened|camera 999: cameras are read on Linux and macOS only"),
        ("rtsp://me:secret@127.0.0.1:9/x", r"rtsp://127.0.0.1:9/x: cannot be reached or read \(Connection refused\)"),
    ],
)
def test_what_is_no_video_is_told_in_one_line(source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.mp4").write_text("This is no video.\n" * 50)
    Path("no.gif").write_text("nor a picture")
    Path("cut.mp4").write_bytes(write_clip(tmp_path / "whole.mp4").read_bytes()[:300])
    write_sound(Path("sound.wav"))
    with pytest.raises(UserError) as told, open_source(source) as opened:
        list(opened.frames)
    assert re.search(words, str(told.value)), str(told.value)
    assert "\n" not in str(told.value)


def write_sound(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 800)


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"clip\.mp4: reading videos needs PyAV: pip install '\.\[video\]'"):
        open_source(str(write_clip_without_av(tmp_path))).__enter__()


def write_clip_without_av(folder: Path) -> Path:
    path = folder / "clip.mp4"
    path.write_bytes(b"any")
    return path


def test_passwords_are_not_printed():
    assert printable_name("rtsp://me:pw@host:554/p@th") == "rtsp://host:554/p@th"

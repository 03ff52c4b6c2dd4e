"""Answer a video, tell how it goes, and what became of its frames: `coinfer watch`."""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console

from coinfer.cli.reports.cut_name import cut_name
from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.pictures import PictureSettings
from coinfer.progress import progress_bar
from coinfer.runtime.classes import is_classifier, labels_of, likeliest, read_labels
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.inputs import without_pictures
from coinfer.runtime.profiling import open_profiled, profile_for
from coinfer.units import BITS_PER_BYTE, MILLI
from coinfer.video.page import Page
from coinfer.video.sources import Source, open_source
from coinfer.video.watch import FRAMES_OF_DEADLINE, Summary, WatchedFrame, Watcher

TELL_EVERY_S = 0.5, 10.0
"""How often progress is told on a terminal, and elsewhere."""
MAX_VALUES = 1000
"""Outputs of more numbers are described in the lines of JSON, not listed."""
STDOUT = Path("-")


class Watch(NamedTuple):
    """What is to be watched, and what is to be made of the answers."""

    source: str
    model: str
    pictures: PictureSettings
    out: Path | None
    """File of the lines of JSON; `-` prints them."""
    page: int | None
    """Port of the page; None for none."""
    fast: bool
    concurrency: int
    top: int
    labels: Path | None


def watch_video(console: Console, watch: Watch, config: DeviceConfig) -> None:
    """Answer a video until it ends or a person interrupts, and print what became of its frames.

    Args:
        console: prints progress and summary.
        watch: what to watch.
        config: of the device; without a deadline, an answer is late once the second frame after it has come.

    Raises:
        UserError: for what a user can mend, in one line; a video that breaks off is told after the summary.
    """
    if watch.out == STDOUT:
        console = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(watch.source))
        if watch.fast and source.is_live:
            raise UserError(f"--fast: {source.name} is live, its frames come no faster; leave out --fast")
        graph = open_profiled(watch.model, config.shapes, config.profile, watch.pictures, config.limits)
        if graph.image is None:
            raise UserError(without_pictures(graph))
        describe = Describe(graph, watch.top, watch.labels)
        deadline_s = config.deadline_s
        if deadline_s == math.inf and not watch.fast:
            deadline_s = FRAMES_OF_DEADLINE / source.fps
        device = stack.enter_context(_open_device(console, graph, replace(config, deadline_s=deadline_s)))
        page = stack.enter_context(Page(watch.page)) if watch.page is not None else None
        if page is not None:
            console.print(f"see http://127.0.0.1:{page.port}", soft_wrap=True)
        lines = stack.enter_context(_lines(watch.out))
        told = stack.enter_context(_Progress(console, source))

        def on_answer(frame: WatchedFrame) -> None:
            answer = describe.json(frame)
            if lines is not None:
                lines.write(json.dumps(answer) + "\n")
                lines.flush()
            if page is not None:
                page.show(frame.picture, describe.text(frame))
            told(watcher.summary)

        watcher = Watcher(
            device,
            source,
            on_answer,
            deadline_s=deadline_s,
            concurrency=watch.concurrency,
            keep_all=watch.fast,
        )
        began_s = time.monotonic()
        try:
            _run(watcher)
        finally:
            told.close()
            _print_summary(console, source, watcher.summary, time.monotonic() - began_s, deadline_s)


def _run(watcher: Watcher) -> None:
    """Run until the end; Ctrl-C, and SIGTERM where there is one, are a proper end of watching."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if is_main else None
    try:
        watcher.run()
    except KeyboardInterrupt:
        pass
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _open_device(console: Console, graph: ModelGraph, config: DeviceConfig) -> Iterator[Device]:
    """Open a device that refuses frames which would be late."""
    with progress_bar(console, f"measuring {graph.name}") as progress:
        table = profile_for(graph, config.profile, config.threads, progress, provider=config.provider)
    device = Device(graph, replace(config, profile=table, refuse_late=config.deadline_s < math.inf))
    try:
        with progress_bar(console, f"connecting, and preparing {graph.name}") as progress:
            device.open(progress)
        yield device
    finally:
        device.close()


@contextmanager
def _lines(out: Path | None) -> Iterator[IO[str] | None]:
    """Open the file of the lines of JSON; they are written as they come, so that others can follow them."""
    if out is None:
        yield None
    elif out == STDOUT:
        yield sys.stdout
    else:
        with out.open("w", encoding="utf-8") as file:
            yield file


class Describe:
    """Says what an answered frame shows, for programs and for people.

    Args:
        graph: the network.
        top: likeliest classes.
        labels: file of the classes' names; None takes those of the network.

    Raises:
        UserError: if there are labels and the network names no classes.
    """

    def __init__(self, graph: ModelGraph, top: int, labels: Path | None):
        self._graph, self._top = graph, top
        self._classes = is_classifier(graph, graph.outputs)
        if labels and not self._classes:
            raise UserError(f"--labels {labels}: {graph.name} names no classes")
        self._labels = read_labels(labels) if labels else labels_of(graph)

    def json(self, frame: WatchedFrame) -> dict[str, Any]:
        """Return a frame's line: where and when it was answered, and the classes or the outputs.

        Args:
            frame: answered.
        """
        result, head = frame.result, frame.result.route.hops[0]
        line: dict[str, Any] = {
            "frame": frame.number,
            "at_s": round(frame.at_s, 3),
            "latency_s": round(frame.latency_s, 4),
            "behind": frame.behind,
            "in_time": frame.in_time,
            "by": result.executed_on,
            "cut": cut_name(self._graph, head.cut),
            "sent_bytes": int(result.sent_bits / BITS_PER_BYTE),
        }
        if result.fallback:
            line["fallback"] = result.fallback
        if self._classes:
            return line | {"classes": [one._asdict() for one in self._likeliest(frame)]}
        return line | {"outputs": {name: _output(value) for name, value in result.outputs.items()}}

    def text(self, frame: WatchedFrame) -> list[str]:
        """Return the lines of text that a person sees on a frame.

        Args:
            frame: answered.
        """
        when = f"frame {frame.number}, {frame.latency_s / MILLI:.0f} ms, by {frame.result.executed_on}"
        if not self._classes:
            return [*(f"{name} {value.shape}" for name, value in frame.result.outputs.items()), when]
        return [*(f"{one.label} {one.share:.0%}" for one in self._likeliest(frame)), when]

    def _likeliest(self, frame: WatchedFrame) -> list[Any]:
        return [one for value in frame.result.outputs.values() for one in likeliest(value[:1], self._labels, self._top)]


def _output(value: Any) -> dict[str, Any]:
    described = {"dtype": str(value.dtype), "shape": list(value.shape)}
    return described | ({"values": value.tolist()} if value.size <= MAX_VALUES else {})


class _Progress:
    """Tells how it goes: one line that changes on a terminal, elsewhere a line now and then."""

    def __init__(self, console: Console, source: Source):
        self._console, self._every_s = console, TELL_EVERY_S[0 if console.is_terminal else 1]
        self._status = console.status(f"watching {source.name}") if console.is_terminal else nullcontext()
        self._told_s = time.monotonic()

    def __enter__(self) -> "_Progress":
        self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, summary: Summary) -> None:
        """Tell of the frames so far, if that was not done a moment ago."""
        now_s = time.monotonic()
        if now_s - self._told_s < self._every_s:
            return
        self._told_s = now_s
        recent_s = sorted(summary.latencies_s[-100:])
        text = (
            f"{summary.seen} frames, {summary.answered} answered, {summary.skipped} skipped, "
            f"{recent_s[len(recent_s) // 2] / MILLI:.0f} ms, {_shares(summary)}"
        )
        if self._console.is_terminal:
            self._status.update(text)  # type: ignore[union-attr]
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Tell no more."""
        self._status.__exit__(None, None, None)


def _shares(summary: Summary) -> str:
    """Return which share of the answers each node gave."""
    total = max(summary.answered, 1)
    return ", ".join(f"{node} {count / total:.0%}" for node, count in summary.nodes.most_common()) or "nobody"


def _print_summary(console: Console, source: Source, summary: Summary, took_s: float, deadline_s: float) -> None:
    """Print what became of the frames."""
    frames = f"{source.name}: {summary.seen} frames in {took_s:.1f} s, {summary.answered} answered"
    skipped = f"{summary.replaced} for a newer one, {summary.late} that would have been late"
    share = summary.skipped / max(summary.seen, 1)
    lines = [f"{frames}, {summary.skipped} skipped ({share:.1%}: {skipped})"]
    if summary.unreadable:
        lines.append(f"{summary.unreadable} frames could not be read")
    if summary.answered:
        p50, p95 = (f"{summary.quantile_s(share) / MILLI:.0f}" for share in (0.5, 0.95))
        within = "" if deadline_s == math.inf else (
            f", {summary.in_time / summary.answered:.1%} within {deadline_s / MILLI:.0f} ms"
        )  # fmt: skip
        lines.append(f"latency p50 {p50} ms, p95 {p95} ms{within}; at most {max(summary.behind)} frames behind")
        sent = summary.sent_bits / BITS_PER_BYTE / 1e6
        vain = f"; servers asked in vain for {summary.fallbacks}" if summary.fallbacks else ""
        lines.append(f"answered by {_shares(summary)}; {sent:.2f} MB sent{vain}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)

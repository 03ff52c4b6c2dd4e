"""One frame between those who read a video and those who answer it: the newest; older ones make place for it."""

import threading
from typing import NamedTuple

from coinfer.video.sources import Frame


class Arrived(NamedTuple):
    """A frame that has come in."""

    number: int
    """From 0, of all frames of the source."""
    frame: Frame
    arrived_s: float
    """On the watcher's clock."""


class NewestFrame:
    """Holds the newest frame until somebody takes it; any thread may use it.

    Args:
        keep_all: a frame waits until the one before it was taken, instead of replacing it.
    """

    def __init__(self, *, keep_all: bool = False):
        self.seen = 0
        """Frames that have come in."""
        self.replaced = 0
        """Frames that nobody took before a newer one came, or before the end."""
        self._keep_all = keep_all
        self._held: Arrived | None = None
        self._over = False
        self._changed = threading.Condition()

    def put(self, frame: Frame, now_s: float) -> None:
        """Hold a frame; one that is still held is replaced, or waited for where all are kept. After the end it is lost.

        Args:
            frame: the next one of the source.
            now_s: on the watcher's clock.
        """
        with self._changed:
            if self._keep_all:
                self._changed.wait_for(lambda: self._held is None or self._over)
            if self._over:
                return
            self._drop()
            self._held = Arrived(self.seen, frame, now_s)
            self.seen += 1
            self._changed.notify_all()

    def take(self) -> Arrived | None:
        """Return the newest frame that nobody has taken, once there is one; None once all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._held is not None or self._over)
            held, self._held = self._held, None
            self._changed.notify_all()
            return held

    def end(self) -> None:
        """Let no more frames come; the one that is held may still be taken."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def discard(self) -> None:
        """End at once: nobody gets the frame that is held."""
        with self._changed:
            self._drop()
            self._over = True
            self._changed.notify_all()

    def _drop(self) -> None:
        self.replaced += self._held is not None
        self._held = None

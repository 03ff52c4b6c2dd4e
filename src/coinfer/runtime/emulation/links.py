"""Links whose rate follows a bandwidth trace, for runs on one machine."""

import math
import threading

from coinfer.runtime.clock import Clock
from coinfer.traces import Trace
from coinfer.units import BITS_PER_BYTE


class TransferCancelled(Exception):
    """The transfer was cancelled before it was complete."""


class Link:
    """A token bucket that a trace fills; transfers are served first come, first served.

    A transfer may use at once what the idle link saved up, at most `burst_bits`; the rest passes at the trace's rate.
    The trace's time 0 is the moment at which the link is made.

    Args:
        trace: rate over time.
        clock: time of the link.
        burst_bits: most that an idle link saves up; the default is 3200 bytes.
        latency_s: added to every transfer.

    Raises:
        ValueError: if burst or latency are negative or infinite.
    """

    def __init__(self, trace: Trace, clock: Clock, burst_bits: float = 3200 * BITS_PER_BYTE, latency_s: float = 0.0):
        if not (0 <= burst_bits < math.inf and 0 <= latency_s < math.inf):
            raise ValueError(f"a link has a burst and a latency of at least 0, not {burst_bits} bits, {latency_s} s")
        self.trace = trace
        self.clock = clock
        self.burst_bits = burst_bits
        self.latency_s = latency_s
        self._began_s = clock.now_s()
        self._sent_bits = -math.inf
        """Capacity of the trace, in bits since the link was made, that transfers have reserved."""
        self._lock = threading.Lock()

    def rate_bps(self) -> float:
        """Return the trace's rate now."""
        return self.trace.rate_at(self.clock.now_s() - self._began_s)

    def reserve(self, size_bits: float, now_s: float) -> float:
        """Put a transfer at the end of the queue.

        Args:
            size_bits: at least 0.
            now_s: on the link's clock.

        Returns:
            When the transfer's last bit arrives, on the link's clock.

        Raises:
            ValueError: if the size is negative or infinite.
        """
        return self._reserve(size_bits, now_s)[0]

    def arrival_s(self, size_bits: float, at_s: float) -> float:
        """Return when the last bit of a transfer would arrive, on the link's clock, without making it.

        Args:
            size_bits: at least 0.
            at_s: when it would begin, on the link's clock.
        """
        with self._lock:
            return self._arrival(size_bits, at_s)[0]

    def transmit(self, size_bits: float, cancel: threading.Event | None = None) -> float:
        """Wait until a transfer is complete.

        Args:
            size_bits: at least 0.
            cancel: ends the transfer as soon as it is set; the unsent part is given back if no other transfer came
                after.

        Returns:
            The seconds that the transfer took, waiting included.

        Raises:
            TransferCancelled: if `cancel` was set.
            ValueError: if the size is negative or infinite.
        """
        began_s = self.clock.now_s()
        finish_s, end_bits = self._reserve(size_bits, began_s)
        if not self.clock.sleep(finish_s - began_s, cancel):
            self._give_back(size_bits, end_bits)
            raise TransferCancelled(f"transfer of {size_bits:.0f} bits was cancelled")
        return self.clock.now_s() - began_s

    def _reserve(self, size_bits: float, now_s: float) -> tuple[float, float]:
        if not 0 <= size_bits < math.inf:
            raise ValueError(f"a transfer has a size of at least 0 bits, not {size_bits}")
        with self._lock:
            arrival_s, self._sent_bits = self._arrival(size_bits, now_s)
            return arrival_s, self._sent_bits

    def _arrival(self, size_bits: float, at_s: float) -> tuple[float, float]:
        """Return when a transfer arrives, and the capacity that is reserved by then."""
        since_s = at_s - self._began_s
        free_from = self.trace.bits_until(since_s) - self.burst_bits
        end_bits = max(self._sent_bits, free_from) + size_bits
        return self._began_s + max(self.trace.time_of(end_bits), since_s) + self.latency_s, end_bits

    def _give_back(self, size_bits: float, end_bits: float) -> None:
        """Give back the unsent part if the transfer is the queue's last; others already know when they finish."""
        with self._lock:
            if self._sent_bits == end_bits:
                passed = self.trace.bits_until(self.clock.now_s() - self._began_s)
                self._sent_bits = min(max(passed, end_bits - size_bits), end_bits)

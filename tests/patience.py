"""For tests on a machine that has other work to do, or stands still for a moment."""

import time
from collections.abc import Callable, Sequence

from coinfer.runtime.protocol.messages import DEFAULT_LIMIT_BYTES
from coinfer.runtime.transport.grpc_transport import GrpcTransport, client_options

ROUNDS = 5


def one_round_right(play: Callable[[], Sequence[str]], rounds: int = ROUNDS) -> None:
    """Plays until a round had no complaint. What a busy machine can spoil must come out right in one round of so many;
    what is broken is wrong in all of them. What must hold in any case, `play` asserts itself."""
    told: list[Sequence[str]] = []
    for _ in range(rounds):
        told.append(play())
        if not told[-1]:
            return
    raise AssertionError(f"in each of {rounds} rounds something was wrong: {told}")


def wait_until(holds: Callable[[], object], timeout_s: float, what: str) -> float:
    """Waits for a condition and returns how long that took; the time-out only ends a test that has failed."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < timeout_s, f"not after {timeout_s:.0f} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began_s


def patient_transport(limit_bytes: int = DEFAULT_LIMIT_BYTES) -> GrpcTransport:
    """Pings as often as a device does, but takes no node for lost that answers half a second late."""
    return GrpcTransport(limit_bytes, client_options(limit_bytes, patience_s=60.0))

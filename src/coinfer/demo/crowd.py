"""Other people's requests: they keep servers busy."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from coinfer.runtime.protocol.messages import InferReply, InferRequest
from coinfer.runtime.transport.grpc_transport import GrpcTransport

RETRY_S = 0.05
"""Pause after a request that was not answered."""
TIMEOUT_S = 30.0


class Crowd:
    """Keeps so many requests under way at each server, from when it is entered until it is left.

    Args:
        request: what it asks for.
        addresses: `host:port` of the servers that it asks.
        at_a_time: its requests under way at each server.
    """

    def __init__(self, request: InferRequest, addresses: Sequence[str], at_a_time: int):
        self._request, self._addresses, self._at_a_time = request, addresses, at_a_time
        self._transport = GrpcTransport()
        self._over = threading.Event()

    def __enter__(self) -> "Crowd":
        for address in self._addresses:
            for _ in range(self._at_a_time):
                self._ask(address)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._transport.close()

    def _ask(self, address: str) -> None:
        self._transport.send(address, self._request, TIMEOUT_S).add_done_callback(
            lambda done: self._go_on(address, done)
        )

    def _go_on(self, address: str, done: "Future[InferReply]") -> None:
        pause_s = RETRY_S if done.cancelled() or done.exception() is not None else 0.0
        if not self._over.wait(pause_s):
            self._ask(address)

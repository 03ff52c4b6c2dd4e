"""Choosing what a request leaves to the server it reaches: who computes, or all that is done. The site provides it."""

from typing import Protocol

from coinfer.runtime.protocol.messages import InferRequest
from coinfer.runtime.protocol.task_options import Choice


class Assignment(Protocol):
    """Where one request goes, as it was decided."""

    @property
    def node(self) -> str | None:
        """Return the address of the server that is to compute; None for the one that was asked."""
        ...

    def done(self, ok: bool, queue_s: float = 0.0, server_s: float = 0.0) -> None:
        """Tell what came of it; called once.

        Args:
            ok: the request was answered there.
            queue_s: wait for a worker there.
            server_s: time of a worker there, computing and coding.
        """
        ...


class Dispatcher(Protocol):
    """Decides for requests that leave the choice of server to the server that they reach."""

    def may_be_served(self, request: InferRequest) -> bool:
        """Return true if a server is known that serves the network of a request.

        Args:
            request: as it came.
        """
        ...

    async def assign(self, request: InferRequest, excluded: frozenset[str]) -> Assignment:
        """Return where a request goes; requests that wait together are decided together.

        Args:
            request: as it came.
            excluded: addresses of servers that were asked in vain.
        """
        ...

    async def choose(self, request: InferRequest) -> Choice:
        """Return what a device should do with a request; those that wait together are decided together.

        Args:
            request: with the device's options, and no tensors.

        Raises:
            WireError: UNAVAILABLE if none of it is possible as far as is known.
        """
        ...

"""What makes an edge server a member of a site. The site provides it; this package knows none."""

from typing import Protocol

from coinfer.runtime.edge.security import Security
from coinfer.runtime.edge.service import EdgeService


class Agent(Protocol):
    """The part of a site that lives in an edge server's process."""

    @property
    def security(self) -> Security | None:
        """Return how the server's connections are secured; None for plain text."""
        ...

    def start(self, service: EdgeService) -> None:
        """Begin to speak for a server that is ready. On its event loop.

        Args:
            service: of the server; its address is known.
        """
        ...

    async def close(self) -> None:
        """Say goodbye to the site. On the event loop, once all requests are answered."""
        ...

"""A node's connection to the controller: what waits to be sent, and what was."""

import asyncio
import math
from dataclasses import dataclass, field

from coinfer.site.messages import Ack, Message, View, to_bytes, with_part
from coinfer.site.updater.versions import Rollout


@dataclass(eq=False)
class Session:
    """One connection of a node. Of the views that wait only the newest is sent."""

    id: int
    name: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    urgent: list[Message] = field(default_factory=list)
    view: bytes = b""
    view_s: float = -math.inf
    """When it was composed."""
    sent_s: float = -math.inf
    """When the last view was composed that was sent."""
    acks: list[Ack] = field(default_factory=list)
    """They travel with the next view."""
    checked_s: float = -math.inf
    """When the caller's certificate was checked last."""
    ended: bool = False
    told_of: Rollout | None = None
    """State of the roll-out that the node has heard of."""
    sent_policies: bytes = b""
    """What was said last of who decides."""
    sent_versions: set[int] = field(default_factory=set)

    def send(self, message: Message) -> None:
        """Queue a message that must not be left out.

        Args:
            message: any.
        """
        self.urgent.append(message)
        self.wake.set()

    def next_view(self) -> bytes:
        """Return the view that waits, with the acknowledgements that do."""
        view, self.view = self.view, b""
        self.sent_s = self.view_s if view else self.sent_s
        acks, self.acks = self.acks, []
        if not acks:
            return view
        part = b",".join(ack.model_dump_json().encode() for ack in acks)
        return with_part(view or to_bytes(View()), "acks", b"[%s]" % part)

"""What an edge server knows of its links to others: from what it forwards to them, and from pings if it is asked."""

import asyncio
import math

from coinfer.runtime.clock import Clock
from coinfer.runtime.device.link_estimate import LinkEstimate, after_exchange, after_ping, first_link
from coinfer.runtime.protocol.messages import InferReply, InferRequest
from coinfer.runtime.transport.base import Transport
from coinfer.units import bits_of_bytes

FRESH_S, PING_SHARE = 4.0, 0.02
"""A link over which something was sent so short a time ago is not measured anew, whoever asks; nor is one on which a
ping takes more than this share of the time since."""
EMPTY_PINGS = 2
"""They measure the round trip, of which the smallest counts, as the first one opens the connection."""
PING_BYTES = (16_000, 64_000, 256_000)
"""They measure the rate, each only if the one before passed at once."""
TIMEOUT_S = 2.0
FIRST_RATE_BPS = 10e6


class PeerLinks:
    """The links to next hops; used by one event loop.

    Args:
        transport: carries the pings.
        clock: of the server.
    """

    def __init__(self, transport: Transport, clock: Clock):
        self._transport = transport
        self._clock = clock
        self._links: dict[str, LinkEstimate] = {}
        self._fresh_until_s: dict[str, float] = {}
        self._measuring: dict[str, asyncio.Future[LinkEstimate]] = {}

    def after_transfer(self, node: str, sent: InferRequest, answer: InferReply, elapsed_s: float) -> LinkEstimate:
        """Return a link after something was forwarded over it.

        Args:
            node: `host:port` of the next hop.
            sent: what it got.
            answer: what it replied.
            elapsed_s: from sending to the reply.
        """
        now_s = self._clock.now_s()
        bits = bits_of_bytes(_size_bytes(sent) + _size_bytes(answer))
        link = after_exchange(self._link(node), bits, transfer_s(answer, elapsed_s), now_s)
        self._links[node] = link
        if link.round_trip_s > 0:
            self._keep_fresh(node)
        return link

    def lose(self, node: str) -> None:
        """Measure a link anew before anybody is told of it, as something was lost on it.

        Args:
            node: `host:port` of the next hop.
        """
        self._fresh_until_s.pop(node, None)

    async def measured(self, node: str) -> LinkEstimate:
        """Return a link; measure it first if nothing was sent over it of late.

        Args:
            node: `host:port` of a next hop that is allowed.

        Raises:
            TransportError: if it does not answer.
        """
        if self._clock.now_s() < self._fresh_until_s.get(node, -math.inf):
            return self._links[node]
        if node not in self._measuring:
            measuring = self._measuring[node] = asyncio.ensure_future(self._measure(node))
            measuring.add_done_callback(lambda done: self._end(node, done))
        return await asyncio.shield(self._measuring[node])

    async def _measure(self, node: str) -> LinkEstimate:
        for _ in range(EMPTY_PINGS):
            empty_s = (await asyncio.wrap_future(self._transport.ping(node, TIMEOUT_S))).round_trip_s
            self._links[node] = after_ping(self._link(node), empty_s)
        for size_bytes in PING_BYTES:
            took_s = (await asyncio.wrap_future(self._transport.ping(node, TIMEOUT_S, size_bytes))).round_trip_s
            bits, now_s = bits_of_bytes(size_bytes), self._clock.now_s()
            self._links[node] = after_exchange(self._link(node), bits, took_s, now_s)
            if not self._links[node].is_bound:
                break
        self._keep_fresh(node)
        return self._links[node]

    def _keep_fresh(self, node: str) -> None:
        ping_s = bits_of_bytes(PING_BYTES[0]) / self._links[node].rate_bps
        self._fresh_until_s[node] = self._clock.now_s() + max(FRESH_S, ping_s / PING_SHARE)

    def _end(self, node: str, done: "asyncio.Future[LinkEstimate]") -> None:
        del self._measuring[node]
        if not done.cancelled():
            done.exception()  # everybody who asked may have left

    def _link(self, node: str) -> LinkEstimate:
        return self._links.get(node) or first_link(FIRST_RATE_BPS, self._clock.now_s())


def transfer_s(answer: InferReply, elapsed_s: float) -> float:
    """Return how long a request and its reply were under way: what the other server did not spend.

    Args:
        answer: the reply.
        elapsed_s: from sending to the reply.
    """
    return max(elapsed_s - answer.queue_s - answer.server_s - answer.codec_s - answer.forward_s, 0.0)


def upload_share(sent: InferRequest, answer: InferReply) -> float:
    """Return the part of a transfer's time that the request took, by its share of the bytes.

    Args:
        sent: the request.
        answer: the reply.
    """
    up, down = _size_bytes(sent), _size_bytes(answer)
    return up / max(up + down, 1)


def _size_bytes(message: InferRequest | InferReply) -> int:
    tensors = message.inputs if isinstance(message, InferRequest) else message.outputs
    return sum(len(tensor.data) for tensor in tensors)

"""A server's network interface of a given rate: connections go through a process that passes their bytes on in time."""

import asyncio
import contextlib
import threading

from coinfer.runtime.clock import WallClock
from coinfer.runtime.emulation.links import Link
from coinfer.traces import Trace
from coinfer.units import BITS_PER_BYTE

CHUNK_BYTES = 16_384


class Shaped:
    """Listens for a server, and passes what clients send on at the rate of its link; answers pass at once.

    Args:
        target: `host:port` of the server.
    """

    def __init__(self, target: str):
        self._host, _, self._port = target.rpartition(":")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._is_open = threading.Event()
        self.address = ""
        self.set_rate(1e9)

    def set_rate(self, rate_bps: float) -> None:
        """Give the link another rate, for all connections together.

        Args:
            rate_bps: above 0.
        """
        self._link = Link(Trace.constant(rate_bps), WallClock(), burst_bits=0.0)

    def __enter__(self) -> "Shaped":
        self._thread.start()
        self._is_open.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._is_open.set()
        await self._over.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(self._host, int(self._port))
            with contextlib.closing(back):
                ways = [asyncio.ensure_future(self._shape(reader, back)), asyncio.ensure_future(_pass(there, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()

    async def _shape(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                link, now_s = self._link, self._link.clock.now_s()
                arrives_s = link.reserve(len(data) * BITS_PER_BYTE, now_s)
                await asyncio.sleep(max(arrives_s - now_s, 0.0))
                writer.write(data)
                await writer.drain()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()

"""A network between nodes and their controller that can be cut, or takes its time."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

MOST_PARTS = 256
"""Read and not yet passed on, each way of a connection."""


class Proxy:
    """Passes connections on; while it is cut nothing passes and nobody is told, as on a broken cable.

    Args:
        target: `host:port` of the controller.
        delay_s: that everything takes, either way.
    """

    def __init__(self, target: str, delay_s: float = 0.0):
        self._delay_s = delay_s
        self._host, _, self._port = target.rpartition(":")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._is_open = threading.Event()
        self.address = ""

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._is_open.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._whole, self._over = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._whole.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._is_open.set()
        await self._over.wait()
        server.close()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Let nothing pass within a `with` block."""
        self._loop.call_soon_threadsafe(self._whole.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._whole.set)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            await self._whole.wait()
            onward = await asyncio.open_connection(self._host, int(self._port))
            with contextlib.closing(onward[1]):
                ways = [
                    asyncio.ensure_future(way) for way in (self._pass(reader, onward[1]), self._pass(onward[0], writer))
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_PARTS)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._take(reader, under_way), self._give(under_way, writer))

    async def _take(self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            data = await reader.read(65536)
            await under_way.put((self._loop.time() + self._delay_s, data))

    async def _give(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await under_way.get()
            await asyncio.sleep(max(due_s - self._loop.time(), 0.0))
            await self._whole.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()

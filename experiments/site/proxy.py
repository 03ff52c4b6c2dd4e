"""A network between nodes and their controller that can be cut."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class Proxy:
    """Passes connections on; while it is cut nothing passes and nobody is told, as on a broken cable.

    Args:
        target: `host:port` of the controller.
    """

    def __init__(self, target: str):
        self._host, _, self._port = target.rpartition(":")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._whole = asyncio.Event()
        self._whole.set()
        self.address = ""

    def __enter__(self) -> "Proxy":
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop)
        self.address = f"127.0.0.1:{server.result().sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

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
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()

"""The addresses of a device's edge servers: what a policy's server axis means. It may grow while the device runs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class ServerList(Sequence[str]):
    """Addresses by index. A server keeps its index; it may get another address, and more servers may be added.

    Args:
        addresses: `host:port` of each server that is known at first.
    """

    def __init__(self, addresses: Iterable[str] = ()):
        self._addresses = tuple(addresses)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._addresses[index]

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def append(self, address: str) -> int:
        """Add a server, and return its index.

        Args:
            address: `host:port`.
        """
        self._addresses = (*self._addresses, address)
        return len(self._addresses) - 1

    def move(self, index: int, address: str) -> None:
        """Give a server another address.

        Args:
            index: of the server.
            address: `host:port`.
        """
        changed = list(self._addresses)
        changed[index] = address
        self._addresses = tuple(changed)

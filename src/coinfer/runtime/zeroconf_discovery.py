"""Edge servers that announce themselves in the local network (mDNS), for devices that look for them.

Both need the extra `zeroconf`. Anyone in the network can announce: it is for networks in which all are trusted.
"""

import logging
import socket
import threading
from importlib import import_module
from typing import Any

from coinfer.addresses import Address, parse_address
from coinfer.errors import UserError

SERVICE = "_coinfer._tcp.local."
FIRST_S = 2.0
"""A device waits so long for the first announcement; later ones are used as they come."""
_log = logging.getLogger(__name__)


class Browser:
    """The servers that announce themselves (`device.discovery.Source`).

    Args:
        library: the package `zeroconf`.
        zeroconf: its open sockets; `close` closes them.
    """

    def __init__(self, library: Any, zeroconf: Any):
        self._zeroconf = zeroconf
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}
        """Address by the name of the announcement."""
        self._any = threading.Event()
        self._browser = library.ServiceBrowser(zeroconf, SERVICE, listener=self)
        self._any.wait(FIRST_S)

    def addresses(self) -> frozenset[str]:
        """Return the addresses of all servers that announce themselves now."""
        with self._lock:
            return frozenset(self._found.values())

    def close(self) -> None:
        """Listen no more."""
        self._zeroconf.close()

    def add_service(self, zeroconf: Any, kind: str, name: str) -> None:
        """Take up a server (the package's listener protocol).

        Args:
            zeroconf: its open sockets.
            kind: `SERVICE`.
            name: of the announcement.
        """
        info: Any = zeroconf.get_service_info(kind, name)
        hosts: list[str] = info.parsed_addresses() if info is not None and info.port else []
        if info is not None and hosts:
            with self._lock:
                self._found[name] = str(Address(hosts[0], info.port))  # all are of the same server
            self._any.set()

    def update_service(self, zeroconf: Any, kind: str, name: str) -> None:
        """Take up a server that says something new (the package's listener protocol).

        Args:
            zeroconf: its open sockets.
            kind: `SERVICE`.
            name: of the announcement.
        """
        self.add_service(zeroconf, kind, name)

    def remove_service(self, zeroconf: Any, kind: str, name: str) -> None:
        """Drop a server that says goodbye (the package's listener protocol).

        Args:
            zeroconf: its open sockets.
            kind: `SERVICE`.
            name: of the announcement.
        """
        with self._lock:
            self._found.pop(name, None)


class Announcement:
    """Announces an edge server until it is closed.

    Args:
        address: `host:port` that it listens on; if the host stands for all addresses, the one that others see is
            announced.

    Raises:
        UserError: if the extra is not installed, or the network takes no announcement.
    """

    def __init__(self, address: str):
        library = check_extra()
        host, port = parse_address(address)
        shown = _outer_host() if host in ("0.0.0.0", "::") else socket.gethostbyname(host)
        name = f"coinfer-{socket.gethostname().partition('.')[0][:40]}-{port}"
        self._info = library.ServiceInfo(
            SERVICE, f"{name}.{SERVICE}", port, parsed_addresses=[shown], server=f"{name}.local."
        )
        zeroconf = None
        try:
            zeroconf = library.Zeroconf()
            zeroconf.register_service(self._info)
        except Exception as error:
            if zeroconf is not None:
                zeroconf.close()
            raise UserError(
                f"this server cannot be announced in the local network ({type(error).__name__}: {error}); start it "
                f"without --announce, and name {Address(shown, port)} to its devices"
            ) from error
        self._zeroconf = zeroconf
        _log.info("announced as %s at %s", name, Address(shown, port))

    def close(self) -> None:
        """Say goodbye."""
        self._zeroconf.unregister_service(self._info)
        self._zeroconf.close()


def open_browser() -> Browser:
    """Return what finds the servers that announce themselves; wait a little for the first one.

    Raises:
        UserError: if the extra is not installed.
    """
    library = check_extra()
    return Browser(library, library.Zeroconf())


def _outer_host() -> str:
    """Return the address by which this machine reaches others; nothing is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def check_extra() -> Any:
    """Return the package `zeroconf`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module("zeroconf")
    except ImportError:
        raise UserError(
            "servers that announce themselves need an extra: pip install '.[zeroconf]' in coinfer's folder"
        ) from None

"""Addresses of servers, `host:port`: every part of coinfer reads and writes them through this module."""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from coinfer.errors import UserError, short_repr

EXAMPLES = "host:port such as 127.0.0.1:8001, edge-1.local:8001 or [::1]:8001"
MAX_HOST_CHARS = 253
MAX_PORT = 65535
DNS = "dns:"
"""Before a name and a port: all addresses of the name are servers."""
ZEROCONF = "zeroconf"
"""Instead of an address: the servers that announce themselves in the local network."""
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


class AddressError(UserError):
    """A text that is no address; the message is one line for a person."""


class Address(NamedTuple):
    """Where a server listens. `str()` writes it in the form that `parse_address` reads."""

    host: str
    """A name, an IPv4 address, or an IPv6 address without brackets."""
    port: int
    """0 to 65535; 0 is any free port, for a server only."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, setting: str = "address") -> Address:
    """Return the address that a text `host:port` names.

    Args:
        text: an IPv6 host stands in brackets; `grpc://` before the host and a slash at the end say nothing.
        setting: its name for the error, such as "server".

    Raises:
        AddressError: if the host is neither a name nor an IP address, or the port is not from 1 to 65535.
    """
    try:
        host, _, port = _without_scheme(text.strip()).rpartition(":")
        if not host or not (port.isascii() and port.isdigit()):
            raise ValueError("it has no port")
        if not 0 < int(port[:6]) <= MAX_PORT:
            raise ValueError(f"port {port[:6]} is not from 1 to {MAX_PORT}")
        return Address(_host(host), int(port))
    except ValueError as error:
        raise AddressError(f"{setting} {short_repr(text)}: {error}; expected {EXAMPLES}") from None


def parse_addresses(text: str, setting: str = "address") -> tuple[str, ...]:
    """Return the addresses in a text, each in the form that `Address` writes.

    Args:
        text: `host:port`, separated by commas; an empty text has none.
        setting: its name for the error.

    Raises:
        AddressError: for the first one that is wrong, or is given twice.
    """
    return _different([str(parse_address(part, setting)) for part in _parts(text)], setting)


def parse_servers(text: str, setting: str = "server") -> tuple[str, ...]:
    """Return where edge servers are found, each in the form of `parse_server`.

    Args:
        text: separated by commas; an empty text has none.
        setting: its name for the error.

    Raises:
        AddressError: for the first one that is wrong, or is given twice.
    """
    return different_servers(_parts(text), setting)


def different_servers(texts: Sequence[str], setting: str = "server") -> tuple[str, ...]:
    """Return where edge servers are found, each in the form of `parse_server`.

    Args:
        texts: each as `parse_server` takes it.
        setting: its name for the error.

    Raises:
        AddressError: for the first one that is wrong, or is given twice.
    """
    return _different([parse_server(text, setting) for text in texts], setting)


def parse_server(text: str, setting: str = "server") -> str:
    """Return where edge servers are found: one address, or what stands for several.

    Args:
        text: `host:port`; `dns:name:port` for all addresses of a name; `zeroconf` for those that announce themselves.
        setting: its name for the error.

    Raises:
        AddressError: if it is none of these.
    """
    text = text.strip()
    if text == ZEROCONF:
        return text
    if text.startswith(DNS):
        return f"{DNS}{parse_address(text.removeprefix(DNS), setting)}"
    return str(parse_address(text, setting))


def _parts(text: str) -> list[str]:
    return [part for part in text.split(",") if part.strip()]


def _different(addresses: Sequence[str], setting: str) -> tuple[str, ...]:
    twice = next((address for i, address in enumerate(addresses) if address in addresses[:i]), None)
    if twice is not None:
        raise AddressError(f"{setting} {twice!r} is given twice; name each once")
    return tuple(addresses)


def parse_host(text: str) -> str:
    """Return a host to listen on: a name, an IPv4 address, or an IPv6 address without brackets.

    Args:
        text: brackets around an IPv6 address may be left out.

    Raises:
        AddressError: if it is neither a name nor an IP address.
    """
    host = text.strip()
    try:
        return _host(f"[{host}]" if ":" in host and not host.startswith("[") else host)
    except ValueError as error:
        raise AddressError(
            f"host {short_repr(text)}: {error}; expected one such as 127.0.0.1, 0.0.0.0 or ::1"
        ) from None


def _without_scheme(text: str) -> str:
    """Return an address without `grpc://`.

    Raises:
        ValueError: if it is another URL.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    if scheme.lower() != "grpc":
        raise ValueError("it is a URL; leave out all but host and port")
    return rest.removesuffix("/")


def _host(text: str) -> str:
    """Return the host without brackets, an IPv6 address in its shortest form.

    Raises:
        ValueError: if it is none; the message says what is wrong.
    """
    if text.startswith("["):
        if not text.endswith("]") or not _is_ipv6(text[1:-1]):
            raise ValueError("this host is no IPv6 address")
        return str(ipaddress.IPv6Address(text[1:-1]))
    if _is_ipv6(text) or "//" in text:
        raise ValueError("it is a URL" if "//" in text else "an IPv6 address stands in brackets")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError("this host is no IPv4 address") from None
    if len(text) > MAX_HOST_CHARS or not _NAME.fullmatch(text):
        raise ValueError("this host is neither a name nor an IP address")
    return text


def _is_ipv6(text: str) -> bool:
    """Return true for an IPv6 address, with or without the name of an interface (`fe80::1%eth0`)."""
    try:
        return bool(_IPV6.fullmatch(text)) and ipaddress.IPv6Address(text) is not None
    except ValueError:
        return False

"""Plain text is for one machine, or for who says so."""

import ipaddress

from coinfer.addresses import parse_address
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.roles import SecurityError


def is_loopback(host: str) -> bool:
    """Return true if a host is this machine.

    Args:
        host: name or IP address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_plain(identity: Identity | None, host: str, insecure: bool, what: str) -> None:
    """Refuse plain text beyond this machine unless it was asked for.

    Args:
        identity: of this node; with one, nothing is plain.
        host: to listen on or to call.
        insecure: plain text was asked for.
        what: names the host, for the error.

    Raises:
        SecurityError: if the connection would be plain text on a network.
    """
    if identity is None and not insecure and not is_loopback(host):
        raise SecurityError(
            f"{what} is not this machine and would be reached in plain text; give --site, or allow it with --insecure"
        )


def check_plain_address(identity: Identity | None, address: str, insecure: bool, what: str) -> None:
    """Refuse plain text to an address beyond this machine unless it was asked for.

    Args:
        identity: of this node; with one, nothing is plain.
        address: `host:port`.
        insecure: plain text was asked for.
        what: names the setting, for the error.

    Raises:
        SecurityError: if the connection would be plain text on a network.
    """
    check_plain(identity, parse_address(address, what).host, insecure, f"{what} {address}")

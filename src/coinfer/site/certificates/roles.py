"""Roles of a site, and the identity that a certificate states."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from coinfer.errors import UserError, short_repr

Role = Literal["edge", "device", "controller", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SCHEME = "coinfer"


class SecurityError(UserError):
    """A certificate or a site's folder that cannot be used; the message is one line for a person."""


class Peer(NamedTuple):
    """Who is at the other end of a connection."""

    name: str
    role: Role

    @property
    def uri(self) -> str:
        """Return the identity as it stands in the certificate, such as `coinfer://edge/edge-1`."""
        return f"{_SCHEME}://{self.role}/{self.name}"


def parse_identity(uris: Iterable[str]) -> Peer | None:
    """Return the identity among the URIs of a certificate: the inverse of `Peer.uri`; None if there is not exactly one.

    Args:
        uris: subject alternative names of kind URI.
    """
    found: list[Peer] = []
    for uri in uris:
        parts = urlsplit(uri)
        name = parts.path.removeprefix("/")
        if parts.scheme == _SCHEME and parts.netloc in ROLES and NAME.fullmatch(name):
            found.append(Peer(name, check_role(parts.netloc)))
    return found[0] if len(found) == 1 else None


def check_name(name: str) -> str:
    """Return the name of a member of a site, if it can be one.

    Args:
        name: letters, digits and hyphens, as in a DNS label, so that it also names a folder.

    Raises:
        SecurityError: if it cannot.
    """
    if not NAME.fullmatch(name):
        raise SecurityError(f"name {short_repr(name)}: expected small letters, digits and hyphens, such as edge-1")
    return name


def check_role(role: str) -> Role:
    """Return a role, if there is one of that name.

    Args:
        role: one of `ROLES`.

    Raises:
        SecurityError: if there is none.
    """
    for known in ROLES:
        if known == role:
            return known
    raise SecurityError(f"role {short_repr(role)}: expected one of {', '.join(ROLES)}")


def server_name(role: Role) -> str:
    """Return the DNS name that every certificate of a role holds.

    A client checks it instead of the address, so that a node may move, and a device's certificate cannot serve as an
    edge server's.

    Args:
        role: of the server.
    """
    return f"{role}.coinfer"

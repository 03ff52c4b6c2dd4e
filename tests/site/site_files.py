"""A site's folders for tests, and connections with good and bad certificates."""

import ssl
from pathlib import Path
from typing import NamedTuple

import grpc

from coinfer.site.certificates.authority import create_authority, issue, revoke
from coinfer.site.certificates.roles import ROLES, Role

BAD_AT_ONCE = ("nothing", "foreign", "expired", "plain")
"""What TLS itself refuses: no certificate, another site's, one that has expired, no TLS at all."""


class SiteFiles(NamedTuple):
    """Where the certificates lie: of the site itself, and of another one."""

    home: Path
    foreign: Path


def make_site(folder: Path) -> SiteFiles:
    """A member of each role, `edge`, `device` and so on, one that was revoked and one whose certificate is too old."""
    found = SiteFiles(folder / "site", folder / "foreign")
    for home in found:
        create_authority(home)
        for role in ROLES:
            issue(home, role, role)
    issue(found.home, "revoked", "device")
    revoke(found.home, "revoked")
    issue(found.home, "expired", "device", days=-0.001)
    return found


def pems(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Authority, key and certificate of a member."""
    key, mark, certificate = (folder / "node.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    return (folder / "ca.pem").read_bytes(), key, mark + certificate


def channel(site: SiteFiles, who: str, address: str, server: Role) -> grpc.Channel:
    """A connection as a member would open it, or as somebody else would."""
    options = [("grpc.ssl_target_name_override", f"{server}.coinfer"), ("grpc.use_local_subchannel_pool", 1)]
    if who == "plain":
        return grpc.insecure_channel(address, options)
    authority = pems(site.home / "device")[0]
    if who == "nothing":
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options)
    _, key, certificate = pems(site.foreign / "device" if who == "foreign" else site.home / who)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate), options)


def tls_context(site: SiteFiles, who: str) -> ssl.SSLContext:
    """The same for HTTP. The name in the server's certificate is that of its role."""
    context = ssl.create_default_context(cafile=str(site.home / "ca.pem"))
    context.check_hostname = False
    if who != "nothing":
        context.load_cert_chain((site.foreign / "device" if who == "foreign" else site.home / who) / "node.pem")
    return context

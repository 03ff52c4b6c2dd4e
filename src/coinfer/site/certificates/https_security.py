"""Mutual TLS for HTTP (uvicorn): renewed certificates for new connections, and access by a table."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import uvicorn

from coinfer.runtime.edge.http_protocol import BoundedProtocol
from coinfer.runtime.turns import set_caller
from coinfer.site.certificates.access import Rule, may_request
from coinfer.site.certificates.authority import NODE
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.roles import Peer, SecurityError

_STATE = "coinfer_peer_pem"


class _MutualProtocol(BoundedProtocol):
    """uvicorn's HTTP/1.1, which hands the caller's certificate on in the state of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        shown = transport.get_extra_info("ssl_object")
        der = shown.getpeercert(binary_form=True) if shown is not None else None
        pem = ssl.DER_cert_to_PEM_cert(der).encode() if der else b""
        self.app_state = {**self.app_state, _STATE: pem}
        super().connection_made(transport)


def secure(config: uvicorn.Config, identity: Identity, table: tuple[Rule, ...]) -> None:
    """Make a server speak mutual TLS only, and refuse what the table does not allow.

    Args:
        config: of the server, before it starts.
        identity: of the server.
        table: `access.HTTP` or `access.PAGE`.
    """
    context = _ReloadingContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.current().authority_pem.decode())
    context.follow(identity)
    config.app = _access(config.app, identity, table)
    config.http = _MutualProtocol
    config.load()
    config.ssl = context


class _ReloadingContext(ssl.SSLContext):
    """A context that takes up a renewed certificate with the next connection."""

    _identity: Identity
    _version = -1

    def follow(self, identity: Identity) -> None:
        """Use the certificate of an identity, and every later one."""
        self._identity = identity
        self._reload()

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection (what asyncio calls for each)."""
        self._reload()
        return super().wrap_bio(*args, **kwargs)

    def _reload(self) -> None:
        version = self._identity.current().version
        if version != self._version:
            self.load_cert_chain(Path(self._identity.folder) / NODE)
            self._version = version


def _access(app: Any, identity: Identity, table: tuple[Rule, ...]) -> Any:
    """Wrap an ASGI application: what the table does not allow never reaches it."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        try:
            peer: Peer | None = identity.check(scope.get("state", {}).get(_STATE, b""))
            problem = ""
        except (SecurityError, ValueError) as error:
            peer, problem = None, str(error)
        if peer is not None and may_request(table, scope["method"], scope["path"], peer.role):
            set_caller(peer.name)
            return await app(scope, receive, send)
        if peer is not None:
            problem = f"{peer.name} has role {peer.role}, which may not {scope['method']} {scope['path'][:100]}"
        body = json.dumps({"error": problem}).encode()
        status = 401 if peer is None else 403
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return guarded

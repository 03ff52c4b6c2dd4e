"""Mutual TLS for gRPC: servers that take up renewed certificates, channels that check a role, access by the table."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from coinfer.runtime.turns import set_caller
from coinfer.site.certificates.access import GRPC, may_call
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.roles import Peer, Role, SecurityError, server_name

_Unary = Callable[[Any, Any], Awaitable[Any]]
Options = list[tuple[str, int]]
_REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_NO_HANDSHAKE = ("CERTIFICATE_VERIFY_FAILED", "TSI_", "SSL", "Socket closed", "handshake", "Connection reset")
"""Words of gRPC where TLS did not come about."""


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Return the credentials of a server that demands certificates and uses renewed ones for new connections.

    Args:
        identity: of the server.
    """

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = identity.current()
        pair = (material.key_pem, material.certificate_pem)
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=material.authority_pem)

    return grpc.dynamic_ssl_server_credentials(configuration(), configuration, require_client_authentication=True)


def open_channel(identity: Identity | None, address: str, role: Role, options: Options) -> grpc.Channel:
    """Return a channel to a server of a role. A channel keeps its certificate: open a new one when `version` grows.

    Args:
        identity: of this node; None speaks plain text.
        address: `host:port`.
        role: that the server's certificate must have.
        options: arguments of the channel.
    """
    if identity is None:
        return grpc.insecure_channel(_target(address), options)
    return grpc.secure_channel(_target(address), _credentials(identity), [*options, _named(role)])


def open_stream_channel(identity: Identity | None, address: str, role: Role, options: Options) -> aio.Channel:
    """Return the same as `open_channel` for the running event loop.

    Args:
        identity: of this node; None speaks plain text.
        address: `host:port`.
        role: that the server's certificate must have.
        options: arguments of the channel.
    """
    if identity is None:
        return aio.insecure_channel(_target(address), options)
    return aio.secure_channel(_target(address), _credentials(identity), [*options, _named(role)])


def _target(address: str) -> str:
    return f"dns:///{address}"  # a host may be called "unix"


def _credentials(identity: Identity) -> grpc.ChannelCredentials:
    material = identity.current()
    return grpc.ssl_channel_credentials(material.authority_pem, material.key_pem, material.certificate_pem)


def _named(role: Role) -> tuple[str, str]:
    return ("grpc.ssl_target_name_override", server_name(role))


def failure_text(error: grpc.RpcError, identity: Identity | None, *, was_reached: bool = False) -> str:
    """Return in words why a call to a server of a site failed: ".. does not answer (..)", without the server's name.

    Args:
        error: of the call.
        identity: with which it was made; None in plain text.
        was_reached: the server has answered before, so that both speak alike.
    """
    if not isinstance(error, grpc.Call | aio.AioRpcError):
        return f"does not answer ({type(error).__name__})"
    code, details = error.code().name, " ".join((error.details() or "").split())[:200]
    if code in _REFUSALS:
        return f"refuses this node ({code}: {details})"
    hint = ""
    if code == "UNAVAILABLE" and not was_reached and any(word in details for word in _NO_HANDSHAKE):
        hint = "; is its certificate of another site, or does it speak plain text?"
        if identity is None:
            hint = "; if it belongs to a site, give your certificate with --site"
    return f"does not answer ({code}: {details}){hint}"


class AccessControl(aio.ServerInterceptor):
    """Lets a call through if the table allows its method to the caller's role; else the handler never sees it.

    Args:
        identity: of the server, which knows what was revoked.
    """

    def __init__(self, identity: Identity):
        self._identity = identity

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the handler of a call, with the check before it.

        Args:
            continuation: returns the handler.
            handler_call_details: `method` is the full name.
        """
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        codecs = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._checked(method, handler.unary_unary), *codecs)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._checked_stream(method, handler.unary_stream), *codecs)
        return grpc.stream_stream_rpc_method_handler(self._checked_stream(method, handler.stream_stream), *codecs)

    def _checked(self, method: str, inner: _Unary) -> _Unary:
        async def call(request: Any, context: Any) -> Any:
            await self._check(method, context)
            return await inner(request, context)

        return call

    def _checked_stream(self, method: str, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Wrap a handler of a stream, which either yields its replies or writes them (grpc.aio knows both)."""
        if inspect.iscoroutinefunction(inner):
            return self._checked(method, inner)

        async def call(request: Any, context: Any) -> Any:
            await self._check(method, context)
            async for message in inner(request, context):
                yield message

        return call

    async def _check(self, method: str, context: Any) -> None:
        try:
            peer = caller(self._identity, context)
        except SecurityError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise
        if not may_call(method, peer.role):
            allowed = ", ".join(sorted(GRPC.get(method, ()))) or "nobody"
            text = f"{peer.name} has role {peer.role}; {method} is for {allowed}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        set_caller(peer.name)


def caller(identity: Identity, context: Any) -> Peer:
    """Return who makes a call.

    Args:
        identity: of the server.
        context: of the call (`grpc.aio.ServicerContext`).

    Raises:
        SecurityError: if the caller showed no certificate, or one that does not count any more.
    """
    shown = context.auth_context().get("x509_pem_cert", ())
    if not shown:
        raise SecurityError("no certificate was shown; this server is for members of its site")
    return identity.check(shown[0])

"""What an edge server needs to speak to the members of a site only. The site provides it; this package knows none."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import grpc
from grpc import aio

from coinfer.addresses import Address
from coinfer.runtime.transport.grpc_transport import Connector

if TYPE_CHECKING:
    import uvicorn


class Security(NamedTuple):
    """Mutual TLS of a node, and who may call what."""

    credentials: grpc.ServerCredentials
    access: aio.ServerInterceptor
    """Refuses calls before they reach a handler."""
    secure_http: "Callable[[uvicorn.Config], None]"
    """Makes an HTTP server speak mutual TLS; called before it starts."""
    connector: Connector
    """Opens connections to other nodes."""


def listen(server: aio.Server, address: Address, security: Security | None) -> int:
    """Make a gRPC server listen, and return its port.

    Args:
        server: has not started.
        address: port 0 takes any free port.
        security: None speaks plain text.

    Raises:
        RuntimeError: if it cannot listen there.
    """
    if security is None:
        return server.add_insecure_port(str(address))
    return server.add_secure_port(str(address), security.credentials)

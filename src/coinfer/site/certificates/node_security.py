"""The security of a node's servers and connections, from its identity."""

from coinfer.runtime.edge.security import Security
from coinfer.runtime.transport.grpc_transport import Connector
from coinfer.site.certificates.access import HTTP
from coinfer.site.certificates.grpc_security import AccessControl, open_channel, server_credentials
from coinfer.site.certificates.identity import Identity


def node_security(identity: Identity) -> Security:
    """Return what an edge server needs to serve and call members of its site only.

    Args:
        identity: of the node.
    """
    from coinfer.site.certificates.https_security import secure

    return Security(
        server_credentials(identity),
        AccessControl(identity),
        lambda config: secure(config, identity, HTTP),
        edge_connector(identity),
    )


def edge_connector(identity: Identity) -> Connector:
    """Return how a node opens connections to edge servers.

    Args:
        identity: of the node.
    """
    return Connector(
        lambda address, options: open_channel(identity, address, "edge", options),
        lambda: identity.current().version,
    )

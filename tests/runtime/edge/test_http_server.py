"""The REST front on a thread of this process."""

import http.client
import socket

from tests.runtime.edge.edge_process import edge_thread

from coinfer.runtime.edge.served_model import serve_echo
from coinfer.runtime.edge.service import EdgeService


def test_replies_over_a_kept_connection_do_not_wait_for_an_acknowledgement():
    """Nagle's algorithm is off on the sockets that the server accepts."""
    with edge_thread(lambda: EdgeService([serve_echo()])) as edge:
        client = http.client.HTTPConnection(edge.http, timeout=60)
        for _ in range(2):
            client.request("GET", "/v2/health/ready")
            assert client.getresponse().read() == b""
        (connection,) = edge._http._server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getpeername() == client.sock.getsockname()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()

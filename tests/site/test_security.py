"""Who may call an edge server of a site, call by call, and what happens when certificates change."""

import http.client
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.patience import wait_until
from tests.runtime.edge.edge_process import edge_thread
from tests.site.site_files import BAD_AT_ONCE, SiteFiles, channel, make_site, tls_context

from coinfer.runtime.edge.grpc_server import Handlers
from coinfer.runtime.edge.served_model import serve_echo
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, TransportError, WireError, from_array
from coinfer.runtime.transport.grpc_transport import GrpcTransport
from coinfer.runtime.turns import present_turn
from coinfer.site.certificates.access import ALL, GRPC, NODES, READERS, may_call
from coinfer.site.certificates.authority import issue, renew, revoke
from coinfer.site.certificates.identity import CHECK_INTERVAL_S, Identity, find_identity
from coinfer.site.certificates.node_security import edge_connector, node_security
from coinfer.site.certificates.roles import ROLES, SecurityError

INFERENCE = "/inference.GRPCInferenceService"
HEALTH = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
STREAMS = (f"{INFERENCE}/ModelStreamInfer", HEALTH[1])
PATHS = {
    ("POST", "/v2/models/echo/infer"): NODES,
    ("GET", "/v2/models/echo/stats"): READERS,
    ("GET", "/v2/models/stats"): READERS,
    ("GET", "/v2/models/echo"): ALL,
    ("GET", "/v2/health/ready"): ALL,
    ("GET", "/metrics"): READERS,
    ("GET", "/elsewhere"): frozenset[str](),
    ("POST", "/v2/models/echo"): frozenset[str](),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFiles:
    return make_site(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def edge(site: SiteFiles) -> Iterator:
    with edge_thread(lambda: EdgeService([serve_echo()]), node_security(Identity(site.home / "edge"))) as running:
        yield running


def service_methods(edge) -> list[str]:
    return [*Handlers(edge.service)._handlers, *HEALTH]


def code_of(open_channel: grpc.Channel, method: str) -> str:
    """The status of a call with an empty message; what reaches a handler is OK or wrong in itself."""
    try:
        if method in STREAMS:
            kind = open_channel.unary_stream if method in HEALTH else open_channel.stream_stream
            call = kind(method)(iter([b""]) if method not in HEALTH else b"", timeout=60)
            next(call)
            call.cancel()
        else:
            open_channel.unary_unary(method)(b"", timeout=60)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_every_method_of_an_edge_server_has_a_row(edge):
    assert set(service_methods(edge)) <= set(GRPC)
    assert not may_call("/inference.GRPCInferenceService/ModelTomorrow", "operator")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_what_the_table_says_and_nothing_else(site: SiteFiles, edge, role):
    with channel(site, role, edge.grpc, "edge") as connection:
        for method in service_methods(edge):
            refused = code_of(connection, method) == "PERMISSION_DENIED"
            assert refused == (role not in GRPC[method]), method
        assert code_of(connection, f"{INFERENCE}/ModelTomorrow") == "UNIMPLEMENTED"


@pytest.mark.parametrize("who", BAD_AT_ONCE)
def test_who_is_no_member_reaches_nothing(site: SiteFiles, edge, who):
    before = dict(edge.service.metrics.codes)
    with channel(site, who, edge.grpc, "edge") as connection:
        assert {code_of(connection, method) for method in service_methods(edge)} == {"UNAVAILABLE"}
    assert edge.service.metrics.codes == before


def test_who_was_revoked_reaches_nothing(site: SiteFiles, edge):
    before = dict(edge.service.metrics.codes)
    with channel(site, "revoked", edge.grpc, "edge") as connection:
        assert {code_of(connection, method) for method in service_methods(edge)} == {"UNAUTHENTICATED"}
    assert edge.service.metrics.codes == before


def status_of(context: ssl.SSLContext, address: str, method: str, path: str, body: bytes = b"{}") -> int:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=60, context=context)
    try:
        connection.request(method, path, body=body if method == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("role", ROLES)
def test_paths_are_for_the_roles_of_the_table(site: SiteFiles, edge, role):
    context = tls_context(site, role)
    for (method, path), roles in PATHS.items():
        assert (status_of(context, edge.http, method, path) == 403) == (role not in roles), path


@pytest.mark.parametrize("who", BAD_AT_ONCE)
def test_no_path_is_for_who_is_no_member(site: SiteFiles, edge, who):
    for method, path in PATHS:
        if who == "plain":
            host, _, port = edge.http.rpartition(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request(method, path)
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                connection.getresponse()
            connection.close()
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                status_of(tls_context(site, who), edge.http, method, path)


def test_no_path_is_for_who_was_revoked(site: SiteFiles, edge):
    assert {status_of(tls_context(site, "revoked"), edge.http, *row) for row in PATHS} == {401}


def answer(transport: GrpcTransport, address: str) -> object:
    return transport.send(address, InferRequest("echo", (from_array("x", np.ones(3, np.float32)),)), 60).result(120)


def test_callers_are_told_apart_by_their_certificates(site: SiteFiles, edge, monkeypatch: pytest.MonkeyPatch):
    """Over both protocols and in streams; all of them have the same address."""
    asked: list[str] = []

    async def note(request: InferRequest, encode: object) -> object:
        asked.append(present_turn.get().caller)
        raise WireError("UNAVAILABLE", "noted")

    monkeypatch.setattr(edge.service, "infer", note)
    message = protobuf.request_bytes(InferRequest("echo", (from_array("x", np.zeros(1, np.float32)),)))
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0]}]}'
    for role in ("device", "edge"):
        with channel(site, role, edge.grpc, "edge") as connection:
            with pytest.raises(grpc.RpcError, match="noted"):
                connection.unary_unary(f"{INFERENCE}/ModelInfer")(message, timeout=60)
            next(connection.stream_stream(f"{INFERENCE}/ModelStreamInfer")(iter([message]), timeout=60))
        assert status_of(tls_context(site, role), edge.http, "POST", "/v2/models/echo/infer", body) == 503
    names = [Identity(site.home / role).peer.name for role in ("device", "edge")]
    assert names[0] != names[1]
    assert asked == [names[0]] * 3 + [names[1]] * 3


def test_a_device_cannot_pose_as_an_edge_server(site: SiteFiles):
    posing = node_security(Identity(site.home / "device"))
    with edge_thread(lambda: EdgeService([serve_echo()]), posing) as server:
        transport = GrpcTransport(connector=edge_connector(Identity(site.home / "edge")))
        with pytest.raises(TransportError, match="UNAVAILABLE"):
            answer(transport, server.grpc)
        transport.close()


def test_renewing_needs_no_restart_on_either_side(tmp_path: Path):
    home = make_site(tmp_path).home
    server, client = Identity(home / "edge"), Identity(home / "device")
    with edge_thread(lambda: EdgeService([serve_echo()]), node_security(server)) as edge:
        transport = GrpcTransport(connector=edge_connector(client))
        assert answer(transport, edge.grpc)
        before = [server.current().certificate_pem, client.current().certificate_pem]
        for name in ("edge", "device"):
            renew(home, name)
        wait_until(lambda: server.current().version and client.current().version, 60, "both have read the new ones")
        first = transport._nodes[edge.grpc].channel
        assert answer(transport, edge.grpc)
        assert transport._nodes[edge.grpc].channel is not first
        assert [server.current().certificate_pem, client.current().certificate_pem] != before
        host, _, port = edge.grpc.rpartition(":")
        assert shown(tls_context(SiteFiles(home, home), "device"), host, int(port)) in server.current().certificate_pem
        transport.close()


def shown(context: ssl.SSLContext, host: str, port: int) -> bytes:
    """The certificate that a server shows now, without line breaks at the end."""
    import socket

    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port)) as plain, context.wrap_socket(plain) as secure:
        return ssl.DER_cert_to_PEM_cert(secure.getpeercert(True) or b"").strip().encode()


def test_a_revoked_member_is_cut_off_in_the_middle_of_a_connection(tmp_path: Path):
    home = make_site(tmp_path).home
    with edge_thread(lambda: EdgeService([serve_echo()]), node_security(Identity(home / "edge"))) as edge:
        transport = GrpcTransport(connector=edge_connector(Identity(home / "device")))
        assert answer(transport, edge.grpc)
        revoke(home, "device")

        def refused() -> bool:
            try:
                return not answer(transport, edge.grpc)
            except TransportError as error:
                return error.code == "UNAUTHENTICATED" and "device was revoked" in error.message

        assert wait_until(refused, 60, "refused") >= 0
        transport.close()


def test_a_damaged_file_leaves_the_certificate_that_was_read_before(site: SiteFiles, tmp_path: Path, caplog):
    home = make_site(tmp_path).home
    identity = Identity(home / "edge")
    good = identity.current().certificate_pem
    (home / "edge" / "node.pem").write_bytes(b"half a file")
    wait_until(lambda: identity.current() and "stays in use" in caplog.text, 60 + CHECK_INTERVAL_S, "it was noticed")
    assert identity.current().certificate_pem == good


def test_only_this_authoritys_newer_lists_are_taken_over(tmp_path: Path):
    site = make_site(tmp_path)
    identity = Identity(site.home / "edge")
    revoke(site.foreign, "edge")
    assert not identity.adopt_revocations((site.foreign / "revoked.pem").read_bytes())
    assert not identity.adopt_revocations(b"nothing")
    old = (site.home / "revoked.pem").read_bytes()
    revoke(site.home, "operator")
    newer = (site.home / "revoked.pem").read_bytes()
    (site.home / "edge" / "revoked.pem").write_bytes(old)
    identity = Identity(site.home / "edge")
    assert identity.adopt_revocations(newer)
    assert not identity.adopt_revocations(old)


def test_a_folder_says_in_one_line_what_it_lacks(site: SiteFiles, tmp_path: Path):
    assert find_identity(site.home, "edge").peer.name == "edge"
    issue(site.home, "edge-2", "edge")
    for folder, role, said in (
        (tmp_path / "none", "edge", "no such folder; create a site with `coinfer ca init"),
        (site.home / "device", "edge", "the certificate of device is of role device; expected edge"),
        (site.home, "edge", "edge, edge-2 have role edge; say which: --site"),
        (tmp_path, "edge", "no member of role edge; add one with `coinfer ca join"),
        (site.home / "expired", "device", "the certificate of expired expired on"),
    ):
        with pytest.raises(SecurityError, match=said):
            find_identity(folder, role)  # type: ignore[arg-type]

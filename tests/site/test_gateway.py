"""`coinfer gateway` in a site: its front is for members only, over gRPC and REST."""

import re
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from tests.e2e.sites import COMMAND, START_S
from tests.patience import wait_until
from tests.site.site_files import SiteFiles, channel, make_site, tls_context
from tests.site.test_security import INFERENCE, code_of, status_of

from coinfer.errors import UserError
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.gateway.server import GatewaySettings
from coinfer.runtime.protocol import protobuf
from coinfer.runtime.protocol.messages import InferRequest, from_array

READY = re.compile(r"^coinfer gateway ready grpc=(\S+) http=(\S+) models=alexnet-cifar$", re.MULTILINE)
PICTURE = np.zeros((1, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteFiles:
    return make_site(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def gateway(site: SiteFiles) -> Iterator[tuple[str, str]]:
    """Addresses of gRPC and REST of a gateway whose controller is away."""
    log = site.home / "gateway.log"
    command = [COMMAND, "gateway", "alexnet-cifar", "--site", str(site.home / "device"), "--controller", "127.0.0.1:1"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--grpc-port", "0", "--http-port", "0"], stdout=output, stderr=output)
    try:
        wait_until(lambda: READY.search(log.read_text()) or process.poll() is not None, START_S, "a gateway is ready")
        found = READY.search(log.read_text())
        assert found, log.read_text()
        yield found[1], found[2]
    finally:
        process.kill()
        process.wait()


def test_a_member_is_answered(site: SiteFiles, gateway: tuple[str, str]):
    message = protobuf.request_bytes(InferRequest("alexnet-cifar", (from_array("input", PICTURE),)))
    with channel(site, "edge", gateway[0], "device") as connection:
        reply = protobuf.parse_reply(connection.unary_unary(f"{INFERENCE}/ModelInfer")(message, timeout=60))
    assert [hop.node for hop in reply.executed] == ["device"]


def test_others_are_not(site: SiteFiles, gateway: tuple[str, str]):
    for who, code in (("operator", "PERMISSION_DENIED"), ("revoked", "UNAUTHENTICATED"), ("plain", "UNAVAILABLE")):
        with channel(site, who, gateway[0], "device") as connection:
            assert code_of(connection, f"{INFERENCE}/ModelInfer") == code, who
    for who, status in (("device", 400), ("operator", 403), ("revoked", 401)):
        found = status_of(tls_context(site, who), gateway[1], "POST", "/v2/models/alexnet-cifar/infer")
        assert found == status, who


def test_a_member_has_one_network(site: SiteFiles):
    config = DeviceConfig(controller="127.0.0.1:1", site=site.home / "device")
    with pytest.raises(UserError, match="a member of a site has one network"):
        GatewaySettings(("alexnet-cifar", "resnet32"), config)

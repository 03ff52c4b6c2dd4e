"""`coinfer gateway` as a user starts it, with an edge, asked by stock clients, until it is told to end."""

import contextlib
import json
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tests.e2e.sites import COMMAND, START_S, STOP_S, edges
from tests.patience import wait_until

from coinfer.graph.open_model import open_model
from coinfer.runtime.executor import Executor

READY = re.compile(r"^coinfer gateway ready grpc=(\S+) http=(\S+) models=resnet32,alexnet-cifar$", re.MULTILINE)
BATCH = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
MODELS = ["resnet32", "alexnet-cifar"]


def test_two_networks_for_stock_clients_until_sigterm():
    with edges(MODELS, [()]) as (edge,), tempfile.NamedTemporaryFile(suffix=".log") as log:
        command = [COMMAND, "gateway", *MODELS, "--servers", edge.address, "--grpc-port", "0", "--http-port", "0"]
        process = subprocess.Popen([*command, "--slowdown", "100", "--bits", "32"], stdout=log, stderr=log)
        try:
            found = wait_ready(process, Path(log.name))
            for module, address in ((triton_grpc, found[1]), (triton_http, found[2])):
                with module.InferenceServerClient(address) as client:
                    for model in MODELS:
                        check_answer(module, client, model, edge.address)
            with triton_http.InferenceServerClient(found[2]) as client:
                text = client._get("metrics", None, None).read().decode()
            assert f'coinfer_answered_by_total{{model="resnet32",node="{edge.address}"}}' in text
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_S) == 0, Path(log.name).read_text()
            assert "Traceback" not in Path(log.name).read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def wait_ready(process: subprocess.Popen[bytes], log: Path) -> re.Match[str]:
    wait_until(lambda: READY.search(log.read_text()) or process.poll() is not None, START_S, "the gateway is ready")
    found = READY.search(log.read_text())
    assert found, log.read_text()
    return found


def check_answer(module, client, model: str, server: str) -> None:
    """It is right, and comes from the server, as the device is slower; a busy machine may need a few tries."""
    expected = Executor(open_model(model)).run({"input": BATCH})[0]["logits"]
    tensor = module.InferInput("input", list(BATCH.shape), "FP32")
    tensor.set_data_from_numpy(BATCH)
    nodes = set()

    def ask() -> bool:
        result = client.infer(model, [tensor])
        np.testing.assert_allclose(result.as_numpy("logits"), expected, rtol=1e-3, atol=1e-4)
        response = result.get_response()
        said = response["parameters"]["executed"] if isinstance(response, dict) else None
        said = said or response.parameters["executed"].string_param
        nodes.update(hop["node"] for hop in json.loads(said))
        return server in nodes

    wait_until(ask, START_S, f"{model} is answered by {server}")

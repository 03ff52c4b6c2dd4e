"""Networks that come and go while a node serves, and a memory that holds only some, over both protocols."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tests.runtime.edge.edge_process import edge_thread
from tritonclient.utils import InferenceServerException

from coinfer.graph.segment import save_model
from coinfer.graph.zoo import networks
from coinfer.runtime.edge.loading import ModelLoader, ModelSettings
from coinfer.runtime.edge.repository import Repository
from coinfer.runtime.edge.service import EdgeService

GRAPH = networks.build("alexnet-cifar")
X = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("one", "two"):
        save_model(GRAPH, folder / f"{name}.onnx")
    save_model(networks.build("nin"), folder / "three.onnx")
    return folder


def serving(folder: Path | None, models: tuple[str, ...], memory_bytes: int | None = None):
    loader = ModelLoader(ModelSettings(models, {}, {}, memory_bytes=memory_bytes))

    def service() -> EdgeService:
        made = EdgeService(loader.load_all(), memory=loader.memory)
        made.repository = Repository(made.models, loader.load, models, folder)
        return made

    return edge_thread(service)


def ask(client: Any, module: Any, model: str) -> np.ndarray:
    tensor = module.InferInput("input", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    return client.infer(model, [tensor]).as_numpy(GRAPH.outputs[0])


def states(client: Any) -> dict[str, str]:
    index = client.get_model_repository_index()
    if isinstance(index, list):
        return {entry["name"]: entry["state"] for entry in index}
    return {entry.name: entry.state for entry in index.models}


@pytest.mark.parametrize(("module", "port"), [(triton_grpc, "grpc"), (triton_http, "http")])
def test_stock_clients_load_and_unload_networks(folder, module, port):
    with serving(folder, (str(folder / "one.onnx"),)) as edge:
        with module.InferenceServerClient(getattr(edge, port)) as client:
            assert states(client) == {"one": "READY", "two": "UNAVAILABLE", "three": "UNAVAILABLE"}
            expected = ask(client, module, "one")
            client.load_model("two")
            np.testing.assert_array_equal(ask(client, module, "two"), expected)
            assert client.is_model_ready("two")
            assert not client.is_model_ready("three")
            client.unload_model("one")
            with pytest.raises(InferenceServerException, match="no model 'one' here"):
                ask(client, module, "one")
            assert states(client)["one"] == "UNAVAILABLE"
            client.load_model("one")
            np.testing.assert_array_equal(ask(client, module, "one"), expected)
            for wrong in ("../one", "four", ".hidden"):
                with pytest.raises(InferenceServerException):
                    client.load_model(wrong)
            with pytest.raises(InferenceServerException, match="is not offered"):
                client.load_model("two", config=json.dumps({"backend": "x"}))
        assert set(edge.service.models) == {"one", "two"}


def test_a_file_that_was_replaced_is_another_network_with_another_fingerprint(folder, tmp_path):
    shutil.copy(folder / "one.onnx", tmp_path / "net.onnx")
    with serving(tmp_path, (str(tmp_path / "net.onnx"),)) as edge:
        before = edge.service.models["net"].fingerprint
        shutil.copy(folder / "three.onnx", tmp_path / "net.onnx")
        with triton_grpc.InferenceServerClient(edge.grpc) as client:
            client.load_model("net")
        assert edge.service.models["net"].fingerprint != before


def test_without_a_repository_clients_change_nothing(folder):
    with serving(None, (str(folder / "one.onnx"),)) as edge, triton_grpc.InferenceServerClient(edge.grpc) as client:
        assert states(client) == {"one": "READY"}
        for change in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="--repository FOLDER"):
                change("one")
        assert set(edge.service.models) == {"one"}


def test_a_memory_for_one_network_serves_two_by_turns(folder):
    size = sum(value.nbytes for value in GRAPH.weights.values())
    models = tuple(str(folder / f"{name}.onnx") for name in ("one", "two"))
    with (
        serving(folder, models, memory_bytes=int(2.5 * size)) as edge,
        triton_grpc.InferenceServerClient(edge.grpc) as client,
    ):
        answers = [ask(client, triton_grpc, name) for name in ("one", "two", "one", "one", "two")]
        for answer in answers:
            np.testing.assert_array_equal(answer, answers[0])
        report = edge.service.memory.report()
        assert report.used_bytes <= 2.5 * size
        assert (report.pieces, report.loads) == (1, 6), "two at the start, and four: one request finds its network"
        reasons = {entry.name: entry.reason for entry in client.get_model_repository_index().models}
        assert reasons["one"].startswith("not in memory; loading it takes ")
        assert reasons["two"] == ""

"""Stock clients of both protocols get the same answer from one service, whatever is wrong."""

import contextlib
import urllib.request
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper, numpy_helper
from tests.patience import patient_transport
from tests.runtime.edge.edge_process import AlwaysThere, edge_thread
from tritonclient.utils import InferenceServerException

from coinfer.graph.open_model import open_model
from coinfer.runtime.edge.served_model import ServedModel, Signature, serve_graph
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.executor import Executor, InputError
from coinfer.runtime.protocol.messages import InferRequest, TransportError, from_array

LIMIT_BYTES = 100_000


class Ones(AlwaysThere):
    """Serves as many ones as its input says."""

    def run(self, inputs, outputs=(), abort=None):
        return {"ones": np.ones(int(inputs["count"][0]), np.float32)}, 0.0


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory):
    """A network that looks up four of a hundred rows."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup"),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1]),
    ]
    ends = (
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 1, 8])],
    )
    table = numpy_helper.from_array(np.ones((100, 8), np.float32), "table")
    graph = helper.make_graph(nodes, "words", *ends, [table])
    path = tmp_path_factory.mktemp("models") / "words.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return open_model(path)


@pytest.fixture(scope="module")
def edge(words):
    count, ones = Signature("count", "INT64", (1,)), Signature("ones", "FP32", (-1,))
    served = [serve_graph(words, Executor(words)), ServedModel("ones", "", (count,), (ones,), "test", Ones())]
    with edge_thread(lambda: EdgeService(served, limit_bytes=LIMIT_BYTES)) as edge:
        yield edge


def refusals(edge: Any, model: str, name: str, values: np.ndarray, **more: Any) -> list[str]:
    """What each stock client is told."""
    found = []
    for module, address in ((triton_grpc, edge.grpc), (triton_http, edge.http)):
        tensor = module.InferInput(name, list(values.shape), "INT64")
        tensor.set_data_from_numpy(values)
        with module.InferenceServerClient(address) as client, pytest.raises(InferenceServerException) as caught:
            client.infer(model, [tensor], **more)
        found.append((caught.value.status(), caught.value.message()))
    return found


def test_an_answer_over_the_limit(edge, caplog):
    before = edge.service.metrics.models["ones"].failures["REJECTED"]
    by_grpc, by_http = refusals(edge, "ones", "count", np.array([30_000]))
    message = "message of 120000 bytes is over the limit of 100000; cut elsewhere or send fewer bits"
    assert by_grpc == ("StatusCode.RESOURCE_EXHAUSTED", message)
    assert by_http == ("413", message)
    stats = edge.service.metrics.models["ones"]
    assert stats.failures["REJECTED"] - before == 2, "both count as failures"
    assert [message in record.getMessage() for record in caplog.records] == [True, True], "one line for each"


def test_an_answer_that_grows_over_the_limit_as_text(edge):
    """The values fit, the message does not."""
    body = b'{"inputs": [{"name": "count", "datatype": "INT64", "shape": [1], "data": [24000]}]}'
    failures = edge.service.metrics.models["ones"].failures["REJECTED"]
    request = urllib.request.Request(f"http://{edge.http}/v2/models/ones/infer", body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 413
    caught.value.close()
    assert edge.service.metrics.models["ones"].failures["REJECTED"] == failures + 1
    with triton_http.InferenceServerClient(edge.http) as client:
        tensor = triton_http.InferInput("count", [1], "INT64")
        tensor.set_data_from_numpy(np.array([24_000]))
        assert client.infer("ones", [tensor]).as_numpy("ones").sum() == 24_000


def test_an_answer_over_the_limit_of_the_one_who_asked():
    """The server may send more than this client takes."""
    count, ones = Signature("count", "INT64", (1,)), Signature("ones", "FP32", (-1,))
    served = [ServedModel("ones", "", (count,), (ones,), "test", Ones())]
    with edge_thread(lambda: EdgeService(served)) as edge, contextlib.closing(patient_transport(1000)) as transport:
        for elements, is_answered in ((10, True), (600_000, False)):
            request = InferRequest("ones", (from_array("count", np.array([elements])),))
            future = transport.send(edge.grpc, request, 60.0)
            if is_answered:
                assert future.result(60).outputs[0].shape == (elements,)
                continue
            with pytest.raises(TransportError, match="its reply is over the limit of this side") as caught:
                future.result(60)
            error = caught.value
            assert (error.code, error.reason, error.pushback_s) == ("RESOURCE_EXHAUSTED", "too_large", -1.0)


def test_values_that_a_network_cannot_take(edge, words, caplog, capfd):
    by_grpc, by_http = refusals(edge, "words", "ids", np.full((1, 4), 1000), request_id="r9")
    assert by_grpc[0] == "StatusCode.INVALID_ARGUMENT"
    assert by_http[0] == "400"
    assert by_grpc[1] == by_http[1]
    expected = "words cannot take these values: Gather 'lookup': indices element out of data bounds, idx=1000"
    assert by_grpc[1].startswith(expected)
    said = [record.getMessage() for record in caplog.records]
    assert [line.startswith(f"request r9 to 'words': {expected}") for line in said] == [True, True]
    assert not any(record.exc_info or "\n" in record.getMessage() for record in caplog.records)
    with pytest.raises(InputError, match=r"^words cannot take these values: Gather 'lookup': indices"):
        Executor(words).run({"ids": np.full((1, 4), -101)})
    assert "Gather" not in capfd.readouterr().err, "ONNX Runtime writes no line of its own"


def test_memory_that_is_not_shared(edge):
    for module, address in ((triton_grpc, edge.grpc), (triton_http, edge.http)):
        tensor, output = module.InferInput("count", [1], "INT64"), module.InferRequestedOutput("ones")
        tensor.set_data_from_numpy(np.array([3]))
        output.set_shared_memory("region", 12)
        with module.InferenceServerClient(address) as client:
            with pytest.raises(InferenceServerException, match="output 'ones': shared memory is not offered") as caught:
                client.infer("ones", [tensor], outputs=[output])
            assert caught.value.status() in ("StatusCode.UNIMPLEMENTED", "501")
            assert client.infer("ones", [tensor], priority=1).as_numpy("ones").tolist() == [1, 1, 1]
            with pytest.raises(
                InferenceServerException, match=r"parameter priority: expected 1 .* to 100, or 0, got 1000"
            ):
                client.infer("ones", [tensor], priority=1000)
            with pytest.raises(InferenceServerException, match="sequences are not offered"):
                client.infer("ones", [tensor], sequence_id=3)
            assert client.infer("ones", [tensor], timeout=60_000_000).as_numpy("ones").tolist() == [1, 1, 1]

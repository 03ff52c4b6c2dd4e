"""The protocol's messages about servers and models (health, metadata, configuration, statistics), as protobuf."""

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from coinfer.runtime.edge.metrics import ModelStats
from coinfer.runtime.edge.served_model import VERSION, Served
from coinfer.runtime.protocol import protobuf_framing
from coinfer.runtime.protocol.messages import MAX_NAME_BYTES, invalid
from coinfer.version import __version__

pb: Any = service_pb2
config_pb: Any = model_config_pb2
SERVER_NAME = "coinfer"
EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "coinfer_split", "coinfer_codec")
_CONFIG_TYPES = {"FP16": "TYPE_FP16", "FP32": "TYPE_FP32", "FP64": "TYPE_FP64"}
_STREAM_REPLY_FIELD = 2


def live() -> bytes:
    return pb.ServerLiveResponse(live=True).SerializeToString()


def ready(is_ready: bool) -> bytes:
    return pb.ServerReadyResponse(ready=is_ready).SerializeToString()


def model_ready(is_ready: bool) -> bytes:
    return pb.ModelReadyResponse(ready=is_ready).SerializeToString()


def server_metadata() -> bytes:
    return pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS).SerializeToString()


def model_asked_for(message: bytes) -> tuple[str, str]:
    """Name and version in any request about one model (they all have the same fields).

    Raises:
        WireError: INVALID_ARGUMENT.
    """
    try:
        request = pb.ModelReadyRequest.FromString(message)
    except Exception:
        raise invalid("not a valid request for a model") from None
    if len(request.name.encode()) > MAX_NAME_BYTES:
        raise invalid(f"model name: expected at most {MAX_NAME_BYTES} bytes")
    return request.name, request.version


def model_metadata(model: Served) -> bytes:
    reply = pb.ModelMetadataResponse(name=model.name, versions=[VERSION], platform=model.platform)
    for described, signatures in ((reply.inputs, model.inputs), (reply.outputs, model.outputs)):
        for tensor in signatures:
            described.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return reply.SerializeToString()


def model_config(model: Served) -> bytes:
    reply = pb.ModelConfigResponse()
    config = reply.config
    config.name, config.platform, config.backend = model.name, model.platform, model.platform.partition("_")[0]
    for described, signatures in ((config.input, model.inputs), (config.output, model.outputs)):
        for tensor in signatures:
            described.add(name=tensor.name, data_type=config_type(tensor.datatype), dims=tensor.shape)
    return reply.SerializeToString()


def config_type(datatype: str) -> str:
    """The configuration's word for an OIP datatype."""
    return _CONFIG_TYPES.get(datatype, f"TYPE_{datatype}")


def statistics(models: dict[str, ModelStats]) -> bytes:
    reply = pb.ModelStatisticsResponse()
    for name, stats in models.items():
        found = reply.model_stats.add(
            name=name,
            version=VERSION,
            last_inference=stats.last_ms,
            inference_count=stats.inferences,
            execution_count=stats.executions,
        )
        for part, (count, nanoseconds) in durations(stats).items():
            duration = getattr(found.inference_stats, part)
            duration.count, duration.ns = count, nanoseconds
    return reply.SerializeToString()


def durations(stats: ModelStats) -> dict[str, tuple[int, int]]:
    """(count, sum in nanoseconds) of each part of a request, by the protocol's names."""
    done, failed = stats.success, sum(stats.failures.values())
    seconds = {
        "success": (done, stats.request_s),
        "fail": (failed, stats.failed_s),
        "queue": (done, stats.queue_s),
        "compute_input": (done, stats.decode_s),
        "compute_infer": (done, stats.compute_s),
        "compute_output": (done, stats.encode_s),
    }
    return {part: (count, int(total_s * 1e9)) for part, (count, total_s) in seconds.items()}


def stream_reply(reply: bytes) -> bytes:
    """A `ModelInferResponse` as an item of a stream."""
    return protobuf_framing.join(b"", _STREAM_REPLY_FIELD, [reply])


def stream_error(id: str, message: str) -> bytes:
    return pb.ModelStreamInferResponse(
        error_message=message, infer_response=pb.ModelInferResponse(id=id)
    ).SerializeToString()

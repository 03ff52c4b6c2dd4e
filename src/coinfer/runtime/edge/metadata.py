"""What a server reports about itself and its models, in the protocol's fields; the same for gRPC and REST."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from coinfer.runtime.edge.metrics import ModelStats
from coinfer.runtime.edge.served_model import VERSION, ModelInfo, Signature
from coinfer.runtime.protocol.messages import WireError
from coinfer.version import __version__

if TYPE_CHECKING:
    from coinfer.runtime.edge.inference_service import InferenceService
    from coinfer.runtime.edge.repository import Repository

Content = dict[str, object]
EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "coinfer_codec")
"""Of every server. `coinfer_split` is added where parts of networks are computed, `model_repository` where networks are
loaded and unloaded."""


def server_metadata(extensions: Sequence[str]) -> Content:
    """Return name, version and extensions of the server.

    Args:
        extensions: what it offers beyond the protocol.
    """
    return {"name": "coinfer", "version": __version__, "extensions": list(extensions)}


def model_metadata(model: ModelInfo) -> Content:
    """Return name, versions, platform and tensors of a model (`ModelMetadataResponse`).

    Args:
        model: -1 in a shape marks an axis of any size.
    """
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": model.platform,
        "inputs": [_tensor_fields(tensor) for tensor in model.inputs],
        "outputs": [_tensor_fields(tensor) for tensor in model.outputs],
    }


def model_config(model: ModelInfo) -> Content:
    """Return the configuration of a model in Triton's fields (`ModelConfig`).

    Args:
        model: batching is the client's business, so `max_batch_size` is 0.
    """
    return {
        "name": model.name,
        "platform": model.platform,
        "backend": model.platform.partition("_")[0],
        "max_batch_size": 0,
        "input": [_config_fields(tensor) for tensor in model.inputs],
        "output": [_config_fields(tensor) for tensor in model.outputs],
    }


def statistics(models: Mapping[str, ModelStats]) -> Content:
    """Return the counters of models in Triton's fields (`ModelStatisticsResponse`).

    Args:
        models: counters by the model's name; times become nanoseconds.
    """
    return {"model_stats": [_statistics(name, stats) for name, stats in models.items()]}


def repository_index(service: "InferenceService", ready: bool) -> list[Content]:
    """Return the models of a server in the repository protocol's fields (`RepositoryIndexResponse.models`).

    Args:
        service: one without a repository serves what it serves.
        ready: only models that are served.
    """
    if service.repository is not None:
        return [dict(entry._asdict()) for entry in service.repository.index(ready)]
    return [{"name": name, "version": VERSION, "state": "READY", "reason": ""} for name in service.models]


def repository_of(service: "InferenceService", parameters: Collection[str] = ()) -> "Repository":
    """Return what loads and unloads the models of a server.

    Args:
        service: may have none.
        parameters: names of those of a request to load.

    Raises:
        WireError: UNIMPLEMENTED if its models stay, or for a parameter.
    """
    if service.repository is None:
        raise WireError("UNIMPLEMENTED", "models are not loaded or unloaded here", "no_repository")
    if parameters:
        text = f"loading with {', '.join(sorted(parameters))[:100]} is not offered; put the file into the repository"
        raise WireError("UNIMPLEMENTED", text, "unoffered")
    return service.repository


def _tensor_fields(tensor: Signature) -> Content:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _config_fields(tensor: Signature) -> Content:
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", "dims": list(tensor.shape)}


def _statistics(name: str, stats: ModelStats) -> Content:
    done, failed = stats.success, sum(stats.failures.values())
    parts: Sequence[tuple[str, int, float]] = (
        ("success", done, stats.request_s),
        ("fail", failed, stats.failed_s),
        ("queue", done, stats.queue_s),
        ("compute_input", done, stats.decode_s),
        ("compute_infer", done, stats.compute_s),
        ("compute_output", done, stats.encode_s),
    )
    return {
        "name": name,
        "version": VERSION,
        "last_inference": stats.last_ms,
        "inference_count": stats.inferences,
        "execution_count": stats.executions,
        "inference_stats": {part: {"count": count, "ns": int(total_s * 1e9)} for part, count, total_s in parts},
    }

"""What the fronts, gRPC and REST, need of a service: the one of an edge server or of a gateway."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from coinfer.addresses import Address
from coinfer.errors import UserError
from coinfer.runtime.edge.metrics import Metrics, ModelStats
from coinfer.runtime.edge.scheduler import Scheduler
from coinfer.runtime.edge.served_model import VERSION, ModelInfo
from coinfer.runtime.protocol.messages import InferReply, InferRequest, WireError

if TYPE_CHECKING:
    from coinfer.runtime.edge.repository import Repository
    from coinfer.runtime.executor import Runner
    from coinfer.runtime.piece_memory import PieceMemory

Encoded = TypeVar("Encoded")
Encode = Callable[[InferReply], Awaitable[Encoded]]
"""Makes of a reply the form in which it is sent; an error that it raises fails the request like any other."""


class PortError(UserError):
    """An address that a front cannot listen on.

    Args:
        host: name or IP address that was asked for.
        port: port that was asked for.
    """

    def __init__(self, host: str, port: int):
        super().__init__(f"cannot listen on {Address(host, port)}: no such address here, or taken by another server")


class InferenceService(Protocol):
    """Answers requests for models through one bounded queue; it lives on one event loop."""

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Return the models by name."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Return the counters."""
        ...

    @property
    def scheduler(self) -> Scheduler:
        """Return queue and workers."""
        ...

    @property
    def limit_bytes(self) -> int:
        """Return the size of the largest request and reply."""
        ...

    @property
    def extensions(self) -> Sequence[str]:
        """Return what it offers beyond the protocol, by the names that metadata has for it."""
        ...

    @property
    def memory(self) -> "PieceMemory[Runner] | None":
        """Return the memory that its models share; None if each has its own."""
        ...

    @property
    def repository(self) -> "Repository | None":
        """Return what loads and unloads its models; None if they stay."""
        ...

    @property
    def is_ready(self) -> bool:
        """Return whether requests are admitted; false once the service drains."""
        ...

    async def infer(self, request: InferRequest, encode: Encode[Encoded]) -> Encoded:
        """Return the reply to a request in the form in which it is sent.

        Args:
            request: its deadline counts from now.
            encode: makes that form.

        Raises:
            WireError: for every failure; only cancellation passes through as it is.
        """
        ...

    def drain(self) -> None:
        """Refuse new requests from now on; admitted ones are finished."""
        ...

    def close(self) -> None:
        """Abort what runs, and release what is held."""
        ...


Info = TypeVar("Info", bound=ModelInfo)


def find_model(models: Mapping[str, Info], name: str, version: str = "") -> Info:
    """Return the model that a request names.

    Args:
        models: by name.
        name: of the model.
        version: empty for any.

    Raises:
        WireError: NOT_FOUND if there is no such model or version.
    """
    found = models.get(name)
    if found is None:
        serves = ", ".join(models) or "nothing"
        raise WireError("NOT_FOUND", f"no model {name[:64]!r} here; this node serves {serves}", "unknown_model")
    if version not in ("", VERSION):
        raise WireError("NOT_FOUND", f"model {name!r} has no version {version[:64]!r}; it has {VERSION}", "version")
    return found


def model_stats(service: InferenceService, name: str = "", version: str = "") -> dict[str, ModelStats]:
    """Return the counters of one model, or of all, by name.

    Args:
        service: counts for each model.
        name: of the model; empty for all.
        version: empty for any.

    Raises:
        WireError: NOT_FOUND if there is no such model or version.
    """
    names = [find_model(service.models, name, version).name] if name else list(service.models)
    return {name: service.metrics.models.get(name, ModelStats()) for name in names}

"""The contract between planner, simulator and runtime.

Index letters: B worlds, K concurrent tasks, O options of a task, N edge servers, M blocks of a network. Fields are
arrays of one library, NumPy in the runtime and tensors in the simulator, in SI units, never normalised. The annotation
of a field states its axes and kind; `*B` stands for any number of leading batch axes, including none. Code that needs
the axes reads them from the annotations (`fields_of`), and tests check observations and decisions against them.
"""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float, Int
from typing_extensions import NamedTuple, Self

DEVICE = -1
"""`OffloadDecision.server` of a task that stays on its device."""


@runtime_checkable
class Numeric(Protocol):
    """The operations of arrays, tensors and plain numbers that formulas need.

    The other operand is `Any` because each library has overloads of its own; comparisons return `Any` because they give
    masks.
    """

    def __add__(self, other: Any, /) -> Self: ...
    def __radd__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __rsub__(self, other: Any, /) -> Self: ...
    def __mul__(self, other: Any, /) -> Self: ...
    def __rmul__(self, other: Any, /) -> Self: ...
    def __truediv__(self, other: Any, /) -> Self: ...
    def __rtruediv__(self, other: Any, /) -> Self: ...
    def __pow__(self, other: Any, /) -> Any: ...
    def __rpow__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Self: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...


@runtime_checkable
class Array(Numeric, Protocol):
    """The operations that NumPy arrays and tensors share and that formulas need."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the length of each axis."""
        ...

    @property
    def dtype(self) -> object:
        """Return the type of the elements, an object of the array's library."""
        ...

    def __getitem__(self, index: Any, /) -> Self: ...
    def __invert__(self) -> Self: ...
    def clip(self, least: Any, /) -> Self:
        """Return a copy in which no element is below a limit.

        Args:
            least: lower limit, a number or an array that broadcasts.
        """
        ...


A = TypeVar("A", bound=Array)
"""`np.ndarray` or `torch.Tensor`."""
V = TypeVar("V", bound=Numeric)
"""The same, or plain numbers."""


class OffloadObservation(NamedTuple, Generic[A]):
    """What a policy observes. An option is an (exit, cut, bits) triple that survived pruning."""

    option_device_s: Float[A, "*B K O"]
    """Time on the task's device, encoding included."""
    option_upload_bits: Float[A, "*B K O"]
    """Bits sent; 0 if nothing leaves the device."""
    option_server_s: Float[A, "*B K O N"]
    """Time on server n, decoding included."""
    option_accuracy: Float[A, "*B K O"]
    """Expected accuracy, 0 to 1; 1 if no accuracy table is at hand (relative to the whole network)."""
    option_device_j: Float[A, "*B K O"]
    """Energy of the device, computing only."""
    option_mask: Bool[A, "*B K O"]
    """True if the option exists."""
    task_mask: Bool[A, "*B K"]
    """True if there is a task."""
    deadline_s: Float[A, "*B K"]
    """Time from the request to its deadline; infinite if there is none."""
    uplink_bps: Float[A, "*B K N"]
    """Believed link rate from the task's device to server n, bits per second."""
    device_backlog_s: Float[A, "*B K"]
    """Work that waits on the task's device."""
    server_backlog_s: Float[A, "*B N"]
    """Time until server n has done all work that was sent to it earlier."""
    server_room: Float[A, "*B N"]
    """Tasks that server n would still admit."""
    energy_left_j: Float[A, "*B K"]
    """Energy that the task may spend; infinite if there is no limit."""
    observation_age_s: Float[A, "*B N"]
    """Age of the knowledge about server n."""
    uplink_backlog_s: Float[A, "*B K N"]
    """Time until the task's device can begin to send to server n, because uploads wait. The same for all N if the
    device has one radio."""


class OffloadDecision(NamedTuple, Generic[A]):
    """A policy's answer to an `OffloadObservation`."""

    option: Int[A, "*B K"]
    """Index into the options."""
    server: Int[A, "*B K"]
    """Index of the server, or `DEVICE`."""


class BlocksObservation(NamedTuple, Generic[A]):
    """What a policy observes that places every block of a network separately (multi-task A3C, IEEE TMC 2024)."""

    block_device_s: Float[A, "*B K M"]
    """Time on the task's device; 0 past the network's last block."""
    block_server_s: Float[A, "*B K M N"]
    """Time on server n; 0 past the network's last block."""
    block_input_bits: Float[A, "*B K M"]
    """Size of the block's input; the first block's input lies on the device."""
    block_device_j: Float[A, "*B K M"]
    """Energy of the device for the block."""
    block_mask: Bool[A, "*B K M"]
    """True if the network has a block."""
    task_mask: Bool[A, "*B K"]
    """True if there is a task."""
    deadline_s: Float[A, "*B K"]
    """Time from the request to its deadline; infinite if there is none."""
    uplink_bps: Float[A, "*B K N"]
    """Believed link rate between the task's device and server n, either way, bits per second."""
    backhaul_bps: Float[A, "*B 1"]
    """Rate between two servers."""
    device_backlog_s: Float[A, "*B K"]
    """Work that waits on the task's device."""
    server_backlog_s: Float[A, "*B N"]
    """Work that waits on server n."""
    server_room: Float[A, "*B N"]
    """Tasks that server n would still admit: infinite, or 0 during an outage."""
    energy_left_j: Float[A, "*B K"]
    """Energy that the task may spend; infinite if there is no limit."""
    observation_age_s: Float[A, "*B N"]
    """Age of the knowledge about server n."""
    uplink_backlog_s: Float[A, "*B K"]
    """Time until the radio of the task's device has sent all uploads that wait."""
    block_deadline_s: Float[A, "*B K M"]
    """Longest time that the block may take, with transfer and waiting before it; infinite if it has no limit."""


class BlocksDecision(NamedTuple, Generic[A]):
    """A policy's answer to a `BlocksObservation`."""

    place: Int[A, "*B K M"]
    """0 is the task's own device, n is server n - 1 of the observation's axis; entries past the network's last block do
    not matter."""


class Outcome(NamedTuple, Generic[V]):
    """Times, energy and result of a request; `latency_s` is the sum of the other times."""

    device_s: Float[V, "*B K"]
    """Time on the device, including waiting and encoding."""
    upload_s: Float[V, "*B K"]
    """Time for sending, including waiting for the uplink."""
    queue_s: Float[V, "*B K"]
    """Time of waiting on the server; for a request that is given up, the time until its deadline."""
    server_s: Float[V, "*B K"]
    """Time of computing on the servers, including decoding, encoding and transfers between servers."""
    download_s: Float[V, "*B K"]
    latency_s: Float[V, "*B K"]
    energy_j: Float[V, "*B K"]
    accuracy: Float[V, "*B K"]
    admitted: Bool[V, "*B K"]
    """False if every server refused it and the device answered."""
    in_time: Bool[V, "*B K"]


class Field(NamedTuple):
    """What the annotation of a field states."""

    axes: tuple[str, ...]
    """Letters of the axes, the batch axes as one `B`."""
    is_mask: bool
    """True if the field holds booleans, false if it holds numbers."""


def fields_of(kind: type) -> dict[str, Field]:
    """Return the axes and kind of every field, by name and in the order of the fields.

    Args:
        kind: a class whose fields have jaxtyping annotations: an observation, a decision or an outcome.
    """
    annotated: dict[str, Any] = kind.__annotations__
    return {
        name: Field(tuple(annotation.dim_str.replace("*", "").split()), "bool" in annotation.dtypes)
        for name, annotation in annotated.items()
    }


class Hop(NamedTuple):
    """One leg of a route: `node` runs the network until the tensors `cut` exist, then sends them on."""

    node: str
    """`"device"` or the `host:port` of an edge server."""
    cut: tuple[str, ...]
    """Names of the tensors that leave this hop: a cut of the graph, or its outputs on the last hop."""
    bits: int
    """Bits per element with which these tensors are sent: 32, 16, 12, 8 or 4; for the network's input 8 means the
    image's own bytes."""


class Route(NamedTuple):
    """The plan of one request, which the runtime executes."""

    hops: tuple[Hop, ...]
    exit: int
    """Index of the exit that answers; 0 is the first, and the only one of a plain network."""
    deadline_s: float


Policy = Callable[[OffloadObservation[A]], OffloadDecision[A]]
"""Any callable from an observation to a decision."""

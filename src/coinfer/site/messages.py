"""What nodes and the controller say to each other, as JSON: closed, bounded, and without NaN or infinities.

Reports with decisions are compressed (zlib); the others are so small that this would cost more than it saves.

A node sends `Hello` first, then `Report`; the controller answers `Welcome` or `Refused`, then sends `View`, `Revoked`,
`PolicyFile` and `Policies`. Decisions travel in reports and their acknowledgements in views, since a message costs more
than what is in it. Every message is checked on arrival: an unknown key, a value out of range or a list that is too long
refuses the whole message.
"""

import zlib
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from coinfer.site.message_types import Count, Message, MessageError, Number, Seconds, Text
from coinfer.site.serving_messages import ServingLoad, ServingProfile
from coinfer.types import OffloadObservation

MESSAGE_BYTES = 1 << 20
"""Largest message of a node."""
CONTROLLER_BYTES = 16 * MESSAGE_BYTES
"""Largest message of a controller: a whole view has what all servers serve."""
STREAM_OPTIONS = [("grpc.http2.bdp_probe", 0)]
"""Of both ends of a stream: messages are small, and without this gRPC answers many of them by a ping of its own."""
_PACKED = b"\x78"
"""First byte of a message that is compressed; JSON never begins with it."""
MAX_RECORDS = 200
"""Decisions in a batch."""
MAX_SERVED = 1024
"""Networks of an edge server of which the site hears."""
MAX_NUMBERS = 20_000
"""Numbers in a field of an observation."""
ObservedField = Annotated[str, Field(pattern=f"^({'|'.join(OffloadObservation._fields)})$")]


class ServedName(Message):
    """A network that an edge server serves. A bottleneck comes before its network and bears its name."""

    name: Text
    fingerprint: Text = ""


class Hello(Message):
    """The first message of a node."""

    kind: Literal["hello"] = "hello"
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    role: Literal["edge", "device"]
    epoch: Count
    """Grows with every start of the node."""
    address: Text = ""
    """`host:port` by which others reach an edge server; empty for a device."""
    models: Annotated[tuple[ServedName, ...], Field(max_length=MAX_SERVED)] = ()
    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    version: Text = ""
    decides: bool = True
    """The site's policy may decide here."""
    serving: ServingProfile | None = None
    """Of an edge server that batches or loads."""


class LinkReport(Message):
    """What a node measured of the link to an edge server."""

    to: Text
    """Address of the server."""
    rate_bps: Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e15)]
    round_trip_s: Seconds


class WorkReport(Message):
    """How long an edge server takes for one kind of work."""

    work: Text
    """See `view.work_key`."""
    service_s: Seconds
    load_s: Seconds = 0.0
    """What loading the piece takes before; 0 if it is in memory."""


class Observed(Message):
    """An observation, flat: each field's numbers in row-major order; null stands for infinity. Fields that hold only
    their usual value (`agent.observed.USUAL`) are left out."""

    tasks: Annotated[int, Field(ge=1, le=256)]
    options: Annotated[int, Field(ge=1, le=4096)]
    servers: Annotated[int, Field(ge=0, le=256)]
    fields: dict[ObservedField, Annotated[list[Number | None], Field(max_length=MAX_NUMBERS)]]
    addresses: Annotated[tuple[Text, ...], Field(max_length=256)] = ()
    """Of the servers, in the order of their axis."""


class Decision(Message):
    """One decided request: what is needed to learn from it, or to judge a policy by it."""

    seq: Count
    """Number of the decision in the epoch of its node."""
    at_s: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e11)]
    """When it was made, seconds since 1970 on the node's clock."""
    model: Text
    policy: Text
    """What decided."""
    probability: Annotated[float, Field(allow_inf_nan=False, gt=0, le=1)] = 1.0
    """With which the policy chooses this action; 1 if it does not draw."""
    group: Count = 0
    """Number of the joint decision. Its tasks share one observation, which comes with task 0."""
    task: Count = 0
    """Which of the tasks of the observation this request is."""
    option: Count = 0
    server: Annotated[int, Field(ge=-1, le=255)]
    """Index into the servers of the observation; -1 is the device."""
    executed_on: Text
    """Address of the server that answered, or `device`."""
    dispatched: bool = False
    """The device left the choice of server to the one that it reached, which tells its decision itself."""
    request: Annotated[str, Field(pattern=r"^[0-9A-Za-z._-]{0,64}$")] = ""
    """Of a request whose server was chosen by the one that it reached: its id, drawn by the device."""
    cut: Text = ""
    bits: Annotated[int, Field(ge=0, le=64)] = 32
    predicted_s: Seconds | None = None
    device_s: Seconds = 0.0
    upload_s: Seconds = 0.0
    queue_s: Seconds = 0.0
    server_s: Seconds = 0.0
    download_s: Seconds = 0.0
    latency_s: Seconds
    in_time: bool = True
    admitted: bool = True
    traceparent: Annotated[str, Field(pattern=r"^(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})?$")] = ""
    """Trace and span of the request (W3C), if it is traced."""
    observation: Observed | None = None

    @property
    def reward(self) -> float:
        """Return the reward of CDO-DSAC (SEKE 2023, section IV): the negative latency."""
        return -self.latency_s


class Batch(Message):
    """Decisions of one epoch, in order."""

    epoch: Count
    records: Annotated[list[Decision], Field(min_length=1, max_length=MAX_RECORDS)]

    @model_validator(mode="after")
    def _is_in_order(self) -> "Batch":
        numbers = [record.seq for record in self.records]
        if any(later <= earlier for earlier, later in pairwise(numbers)):
            raise ValueError("the numbers of the decisions do not grow")
        return self


class Report(Message):
    """Load and counters of a node, with decisions if some wait."""

    kind: Literal["report"] = "report"
    backlog_s: Seconds = 0.0
    queued: Count = 0
    room: Count = 0
    pieces: Count = 0
    """Pieces of networks that the node holds in memory."""
    received: Count = 0
    success: Count = 0
    failed: Count = 0
    forwarded: Count = 0
    request_s: Seconds = 0.0
    """Sum of the times of answered requests."""
    spooled: Count = 0
    """Decisions that wait for the controller."""
    dropped: Count = 0
    """Decisions that were lost because the spool was full."""
    links: Annotated[list[LinkReport], Field(max_length=256)] | None = None
    """None if nothing is new."""
    works: Annotated[list[WorkReport], Field(max_length=64)] | None = None
    """None if nothing is new."""
    models: Annotated[tuple[ServedName, ...], Field(max_length=MAX_SERVED)] | None = None
    """What an edge server serves from now on; None if that is what it has said last, in `Hello` at first."""
    serving: ServingLoad | None = None
    """Of an edge server that batches or loads."""
    profile: ServingProfile | None = None
    """The same as `Hello.serving`, if it is another; None if that is what was said last."""
    policies: Annotated[tuple[Count, ...], Field(max_length=8)] = ()
    """Versions of the site's policy that decide here, the one with the greatest share first."""
    policy_problem: Text = ""
    """Why a version could not be used, `version N: why`."""
    batch: Batch | None = None


class Welcome(Message):
    """The controller has accepted a node."""

    kind: Literal["welcome"] = "welcome"
    lease_s: Seconds
    """A node that says nothing for so long counts as lost."""
    interval_s: Seconds
    """Seconds between reports under load."""


class Refused(Message):
    """The controller does not accept a node, or not any more."""

    kind: Literal["refused"] = "refused"
    reason: Annotated[str, Field(max_length=1000)]


class ServerInfo(Message):
    """What changes seldom about an edge server."""

    name: Text
    address: Text
    models: tuple[ServedName, ...]
    works: tuple[WorkReport, ...]


class ServerLoad(NamedTuple):
    """The load of an edge server; a list in JSON."""

    name: Text
    backlog_s: Seconds
    queued: Count
    room: Count
    age_s: Seconds
    """Of the report, when the view was sent."""
    serving: ServingLoad | None = None
    """Of a server that batches or loads."""


class ServerProfile(NamedTuple):
    """The profile of an edge server that batches or loads; a list in JSON."""

    name: Text
    profile: ServingProfile


class Ack(Message):
    """Decisions of an epoch are stored, up to this number."""

    epoch: Count
    seq: Count


class View(Message):
    """What is new about the edge servers since the last view."""

    kind: Literal["view"] = "view"
    names: tuple[Text, ...] | None = None
    """Of all edge servers that are there; None if the same are."""
    interval_s: Seconds | None = None
    """Seconds between reports under load from now on; None if nothing is new."""
    servers: tuple[ServerInfo, ...] = ()
    """Those that are new or not as they were."""
    profiles: tuple[ServerProfile, ...] = ()
    """Of those that batch or load, if they are new or not as they were."""
    loads: tuple[ServerLoad, ...] = ()
    """Of those that have reported since."""
    acks: tuple[Ack, ...] = ()


class Revoked(Message):
    """The list of revoked certificates, as its authority signed it."""

    kind: Literal["revoked"] = "revoked"
    pem: str


class PolicyFile(Message):
    """A version of the site's policy."""

    kind: Literal["policy-file"] = "policy-file"
    version: Count
    fingerprint: Text
    onnx: str
    """Base64."""
    sidecar: str
    """Base64."""


class PolicyShare(Message):
    """How many of a node's decisions a version makes."""

    version: Count
    """0 is sequential greedy, on a device its planner."""
    fingerprint: Text = ""
    share: Annotated[float, Field(allow_inf_nan=False, ge=0, le=1)]


class Policies(Message):
    """Who decides on a node from now on."""

    kind: Literal["policies"] = "policies"
    shares: Annotated[tuple[PolicyShare, ...], Field(max_length=8)] = ()
    """Empty for what the node was started with."""
    explore: Annotated[float, Field(allow_inf_nan=False, ge=0, le=0.5)] = 0.0
    """Share of requests that go to a server drawn among the good ones."""
    salt: Text = ""
    """With the id of a request it says which version decides (`draw.drawn`); empty for chance."""


FromController = Welcome | Refused | View | Revoked | PolicyFile | Policies
_FROM_NODE: TypeAdapter[Hello | Report] = TypeAdapter(Annotated[Hello | Report, Field(discriminator="kind")])
_FROM_CONTROLLER: TypeAdapter[FromController] = TypeAdapter(Annotated[FromController, Field(discriminator="kind")])


def to_bytes(message: Message) -> bytes:
    """Return a message as it travels; what has its default value is left out.

    Args:
        message: any of this module.
    """
    kind = getattr(message, "kind", None)
    body = message.model_dump_json(exclude_defaults=True)
    return (f'{{"kind":"{kind}",' + body[1:] if len(body) > 2 else f'{{"kind":"{kind}"}}').encode()


def with_part(message: bytes, name: str, part: bytes) -> bytes:
    """Return a message with one more field, which is JSON already.

    Args:
        message: from `to_bytes`.
        name: of the field.
        part: its value.
    """
    return b'%s,"%s":%s}' % (message[:-1], name.encode(), part)


def packed(message: bytes) -> bytes:
    """Return a message compressed.

    Args:
        message: from `to_bytes` or `with_part`.
    """
    return zlib.compress(message, 1)


def from_node(data: bytes) -> Hello | Report:
    """Return the message of a node.

    Args:
        data: what came over the stream.

    Raises:
        MessageError: if it is none; the message names the first thing that is wrong.
    """
    return _parse(_FROM_NODE, data, MESSAGE_BYTES)


def from_controller(data: bytes) -> FromController:
    """Return the message of a controller.

    Args:
        data: what came over the stream.

    Raises:
        MessageError: if it is none; the message names the first thing that is wrong.
    """
    return _parse(_FROM_CONTROLLER, data, CONTROLLER_BYTES)


def _parse(adapter: TypeAdapter, data: bytes, limit_bytes: int):
    if data.startswith(_PACKED):
        data = _unpacked(data, limit_bytes)
    if len(data) > limit_bytes:
        raise MessageError(f"a message is larger than {limit_bytes} bytes, the most that is accepted")
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise MessageError(f"{place or 'message'}: {first['msg']}"[:300]) from None


def _unpacked(data: bytes, limit_bytes: int) -> bytes:
    """Return what was compressed; of what is too large only the beginning."""
    try:
        return zlib.decompressobj().decompress(data, limit_bytes + 1)
    except zlib.error as error:
        raise MessageError(f"message: {error}") from None

"""The decision about one request, and what it was based on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Names, Options, Piece
from coinfer.runtime.device.config import DeviceError
from coinfer.runtime.device.estimate import ServerEstimate, Work
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.planning.sized import Sizes
from coinfer.types import DEVICE, Hop, OffloadObservation, Route
from coinfer.units import FLOAT32_BITS


class DeviceState(NamedTuple):
    """What a device believes at one moment."""

    now_s: float
    servers: tuple[ServerEstimate, ...]
    scale: float
    """Device time over the profiled machine's time for the same work."""
    backlog_s: float
    """Work that waits on its processor."""


class Part(NamedTuple):
    """What one of several servers does for a request."""

    server: int
    """Its index."""
    work: Work
    profiled_s: float
    """The profiled machine's time for it, with decoding and encoding."""
    received_bits: float
    """Size of what the one before sends to it."""
    bits: int
    """Per element of that, if that one is a server."""


class SeveralHops(NamedTuple):
    """A route over several servers, and what is predicted of it for one request."""

    option: int
    """Index into the planner's options: where the device cuts, and in how many bits it sends."""
    parts: tuple[Part, ...]
    """Two or more, in their order."""
    predicted_s: float = math.inf
    """Latency."""
    first_s: float = math.inf
    """Of that, the service of the first server, with what `observe` adds to it."""
    onward_s: float = math.inf
    """Of that, all after the first server."""


class Plan(NamedTuple):
    """The decision about one request, and what it was based on."""

    observation: OffloadObservation[np.ndarray]
    option: int
    """Index into the planner's options."""
    server: int
    """Index of the server that is asked first, or `DEVICE`."""
    predicted_s: float
    """Predicted latency of this choice; infinite if the route was decided elsewhere."""
    route: Route
    raw_input: bool
    """True if the input is no picture, so that it is sent without loss."""
    early_exit: bool
    """True if the device may answer at an exit before the cut."""
    tail_s: float
    """The profiled machine's time from the cut to the outputs."""
    objective: Objective
    """Of the request."""
    sizes: Sizes = ()
    """Of the request, as they are planned with."""
    id: str = ""
    """Of a request whose server is chosen by the one that it reaches; nobody can foresee it."""
    policy: str = ""
    """What decided on the server that was asked what to do; empty if the device decided."""
    asked_bits: float = 0.0
    """What was sent to ask it."""
    several: SeveralHops | None = None
    """What several servers do one after another; None if at most one is asked."""

    @property
    def cut(self) -> Names:
        """Return the tensors that leave the device; the outputs themselves if nothing is sent."""
        return self.route.hops[0].cut

    @property
    def outputs(self) -> Names:
        """Return the tensors that answer the request."""
        return self.route.hops[-1].cut

    @property
    def piece(self) -> Piece:
        """Return cut and outputs of what a server computes."""
        return self.cut, self.outputs

    @property
    def work(self) -> Work:
        """Return what a server computes, with the sizes of the request."""
        return Work(self.piece, self.sizes)

    def to_one_server(self, address: str) -> Route:
        """Return the route on which one server computes all that the device does not.

        Args:
            address: of that server.
        """
        first, *_, last = self.route.hops
        return self.route._replace(hops=(first, Hop(address, last.cut, FLOAT32_BITS)))


def route_of(options: Options, option: int, server: int, names: Sequence[str], deadline_s: float) -> Route:
    """Return the route that a decision stands for.

    Args:
        options: what was chosen from.
        option: index into `options`.
        server: index into `names`, or `DEVICE`.
        names: addresses of the servers.
        deadline_s: of the request, from now.
    """
    outputs, exit_ = options.outputs[option], int(options.exit[option])
    if server == DEVICE:
        return Route((Hop("device", outputs, FLOAT32_BITS),), exit_, deadline_s)
    first = Hop("device", options.cuts[option], int(options.bits[option]))
    return Route((first, Hop(names[server], outputs, FLOAT32_BITS)), exit_, deadline_s)


def servers_of(route: Route, graph: ModelGraph, names: Sequence[str], exits: Sequence[Names]) -> list[int]:
    """Return the indices of the servers of a route, in order.

    Args:
        route: hops from the device to the outputs of one exit, or to its answer from a code of the bottleneck.
        graph: the network.
        names: addresses of the servers.
        exits: outputs of each exit.

    Raises:
        DeviceError: if the device cannot carry it out.
    """
    nodes = [hop.node for hop in route.hops]
    unknown = [node for node in nodes[1:] if node not in names]
    if not nodes or nodes[0] != "device" or unknown:
        raise DeviceError(f"route over {nodes}: expected 'device' first, then some of {list(names)}")
    if not 0 <= route.exit < len(exits):
        raise DeviceError(f"route to exit {route.exit}; here {graph.name} has 0 to {len(exits) - 1}")
    bottleneck, ends = graph.bottleneck, set(route.hops[-1].cut)
    if bottleneck is not None:
        ends = {bottleneck.output_of(name) for name in ends}
    if ends != set(exits[route.exit]):
        raise DeviceError(f"route ends at {list(route.hops[-1].cut)}; expected {list(exits[route.exit])}")
    return [names.index(node) for node in nodes[1:]]

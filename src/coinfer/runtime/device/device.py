"""The weak device: it decides for every request, runs the head, sends the rest, and always answers."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Options
from coinfer.profile.table import ProfileTable
from coinfer.progress import Progress, quiet
from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig, DeviceError, check_deadline
from coinfer.runtime.device.inputs import read_item
from coinfer.runtime.device.membership import join_site
from coinfer.runtime.device.planning.plan import Plan
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.sized import Sizes, request_sizes
from coinfer.runtime.device.processor import Processor
from coinfer.runtime.device.request import DeviceParts, Request
from coinfer.runtime.device.request_client import RequestClient
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Executor
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.profiling import open_profiled, profile_for, with_jpeg
from coinfer.runtime.transport.base import ShapedTransport, Transport
from coinfer.runtime.transport.grpc_transport import PLAIN, GrpcTransport
from coinfer.types import OffloadObservation, Policy, Route

FIRST_RATE_BPS = 10e6
"""Believed rate of a link until the first transfer."""
Picture = str | Path | Image.Image | np.ndarray
Item = Picture | Mapping[str, np.ndarray | Picture]
"""What a request may consist of; see `Device.infer`."""


class Device:
    """A device with edge servers around it, as a context manager:

        with Device("resnet50", servers=["127.0.0.1:8001"], deadline_s=0.5) as device:
            result = device.infer("cat.jpg")

    Several threads may use it at once; each request may have its own deadline and policy.

    Args:
        model: an ONNX file, the name of a zoo network, or a `ModelGraph`.
        config: settings; without it, the defaults.
        options: the options that a policy chooses from; None takes all that can be best among the useful cuts.
        links: emulated links by server address, for runs on one machine; None leaves the network as it is.
        transport: carries requests to servers; None takes gRPC. The device closes it.
        clock: None takes the wall clock.
        settings: fields of `DeviceConfig` by name; they replace those of `config`.

    Raises:
        UserError: if settings are out of range, contradict each other, or do not fit the network.
        TypeError: if a setting is no field of `DeviceConfig`.
    """

    __slots__ = ("_executor", "_membership", "_parts", "_state")

    def __init__(
        self,
        model: str | Path | ModelGraph,
        config: DeviceConfig = DEFAULTS,
        *,
        options: Options | None = None,
        links: Mapping[str, Link] | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        **settings: object,
    ):
        config = replace(config, **settings)
        if not isinstance(model, ModelGraph):
            model = open_profiled(model, config.shapes, config.profile, limits=config.limits)
        graph = model
        membership = join_site(config, graph)
        if membership is not None:
            config = replace(config, servers=tuple(dict.fromkeys((*config.servers, *membership.servers()))))
        table = _profile(graph, config)
        clock = clock or WallClock()
        planner = Planner(graph, table, config, options)
        self._executor = Executor(graph, threads=config.threads, slowdown=config.slowdown, provider=config.provider)
        processor = Processor(self._executor, cache(planner.profiled_s), config.slowdown)
        transport = transport or GrpcTransport(connector=membership.connector if membership else PLAIN)
        client = RequestClient(
            graph,
            planner.servers,
            transport if links is None else ShapedTransport(transport, links),
            clock,
            first_rate_bps=FIRST_RATE_BPS,
            tail_s=planner.tail_s,
        )
        self._membership = membership
        self._parts = DeviceParts(graph, config, planner, processor, client, clock)
        if membership is not None:
            self._parts = self._parts._replace(record=membership.record)
        self._state: Literal["new", "open", "closed"] = "new"

    def __enter__(self) -> "Device":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, progress: Progress = quiet) -> None:
        """Prepare every segment that the planner may choose, here and on the servers, and measure the links once.

        A log warning names each server that does not answer; the device uses it as soon as it does. Opening an open
        device does nothing.

        Args:
            progress: called before each segment: some providers compile them, which may take minutes.

        Raises:
            DeviceError: if the device is closed.
            UserError: if a segment cannot be prepared on the device.
        """
        if self._state == "closed":
            raise DeviceError("this device is closed; make a new one")
        if self._state == "open":
            return
        try:
            keep_freed_memory()
            segments = self.planner.segments()
            for i, (inputs, outputs) in enumerate(segments):
                progress(i, len(segments), f"to {', '.join(outputs)}")
                self._executor.prepare(inputs, outputs)
            if self._membership is not None:
                self._membership.start(self._parts.client.pool)
            self._parts.client.pool.start()
        except BaseException:
            self.close()
            raise
        self._state = "open"

    def close(self) -> None:
        """Stop the probes, finish what the device computes, and close the connections."""
        if self._state == "closed":
            return
        self._state = "closed"
        self._parts.client.pool.close()
        self._parts.processor.close()
        self._parts.client.close()
        if self._membership is not None:
            self._membership.close()

    @property
    def graph(self) -> ModelGraph:
        """Return the network."""
        return self._parts.graph

    @property
    def config(self) -> DeviceConfig:
        """Return the settings."""
        return self._parts.config

    @property
    def planner(self) -> Planner:
        """Return the planner, which holds options, exits and the default policy."""
        return self._parts.planner

    @property
    def options(self) -> Options:
        """Return the O options that policies choose from."""
        return self._parts.planner.options

    @property
    def servers(self) -> tuple[str, ...]:
        """Return the servers' addresses, in the order of a policy's server axis."""
        return tuple(self._parts.planner.servers)

    def links_bps(self) -> tuple[float, ...]:
        """Return the believed rate of each server's link, in the order of `servers`."""
        return tuple(server.link.rate_bps for server in self._parts.client.pool.estimates())

    def observe(self, deadline_s: float | None = None, *, early_exit: bool = True) -> OffloadObservation:
        """Return what a policy would see of a request made now (K = 1).

        Args:
            deadline_s: of the request, from now; None takes the device's.
            early_exit: false shows the options as if no exit before the cut may answer.

        Raises:
            DeviceError: if the device is not open.
        """
        self._check_open()
        deadline_s = self.config.deadline_s if deadline_s is None else deadline_s
        return self.planner.observe(self._parts.state(), deadline_s, early_exit=early_exit)

    def plan(self, deadline_s: float | None = None, *, policy: Policy | None = None) -> Route:
        """Return the route that a request made now would take; nothing is sent.

        Args:
            deadline_s: of the request, from now; None takes the device's.
            policy: decides about this request; None takes the device's.

        Raises:
            DeviceError: if the device is not open, or the deadline is not above 0.
        """
        self._check_open()
        return self._plan(deadline_s, policy, raw_input=False, early_exit=True).route

    def infer(
        self,
        item: Item,
        *,
        deadline_s: float | None = None,
        policy: Policy | None = None,
        hedge: bool | None = None,
        early_exit: bool = True,
    ) -> Result:
        """Answer one request. A failing server raises nothing: the device then answers itself.

        Args:
            item: a picture (file, PIL image or uint8 [H, W, 3]) if the network takes one; else its input as an array,
                or a mapping of input names to arrays.
            deadline_s: of this request, from now; None takes the device's.
            policy: decides about this request; None takes the device's.
            hedge: whether the device starts on the rest itself if a server is late; None takes the device's setting.
            early_exit: false lets no exit before the cut answer, even if the device has thresholds for them.

        Returns:
            The outputs, with the route, the measured times, and what went wrong with servers.

        Raises:
            UserError: if the item does not fit the network, the deadline is not above 0, or the device is not open.
        """
        began_s = self._parts.clock.now_s()
        self._check_open()
        tensors, pixels = self._read(item)
        sizes = request_sizes(self.graph, tensors)
        plan = self._plan(deadline_s, policy, raw_input=pixels is None, early_exit=early_exit, sizes=sizes)
        hedge = self.config.hedge if hedge is None else hedge
        return Request(self._parts, plan, tensors, pixels, began_s=began_s, hedge=hedge).answer()

    def infer_by_route(self, item: Item, route: Route) -> Result:
        """Answer one request along a given route, through any cuts and over several servers.

        Args:
            item: as for `infer`.
            route: hops from `device` to the outputs of one exit; its deadline counts from now.

        Returns:
            The outputs, as from `infer`; if the route fails, the device answers.

        Raises:
            UserError: if the item does not fit the network, the route does not start on the device, names an unknown
                server or does not end at the outputs of its exit, the deadline is not above 0, or the device is not
                open.
        """
        began_s = self._parts.clock.now_s()
        self._check_open()
        check_deadline(route.deadline_s)
        route = route._replace(hops=tuple(hop._replace(cut=self.graph.named(hop.cut)) for hop in route.hops))
        servers = _servers_of(route, self.planner)
        tensors, pixels = self._read(item)
        sizes = request_sizes(self.graph, tensors)
        plan = self.planner.plan_by_route(route, self._parts.state(sizes), raw_input=pixels is None, sizes=sizes)
        request = Request(self._parts, plan, tensors, pixels, began_s=began_s, hedge=self.config.hedge)
        return request.answer_by_route(servers)

    def _plan(
        self,
        deadline_s: float | None,
        policy: Policy | None,
        *,
        raw_input: bool,
        early_exit: bool,
        sizes: Sizes = (),
    ) -> Plan:
        deadline_s = self.config.deadline_s if deadline_s is None else deadline_s
        check_deadline(deadline_s)
        sizes = self.planner.at(sizes).sizes
        state = self._parts.state(sizes)
        return self.planner.plan(
            state, deadline_s, policy=policy, raw_input=raw_input, early_exit=early_exit, sizes=sizes
        )

    def _read(self, item: Item) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        tensors, pixels = read_item(self.graph, item)
        self._executor.check(tensors)
        return tensors, pixels

    def _check_open(self) -> None:
        if self._state != "open":
            closed = "closed; make a new one"
            unopened = "not open; use it as `with Device(...) as device`, or call open() first"
            raise DeviceError(f"this device is {closed if self._state == 'closed' else unopened}")


def _profile(graph: ModelGraph, config: DeviceConfig) -> ProfileTable:
    """Return the measured times of the network, with the size of a JPEG if pictures are sent so."""
    table = profile_for(graph, config.profile, config.threads, provider=config.provider)
    return table if config.jpeg_quality is None else with_jpeg(graph, table, config.jpeg_quality)


def _servers_of(route: Route, planner: Planner) -> list[int]:
    """Return the indices of the servers of a route, in order.

    Raises:
        DeviceError: if the device cannot carry it out.
    """
    nodes = [hop.node for hop in route.hops]
    unknown = [node for node in nodes[1:] if node not in planner.servers]
    if not nodes or nodes[0] != "device" or unknown:
        raise DeviceError(f"route over {nodes}: expected 'device' first, then some of {list(planner.servers)}")
    if not 0 <= route.exit < len(planner.exits):
        raise DeviceError(f"route to exit {route.exit}; here {planner.graph.name} has 0 to {len(planner.exits) - 1}")
    bottleneck, ends = planner.graph.bottleneck, set(route.hops[-1].cut)
    if bottleneck is not None:
        ends = {bottleneck.output if any(name == code.answer for code in bottleneck.codes) else name for name in ends}
    if ends != set(planner.exits[route.exit]):
        raise DeviceError(f"route ends at {list(route.hops[-1].cut)}; expected {list(planner.exits[route.exit])}")
    return [planner.servers.index(node) for node in nodes[1:]]

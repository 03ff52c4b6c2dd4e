"""The weak device: it decides for every request, runs the head, sends the rest, and always answers."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from typing_extensions import Unpack

from coinfer.graph.ir import ModelGraph
from coinfer.options.table import Options
from coinfer.progress import Progress, quiet
from coinfer.runtime.clock import Clock, WallClock
from coinfer.runtime.device.admission import InFlight, Promises
from coinfer.runtime.device.blocks_decider import BlocksDecider
from coinfer.runtime.device.config import DEFAULTS, DeviceConfig, DeviceError, check_deadline
from coinfer.runtime.device.decide import admitted_plan, plan_now
from coinfer.runtime.device.discovery import find_servers, fixed
from coinfer.runtime.device.inputs import read_item
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.device.parts import DeviceParts
from coinfer.runtime.device.planning.plan import servers_of
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.sized import request_sizes
from coinfer.runtime.device.processor import Processor
from coinfer.runtime.device.processor_queue import ProcessorQueue
from coinfer.runtime.device.request import Request
from coinfer.runtime.device.request_client import RequestClient
from coinfer.runtime.device.result import Result
from coinfer.runtime.device.route_search import RouteSearch, takes_several
from coinfer.runtime.device.terms import InferSettings, Terms, answer_in_order, terms_of
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Abort, Executor
from coinfer.runtime.malloc import keep_freed_memory
from coinfer.runtime.profiling import open_profiled, profile_for, with_jpeg
from coinfer.runtime.tracing import traced
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
        processor_queue: shared by devices that serve several networks in one process; None takes one of its own.
        executor: of this `ModelGraph` and with the same settings, shared by several devices in one process, so that the
            network's pieces are in memory once; None makes one as `config` says.
        settings: fields of `DeviceConfig` by name; they replace those of `config`.

    Raises:
        UserError: if settings are out of range, contradict each other, or do not fit the network.
        TypeError: if a setting is no field of `DeviceConfig`.
    """

    __slots__ = ("_callers", "_executor", "_in_flight", "_membership", "_parts", "_routes", "_state")

    def __init__(
        self,
        model: str | Path | ModelGraph,
        config: DeviceConfig = DEFAULTS,
        *,
        options: Options | None = None,
        links: Mapping[str, Link] | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        processor_queue: ProcessorQueue | None = None,
        executor: Executor | None = None,
        **settings: object,
    ):
        config = replace(config, **settings)
        is_open = isinstance(model, ModelGraph)
        graph = model if is_open else open_profiled(model, config.shapes, config.profile, limits=config.limits)
        mine = (config.threads, config.slowdown, config.provider)
        if executor is not None and (executor.graph is not graph or executor.settings != mine):
            raise DeviceError("the executor that is shared has another network, threads, slow-down or provider")
        membership = find_servers(config, graph)
        if membership is not None:
            config = replace(config, servers=tuple(dict.fromkeys((*fixed(config.servers), *membership.servers()))))
        table = profile_for(graph, config.profile, config.threads, provider=config.provider)
        if config.jpeg_quality is not None:
            table = with_jpeg(graph, table, config.jpeg_quality)
        clock = clock or WallClock()
        planner = Planner(graph, table, config, options)
        self._executor = executor or Executor(graph, config.threads, config.slowdown, config.provider)
        processor = Processor(self._executor, cache(planner.profiled_s), config.slowdown, processor_queue)
        transport = transport or GrpcTransport(connector=membership.connector if membership else PLAIN)
        shaped = transport if links is None else ShapedTransport(transport, links)
        client = RequestClient(
            graph, planner.servers, shaped, clock, first_rate_bps=FIRST_RATE_BPS, tail_s=planner.tail_s
        )
        self._membership = membership
        parts = DeviceParts(graph, config, planner, processor, client, clock, Promises())
        self._routes: RouteSearch | BlocksDecider | None = None
        if planner.blocks is not None:
            self._routes = BlocksDecider(planner, planner.blocks, client, clock, parts.state, config.deadline_s)
        elif takes_several(planner, config):
            self._routes = RouteSearch(planner, client, clock, parts.state)
        if self._routes is not None:
            parts = parts._replace(better=self._routes.better)
        self._parts = parts._replace(record=membership.record, site_policy=membership.policy) if membership else parts
        self._in_flight = InFlight(config.max_in_flight)
        self._callers = ThreadPoolExecutor(config.max_in_flight, "coinfer-caller")  # starts threads as they are needed
        self._state: Literal["new", "open", "closed"] = "new"

    def __enter__(self) -> "Device":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, progress: Progress = quiet) -> None:
        """Prepare every segment that the planner may choose, here and on the servers, and measure the links once.

        A log warning names each server that does not answer yet. Opening an open device does nothing.

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
            if self._routes is not None:
                self._routes.start()
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
        self._callers.shutdown(wait=True)
        if self._routes is not None:
            self._routes.close()
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
        terms = terms_of(self.config, len(self.planner.exits), InferSettings(deadline_s=deadline_s, policy=policy))
        return plan_now(self._parts, terms)[0].route

    def infer(
        self,
        item: Item,
        *,
        deadline_s: float | None = None,
        policy: Policy | None = None,
        hedge: bool | None = None,
        early_exit: bool = True,
        objective: Objective | None = None,
        exit: int | None = None,
        abort: Abort | None = None,
    ) -> Result:
        """Answer one request. A failing server raises nothing: the device then answers itself.

        Args:
            item: a picture (file, PIL image or uint8 [H, W, 3]) if the network takes one; else its input as an array
                or tensor, or a mapping of input names to arrays.
            deadline_s: of this request, from now; None takes the device's.
            policy: decides about this request; None takes the device's.
            hedge: whether others start on the rest if a server is late, as in `DeviceConfig`; None takes that.
            early_exit: false lets no exit before the cut answer, even if the device has thresholds for them.
            objective: of this request; the planner then decides about it. None takes the device's.
            exit: index of the only exit that may answer; None allows all.
            abort: stops the request once it is set; `infer` then raises.

        Returns:
            The outputs, with the route, the measured times, and what went wrong with servers.

        Raises:
            UserError: if the item does not fit the network, a setting is out of range, or the device is not open.
            RefusedError: if `max_in_flight` requests are under way, or `refuse_late` holds and its deadline cannot be
                met.
        """
        settings = InferSettings(deadline_s=deadline_s, policy=policy, hedge=hedge, early_exit=early_exit)
        settings |= InferSettings(objective=objective, exit=exit, abort=abort)
        return self._answer(item, self._enter(settings), self._parts.clock.now_s())

    async def infer_async(self, item: Item, **settings: Unpack[InferSettings]) -> Result:
        """Answer one request without holding up the event loop; cancelling the task stops the request.

        Args:
            item: as for `infer`.
            settings: the other arguments of `infer`.

        Returns:
            The same as `infer`.

        Raises:
            UserError: the same as `infer`.
        """
        future, abort = self._start(item, settings)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            abort.set()
            raise

    def infer_many(
        self, items: Iterable[Item], concurrency: int = 8, **settings: Unpack[InferSettings]
    ) -> Iterator[Result]:
        """Answer many requests in their order, some of them at the same time.

        Args:
            items: each as for `infer`; may be endless, as one is taken when a place is free.
            concurrency: so many are under way at the same time.
            settings: the other arguments of `infer`, the same for all.

        Returns:
            The results, which come as they are asked for; the first item that cannot be answered raises in its place.

        Raises:
            DeviceError: if the concurrency is below 1.
        """
        if concurrency < 1:
            raise DeviceError(f"concurrency is {concurrency}; expected 1 or more")
        return answer_in_order(lambda item: self._start(item, settings), items, concurrency)

    def infer_by_route(self, item: Item, route: Route) -> Result:
        """Answer one request along a given route, through any cuts and over several servers.

        Args:
            item: as for `infer`.
            route: hops from `device` to the outputs of one exit; its deadline counts from now.

        Returns:
            The outputs, as from `infer`; if the route fails, the device answers.

        Raises:
            UserError: if the item does not fit the network, the route does not start on the device, names an unknown
                server or does not end at the outputs of its exit, or the deadline is not above 0.
        """
        began_s = self._parts.clock.now_s()
        self._check_open()
        check_deadline(route.deadline_s)
        route = route._replace(hops=tuple(hop._replace(cut=self.graph.named(hop.cut)) for hop in route.hops))
        servers = servers_of(route, self.graph, self.servers, self.planner.exits)
        tensors, pixels = self._read(item)
        sizes = request_sizes(self.graph, tensors)
        plan = self.planner.plan_by_route(route, self._parts.state(sizes), raw_input=pixels is None, sizes=sizes)
        terms = terms_of(self.config, len(self.planner.exits), InferSettings())
        request = Request(self._parts, plan, tensors, pixels, terms, began_s)
        return traced("infer", self.graph.name, 0.0, lambda: request.answer_by_route(servers), Result.steps)

    def _enter(self, settings: InferSettings) -> Terms:
        """Take on a request; `_answer` reports its end."""
        self._check_open()
        terms = terms_of(self.config, len(self.planner.exits), settings)
        self._in_flight.enter(self._parts.pushback_s())
        return terms

    def _start(self, item: Item, settings: InferSettings) -> tuple[Future[Result], Abort]:
        terms, work = self._enter(settings), partial(copy_context().run, self._answer)
        return self._callers.submit(work, item, terms, self._parts.clock.now_s()), terms.abort

    def _answer(self, item: Item, terms: Terms, began_s: float) -> Result:
        try:
            tensors, pixels = self._read(item)
            sizes, others = request_sizes(self.graph, tensors), self._in_flight.count - 1
            plan = admitted_plan(self._parts, terms, sizes, raw_input=pixels is None, began_s=began_s, others=others)
            request = Request(self._parts, plan, tensors, pixels, terms, began_s)
            return traced("infer", self.graph.name, self._parts.clock.now_s() - began_s, request.answer, Result.steps)
        finally:
            self._in_flight.leave()

    def _read(self, item: Item) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        tensors, pixels = read_item(self.graph, item)
        self._executor.check(tensors)
        return tensors, pixels

    def _check_open(self) -> None:
        if self._state != "open":
            closed = "closed; make a new one"
            unopened = "not open; use it as `with Device(...) as device`, or call open() first"
            raise DeviceError(f"this device is {closed if self._state == 'closed' else unopened}")

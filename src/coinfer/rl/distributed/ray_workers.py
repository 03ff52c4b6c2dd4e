"""The workers of `coordinator` and `parameter_server` on Ray: agents and controller of CDO-DSAC, or the workers of A3C,
are actors, which are spread over the cluster's nodes.

If a process dies, Ray starts it again, on another node if its own is lost, and the coordinator or the server gives it
its state.
Nodes trust each other (Ray pickles the messages): a cluster belongs on a network of its own. Without an address, this
module starts a cluster of this machine alone, which listens on the loopback interface only and ends with the training.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from coinfer.addresses import AddressError, parse_address
from coinfer.errors import TrainingError
from coinfer.rl.algorithms.a3c import A3cSettings
from coinfer.rl.algorithms.cdo_dsac import TrainingJob
from coinfer.rl.core.blocks_training import BlocksJob
from coinfer.rl.core.loop import Loop
from coinfer.rl.distributed.coordinator import Coordinator
from coinfer.rl.distributed.parameter_server import GradientWorker, ParameterServer
from coinfer.rl.distributed.worker_group import Promise, Recovery, StaleStateError, WorkerLostError
from coinfer.rl.distributed.workers import Agent, Controller

CONNECT_TIMEOUT_S, START_TIMEOUT_S = 5.0, 120.0
"""Seconds within which an address must answer, and a cluster must start all processes."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
Job = TrainingJob | BlocksJob[A3cSettings]
"""Description of a training that a cluster can play."""


class WorkerKind(NamedTuple):
    """What a worker is."""

    name: str
    """For messages."""
    kind: type
    """Class of the actor."""
    arguments: tuple[int, ...] = ()
    """Of the class. Small ones only: Ray may have lost large ones when it starts a worker again."""


class WorkerPlacement(NamedTuple):
    """Node and process of a worker."""

    node: str
    """Ray's hexadecimal ID of the node."""
    pid: int
    """Process ID on that node."""


class RayWorkerGroup:
    """A `WorkerGroup` of Ray actors; Ray must be initialised.

    Args:
        kinds: what each worker is.
        gpus: whether the workers share GPUs, of which each then gets a part.

    Raises:
        TrainingError: if the cluster has no room for them within `START_TIMEOUT_S`.
    """

    def __init__(self, kinds: Sequence[WorkerKind], gpus: bool = False):
        import ray
        from ray import exceptions

        self._ray, self._errors = ray, exceptions
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.names = [kind.name for kind in kinds]
        needs = {"CPU": 0.001, "GPU": 1 / len(kinds)} if gpus else {"CPU": 0.001}
        self.places = placement_group([needs] * len(kinds), strategy="SPREAD")
        if not self.places.wait(START_TIMEOUT_S):
            raise TrainingError(f"the Ray cluster has no room for {len(kinds)} processes: see `ray status`")

        def start(kind: WorkerKind, place: int) -> Any:
            strategy = PlacementGroupSchedulingStrategy(self.places, placement_group_bundle_index=place)
            options = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "max_restarts": -1}
            return ray.remote(kind.kind).options(scheduling_strategy=strategy, **options).remote(*kind.arguments)

        self.workers = [start(kind, place) for place, kind in enumerate(kinds)]

    def call(self, worker: int, method: str, *arguments: object) -> Promise:
        """Return a promise of the result of a worker's method.

        Args:
            worker: number of the worker.
            method: name of its method.
            arguments: promises among them are replaced by their results.
        """
        return getattr(self.workers[worker], method).remote(*arguments)

    def call_parts(self, worker: int, method: str, *arguments: object, parts: int) -> list[Promise]:
        """Return promises of the parts of a result, one for each.

        Args:
            worker: number of the worker.
            method: name of its method, which returns a list of so many parts, or the only part itself.
            arguments: promises among them are replaced by their results.
            parts: number of parts, at least 1.
        """
        promises = getattr(self.workers[worker], method).options(num_returns=parts).remote(*arguments)
        return promises if parts > 1 else [promises]

    def first_done(self, promises: Sequence[Promise]) -> int:
        """Wait until a result is there, or lost, and return the place of its promise.

        Args:
            promises: what `call` and `call_parts` returned; at least one.
        """
        (done,), _ = self._ray.wait(list(promises), num_returns=1)
        return promises.index(done)

    def wait(self, promises: Sequence[Promise]) -> list[Any]:
        """Wait for results and return them, in the order of the promises.

        Args:
            promises: what `call` and `call_parts` returned.

        Returns:
            The results of the methods.

        Raises:
            WorkerLostError: if a worker that a result needs is lost.
            ray.exceptions.RayTaskError: if a method failed for another reason.
        """
        try:
            return self._ray.get(list(promises))
        except self._errors.RayTaskError as error:
            if isinstance(error.cause, StaleStateError | self._errors.RayError):
                raise WorkerLostError(self._lost(error.cause)) from None
            raise
        except self._errors.RayError as error:
            raise WorkerLostError(self._lost(error)) from None

    def worker_placements(self) -> list[WorkerPlacement]:
        """Return the current placement of all workers, once all of them run.

        Raises:
            TrainingError: if they do not start within `START_TIMEOUT_S`.
        """
        try:
            return self._ray.get(
                [worker.__ray_call__.remote(_placement) for worker in self.workers], timeout=START_TIMEOUT_S
            )
        except self._errors.GetTimeoutError:
            why = f"not within {START_TIMEOUT_S:.0f} s, see `ray status`"
        except self._errors.RayError as error:
            why = str(error).strip().splitlines()[-1]
        raise TrainingError(f"the Ray cluster did not start {len(self.workers)} processes with coinfer: {why}")

    def end(self) -> None:
        """End all workers and free their places; the cluster stays."""
        from ray.util.placement_group import remove_placement_group

        for worker in self.workers:
            self._ray.kill(worker)
        remove_placement_group(self.places)

    def _lost(self, error: Exception) -> str:
        """Return the name of the lost worker, as far as the error knows it."""
        if isinstance(error, StaleStateError):
            return str(error)
        names = {worker._actor_id.hex(): name for worker, name in zip(self.workers, self.names, strict=True)}
        return names.get(getattr(error, "actor_id", None) or "", f"a worker of the cluster ({type(error).__name__})")


def stay_on_loopback() -> None:
    """Make Ray use 127.0.0.1 as it is, instead of an address that other machines can reach.

    This sets Ray's switch for systems without clusters, for processes to come and for this one, where Ray may have read
    it already.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def _placement(_: object) -> WorkerPlacement:
    import ray

    return WorkerPlacement(ray.get_runtime_context().get_node_id(), os.getpid())


def worker_kinds(job: Job) -> list[WorkerKind]:
    """Return the workers that a training needs.

    Args:
        job: description of the training.
    """
    if isinstance(job, TrainingJob):
        agents = [WorkerKind(f"agent {i}", Agent, (i,)) for i in range(job.settings.agents)]
        return [*agents, WorkerKind("the controller", Controller)]
    return [WorkerKind(f"worker {i}", GradientWorker, (i,)) for i in range(job.settings.learner.workers)]


@contextmanager
def cluster_player(
    job: Job,
    address: str | None = None,
    *,
    on_recovery: Callable[[Recovery], None] = lambda _: None,
    on_start: Callable[[RayWorkerGroup], None] = lambda _: None,
) -> Iterator[Callable[[Loop[Any]], None]]:
    """Join a cluster, start a training's workers there, and end them afterwards.

    Args:
        job: description of the training.
        address: `HOST:PORT` of the cluster's head, or `auto` for the cluster that this machine belongs to; None for the
            environment variable RAY_ADDRESS, or else a cluster of this machine alone.
        on_recovery: called after every loss that was made good.
        on_start: called with the group when all its workers run.

    Yields:
        A function in place of `Loop.play`, for the loop of this training.

    Raises:
        TrainingError: if Ray is not installed, or the cluster cannot be joined or does not start the workers.
    """
    with _joined(address or os.environ.get("RAY_ADDRESS") or None):
        workers = RayWorkerGroup(worker_kinds(job), job.device.startswith("cuda"))
        try:
            workers.worker_placements()
            on_start(workers)
            if isinstance(job, TrainingJob):
                yield Coordinator(workers, job, on_recovery).play
            else:
                yield ParameterServer(workers, job, on_recovery).play
        finally:
            workers.end()


@contextmanager
def _joined(address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of promises that a loss made void
    host = _host(address) if address not in (None, "auto") else None
    try:
        if address is None or host in _LOOPBACK:
            stay_on_loopback()
        import ray
    except ModuleNotFoundError:
        raise TrainingError("training on a cluster needs Ray: pip install '.[cluster]' in coinfer's folder") from None
    if ray.is_initialized():
        yield
        return
    if address is not None and host is not None:
        _reach(address)
    with tempfile.TemporaryDirectory(prefix="coinfer-") as files:
        cluster_options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "_temp_dir": files}
        options: dict[str, Any] = cluster_options if address is None else {}
        try:
            ray.init(address=address or "local", log_to_driver=False, configure_logging=False, **options)
        except Exception as error:  # of many kinds
            first = (str(error).splitlines() or [type(error).__name__])[0]
            if address == "auto" and isinstance(error, ConnectionError):
                first = "none runs on this machine; `ray start` starts one"
            raise TrainingError(f"Ray cluster {address or 'on this machine'}: cannot be joined: {first}") from None
        try:
            yield
        finally:
            ray.shutdown()


def _host(address: str) -> str:
    try:
        return parse_address(address).host
    except AddressError as error:
        raise TrainingError(f"{error}; `auto` finds the cluster of this machine") from None


def _reach(address: str) -> None:
    """Check quickly that a Ray head answers; Ray itself would try for minutes."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            raise TrainingError(
                f"address {address}: no Ray head answers there; `ray start --head` starts one and tells its HOST:PORT"
            ) from None

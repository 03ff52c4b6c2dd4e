"""Edge nodes for tests: in a process of their own, or on a thread of this one."""

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
import time

import numpy as np

from coinfer.runtime.batch_profile import BatchProfile
from coinfer.runtime.edge.grpc_server import GrpcFront
from coinfer.runtime.edge.http_server import DEFAULT_LIMITS, HttpFront
from coinfer.runtime.edge.served_model import ServedModel, Signature, serve_graph
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.executor import Executor

PROGRAM = "import sys; from coinfer.runtime.edge.server import *; sys.exit(run_edge(EdgeSettings({settings})))"
READY = re.compile(r"coinfer edge ready grpc=(\S+)(?: http=(\S+))? models=")


class EdgeProcess:
    """A running edge."""

    def __init__(self, settings, **popen):
        command = [sys.executable, "-c", PROGRAM.format(settings=settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)
        line = self.process.stdout.readline()
        found = READY.match(line)
        if not found:
            self.process.kill()
            raise RuntimeError(f"no edge: {line}{self.process.communicate()[1]}")
        self.grpc, self.http = found.groups()


@contextlib.contextmanager
def edge_process(settings, **popen):
    """An edge with these settings (source text of the arguments of `EdgeSettings`)."""
    edge = EdgeProcess(settings, **popen)
    try:
        yield edge
    finally:
        edge.process.kill()
        edge.process.communicate()


class EdgeThread:
    """The fronts of a service on a thread of this process."""

    def __init__(self, make_service, security=None, limits=DEFAULT_LIMITS, calls=None):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start(make_service, security, limits, calls))

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    async def _start(self, make_service, security, limits, calls):
        self.service = make_service()
        self._grpc = GrpcFront(self.service, "127.0.0.1", 0, security, calls)
        self._http = HttpFront(self.service, "127.0.0.1", 0, security, limits)
        self.grpc, self.http = f"127.0.0.1:{self._grpc.port}", f"127.0.0.1:{self._http.port}"
        self.service.address = self.grpc
        await self._http.start()
        await self._grpc.start()

    def stop(self):
        async def end():
            await asyncio.gather(self._grpc.stop(0.1), self._http.stop(0.1))
            self.service.close()

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@contextlib.contextmanager
def edge_thread(make_service, security=None, **more):
    edge = EdgeThread(make_service, security, **more)
    try:
        yield edge
    finally:
        edge.stop()


async def unencoded(reply):
    """The reply of a service as it is."""
    return reply


def in_memory_node(graph, seen):
    """A server of a network for an `InMemoryTransport`; it notes the requests that are no preparation."""

    def handle(request):
        if not request.warm:
            seen.append(request)
        service = EdgeService([serve_graph(graph, Executor(graph))])
        try:
            return asyncio.run(service.infer(request, unencoded))
        finally:
            service.close()

    return handle


class AlwaysThere:
    """What a server asks of a network's pieces, where they are in memory for good and each request runs alone."""

    owner = None

    def check(self, inputs):
        return {}

    def batches(self, inputs, outputs=()):
        return BatchProfile(reason="a test")

    def hold(self, inputs, outputs=()):
        return True

    def release(self, inputs, outputs=()):
        pass

    def cold(self):
        return {}

    def close(self):
        pass


class Sleeper(AlwaysThere):
    """Serves by sleeping as long as its input says; computes nothing, so the machine's load does not matter."""

    def __init__(self):
        self.started = []
        self.finished = []

    def run(self, inputs, outputs=(), abort=None):
        duration_s = float(inputs["seconds"][0])
        self.started.append(time.monotonic())
        if abort is not None and abort.event.wait(duration_s):
            raise RuntimeError("aborted")
        self.finished.append(time.monotonic())
        return {"seconds": inputs["seconds"]}, duration_s

    def prepare(self, inputs, outputs=()):
        pass

    def warm(self, inputs, outputs=(), runs=3):
        return 0.0

    def served(self, name="sleeper"):
        signature = (Signature("seconds", "FP32", (1,)),)
        return ServedModel(name, "", signature, signature, "test", self)


def seconds(value):
    """The input of a `Sleeper`."""
    return np.array([value], np.float32)

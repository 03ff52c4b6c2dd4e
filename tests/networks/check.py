"""What is asked of one network: it opens, it is planned, and cut between a device and an edge server over gRPC it
answers what ONNX Runtime answers on the file as it is."""

import contextlib
import io
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import onnxruntime as ort
import psutil
from tests.networks.case import Case, NotFetchedError, samples, written
from tests.networks.serving import served, served_here

from coinfer.cli.main import main
from coinfer.errors import UserError
from coinfer.graph.ir import ModelGraph
from coinfer.graph.open_model import open_model
from coinfer.runtime.device.device import Device
from coinfer.types import Hop, Route
from coinfer.units import MIB

TOLERANCE = 1e-4
"""Largest difference relative to the largest value of an output."""
HALF_TOLERANCE = 1e-2
"""The same if numbers of 16 bits take part."""
RUNS = 3
EQUAL, REFUSED, NOT_FETCHED = "equal", "refused as expected", "not fetched"
NOT_RUN = "not run by ONNX Runtime"
TRIES = 20


class Outcome(NamedTuple):
    """What became of a network."""

    name: str
    verdict: str
    """`EQUAL`, `REFUSED`, `NOT_FETCHED`, `NOT_RUN`, or the step that failed."""
    remark: str = ""
    operations: int = 0
    params: int = 0
    cuts: int = 0
    """Useful ones, beside all here and all there."""
    runs: int = 0
    error: float = math.nan
    """Largest relative difference over all runs."""
    open_s: float = math.nan
    open_mib: float = math.nan
    """Peak memory of the process that opened it."""
    plan_s: float = math.nan

    @property
    def is_good(self) -> bool:
        """Return true if nothing is to be mended."""
        return self.verdict in {EQUAL, REFUSED, NOT_FETCHED, NOT_RUN}


class WrongError(Exception):
    """A network that fails a step; the message says how."""


def check(case: Case, folder: Path) -> Outcome:
    """Return what becomes of a network; whatever it raises is an outcome too.

    Args:
        case: the network.
        folder: where its file is or will be written.
    """
    step, found = "file", Outcome(case.name, "")
    try:
        path = written(case, folder)
        try:
            own = session(path)
            feeds = samples(own, case)
            whole = own.run(None, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class below this one
            return found._replace(verdict=NOT_RUN, remark=_line(error))
        step = "open"
        found, graph = _opened(found, path, case)
        step = "plan"
        began_s = time.perf_counter()
        _command("plan", path, *shape_options(case), *_sample_options(case, feeds, folder))
        found = found._replace(plan_s=time.perf_counter() - began_s)
        step = "run"
        return _split(found, graph, path, case, feeds, dict(zip(_names(own), whole, strict=True)))
    except NotFetchedError as error:
        return found._replace(verdict=NOT_FETCHED, remark=str(error))
    except UserError as error:
        expected = case.refusal and case.refusal in str(error)
        return found._replace(verdict=REFUSED if expected else f"{step}: refused", remark=str(error))
    except WrongError as error:
        return found._replace(verdict=step, remark=str(error))
    except Exception as error:
        return found._replace(verdict=f"{step}: {type(error).__name__}", remark=_line(error))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def session(file: Path | bytes) -> ort.InferenceSession:
    """Return the file as ONNX Runtime itself opens it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(file, options)


def _names(own: ort.InferenceSession) -> list[str]:
    return [value.name for value in own.get_outputs()]


def _opened(found: Outcome, path: Path, case: Case) -> tuple[Outcome, ModelGraph]:
    process = psutil.Process()
    began_s = time.perf_counter()
    graph = opened(path, case)
    open_s = time.perf_counter() - began_s
    peak_mib = getattr(process.memory_info(), "peak_wset", 0) / MIB or _peak_mib()
    cuts = len(graph.useful_cuts()) - 2
    return found._replace(
        operations=len(graph.ops), params=graph.params, cuts=max(cuts, 0), open_s=open_s, open_mib=peak_mib
    ), graph


def _peak_mib() -> float:
    """Return the peak memory of this process, as Linux tells it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def opened(path: Path, case: Case) -> ModelGraph:
    """Return the network of a file with the case's sizes."""
    return open_model(path, case.shapes) if case.shapes else open_model(path)


def shape_options(case: Case) -> list[str]:
    """Return the sizes as options of a command."""
    return [word for name, shape in case.shapes.items() for word in ("--shape", f"{name}={','.join(map(str, shape))}")]


def _sample_options(case: Case, feeds: Mapping[str, np.ndarray], folder: Path) -> list[str]:
    """Return the inputs as an option of a command, if the network takes no others."""
    if not case.needs_samples:
        return []
    path = folder / f"{case.name}.npz"
    np.savez(path, **feeds)
    return ["--samples", str(path)]


def _command(command: str, path: Path, *options: str) -> str:
    """Return what a command prints; it must end with status 0."""
    printed, errors = io.StringIO(), io.StringIO()
    argv = ["coinfer", command, str(path), *options]
    status: object = 0
    try:
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(errors),
        ):
            main()
    except SystemExit as end:
        status = end.code
    if status:
        raise UserError(" ".join(errors.getvalue().split()).removeprefix("error: "))
    return printed.getvalue()


def _split(
    found: Outcome,
    graph: ModelGraph,
    path: Path,
    case: Case,
    feeds: Mapping[str, np.ndarray],
    whole: Mapping[str, np.ndarray],
) -> Outcome:
    """Return the outcome of runs at the input, in the middle, and late."""
    cuts = [cut.tensors for cut in graph.useful_cuts()[:-1]]
    chosen = list(dict.fromkeys(cuts[i * (len(cuts) - 1) // (RUNS - 1)] for i in range(RUNS)))
    inputs, limit = {name: feeds[name] for name in graph.inputs}, tolerance(graph)
    errors = []
    edge = served_here(graph) if case.is_small else served(path, shape_options(case))
    with edge as address, Device(graph, servers=[address], hedge=False) as device:
        for cut in chosen:
            route = Route((Hop("device", cut, 32), Hop(address, graph.outputs, 32)), 0, math.inf)
            errors.append(compared(_answer(device, inputs, route, address), whole, cut, limit))
        local = Route((Hop("device", graph.outputs, 32),), 0, math.inf)
        errors.append(compared(device.infer_by_route(inputs, local).outputs, whole, ("the device alone",), limit))
    return found._replace(verdict=EQUAL, runs=len(errors), error=max(errors))


def _answer(device: Device, inputs: dict[str, np.ndarray], route: Route, address: str) -> Mapping[str, np.ndarray]:
    for _ in range(TRIES):  # on a busy machine an edge may miss a ping
        result = device.infer_by_route(inputs, route)
        if "UNAVAILABLE" not in result.fallback:
            break
        time.sleep(0.5)
    if result.executed_on != address:
        raise WrongError(f"after {', '.join(route.hops[0].cut)} the edge server did not answer: {result.fallback}")
    return result.outputs


def tolerance(graph: ModelGraph) -> float:
    """Return the largest relative difference of an answer that counts as none."""
    halves = any(tensor.dtype == np.float16 for tensor in graph.tensors.values())
    return HALF_TOLERANCE if halves else TOLERANCE


def compared(
    answer: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray], cut: Sequence[str], limit: float = TOLERANCE
) -> float:
    """Return the largest relative difference of two answers.

    Raises:
        WrongError: if they differ in names, types, shapes, integers, or by more than the tolerance.
    """
    where = f"after {', '.join(cut)}"
    if set(answer) != set(whole):
        raise WrongError(f"{where}: outputs {sorted(answer)}, expected {sorted(whole)}")
    largest = 0.0
    for name, exact in whole.items():
        got, exact = np.asarray(answer[name]), np.asarray(exact)
        if got.shape != exact.shape or got.dtype != exact.dtype:
            got_kind, exact_kind = (f"{array.dtype} {list(array.shape)}" for array in (got, exact))
            raise WrongError(f"{where}: output {name!r} is {got_kind}, expected {exact_kind}")
        error = difference(got, exact)
        if not error <= (0.0 if exact.dtype.kind in "iub" else limit):
            raise WrongError(f"{where}: output {name!r} differs by {error:.1e}")
        largest = max(largest, error)
    return largest


def difference(got: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest difference of two arrays relative to the largest value; infinite where only one is finite."""
    if exact.dtype.kind in "biu" or not exact.size:
        return float((got != exact).mean()) if exact.size else 0.0
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    if not np.isfinite(got[~same]).all() or not np.isfinite(exact[~same]).all():
        return math.inf
    scale = np.abs(exact[np.isfinite(exact)]).max(initial=0.0) or 1.0
    return float(np.abs(got[~same].astype(np.float64) - exact[~same]).max(initial=0.0) / scale)

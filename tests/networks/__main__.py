"""`make test-models`: opens, plans and runs every network of the suite, each in a process of its own with a time limit,
and writes the table in docs/networks.md.

A run that was interrupted goes on where it was; when the code has changed since, everything is tried anew.
"""

import argparse
import contextlib
import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from tests.networks.case import Case, written
from tests.paths import ROOT

if TYPE_CHECKING:
    from tests.networks.check import Outcome

BUILD = ROOT / "build" / "networks"
FILES = BUILD / "files"
LIMIT_S = 600
CHUNK = 20
"""Small networks that share a process."""


def main() -> int:
    """Run the command and return its exit status: 0 if every network is right, fetched or not."""
    parser = argparse.ArgumentParser(prog="python -m tests.networks", description=__doc__)
    parser.add_argument("--only", default="*", help="names of networks, such as 'bert*'")
    parser.add_argument("--failed", action="store_true", help="of results from before, keep those that were right")
    parser.add_argument("--keep", action="store_true", help="results from before count although the code has changed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="longest time of a network")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--chunk", help=argparse.SUPPRESS)
    args = parser.parse_args()
    FILES.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(BUILD / "cache")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tests.networks import generated

    cases = all_cases()
    if args.write:
        written(next(case for case in cases if case.name == args.write), FILES)
        return 0
    if args.chunk:
        return _chunk([case for case in cases if case.name in args.chunk.split(",")])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    generated.write_files(FILES)
    return _all([case for case in cases if fnmatch(case.name, args.only)], args)


def all_cases() -> list[Case]:
    """Return every network of the suite."""
    from tests.networks import exported, generated, public, rewritten, trained, written

    return [
        *trained.cases(),
        *exported.cases(),
        *rewritten.cases(),
        *written.cases(),
        *public.light(),
        *public.small(),
        *generated.cases(),
    ]


def _chunk(cases: Sequence[Case]) -> int:
    """Print the outcome of each network as soon as it is known."""
    from tests.networks.check import check

    for case in cases:
        print(json.dumps(check(case, FILES)._asdict()), flush=True)
    return 0


def _all(cases: Sequence[Case], args: argparse.Namespace) -> int:
    results = Results(BUILD / "results.jsonl", keep=args.keep or args.failed)
    known = {name: found for name, found in results.load().items() if found.is_good or not args.failed}
    left = [case for case in cases if case.name not in known]
    print(f"{len(cases)} networks, {len(cases) - len(left)} known from before; files and results in {BUILD}")
    for i, found in enumerate(_outcomes(left, args.jobs, args.limit_s), 1):
        results.add(found)
        known[found.name] = found
        print(f"{i}/{len(left)} {found.name}: {found.verdict} {found.remark[:200]}", flush=True)
    return _close(cases, known)


def _close(cases: Sequence[Case], known: "dict[str, Outcome]") -> int:
    """Say what is missing, write the table if nothing is, and return the exit status."""
    from tests.networks.check import NOT_FETCHED
    from tests.networks.report import PAGE, write_report

    found = [known[case.name] for case in cases]
    missing = [outcome for outcome in found if outcome.verdict == NOT_FETCHED]
    if missing:
        print(f"{len(missing)} networks were not fetched: {missing[0].remark}")
    if len(cases) == len(all_cases()) and not missing:
        write_report(cases, known)
        print(f"wrote {PAGE}")
    wrong = [outcome for outcome in found if not outcome.is_good]
    print(f"{len(found) - len(wrong) - len(missing)} right, {len(missing)} not fetched, {len(wrong)} wrong")
    return 1 if wrong else 0


def _outcomes(cases: Sequence[Case], jobs: int, limit_s: float) -> "Iterator[Outcome]":
    """Yield outcomes as they come, from so many processes at a time."""
    small = [case for case in cases if case.is_small]
    chunks = [[case] for case in cases if not case.is_small]
    chunks += [small[i : i + CHUNK] for i in range(0, len(small), CHUNK)]
    found: queue.Queue[Outcome] = queue.Queue()
    with ThreadPoolExecutor(jobs) as pool:
        for chunk in chunks:
            pool.submit(_run_chunk, chunk, limit_s, found)
        try:
            for _ in cases:
                yield found.get()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            _kill_children()


def _run_chunk(cases: Sequence[Case], limit_s: float, found: "queue.Queue[Outcome]") -> None:
    """Put what processes of their own find out about networks; one that ends a process costs only itself.

    Files are written in another process, so that the memory for that is not taken for the network's.
    """
    for case in cases:
        if not (FILES / case.file).exists():
            command = [sys.executable, "-m", "tests.networks", "--write", case.name]
            with contextlib.suppress(subprocess.TimeoutExpired):  # the check then says what is wrong
                subprocess.run(command, cwd=ROOT, capture_output=True, timeout=limit_s, check=False)
    left = [case.name for case in cases]
    while left:
        for outcome in _run_process(left, limit_s):
            left.remove(outcome.name)
            found.put(outcome)


def _run_process(names: Sequence[str], limit_s: float) -> "Iterator[Outcome]":
    """Yield the outcomes that one process prints, and of the network at which it ended or hung, how."""
    from tests.networks.check import Outcome

    command = [sys.executable, "-m", "tests.networks", "--chunk", ",".join(names)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        for name in names:
            alarm = threading.Timer(limit_s, _kill_tree, [process.pid])
            alarm.start()
            line = process.stdout.readline()
            hung = not alarm.is_alive()
            alarm.cancel()
            if not line:
                errors.seek(0)
                last = (errors.read().strip().splitlines() or ["nothing said"])[-1]
                reason = f"not done after {limit_s:.0f} s" if hung else f"status {process.wait()}: {last}"
                yield Outcome(name, "hang" if hung else "crash", reason)
                break
            yield Outcome(**json.loads(line))


def _kill_children() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _kill_tree(pid: int) -> None:
    """Kill a process and those that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            process.kill()


class Results:
    """Outcomes on disk, of this state of the code."""

    def __init__(self, path: Path, keep: bool) -> None:
        self._path, self._keep = path, keep
        self._code = _code()

    def load(self) -> "dict[str, Outcome]":
        """Return the outcomes that still hold, the newest of each network."""
        from tests.networks.check import Outcome

        found = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                code, entry = json.loads(line)
                if code == self._code or self._keep:
                    found[entry["name"]] = Outcome(**entry)
        return found

    def add(self, outcome: "Outcome") -> None:
        """Append an outcome."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([self._code, outcome._asdict()]) + "\n")


def _code() -> str:
    """Return a digest of the product's code and of the suite's."""
    digest = hashlib.sha256()
    for folder in (ROOT / "src" / "coinfer", ROOT / "tests" / "networks"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())

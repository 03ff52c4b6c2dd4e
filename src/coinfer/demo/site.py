"""A whole site on this machine: a controller, three edge servers of unlike speed and two devices, with a fault, a
policy that is rolled out, and one that is rolled back."""

import contextlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coinfer.demo.cluster import ClusterError, EdgeProcess, edges
from coinfer.errors import UserError
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.images import load_images
from coinfer.site.operator import Operator

READY = re.compile(r"coinfer controller ready grpc=(\S+) page=(\S+)")
START_S = 90.0
MODEL = "resnet32"
SLOWDOWNS = (20.0, 40.0, 80.0)
DEVICE_SLOWDOWN = 200.0
DEVICES = 2
PAUSE_S = 0.05
"""Between the end of a device's request and its next one."""
SETTLE_S = 90.0
"""Longest wait for what a step should bring about."""
Say = Callable[[str], None]


@dataclass
class Answers:
    """What the devices' requests came to."""

    answered: int = 0
    lost: int = 0
    latency_s: list[float] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)


def run_site_demo(seconds: float, say: Say) -> Answers:
    """Run the site, and end it with all its processes.

    Args:
        seconds: from the first request to the last one; starting and stopping come on top.
        say: takes a line for people at every step.

    Raises:
        UserError: if a part of the site does not start.
    """
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coinfer-site-")))
        address, page = stack.enter_context(_controller(home))
        say(f"the site's page: {page} (or: coinfer top --controller {address})")
        servers = [stack.enter_context(_edge(n, address, home)) for n in range(1, len(SLOWDOWNS) + 1)]
        say(f"{len(servers)} edge servers, {', '.join(f'{s:g}' for s in SLOWDOWNS)} times slower than this machine")
        operator = stack.enter_context(Operator(address, None, False))
        _wait(lambda: len(_there(operator, "edge")) == len(servers), "all servers have joined")
        answers, ended = Answers(), threading.Event()
        cameras = [_start_camera(stack, f"camera-{n + 1}", address, answers, ended) for n in range(DEVICES)]
        stack.callback(_join, cameras, ended)
        say(f"{DEVICES} devices send requests and leave the choice of server to the one that they reach")
        _play(seconds, operator, servers, say)
        ended.set()
        _join(cameras, ended)
        _summarise(operator, answers, say)
    return answers


def _play(seconds: float, operator: Operator, servers: Sequence[EdgeProcess], say: Say) -> None:
    """Take the steps of the demonstration, evenly spread."""
    began_s = time.monotonic()

    def until(part: float) -> None:
        time.sleep(max(began_s + part * seconds - time.monotonic(), 0.0))

    until(0.2)
    say(f"policy pushed: {operator.push(Path('learned'))['said']}")
    until(0.35)
    state = operator.policy("Policy", {"do": "list"})
    say(f"of its judgement so far: {state['versions'][0]['reason'] or state['problem'] or 'not done yet'}")
    say(_change(operator, {"do": "pin", "version": 1}))
    _wait(lambda: all(node["policies"] == [1] for node in _there(operator, "edge")), "all servers have the policy")
    say("all servers decide by version 1")
    until(0.55)
    servers[-1].process.kill()
    _wait(lambda: len(_there(operator, "edge")) < len(servers), "the loss is noticed")
    say("edge-3 was killed, and the site has noticed; requests go on")
    until(0.8)
    say(_change(operator, {"do": "rollback"}))
    _wait(lambda: not any(node["policies"] for node in _there(operator, "edge")), "no server has the policy")
    say("all servers decide by sequential greedy again")
    until(1.0)


def _change(operator: Operator, request: dict[str, object]) -> str:
    return operator.policy("ChangePolicy", request)["said"]


def _summarise(operator: Operator, answers: Answers, say: Say) -> None:
    state = operator.state()
    latency_ms = 1e3 * sum(answers.latency_s) / max(len(answers.latency_s), 1)
    say(f"{answers.answered} requests answered in {latency_ms:.0f} ms on average, {answers.lost} lost")
    named = {node["address"]: node["name"] for node in state["nodes"]}
    for title, counts in (("computed by", state["servers"]), ("decided by", state["policies"])):
        say(f"{title}: {', '.join(f'{named.get(name, name)} {count}' for name, count in counts.items())}")


def _there(operator: Operator, role: str) -> list[dict]:
    return [node for node in operator.state()["nodes"] if node["role"] == role and node["there"]]


def _wait(holds: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + SETTLE_S
    while not holds():
        if time.monotonic() > until_s:
            raise UserError(f"not after {SETTLE_S:.0f} s: {what}; is the machine very busy?")
        time.sleep(0.1)


@contextlib.contextmanager
def _controller(home: Path) -> Iterator[tuple[str, str]]:
    """Start a controller on free ports, and stop it at the end; yields its address and that of its page."""
    command = [sys.executable, "-m", "coinfer", "controller", "--port", "0", "--page-port", "0"]
    command += ["--store", str(home / "experience.sqlite")]
    path = home / "controller.log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        until_s = time.monotonic() + START_S
        while not (found := READY.search(path.read_text(encoding="utf-8", errors="replace"))):
            if process.poll() is not None or time.monotonic() > until_s:
                last = (path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"])[-1]
                raise ClusterError(f"the controller did not start; it said: {last}")
            time.sleep(0.05)
        yield found[1], found[2]
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _edge(number: int, controller: str, home: Path) -> Iterator[EdgeProcess]:
    """Start an edge server as a member of the site."""
    name = f"edge-{number}"
    extra = ("--controller", controller, "--name", name, "--state", str(home / name), "--actor-late-ms", "100",
             "--policy", "sequential-greedy")  # fmt: skip
    with edges(MODEL, [SLOWDOWNS[number - 1]], extra, START_S) as (running,):
        yield running


def _start_camera(
    stack: contextlib.ExitStack, name: str, controller: str, answers: Answers, ended: threading.Event
) -> threading.Thread:
    """Start a device that sends one request after the other."""
    config = DeviceConfig(controller=controller, name=name, dispatch=True, slowdown=DEVICE_SLOWDOWN)
    device = stack.enter_context(Device(MODEL, config))
    pictures = [picture for _, picture in load_images()]

    def send() -> None:
        number = 0
        while not ended.is_set():
            picture = pictures[number % len(pictures)]
            number += 1
            try:
                result = device.infer(picture)
            except UserError:
                answers.lost += 1
                continue
            answers.answered += 1
            answers.latency_s.append(float(result.outcome.latency_s))
            answers.nodes[result.executed_on] += 1
            ended.wait(PAUSE_S)

    thread = threading.Thread(target=send, name=name, daemon=True)
    thread.start()
    return thread


def _join(threads: Sequence[threading.Thread], ended: threading.Event) -> None:
    ended.set()
    for thread in threads:
        thread.join(30)

"""Training on a Ray cluster of two nodes: whichever worker dies, the result is the same; mistakes are one line."""

import json
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
from tests.rl.distributed.test_coordinator import SMALL, LocalWorkerGroup, job
from tests.rl.distributed.test_parameter_server import single, train
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.errors import TrainingError, UserError
from coinfer.rl import export
from coinfer.rl.algorithms import cdo_dsac
from coinfer.rl.core.training import TrainingResult, run_training
from coinfer.rl.distributed import ray_workers
from coinfer.rl.distributed.coordinator import Coordinator
from coinfer.rl.distributed.worker_group import Recovery


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch):
    """Address of a cluster of two nodes on this machine that nobody else can reach; all its processes end."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    monkeypatch.setattr(ray_workers, "CONNECT_TIMEOUT_S", 60.0)
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    ray_workers.stay_on_loopback()
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-") as files:
        monkeypatch.setenv("RAY_TMPDIR", files)
        node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.add_node(**node)
            yield cluster.address
            ours = psutil.Process().children(recursive=True)
        finally:
            cluster.shutdown()
    _, left = psutil.wait_procs([process for process in ours if "ray" in words(process)], timeout=120)
    assert not [words(process) for process in left]


def words(process) -> str:
    """Return the command line of a process; empty if it has ended."""
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def listening(pids: set[int]) -> set[str]:
    """Addresses on which these processes and their children listen."""
    import psutil

    children = psutil.Process().children(recursive=True)
    ray_processes = {process for process in children if "ray" in words(process)}
    assert pids <= {process.pid for process in ray_processes}
    addresses = set()
    for process in ray_processes:
        with suppress(psutil.NoSuchProcess):
            links = process.net_connections("inet")
            addresses |= {link.laddr.ip for link in links if link.status == psutil.CONN_LISTEN}
    return addresses


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_agent_and_the_controller_die_and_the_result_is_the_same(two_nodes: str, tmp_path: Path):
    """Bit by bit as in one process: weights, optimisers, shared memory, worlds."""
    small_job = job()
    small_job = small_job._replace(settings=replace(SMALL, agents=2, rounds=40, assess_every=40))
    single, loop, recoveries, killed = small_job.loop(), small_job.loop(), [], list[Timer]()
    workers: list[ray_workers.RayWorkerGroup] = []

    def kill(report):
        """Agent 0 in the first half, the controller later; both while rounds are left."""
        for timer in killed:
            timer.join()
        for worker, at in ((0, 5), (2, 20)):
            if report.round >= at and len(killed) == (worker > 0) and len(recoveries) == len(killed):
                killed.append(Timer(0.05, os.kill, (workers[0].worker_placements()[worker].pid, signal.SIGKILL)))
                killed[-1].start()

    with ray_workers.cluster_player(
        small_job, two_nodes, on_recovery=recoveries.append, on_start=workers.append
    ) as play:
        worker_placements = workers[0].worker_placements()
        assert len({placement.node for placement in worker_placements}) == 2
        assert listening({placement.pid for placement in worker_placements}) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        digest = run_training(loop, {"of": "a test"}, play=play, progress=kill, folder=tmp_path)
    assert digest == run_training(single, {})
    assert loop.points == single.points
    assert len(recoveries) == 2
    for loss, who in zip(recoveries, ("agent 0", "the controller"), strict=True):
        assert re.fullmatch(who + r"|a worker of the cluster \(\w+\)", loss.who)  # Ray may know no better


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_of_a3c_dies_and_the_training_goes_on(two_nodes: str):
    """In deterministic mode bit by bit as in one process; in asynchronous mode to its end, too."""
    recoveries: list[Recovery] = []

    def train_and_kill(threads: int) -> TrainingResult:
        groups, killed = list[ray_workers.RayWorkerGroup](), list[int]()

        def kill(report):
            if report.round >= 10 and not killed:
                placements = groups[0].worker_placements()
                assert len({placement.node for placement in placements}) == 2
                killed.append(placements[1].pid)
                os.kill(killed[0], signal.SIGKILL)

        def make_player(job):
            return ray_workers.cluster_player(job, two_nodes, on_recovery=recoveries.append, on_start=groups.append)

        return train("mtl-a3c", 1, threads, make_player=make_player, progress=kill)

    trained = train_and_kill(0)
    assert trained.digest == single("mtl-a3c", 1).digest
    assert trained.points == single("mtl-a3c", 1).points
    assert train_and_kill(2).assessed[-1].round == 28
    assert len(recoveries) == 2
    assert all(re.fullmatch(r"worker 1|a worker of the cluster \(\w+\)", loss.who) for loss in recoveries)


def test_the_command_spreads_the_agents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With workers in this process instead of Ray's; up to the export, which is as without a cluster."""
    called, trained = [], []

    @contextmanager
    def cluster_player(job, address, *, on_recovery, on_start):
        called.append((job.settings.agents, address))
        yield Coordinator(LocalWorkerGroup(job, {60: 1}), job, on_recovery, sleep=lambda _: None).play

    def stop(result, *_):
        trained.append(result)
        raise UserError("that will do")

    monkeypatch.setattr(ray_workers, "cluster_player", cluster_player)
    monkeypatch.setattr(export, "export_best", stop)
    monkeypatch.setitem(cdo_dsac.PRESETS, "quick", replace(SMALL, agents=2))
    small = ("slots=6", "tasks_per_slot=12", "arrivals.mean=0.6", "arrivals.variance=0.06", "links.placements=4")
    words = ["train", "cdo-dsac", "--out", str(tmp_path), "--cluster", "--seeds", "2"]
    done = CliRunner().invoke(app, words + [word for change in small for word in ("--set", change)])
    assert str(done.exception) == "that will do"
    assert called == [(2, None)]
    assert re.search(r"agent 1 was lost and replaced within \S+ s; \S+ s of training were played again", done.output)
    assert len(trained[0].modules) == 2
    assert json.loads((tmp_path / "curves.json").read_text())["assessed"][-1]["round"] == SMALL.rounds


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "address 127.0.0.1:9: no Ray head answers there; `ray start --head` starts one"),
        ("head", "address 'head': it has no port; expected host:port such as"),
        ("ray://10.0.0.5:10001", "address 'ray://10.0.0.5:10001': it is a URL; leave out all but host and port"),
    ],
)
def test_an_address_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, message: str):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_workers, "CONNECT_TIMEOUT_S", 0.5)
    began_s = time.monotonic()
    with pytest.raises(TrainingError, match=re.escape(message)) as caught, ray_workers.cluster_player(job(), address):
        pass
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began_s < 60, "Ray itself would try for minutes"


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(TrainingError, match=r"needs Ray: pip install '\.\[cluster\]'"),
        ray_workers.cluster_player(job()),
    ):
        pass


def test_what_has_no_agents_is_not_spread(tmp_path: Path):
    words = ["train", "ddpg", "--cluster", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert "ddpg has no agents or workers to put on a cluster; schemes that have: mtl-a3c, a3c, cdo-dsac" in str(
        done.exception
    )

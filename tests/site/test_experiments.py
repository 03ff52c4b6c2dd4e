"""The experiments with a site run, in their shortest form, and count what they should."""

import json
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.paths import ROOT
from tests.patience import wait_until

from coinfer.site.messages import Batch, Decision
from coinfer.site.store import ExperienceStore

FOLDER = ROOT / "experiments" / "site"
WAIT_S = 120.0
TINY = ("--models", "resnet32", "--devices", "2", "--edge-slowdowns", "20", "40", "--device-slowdown", "200")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def test_what_is_missing_in_the_log_and_what_is_there_twice_is_counted(tmp_path: Path, scripts: None):
    from nothing_lost import accounts

    store = ExperienceStore(tmp_path / "log")
    traces = [f"{n:032x}" for n in (1, 2, 2)]
    for epoch, trace in enumerate(traces):
        told = Decision(
            seq=0, at_s=1e9, model="m", policy="p", server=0, executed_on="e:1", latency_s=0.1,
            traceparent=f"00-{trace}-{1:016x}-01",
        )  # fmt: skip
        store.put("camera", Batch(epoch=epoch, records=[told])).result(WAIT_S)
        dispatched = told.model_copy(update={"group": 1})
        store.put("edge-1", Batch(epoch=epoch, records=[dispatched])).result(WAIT_S)
    store.close()
    rows = [{"trace": f"{n:032x}"} for n in (1, 2, 3)]
    assert accounts(rows, tmp_path / "log") == {"not in the log": 1, "answered twice": 1, "counted twice": 0}


def test_nothing_passes_a_cut_network_and_all_of_it_passes_later(scripts: None):
    from proxy import Proxy

    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = bytearray()

        def listen() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(100):
                    heard.extend(data)

        listener = threading.Thread(target=listen)
        listener.start()
        with Proxy(f"127.0.0.1:{server.getsockname()[1]}") as network:
            with socket.create_connection(network.address.rsplit(":", 1)) as client:
                client.sendall(b"before ")
                wait_until(lambda: heard == b"before ", WAIT_S, "it passes")
                with network.cut():
                    client.sendall(b"after")
                    assert heard == b"before "
                wait_until(lambda: heard == b"before after", WAIT_S, "it passes later")
            listener.join(WAIT_S)


def test_schemes_are_compared_within_rounds(scripts: None):
    from crowd import compared, measures

    rows = [{"latency_s": t, "in_time": t < 3, "by": "e:1" if t > 1 else "device", "failed": False} for t in (1, 2, 3)]
    first = measures(rows)
    assert (first["mean_s"], first["in_time"], first["on_device"]) == (2.0, 0.6667, 0.3333)
    slower = [{**first, "mean_s": 3.0}, {**first, "mean_s": 3.2}]
    found = compared({"a": [first, first], "b": slower}, "a")
    assert found["b"]["mean relative to a"][0] == 0.55
    assert found["a"]["mean relative to a"] == [0.0, 0.0]


def test_the_simulator_and_the_site_are_compared_by_policy(scripts: None):
    from truth import compare, summarise

    measured = {"a": [1.0, 1.2, 1.1], "b": [1.9, 2.1, 2.0], "c": [2.2, 1.95, 1.91]}
    found = compare(measured, {"a": [1.1, 1.32, 1.21], "b": [2.0, 2.0, 2.0], "c": [1.5, 1.5, 1.5]})
    assert found["policies"]["a"]["error"] == 0.1
    assert found["policies"]["c"]["error"] == -0.2574
    assert found["told_apart"] == found["told_apart_in_same_order"] == 2  # b and c differ by chance
    assert not found["same_order"]
    wrong = compare(measured, {"a": [3.0] * 3, "b": [2.0] * 3, "c": [4.0] * 3})
    assert (wrong["told_apart"], wrong["told_apart_in_same_order"]) == (2, 1)
    whole = summarise({"0.6": found, "0.8": found})
    assert whole == {"median_error": 0.1, "same_order": "0 of 2", "told_apart": 4, "told_apart_in_same_order": 4}


@pytest.mark.parametrize("by_demand", [False, True])
def test_the_model_of_servers_that_load_is_a_queue_where_all_is_in_memory(scripts: None, by_demand: bool):
    from serving import moments
    from serving_model import World

    service_s, asked = 0.05, moments(14.0, 6.0, 3, 1, 2.0, 0)
    assert {one.network for one in asked} == {0, 1, 2}
    assert all(later.at_s > one.at_s for one, later in pairwise(asked))
    free_s, spent_s = 0.0, list[tuple[bool, float]]()
    for one in asked:
        free_s = max(free_s, one.at_s) + service_s
        spent_s.append((one.at_s >= 1.0, free_s - one.at_s))
    expected = [latency_s for counts, latency_s in spent_s if counts]
    world = World([service_s], 0.2, 3, 1, 3)
    assert world.mean_s(asked, 1.0, by_demand=by_demand) == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_the_model_pays_for_loads_and_demand_greedy_for_fewer(scripts: None):
    from serving import Asked
    from serving_model import World

    alternating = [Asked(0.5 * n, n % 2, 0) for n in range(40)]
    assert World([0.05], 0.2, 2, 1, 2).mean_s(alternating, 0.0, by_demand=True) == pytest.approx(0.05, abs=1e-4)
    for by_demand in (False, True):  # nothing to decide: each request evicts the network of the next one
        found = World([0.05], 0.2, 2, 1, 1).mean_s(alternating, 0.6, by_demand=by_demand)
        assert found == pytest.approx(0.25, abs=1e-4)
    two = World([0.05, 0.05], 0.2, 2, 1, 1)
    assert two.mean_s(alternating, 2.0, by_demand=True) == pytest.approx(0.05, abs=1e-4)  # a server for each


def test_records_name_no_place_of_the_machine_that_made_them(scripts: None):
    from worth_it import options, settings_of

    settings = settings_of(options().parse_args(["--output", "/somewhere/record.json", "--policy", "learned"]))
    assert settings["policy"] == "learned"
    assert "/somewhere" not in str(settings)
    records = [*(FOLDER / "results").glob("*.json")]
    assert records
    for path in records:
        values = json.loads(path.read_text())["settings"].values()
        assert not [value for value in values if str(value).startswith("/")], path.name


def test_requests_come_in_bursts_as_often_as_without(scripts: None):
    from crowd import _with_bursts

    rng = np.random.default_rng(1)
    evenly_s = np.cumsum(rng.exponential(0.05, 40_000))
    times_s = _with_bursts(evenly_s, 3.0, rng)
    counts = np.bincount(times_s[times_s < 1200].astype(int))
    assert (np.diff(times_s) > 0).all()
    assert counts.mean() == pytest.approx(20.0, rel=0.2)
    assert counts.std() > 2 * np.sqrt(20.0)  # that of requests that come evenly is once as much


def test_what_passes_a_slow_network_comes_later_and_in_order(scripts: None):
    from proxy import Proxy

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(f"127.0.0.1:{server.getsockname()[1]}", 0.3) as slow,
    ):
        host, port = slow.address.split(":")
        with socket.create_connection((host, int(port)), WAIT_S) as sender:
            connection, _ = server.accept()
            connection.settimeout(WAIT_S)
            began_s, parts, heard = time.monotonic(), [b"%05d" % n * 10_000 for n in range(20)], bytearray()
            for part in parts:
                sender.sendall(part)
                time.sleep(0.01)
            sender.shutdown(socket.SHUT_WR)  # what is under way comes, though nothing follows
            with connection:
                while data := connection.recv(65536):
                    heard += data
                    assert time.monotonic() - began_s >= 0.3
            assert bytes(heard) == b"".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("worth_it", (*TINY, "--rounds", "1", "--round-s", "2", "--loads", "0.5")),
        ("truth", (*TINY, "--rounds", "1", "--round-s", "12", "--loads", "0.6")),
        ("learns", (*TINY, "--rounds", "1", "--round-s", "4", "--steps", "2", "--simulated", "4", "--updates", "2",
                    "--models", "resnet32", "alexnet-exits")),
        ("nothing_lost", (*TINY, "--kills", "1", "--cut-s", "2", "--full-s", "2", "--swaps", "2", "--files", "2")),
        ("start_orders", ("--rounds", "1", "--delay-s", "0.1")),
        ("serving", ("--network", "alexnet-cifar", "--networks", "3", "--fit", "1", "--batch", "1",
                     "--edge-slowdowns", "20", "30", "--rounds", "1", "--round-s", "3")),
    ],
)  # fmt: skip
def test_an_experiment_runs(tmp_path: Path, script: str, options: tuple[str, ...]):
    record = tmp_path / "record.json"
    command = [sys.executable, str(FOLDER / f"{script}.py"), *options, "--output", str(record)]
    subprocess.run(command, check=True, timeout=1800)
    found = json.loads(record.read_text())
    assert {"settings", "machine", "load_average"} <= found.keys()
    if script == "serving":
        assert found["decided"]["demand-greedy"]["demand-greedy"] > 0
        assert set(found["decided"]["sequential greedy"]) == {"sequential greedy"}
    if script == "nothing_lost":
        for kind, counts in found["faults"].items():
            assert counts["requests"] > 0, kind
            assert not counts["lost"], kind
            assert not counts.get("not in the log"), kind
            assert not counts.get("counted twice"), kind

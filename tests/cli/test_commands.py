"""The `coinfer` command as a user types it: what it prints, writes and says of mistakes."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from tests.e2e.sites import Edge, edges
from tests.forked import run_command
from tests.patience import one_round_right
from tests.tables import analytic_table

from coinfer.cli import main
from coinfer.graph.zoo import networks
from coinfer.profile.table import ProfileTable
from coinfer.runtime.edge.server import EdgeSettings
from coinfer.runtime.executor import Executor
from coinfer.runtime.gateway.server import GatewaySettings
from coinfer.runtime.images import load_images, preprocess
from coinfer.units import MESSAGE_BYTES, MIB

MODEL = "alexnet-cifar"
GRAPH = networks.build(MODEL)
PHOTOS = dict(load_images())
SCHEMES = ["planner", "device only", "server only", "fixed best cut", "best fixed choice"]
TRACE_HEADING = "trace_id,time_s,throughput_bytes_per_s\n"


class Shell:
    """A folder to work in, with its own cache, so that nothing of this machine's user is read or written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "200", "NO_COLOR": "1"}

    def __call__(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = run_command(arguments, self.folder, self._environment)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "photos").mkdir()
    for name, pixels in PHOTOS.items():
        Image.fromarray(pixels).save((folder / "photos" / name).with_suffix(".png"))
    return Shell(folder)


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with edges([MODEL], [()]) as (running,):
        yield running


def rows(text: str) -> list[list[str]]:
    """Cells of all tables in the text, headings included."""
    lines = [re.split("[│┃]", line) for line in text.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def exact_classes() -> dict[str, int]:
    assert GRAPH.image is not None
    executor = Executor(GRAPH)
    outputs = {
        name: executor.run({GRAPH.inputs[0]: preprocess(pixels, GRAPH.image)})[0][GRAPH.outputs[0]]
        for name, pixels in PHOTOS.items()
    }
    return {Path(name).stem: int(found.argmax()) for name, found in outputs.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- help


@pytest.mark.parametrize(
    ("command", "units"),
    [
        ("profile", ["milliseconds", "kilobytes", "seconds and bits"]),
        ("plan", ["Mbit/s", "milliseconds", "10^6 bits per second"]),
        ("edge", ["times slower"]),
        ("infer", ["milliseconds", "bits per element"]),
        ("demo", ["milliseconds", "Seconds", "throughput_bytes_per_s"]),
    ],
)
def test_help_explains_units_and_shows_an_example_that_parses(shell: Shell, command: str, units: list[str]):
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", shell(command, "--help").stdout).split())
    for unit in units:
        assert unit.lower() in said.lower()
    example = re.search(rf"Example: coinfer {command} (.*?) Arguments|Example: coinfer {command} (.*?) Options", said)
    assert example
    for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", example[1] or example[2]):
        assert f"{option} " in said.split("Options", 1)[1], option


def test_the_bare_command_lists_its_commands(shell: Shell):
    said = shell("--help").stdout
    assert all(re.search(rf"\b{command}\b", said) for command in ("profile", "plan", "edge", "infer", "demo"))


# --- profile, plan, infer


def test_profile_saves_a_table_that_plan_reads(shell: Shell):
    said = shell("profile", MODEL, "-o", "table.json").stdout
    table = ProfileTable.load(shell.folder / "table.json")
    table.check(GRAPH)
    cuts = [cut.tensors for cut in GRAPH.useful_cuts()]
    shown = [row for row in rows(said) if re.fullmatch(r"[\d.]+", row[1])]
    assert len(shown) == len(cuts)
    columns = np.array([[float(cell) for cell in row[1:5]] for row in shown]).T
    blocks_ms, spreads_ms, heads_ms, tails_ms = columns
    assert sum(blocks_ms) == pytest.approx(sum(table.op_s) * 1e3, abs=0.06)
    assert sum(spreads_ms) == pytest.approx(sum(table.op_spread_s) * 1e3, abs=0.06)
    np.testing.assert_allclose(heads_ms, table.head_s(GRAPH, cuts) * 1e3, atol=0.006)
    np.testing.assert_allclose(tails_ms, table.tail_s(GRAPH, cuts) * 1e3, atol=0.006)
    told = shell("plan", MODEL, "--profile", "table.json").stdout
    assert GRAPH.fingerprint[:12] in told


def test_plan_counts_a_picture_as_jpeg(shell: Shell):
    analytic_table(GRAPH, whole_s=5e-4).save(shell.folder / "fixed.json")
    plain, coded = (
        rows(shell("plan", MODEL, "--profile", "fixed.json", *more).stdout) for more in ((), ("--jpeg", "50"))
    )
    (whole,), (small,) = (
        [row for row in found if row[0].startswith("(input)") and len(row) == 9] for found in (plain, coded)
    )
    assert float(small[2]) < 0.5 * float(whole[2])
    assert (whole[-1], small[-1]) == ("exact", "of a JPEG")


@pytest.mark.parametrize("rate", [0.5, 8.0, 300.0])
def test_plan_marks_the_least_sum_of_its_parts_and_says_the_same_for_every_rate(shell: Shell, rate: float):
    analytic_table(GRAPH, whole_s=5e-4).save(shell.folder / "fixed.json")
    arguments = (
        "--profile",
        "fixed.json",
        "--device",
        "raspberry-pi-4",
        "--uplink-mbit-s",
        str(rate),
        "--wait-ms",
        "2",
    )
    few = {row[0] for row in rows(shell("plan", MODEL, *arguments).stdout) if len(row) == 9}
    found = rows(shell("plan", MODEL, *arguments, "--all").stdout)
    cuts = [row for row in found if len(row) == 9 and row[0] != "cut after"]
    assert len(cuts) == len(GRAPH.useful_cuts())
    assert {row[0] for row in cuts if row[0].endswith("*") or row[0][0] == "("} <= few < {row[0] for row in found}
    for row in cuts:
        device, upload, wait, server, total = map(float, row[3:8])
        assert device + upload + wait + server == pytest.approx(total, abs=0.21)
        if row[2] != "-":
            assert upload == pytest.approx(float(row[2]) * 8 / rate, rel=0.05, abs=0.05 + 0.4 / rate)
    ranges = [row for row in found if len(row) == 4 and row[0] != "from Mbit/s"]
    low = [float(row[0]) for row in ranges]
    assert low == sorted(low)
    chosen = [row for row in ranges if float(row[0]) <= rate < (np.inf if row[1] == "any" else float(row[1]))]
    assert len(chosen) == 1
    assert [row[0] for row in cuts if row[0].endswith(" *")] == [f"{chosen[0][2]} *"]
    totals = {row[0].removesuffix(" *"): float(row[7]) for row in cuts}
    assert totals[chosen[0][2]] == pytest.approx(min(totals.values()), abs=0.11)


def test_infer_answers_alike_alone_with_a_server_and_with_an_unreachable_one(shell: Shell, edge: Edge):
    with socket.socket() as bound:  # nobody listens there
        bound.bind(("127.0.0.1", 0))
        infer_all_ways(shell, edge, f"127.0.0.1:{bound.getsockname()[1]}")


def infer_all_ways(shell: Shell, edge: Edge, nobody: str) -> None:
    ways = {"alone": [], "server": ["--servers", edge.address], "nobody": ["--servers", nobody]}
    for name, servers in ways.items():
        told = shell("infer", MODEL, "photos", "--slowdown", "300", *servers).stderr.strip().splitlines()
        assert [line.split()[:5] for line in told] == (
            [["server", nobody, "does", "not", "answer"]] * (name == "nobody")
        )
        more = ["--slowdown", "300", "--bits", "32", *servers]
        here = {"device", edge.address} if name == "server" else {"device"}
        for record in answered_rightly(shell, *more):
            outcome = record["outcome"]
            parts = [outcome[part] for part in ("device_s", "upload_s", "queue_s", "server_s", "download_s")]
            assert sum(parts) == pytest.approx(outcome["latency_s"])
            assert record["executed_on"] in here
            assert record["sent_bits"] > 0 or record["executed_on"] == "device"
            assert record["sent_bits"] == 0 or name == "server"
    one_round_right(lambda: all_there(shell, edge, "--bits", "32"))


def answered_rightly(shell: Shell, *options: str) -> list[dict[str, Any]]:
    """The records of all photos."""
    (shell.folder / "answers.jsonl").unlink(missing_ok=True)
    said = shell("infer", MODEL, "photos", "-o", "answers.jsonl", *options).stdout
    classes = {Path(row[0]).stem: int(row[1]) for row in rows(said) if row[0].endswith(".png")}
    assert classes == exact_classes()
    records = read_lines(shell.folder / "answers.jsonl")
    assert [record["request"] for record in records] == list(range(len(PHOTOS)))
    return records


def all_there(shell: Shell, edge: Edge, *options: str) -> list[str]:
    """Complaints about pictures that the edge did not answer, though it is much faster. On a busy machine the device
    may overtake it."""
    records = answered_rightly(shell, "--servers", edge.address, "--slowdown", "300", *options)
    where = [record["executed_on"] for record in records]
    return [] if set(where) == {edge.address} else [f"answered by {where}"]


def test_a_trained_policy_decides(shell: Shell, edge: Edge):
    def play() -> list[str]:
        records = answered_rightly(shell, "--servers", edge.address, "--slowdown", "300", "--policy", "learned")
        where = {record["executed_on"] for record in records}
        return [] if edge.address in where else [f"answered by {where}"]

    one_round_right(play)


def test_one_broken_picture_does_not_stop_the_others(shell: Shell):
    (shell.folder / "broken.png").write_text("not a picture")
    arguments = ("photos", "broken.png", "photos", "-o", "some.jsonl")
    done = shell("infer", MODEL, *arguments, status=2)
    total = 2 * len(PHOTOS)
    assert [record["request"] for record in read_lines(shell.folder / "some.jsonl")] == [
        i for i in range(total + 1) if i != len(PHOTOS)
    ]
    assert len([row for row in rows(done.stdout) if row[0].endswith(".png")]) == total
    assert "not answered: broken.png: not a readable picture" in done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: 1 of {total + 1} pictures were not answered; the first: broken.png")


def test_records_name_who_was_to_decide(shell: Shell):
    assert {record["scheme"] for record in answered_rightly(shell)} == {"planner"}
    assert {record["scheme"] for record in answered_rightly(shell, "--policy", "learned")} == {"learned"}


def test_a_file_for_records_that_cannot_be_written_is_found_before_anything_runs(shell: Shell):
    said = shell("infer", MODEL, "photos", "-o", "photos", status=2).stderr
    assert said == "error: photos: Is a directory\n"
    (shell.folder / "file").write_text("")
    said = shell("demo", "--model", MODEL, "--runs", "file/runs", status=2).stderr
    assert said.startswith("error: file/runs/demo-")
    assert said.endswith("Not a directory\n")


def test_infer_says_when_pictures_miss_their_deadline(shell: Shell):
    shell("infer", MODEL, "photos", "--slowdown", "300", "--deadline-ms", "1", "-o", "late.jsonl")
    assert not any(record["outcome"]["in_time"] for record in read_lines(shell.folder / "late.jsonl"))


def test_demo_compares_all_schemes_in_every_phase(shell: Shell):
    """Two rounds of each phase, on a device that is not slowed much: what is compared, not who wins."""
    said = shell("demo", "--model", MODEL, "--rounds", "2", "--device-slowdown", "60", "--deadline-ms", "50").stdout
    (folder,) = (shell.folder / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    records = read_lines(folder / "requests.jsonl")
    assert summary["settings"]["model"] == MODEL
    assert [scheme["scheme"] for scheme in summary["schemes"]] == SCHEMES
    phases = len(summary["phases"])
    for scheme in summary["schemes"]:
        mine = [record for record in records if record["scheme"] == scheme["scheme"]]
        assert [record["request"] for record in mine] == list(range(2 * phases))
        latency_s = np.array([record["outcome"]["latency_s"] for record in mine])
        assert scheme["mean_s"] == pytest.approx(latency_s.mean())
        assert scheme["by_phase_s"] == pytest.approx(latency_s.reshape(phases, 2).mean(axis=1))
        assert scheme["in_time"] == pytest.approx(np.mean(latency_s <= 0.05))
        assert scheme["sent_bytes"] == pytest.approx(np.mean([record["sent_bits"] for record in mine]) / 8)
        assert scheme["right"] == 1.0, "classes of the whole network, exactly"
        assert any(row[0] == scheme["scheme"] and f"{scheme['in_time']:.0%}" in row for row in rows(said))
    by_name = {scheme["scheme"]: scheme for scheme in summary["schemes"]}
    assert by_name["device only"]["sent_bytes"] == 0 < by_name["server only"]["sent_bytes"]
    assert by_name["device only"]["energy_j"] > by_name["server only"]["energy_j"] / 100 > 0
    assert {record["executed_on"] for record in records if record["scheme"] == "device only"} == {"device"}
    assert all(phase["name"] in said for phase in summary["phases"])
    with Image.open(folder / "comparison.png") as plot:
        plot.load()
        assert min(plot.size) > 300
        assert len(plot.convert("RGB").getcolors(1 << 24) or ()) > 10, "something is drawn"


# --- mistakes


@pytest.fixture(scope="module")
def mistakes(shell: Shell) -> Path:
    """Files that are not what they should be."""
    folder = shell.folder
    (folder / "text.onnx").write_text("hello\n")
    (folder / "folder.onnx").mkdir()
    (folder / "junk.onnx").write_text("hello\n")
    (folder / "junk.json").write_text('{"format": 1}\n')
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("not a picture\n")
    (folder / "text.json").write_text("not a table\n")
    (folder / "fields.json").write_text('{"model": "x"}\n')
    (folder / "heading.csv").write_text("when,rate\n0,1\n")
    (folder / "negative.csv").write_text(f"{TRACE_HEADING}a,0,1000\na,1,-5\n")
    (folder / "backwards.csv").write_text(f"{TRACE_HEADING}a,5,1000\na,1,1000\n")
    (folder / "nothing.csv").write_text(TRACE_HEADING)
    (folder / "one.csv").write_text(f"{TRACE_HEADING}a,0,100000\na,1,100000\n")
    shell("profile", "nin", "-o", "other.json")
    return folder


INFER = ("infer", MODEL, "photos")
DEMO = ("demo", "--model", MODEL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("infer", "missing.onnx", "photos"), "no network 'missing.onnx': neither a file nor one of the zoo: alexnet"),
        (("infer", "text.onnx", "photos"), "text.onnx: not an ONNX model"),
        (("edge", "folder.onnx"), "folder.onnx: not a regular file"),
        (("edge", "text.onnx"), "text.onnx: not an ONNX model"),
        (("edge", MODEL, MODEL), f"two models are called '{MODEL}'"),
        (("edge", MODEL, "--host", "300.1.2.3"), "host '300.1.2.3': this host is no IPv4 address"),
        (("edge", MODEL, "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:8001: no such address here"),
        (("edge", MODEL, "--host", "[2001:db8::1]"), "cannot listen on [2001:db8::1]:8001: no such address here"),
        (("edge", MODEL, "--peers", "::1:8001"), "--peers '::1:8001': an IPv6 address stands in brackets"),
        (("edge", MODEL, "--provider", "magic"), "provider is 'magic', which is not installed here; there are cpu"),
        (("infer", MODEL, "nowhere.jpg"), "nowhere.jpg: no such picture or folder"),
        (("infer", MODEL, "text.jpg"), "text.jpg: not a readable picture"),
        (("infer", MODEL, "empty"), "empty: no picture in it; expected files that end in .jpg"),
        ((*INFER, "--servers", "127.0.0.1:99999"), "--servers '127.0.0.1:99999': port 99999 is not from 1 to 65535"),
        ((*INFER, "--servers", "localhost"), "--servers 'localhost': it has no port; expected host:port such as"),
        ((*INFER, "--bits", "7"), "--bits '7': expected some of 32, 16, 12, 8, 4"),
        ((*INFER, "--bits", ""), "--bits ''"),
        ((*INFER, "--bits", "²"), "--bits '²': expected some of 32, 16, 12, 8, 4"),
        ((*INFER, "--profile", "missing.json"), "missing.json: cannot read this profile: No such file"),
        ((*INFER, "--profile", "text.json"), "text.json: no valid profile"),
        ((*INFER, "--profile", "fields.json"), "fields.json: no valid profile: fingerprint"),
        ((*INFER, "--profile", "other.json"), "this profile was measured on network 'nin'"),
        (("plan", MODEL, "--uplink-mbit-s", "0"), "--uplink-mbit-s 0: expected a rate above 0"),
        (("plan", MODEL, "--uplink-mbit-s", "nan"), "--uplink-mbit-s nan"),
        (("plan", MODEL, "--device", "abacus"), "no device class 'abacus'; there are raspberry-pi"),
        (("profile", MODEL, "--images", "empty"), "empty: no picture in it"),
        (("profile", MODEL, "--images", "nowhere"), "nowhere: not a folder"),
        (("profile", MODEL, "-o", "nowhere/table.json"), "nowhere/table.json"),
        ((*DEMO, "--images", "empty"), "empty: no picture in it"),
        ((*DEMO, "--images", "text.jpg"), "text.jpg: a single picture; give the folder that holds it"),
        ((*DEMO, "--trace", "missing.csv"), "missing.csv: no such file"),
        ((*DEMO, "--trace", "heading.csv"), "heading.csv:1: columns are 'when,rate', expected 'trace_id,time_s"),
        ((*DEMO, "--trace", "negative.csv"), "negative.csv:3: throughput_bytes_per_s is '-5'"),
        ((*DEMO, "--trace", "backwards.csv"), "backwards.csv:3: time_s 1 of 'a' does not come after 5"),
        ((*DEMO, "--trace", "nothing.csv"), "nothing.csv: holds no trace"),
        ((*DEMO, "--trace", "one.csv:b"), "one.csv: no trace 'b'; it holds a"),
        ((*DEMO, "--edge-slowdowns", "2,fast"), "--edge-slowdowns '2,fast': expected numbers of at least 1"),
        (("demo", "--model", "missing"), "no network 'missing'"),
        ((*INFER, "--policy", "missing.onnx"), "missing.onnx: no such file"),
        ((*INFER, "--policy", "one.csv"), "one.csv: expected a file that ends in .onnx"),
        ((*INFER, "--policy", "junk.onnx"), "junk.json: not the side-car of a policy, 'kind' is missing"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    shell: Shell, mistakes: Path, arguments: Sequence[str], message: str
) -> None:
    done = shell(*arguments, status=2)
    (line,) = [line for line in done.stderr.strip().splitlines() if " INFO coinfer.edge " not in line]
    assert line.startswith("error: ")
    assert message in line
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*INFER, "--deadline-ms", "-5"), "--deadline-ms"),
        ((*INFER, "--slowdown", "0.5"), "--slowdown"),
        ((*INFER, "--threads", "100000"), "--threads"),
        ((*INFER, "--jpeg", "500"), "--jpeg"),
        (("edge", MODEL, "--grpc-port", "70000"), "--grpc-port"),
        (("edge", MODEL, "--queue", "-1"), "--queue"),
        (("edge",), "no model to serve"),
        (("infer", MODEL, "photos", "--speed", "9"), "--speed"),
        (("teleport",), "teleport"),
    ],
)
def test_a_mistyped_option_is_named(shell: Shell, arguments: Sequence[str], message: str) -> None:
    done = shell(*arguments, status=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_port_that_is_taken_is_named(shell: Shell):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options in (("--grpc-port", port, "--http-port", "-1"), ("--grpc-port", "0", "--http-port", port)):
            line = shell("edge", MODEL, *options, status=2).stderr.strip().splitlines()[-1]
            assert line.startswith(f"error: cannot listen on 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("redirected", "environment"), [(">&-", {}), ("", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})]
)
def test_a_closed_or_plain_output_is_no_failure(redirected: str, environment: dict[str, str]):
    line = f"{sys.executable} -m coinfer plan {MODEL} {redirected}"
    done = subprocess.run(["sh", "-c", line], env={**os.environ, **environment}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# --- inputs and sizes to measure


def test_plan_and_profile_take_samples_and_sizes(shell: Shell):
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["a"]),
        onnx.helper.make_node("Softmax", ["a"], ["b"]),
        onnx.helper.make_node("ReduceMean", ["b"], ["y"], axes=[1]),
    ]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 12])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    table = onnx.numpy_helper.from_array(np.ones((5, 16), np.float32), "table")
    made = onnx.helper.make_graph(nodes, "tokens", [ids], [y], [table])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(made, opset_imports=opset, ir_version=8), shell.folder / "tokens.onnx")
    np.save(shell.folder / "ids.npy", np.full((2, 12), 4))
    np.save(shell.folder / "wrong.npy", np.full((2, 7), 4))
    shell("profile", "tokens.onnx", "--samples", "ids.npy", "-o", "tokens.json")
    told = shell("plan", "tokens.onnx", "--profile", "tokens.json", "--size", "N=32").stdout
    assert "measured at N = 1, 2, 8; times of other sizes are interpolated" in told
    (sent,) = [float(row[2]) for row in rows(told) if row[0].startswith("(input)") and len(row) == 9]
    table = ProfileTable.load(shell.folder / "tokens.json")
    beside = sent - 32 * table.payload_bits["ids"][32] / 8e3 - 32 * 16 * 4 / 1e3
    assert 0.05 < beside < 0.5, "request and reply beside the payload and the answer, in kB"
    wrong = shell("profile", "tokens.onnx", "--samples", "wrong.npy", status=2)
    assert "wrong.npy: tokens: input 'ids' of sample 0 is int64 [2, 7], expected int64 [1, 12]" in wrong.stderr
    assert "--size 'N': expected AXIS=SIZE" in shell("plan", "tokens.onnx", "--size", "N", status=2).stderr


@pytest.mark.parametrize("command", ["edge", "gateway"])
def test_the_largest_message_is_a_setting_of_servers(command: str, monkeypatch: pytest.MonkeyPatch):
    settings: list[EdgeSettings | GatewaySettings] = []
    monkeypatch.setattr(f"coinfer.runtime.{command}.server.run_{command}", lambda given, _: settings.append(given) or 0)
    main.app([command, "resnet32", "--limit-mib", "2"], standalone_mode=False)
    main.app([command, "resnet32"], standalone_mode=False)
    assert [one.limit_bytes for one in settings] == [2 * MIB, MESSAGE_BYTES]

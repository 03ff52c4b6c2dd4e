"""The log of experience: exactly once, whatever is sent twice, killed or full."""

import math
import sqlite3
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import wait_until

from coinfer.errors import UserError
from coinfer.site.agent.observed import complete, observation_of, observed
from coinfer.site.agent.spool import Spool, next_epoch
from coinfer.site.export import write_export
from coinfer.site.messages import Batch, Decision, Observed
from coinfer.site.store import MIGRATIONS, ExperienceStore, StoreError, read_experience
from coinfer.types import OffloadObservation, fields_of

WAIT_S = 60.0


def decision(seq: int = 0, cut: str = "") -> Decision:
    return Decision(seq=seq, at_s=1e9, model="m", policy="p", server=0, executed_on="e:1", latency_s=0.25, cut=cut)


def batch(*numbers: int, epoch: int = 1) -> Batch:
    return Batch(epoch=epoch, records=[decision(seq) for seq in numbers])


def stored(path: Path) -> list[tuple[object, object, object]]:
    return [(row["node"], row["epoch"], row["seq"]) for row in read_experience(path)]


def test_what_is_sent_twice_counts_once(tmp_path: Path):
    store = ExperienceStore(tmp_path / "log")
    marks = [store.put("a", batch(*part)) for part in ((0, 1), (0, 1), (1, 2, 3))]
    other = [store.put("b", batch(0)), store.put("a", batch(0, epoch=2))]
    assert [mark.result(WAIT_S) for mark in (*marks, *other)] == [1, 1, 3, 0, 0]
    store.close()
    assert stored(tmp_path / "log") == [("a", 1, 0), ("a", 1, 1), ("a", 1, 2), ("a", 1, 3), ("b", 1, 0), ("a", 2, 0)]
    assert next(read_experience(tmp_path / "log"))["reward"] == -0.25
    again = ExperienceStore(tmp_path / "log")
    assert again.put("a", batch(2, 3)).result(WAIT_S) == 3
    assert again.stored == 6
    again.close()


def test_a_full_disk_delays_and_loses_nothing(tmp_path: Path, caplog):
    store = ExperienceStore(tmp_path / "log")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    large = Batch(epoch=1, records=[decision(seq, "x" * 256) for seq in range(200)])
    waiting: Future[int] = store.put("a", large)
    wait_until(lambda: store.problem, WAIT_S, "it has noticed")
    assert not waiting.done()
    store._db.execute(f"PRAGMA max_page_count = {pages * 1000}")
    assert waiting.result(WAIT_S) == 199
    assert not store.problem
    store.close()
    assert len(stored(tmp_path / "log")) == 200
    assert caplog.text.count("experience cannot be stored") == 1


def test_the_oldest_go_when_the_file_is_too_large_and_stay_known(tmp_path: Path):
    store = ExperienceStore(tmp_path / "log", limit_bytes=200_000)
    for first in range(0, 2000, 100):
        records = [decision(seq, "x" * 200) for seq in range(first, first + 100)]
        store.put("a", Batch(epoch=1, records=records)).result(WAIT_S)
    assert store.put("a", batch(0, 1)).result(WAIT_S) == 1999  # deleted, but not taken for new
    assert store.stored == 2000
    store.close()
    left = [seq for _, _, seq in stored(tmp_path / "log")]
    assert left == list(range(2000 - len(left), 2000))
    assert 100 < len(left) < 1000
    assert (tmp_path / "log").stat().st_size < 400_000


def test_a_file_of_another_version_is_migrated_or_refused(tmp_path: Path):
    store = ExperienceStore(tmp_path / "log")
    store.put("a", batch(0)).result(WAIT_S)
    store.close()
    newer = (*MIGRATIONS, "ALTER TABLE experience ADD COLUMN place TEXT NOT NULL DEFAULT 'here'")
    ExperienceStore(tmp_path / "log", migrations=newer).close()
    with sqlite3.connect(tmp_path / "log") as db:
        assert db.execute("SELECT seq, place FROM experience").fetchall() == [(0, "here")]
    db.close()
    with pytest.raises(StoreError, match=r"written by a newer coinfer \(schema 2, this one knows 1\)"):
        ExperienceStore(tmp_path / "log")


def test_what_is_no_store_is_named(tmp_path: Path):
    (tmp_path / "text").write_text("no database at all, but long enough to look at " * 10)
    with pytest.raises(StoreError, match="not a store that can be used"):
        ExperienceStore(tmp_path / "text")
    with pytest.raises(StoreError, match="no such file; a controller keeps its experience there"):
        next(read_experience(tmp_path / "none"))


def test_exports_hold_what_was_stored(tmp_path: Path):
    store = ExperienceStore(tmp_path / "log")
    store.put("a", batch(0, 1, 2)).result(WAIT_S)
    store.close()
    assert write_export(tmp_path / "log.csv", read_experience(tmp_path / "log")) == 3
    head, first, *_ = (tmp_path / "log.csv").read_text().splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert (row["node"], row["seq"], row["probability"], row["reward"]) == ("a", "0", "1.0", "-0.25")
    assert write_export(tmp_path / "log.jsonl", read_experience(tmp_path / "log")) == 3
    with pytest.raises(UserError, match=r"ends in \.jsonl, \.csv or \.parquet"):
        write_export(tmp_path / "log.txt", [])


def test_parquet_holds_the_same_with_observations(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    store = ExperienceStore(tmp_path / "log")
    seen = Observed(
        tasks=1, options=2, servers=1, fields={name: [1.5] for name in OffloadObservation._fields}, addresses=["a:1"]
    )
    records = [decision(0).model_copy(update={"observation": seen}), decision(1)]
    store.put("a", Batch(epoch=1, records=records)).result(WAIT_S)
    store.close()
    assert write_export(tmp_path / "log.parquet", read_experience(tmp_path / "log")) == 2
    first, second = parquet.read_table(tmp_path / "log.parquet").to_pylist()
    assert (first["node"], first["seq"], first["reward"], first["in_time"]) == ("a", 0, -0.25, True)
    assert dict(first["observation"].pop("fields")) == seen.fields
    assert first["observation"] == {"tasks": 1, "options": 2, "servers": 1, "addresses": ["a:1"]}
    assert second["observation"] is None


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install '\.\[parquet\]'"):
        write_export(tmp_path / "log.parquet", [])
    assert not (tmp_path / "log.parquet").exists()


# --- the spool of a node


def drain(spool: Spool) -> list[tuple[int, int]]:
    """Takes all that is to be sent, and says which decisions these are."""
    found: list[tuple[int, int]] = []
    while taken := spool.take():
        found += [(taken[0], Decision.model_validate_json(line).seq) for line in taken[1]]
    return found


@settings(max_examples=30)
@given(steps=st.lists(st.sampled_from(["add", "flush", "take", "acknowledge", "rewind", "restart"]), max_size=40))
def test_a_spool_delivers_everything_at_least_once_and_in_order(steps: list[str], tmp_path_factory):
    folder = tmp_path_factory.mktemp("spool")
    epoch, taken, kept = 1, [], set()
    spool = Spool(folder, epoch)
    for step in steps:
        if step == "add":
            spool.add(decision)
        elif step == "restart":
            spool.flush()
            epoch += 1
            spool = Spool(folder, epoch)
        elif step == "acknowledge":
            for last in taken[-1:]:
                spool.acknowledge(*last)
        elif step == "take":
            taken = drain(spool)
            assert taken == sorted(taken)
        else:
            getattr(spool, step)()
        kept |= {*taken}
    spool.flush()
    spool.rewind()
    rest = drain(spool)
    assert rest == sorted(rest)
    sent = kept | {*rest}
    for number in range(1, epoch + 1):
        numbers = sorted(seq for one, seq in sent if one == number)
        assert numbers == list(range(len(numbers)))
    assert len(sent) == steps.count("add")


def test_a_spool_holds_what_it_is_about_to_write(tmp_path: Path):
    spool = Spool(tmp_path, 1)
    seen: list[int] = []

    def make() -> Decision:
        seen.append(spool.held)
        return decision()

    for _ in range(3):
        spool.add(make)
    spool.flush()
    assert min(seen) >= 3 == spool.held


def test_a_full_spool_drops_the_oldest_and_counts_them(tmp_path: Path):
    spool = Spool(tmp_path, 1, limit_bytes=100_000)
    for _ in range(30):
        for _ in range(100):
            spool.add(lambda: decision(cut="x" * 100))
        spool.flush()
    left = drain(spool)
    assert left[-1] == (1, 2999)
    assert len(left) == 3000 - spool.dropped == spool.held < 1000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300_000


def test_what_cannot_be_told_is_dropped_and_counted(tmp_path: Path):
    spool = Spool(tmp_path, 1)
    for latency_s in (0.1, float("nan"), 0.2):
        spool.add(lambda latency_s=latency_s: Decision(**(decision().model_dump() | {"latency_s": latency_s})))
    spool.add(lambda: decision(cut=str(1 / 0)))
    spool.add(decision)
    spool.flush()
    assert drain(spool) == [(1, 0), (1, 1), (1, 2)]
    assert spool.dropped == 2


def test_half_a_line_of_a_killed_node_is_left_out(tmp_path: Path):
    spool = Spool(tmp_path, 1)
    spool.add(decision)
    spool.add(decision)
    spool.flush()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    assert drain(Spool(tmp_path, 2)) == [(1, 0)]


def test_epochs_grow_whatever_the_clock_says(tmp_path: Path):
    assert next_epoch(tmp_path, 2.0) == 2000
    assert next_epoch(tmp_path, 1.0) == 2001
    assert next_epoch(tmp_path, 3.0) == 3000


def test_an_observation_is_told_without_its_usual_fields_and_comes_back_whole():
    usual = {"option_accuracy": np.ones((2, 1)), "deadline_s": np.full(2, np.inf), "uplink_backlog_s": np.zeros((2, 3))}
    sizes = {"K": 2, "O": 1, "N": 3}
    shapes = {
        name: [sizes[one] for one in field.axes if one != "B"] for name, field in fields_of(OffloadObservation).items()
    }
    arrays = {name: np.linspace(0.1234567, 1, math.prod(shape)).reshape(shape) for name, shape in shapes.items()}
    masks = {name: arrays[name] > 0 for name, field in fields_of(OffloadObservation).items() if field.is_mask}
    seen = OffloadObservation(**arrays | masks | usual)
    sent = observed(seen)
    assert not sent.fields.keys() & {*usual, *masks}
    for name, array in observation_of(sent)._asdict().items():  # type: ignore[union-attr]
        np.testing.assert_allclose(array, getattr(seen, name), rtol=1e-5, err_msg=name)
    full = complete(sent.model_dump())["fields"]
    assert full["deadline_s"] == [None, None]  # type: ignore[index]
    assert full["option_accuracy"] == [1.0, 1.0]  # type: ignore[index]

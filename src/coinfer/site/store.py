"""The log of experience: every decision of a site with what came of it, append-only, in one SQLite file.

One thread writes, many batches in one transaction; readers have connections of their own (WAL). A decision counts once:
of each node and epoch the highest stored number is kept, and what does not exceed it is a repetition. When the file
grows beyond its limit the oldest decisions go.
"""

import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.site.messages import Batch, Decision

LIMIT_BYTES = 1 << 30
MAX_BATCHES = 64
"""Batches that are written in one transaction, and that may wait: senders then wait too."""
COMMIT_INTERVAL_S = 0.2
"""Between two transactions: each waits for the disk, so batches that come meanwhile go together."""
RETRY_S = 1.0
"""A batch that cannot be written, because the disk is full, is tried again after this time."""
MIGRATIONS = (
    """
    CREATE TABLE experience (
        id INTEGER PRIMARY KEY, node TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, at_s REAL NOT NULL,
        model TEXT NOT NULL, policy TEXT NOT NULL, probability REAL NOT NULL, option INTEGER NOT NULL,
        server INTEGER NOT NULL, executed_on TEXT NOT NULL, latency_s REAL NOT NULL, reward REAL NOT NULL,
        in_time INTEGER NOT NULL, record TEXT NOT NULL);
    CREATE TABLE stored (
        node TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (node, epoch)) WITHOUT ROWID;
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counters VALUES ('decisions', 0), ('starts', 0);
    """,
)
"""The scripts that bring a file from one version of its schema to the next."""
_INSERT = "INSERT INTO experience VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_log = logging.getLogger("coinfer.site")


class StoreError(UserError):
    """A store that cannot be opened; the message is one line for a person."""


class _Put(NamedTuple):
    node: str
    batch: Batch
    stored: "Future[int]"


class ExperienceStore:
    """Writes the log.

    Args:
        path: of the file; it is created if it is not there, with its folder.
        limit_bytes: of the file.
        migrations: scripts of the schema.

    Raises:
        StoreError: if the file is damaged, newer than this program, or in use by another controller.
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES, migrations: tuple[str, ...] = MIGRATIONS):
        self.path = path
        self.problem = ""
        """Why nothing can be written at present; empty if all is well."""
        self._limit_bytes = limit_bytes
        self._queue: queue.Queue[_Put | None] = queue.Queue(MAX_BATCHES)
        self._closing = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=2)
            _migrate(self._db, path, migrations)
            self._db.execute("UPDATE counters SET value = value + 1 WHERE name = 'starts'")
        except sqlite3.Error as error:
            raise StoreError(f"{path}: not a store that can be used: {error}") from None
        self.stored: int = self._db.execute("SELECT value FROM counters WHERE name = 'decisions'").fetchone()[0]
        """Decisions that were ever stored."""
        self._thread = threading.Thread(target=self._write_loop, name="coinfer-store", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Return true if no batch can be taken at present."""
        return self._queue.full()

    def put(self, node: str, batch: Batch) -> "Future[int]":
        """Store a batch; the future has the highest stored number of its epoch once the batch is on disk.

        Blocks while too many batches wait.

        Args:
            node: name of the sender.
            batch: what it sent; repetitions are ignored.
        """
        future: Future[int] = Future()
        self._queue.put(_Put(node, batch, future))
        return future

    def close(self) -> None:
        """Write what waits, and close the file; what cannot be written is not acknowledged."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        self._db.close()

    def _write_loop(self) -> None:
        due_s = 0.0
        while True:
            first = self._queue.get()
            self._closing.wait(max(due_s - time.monotonic(), 0.0))
            puts = [first] if first is not None else []
            ends = first is None
            while not self._queue.empty() and len(puts) < MAX_BATCHES and not ends:
                put = self._queue.get()
                ends = put is None
                puts += [put] if put is not None else []
            if puts:
                self._write(puts)
                due_s = time.monotonic() + COMMIT_INTERVAL_S
            if ends:
                return

    def _write(self, puts: list[_Put]) -> None:
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                marks = [self._insert(put) for put in puts]
                self._db.execute("COMMIT")
                self.stored = self._db.execute("SELECT value FROM counters WHERE name = 'decisions'").fetchone()[0]
                self._trim()
                break
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if str(error) != self.problem:
                    _log.warning("experience cannot be stored (%s): %s; trying on", self.path, error)
                self.problem = str(error)
                if self._closing.wait(RETRY_S):
                    for put in puts:
                        put.stored.cancel()
                    return
        self.problem = ""
        for put, mark in zip(puts, marks, strict=True):
            put.stored.set_result(mark)

    def _insert(self, put: _Put) -> int:
        key = (put.node, put.batch.epoch)
        row = self._db.execute("SELECT seq FROM stored WHERE node = ? AND epoch = ?", key).fetchone()
        mark = row[0] if row else -1
        new = [record for record in put.batch.records if record.seq > mark]
        if not new:
            return mark
        self._db.executemany(_INSERT, [(*key, *_row(record)) for record in new])
        self._db.execute("INSERT OR REPLACE INTO stored VALUES (?, ?, ?)", (*key, new[-1].seq))
        self._db.execute("UPDATE counters SET value = value + ? WHERE name = 'decisions'", (len(new),))
        return new[-1].seq

    def _trim(self) -> None:
        """Delete the oldest tenth while the file is over its limit."""
        while self._size_bytes() > self._limit_bytes:
            first, last = self._db.execute("SELECT min(id), max(id) FROM experience").fetchone()
            if first is None or last == first:
                return
            self._db.execute("DELETE FROM experience WHERE id <= ?", (first + max((last - first) // 10, 1),))
            self._db.execute("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _size_bytes(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def _row(r: Decision) -> tuple[object, ...]:
    text = r.model_dump_json(exclude_defaults=True)
    action = (r.seq, r.at_s, r.model, r.policy, r.probability, r.option, r.server, r.executed_on)
    return (*action, r.latency_s, r.reward, r.in_time, text)


def _migrate(db: sqlite3.Connection, path: Path, migrations: tuple[str, ...]) -> None:
    """Bring a file to the present version of the schema."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreError(f"{path}: written by a newer coinfer (schema {version}, this one knows {len(migrations)})")
    for number in range(version, len(migrations)):
        db.executescript(f"BEGIN IMMEDIATE; {migrations[number]}; PRAGMA user_version = {number + 1}; COMMIT;")


def newest_experience(path: Path, count: int) -> list[dict[str, object]]:
    """Return the newest decisions of a log, the oldest of them first, as `read_experience` yields them.

    Args:
        path: of the file; a controller may be writing to it.
        count: how many at most.

    Raises:
        StoreError: if there is no such file, or it is no store.
    """
    return list(read_experience(path, last_id(path) - count))


def last_id(path: Path) -> int:
    """Return the number of the newest decision of a log; 0 if it is empty.

    Args:
        path: of the file; a controller may be writing to it.

    Raises:
        StoreError: if there is no such file, or it is no store.
    """
    with _reading(path) as db:
        return db.execute("SELECT max(id) FROM experience").fetchone()[0] or 0


def read_experience(path: Path, after: int = 0, limit: int = -1) -> Iterator[dict[str, object]]:
    """Yield the decisions of a log, the oldest first, each with `id`, `node`, `epoch` and `reward`.

    Args:
        path: of the file; a controller may be writing to it.
        after: only those with a larger `id`.
        limit: how many at most; negative for all.

    Raises:
        StoreError: if there is no such file, or it is no store.
    """
    with _reading(path) as db:
        query = "SELECT id, node, epoch, reward, record FROM experience WHERE id > ? ORDER BY id LIMIT ?"
        for id, node, epoch, reward, record in db.execute(query, (after, limit)):
            yield {"id": id, "node": node, "epoch": epoch, "reward": reward, **json.loads(record)}


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log that a controller may be writing to."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file; a controller keeps its experience there")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            yield db
    except sqlite3.Error as error:
        raise StoreError(f"{path}: not a store of experience: {error}") from None

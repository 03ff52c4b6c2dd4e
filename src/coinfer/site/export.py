"""Experience as a file for other programs."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from coinfer.errors import UserError
from coinfer.files import write_atomic
from coinfer.site.agent.observed import complete
from coinfer.site.messages import Decision
from coinfer.site.parquet import parquet_bytes

_POLICY = ("at_s", "model", "policy", "probability", "group", "task")
_ACTION = ("option", "server", "executed_on", "dispatched", "cut", "bits")
_TIMES = ("predicted_s", "device_s", "upload_s", "queue_s", "server_s", "download_s", "latency_s")
COLUMNS = ("id", "node", "epoch", "seq", *_POLICY, *_ACTION, *_TIMES, "reward", "in_time", "admitted")
_DEFAULTS: Mapping[str, object] = {
    name: field.default for name, field in Decision.model_fields.items() if not field.is_required()
}


def write_export(path: Path, records: Iterable[Mapping[str, object]]) -> int:
    """Write decisions to a file, and return how many.

    Args:
        path: `.jsonl` holds everything, one JSON object a line, `.parquet` the same as columns; `.csv` one row for each
            decision, without observations.
        records: as the store has them.

    Raises:
        UserError: if the file has another ending, or the extra for Parquet is not installed.
    """
    if path.suffix not in (".jsonl", ".csv", ".parquet"):
        raise UserError(f"{path}: expected a file that ends in .jsonl, .csv or .parquet")
    if path.suffix == ".parquet":
        data, count = parquet_bytes(COLUMNS, map(_full, records))
        write_atomic(path, data)
        return count
    lines = list(_lines(records, path.suffix))
    write_atomic(path, "".join(lines))
    return len(lines) - (path.suffix == ".csv")


def _lines(records: Iterable[Mapping[str, object]], suffix: str) -> Iterator[str]:
    if suffix == ".csv":
        yield _row(COLUMNS)
    for record in records:
        full = _full(record)
        yield json.dumps(full) + "\n" if suffix == ".jsonl" else _row([full.get(name, "") for name in COLUMNS])


def _full(record: Mapping[str, object]) -> dict[str, object]:
    """Return a decision with what was not stored because it is usual."""
    full = {**_DEFAULTS, **record}
    seen = full["observation"]
    return full | {"observation": complete(seen)} if isinstance(seen, Mapping) else full


def _row(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()

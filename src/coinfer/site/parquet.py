"""Experience as Parquet, for the extra `parquet`: every decision a row, with its observation as columns of lists."""

import io
from collections.abc import Iterable, Mapping
from importlib import import_module
from itertools import islice
from typing import Any

from coinfer.errors import UserError

ROWS = 1000
"""Rows of a group; so many decisions are held as Python objects at a time."""
_TEXTS = ("node", "model", "policy", "executed_on", "cut", "traceparent", "request")
_INTEGERS = ("id", "epoch", "seq", "group", "task", "option", "server", "bits")
_FLAGS = ("dispatched", "in_time", "admitted")


def check_extra() -> Any:
    """Return the package `pyarrow`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise UserError(
            "Parquet needs an extra: pip install '.[parquet]' in coinfer's folder; .jsonl and .csv do not"
        ) from None


def parquet_bytes(columns: Iterable[str], records: Iterable[Mapping[str, object]]) -> tuple[bytes, int]:
    """Return decisions as a Parquet file, and how many they are.

    Args:
        columns: names of the fields that are columns of their own; `observation`, `traceparent`, `request` are added.
        records: complete, as JSON has them; null in an observation stands for infinity.

    Raises:
        UserError: if the extra is not installed.
    """
    arrow, rows, count = check_extra(), iter(records), 0
    schema, target = _schema(arrow, [*columns, "traceparent", "request"]), io.BytesIO()
    with arrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        while batch := list(islice(rows, ROWS)):
            wanted = [{name: row.get(name) for name in schema.names} for row in batch]
            writer.write_table(arrow.Table.from_pylist([_with_pairs(row) for row in wanted], schema=schema))
            count += len(batch)
    return target.getvalue(), count


def _schema(arrow: Any, columns: Iterable[str]) -> Any:
    kinds = {name: arrow.string() for name in _TEXTS} | {name: arrow.int64() for name in _INTEGERS}
    kinds |= {name: arrow.bool_() for name in _FLAGS}
    observation = {name: arrow.int64() for name in ("tasks", "options", "servers")}
    observation["addresses"] = arrow.list_(arrow.string())
    observation["fields"] = arrow.map_(arrow.string(), arrow.list_(arrow.float64()))
    fields = [(name, kinds.get(name, arrow.float64())) for name in columns]
    return arrow.schema([*fields, ("observation", arrow.struct(list(observation.items())))])


def _with_pairs(row: dict[str, object]) -> dict[str, object]:
    """Return a row in which the fields of the observation are pairs, as a map of Arrow takes them."""
    seen = row["observation"]
    if not isinstance(seen, dict):
        return row
    return {**row, "observation": {**seen, "fields": list(seen["fields"].items())}}

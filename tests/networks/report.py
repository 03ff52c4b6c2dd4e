"""The table in docs/networks.md."""

import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnxruntime as ort
from tests.networks.case import Case
from tests.networks.check import EQUAL, NOT_RUN, REFUSED, Outcome
from tests.paths import ROOT

from coinfer.files import write_atomic

PAGE = ROOT / "docs" / "networks.md"
START, END = "<!-- written by make test-models: start -->", "<!-- written by make test-models: end -->"
ROW = "| {} |"
HEADER = ("Network", "Source", "Operations", "Cuts", "Open, s", "Memory, MiB", "Plan, s", "Runs", "Difference")
REMARK_CHARACTERS = 200


def write_report(cases: Sequence[Case], outcomes: Mapping[str, Outcome], page: Path = PAGE) -> None:
    """Replace the tables of the page by those of these outcomes.

    Args:
        cases: every network of the suite.
        outcomes: of each, by name.
        page: has marks where the tables start and end.
    """
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    tables = "\n".join(_lines(cases, outcomes))
    write_atomic(page, f"{head}{START}\n{tables}\n{END}{tail}")


def _lines(cases: Sequence[Case], outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    yield f"ONNX Runtime {ort.__version__}, Python {platform.python_version()}, {platform.system()}."
    yield from (
        "",
        _row("Group", "Networks", "Equal answers", "Refused by design", "Not run by ONNX Runtime", "Not so"),
        _rule(6),
    )
    for group, members in groups.items():
        verdicts = [outcomes[case.name].verdict for case in members]
        counts = [verdicts.count(verdict) for verdict in (EQUAL, REFUSED, NOT_RUN)]
        yield _row(group, len(members), *counts, len(members) - sum(counts))
    for group, members in groups.items():
        shown = [case for case in members if not case.is_small]
        if shown:
            yield from ("", f"### {group}", "", _row(*HEADER), _rule(len(HEADER)))
            yield from (_network(case, outcomes[case.name]) for case in shown if outcomes[case.name].verdict == EQUAL)
    others = [case for case in cases if outcomes[case.name].verdict != EQUAL]
    if others:
        yield from ("", "### Without an answer", "", _row("Network", "Source", "Outcome", "Words"), _rule(4))
        for case in others:
            found = outcomes[case.name]
            yield _row(case.name, case.source, found.verdict, _words(found.remark))


def _network(case: Case, found: Outcome) -> str:
    times = (f"{found.open_s:.1f}", f"{found.open_mib:.0f}", f"{found.plan_s:.1f}")
    error = "0" if not found.error else f"{found.error:.0e}" if math.isfinite(found.error) else "not finite"
    return _row(case.name, case.source, found.operations, found.cuts, *times, found.runs, error)


def _row(*cells: object) -> str:
    return ROW.format(" | ".join(map(str, cells)))


def _rule(columns: int) -> str:
    return ROW.format(" | ".join(["---"] * columns))


def _words(remark: str) -> str:
    """Return a message as a cell, without the folder of this machine."""
    plain = re.sub(r"\S*/build/networks/files/", "", remark).replace("|", "\\|")
    return plain if len(plain) <= REMARK_CHARACTERS else f"{plain[:REMARK_CHARACTERS]}…"

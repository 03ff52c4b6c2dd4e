"""The results of a run: a comparison of the schemes, round by round, as a table and a JSON record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from coinfer.demo.rounds import Answer
from coinfer.demo.script import Phase
from coinfer.files import write_atomic
from coinfer.records import Record, as_json
from coinfer.units import MILLI, bytes_of_bits

INTERVAL = 1.96
"""Standard errors on each side of a mean that hold it with 95 % probability."""
PARTS = ("device_s", "upload_s", "queue_s", "server_s", "download_s")
"""What an answer's latency consists of."""


class View(NamedTuple):
    """What tables and plots show of a run."""

    inputs: tuple[str, ...]
    """Names of the network's inputs."""
    has_exits: bool = False
    has_labels: bool = False
    codes: tuple[str, ...] = ()
    """Symbols of the network's bottleneck."""

    @property
    def criterion(self) -> str:
        """Return what counts as a right answer, as a heading."""
        return "right" if self.has_labels else "top-1 as exact"


class Summary(NamedTuple):
    """The results of one scheme over the whole run; every phase counts as much as the number of its rounds."""

    scheme: str
    requests: int
    mean_s: float
    mean_interval_s: float
    """Half the 95 % interval of the mean: only what differs within a phase counts as chance."""
    by_phase_s: tuple[float, ...]
    """Mean of each phase."""
    behind: float
    """Mean latency over that of the first scheme, less one."""
    behind_interval: float
    """Half its 95 % interval, from the differences of each round."""
    p95_s: float
    in_time: float
    """Share of requests that met the deadline."""
    sent_bytes: float
    """Mean per request."""
    energy_j: float
    """Mean per request, by the device's power while it computes and sends."""
    fallbacks: int
    prediction_error: float
    """Median of |predicted - measured| / measured latency."""
    right: float
    """Share of answers with the picture's class or, if that is unknown, with the class that the whole network names."""
    expected_right: float
    """Mean expected accuracy of the answers; 1 without an accuracy table."""
    exits: tuple[float, ...]
    """Share of answers by exit, up to the last exit that answered."""
    by_code: dict[str, float]
    """Share of answers through each code of the network's bottleneck, by its symbols."""
    parts_s: dict[str, float]
    """Mean of each part of the latency."""


def place_name(record: Record) -> str:
    """Return who answered, for people; all servers of the demo are on one host, so the port tells them apart.

    Args:
        record: of the request.
    """
    return record.executed_on if record.executed_on == "device" else f":{record.executed_on.rpartition(':')[2]}"


def choice_name(record: Record, view: View) -> str:
    """Return what was done with a request, for people: exit, cut and bits if there are exits, else the cut.

    Args:
        record: of the request.
        view: of the run.
    """
    if not view.has_exits:
        return cut_name(record, view.inputs)
    if record.exit != record.route.exit:
        return f"exit {record.exit + 1}, sure"
    sends = len(record.route.hops) > 1
    bits = f" {record.route.hops[0].bits} bit" if sends and record.route.hops[0].cut != view.inputs else ""
    return f"exit {record.exit + 1} {cut_name(record, view.inputs)}{bits}"


def cut_name(record: Record, inputs: tuple[str, ...]) -> str:
    """Return where a request left the device, for people.

    Args:
        record: of the request.
        inputs: names of the network's inputs.
    """
    cut = record.route.hops[0].cut
    return "(all here)" if len(record.route.hops) == 1 else "(input)" if cut == inputs else "+".join(cut)


def summarise(rounds: Sequence[Sequence[Answer]], codes: Sequence[str] = ()) -> list[Summary]:
    """Return the summary of each scheme.

    Args:
        rounds: complete ones, at least one; each with an answer of each scheme, in the same order.
        codes: symbols of the network's bottleneck.
    """
    first_s = _latency_s([answers[0] for answers in rounds])
    return [_summary([answers[i] for answers in rounds], first_s, codes) for i in range(len(rounds[0]))]


def _latency_s(answers: Sequence[Answer]) -> np.ndarray:
    return np.array([answer.record.outcome.latency_s for answer in answers])


def _summary(answers: Sequence[Answer], first_s: np.ndarray, codes: Sequence[str]) -> Summary:
    records = [answer.record for answer in answers]
    latency_s, phases = _latency_s(answers), np.array([answer.phase for answer in answers])
    predicted_s = np.array([record.predicted_s for record in records])
    known = np.isfinite(predicted_s)
    errors = np.abs(predicted_s - latency_s)[known] / latency_s[known]
    sent = [_sent(record) for record in records]
    return Summary(
        scheme=records[0].scheme,
        requests=len(records),
        mean_s=float(latency_s.mean()),
        mean_interval_s=_interval(latency_s, phases),
        by_phase_s=tuple(float(latency_s[phases == phase].mean()) for phase in np.unique(phases)),
        behind=float(latency_s.mean() / first_s.mean() - 1),
        behind_interval=_interval(latency_s - first_s, phases) / float(first_s.mean()),
        p95_s=float(np.percentile(latency_s, 95)),
        in_time=float(np.mean([record.outcome.in_time for record in records])),
        sent_bytes=float(np.mean([bytes_of_bits(record.sent_bits) for record in records])),
        energy_j=float(np.mean([record.outcome.energy_j for record in records])),
        fallbacks=sum(bool(record.fallback) for record in records),
        prediction_error=float(np.median(errors)) if known.any() else 0.0,
        right=float(np.mean([answer.is_right for answer in answers])),
        expected_right=float(np.mean([record.outcome.accuracy for record in records])),
        exits=tuple((np.bincount([record.exit for record in records]) / len(records)).tolist()),
        by_code={code: sent.count((code,)) / len(sent) for code in codes},
        parts_s={part: float(np.mean([getattr(record.outcome, part) for record in records])) for part in PARTS},
    )


def _sent(record: Record) -> tuple[str, ...]:
    """Return what a server was sent to answer a request; nothing if the device answered."""
    hops = record.route.hops
    return hops[0].cut if len(hops) > 1 and record.exit == record.route.exit and record.executed_on != "device" else ()


def codes_text(summaries: Sequence[Summary]) -> str:
    """Return how often each scheme answered through codes of a bottleneck, in a line; empty if there is none.

    Args:
        summaries: of the schemes.
    """
    if not summaries[0].by_code:
        return ""
    shares = (
        f"{summary.scheme} {' + '.join(f'{share:.0%} {code}' for code, share in summary.by_code.items() if share)}"
        for summary in summaries
        if any(summary.by_code.values())
    )
    return f"through codes of the bottleneck: {', '.join(shares) or 'no answer of any scheme'}"


def _interval(values: np.ndarray, phases: np.ndarray) -> float:
    """Return half the 95 % interval of the mean of values whose phases are given, not drawn."""
    variance = 0.0
    for phase in np.unique(phases):
        own = values[phases == phase]
        variance += own.var(ddof=1) * len(own) if len(own) > 1 else 0.0
    return float(INTERVAL * np.sqrt(variance) / len(values))


def comparison(summaries: Sequence[Summary], deadline_s: float, view: View) -> Table:
    """Return the table at the end of a run.

    Args:
        summaries: one for each row.
        deadline_s: of the requests, for the title.
        view: which columns are shown.
    """
    title = f"{summaries[0].requests} rounds, deadline {deadline_s / MILLI:.0f} ms, ± 95 % intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("scheme", no_wrap=True)
    headings = ("mean ms", f"over {summaries[0].scheme}", "by phase, ms", "p95 ms", "in time", "kB sent", "mJ")
    for heading in (*headings, "pred. error", view.criterion):
        table.add_column(heading, justify="right")
    if view.has_exits:
        table.add_column("by exit, %", justify="right", no_wrap=True)
    for summary in summaries:
        behind = f"{summary.behind:+.0%} ± {summary.behind_interval * 100:.0f}" if summary.behind else ""
        table.add_row(
            summary.scheme,
            f"{summary.mean_s / MILLI:.0f} ± {summary.mean_interval_s / MILLI:.0f}",
            behind,
            " ".join(f"{mean_s / MILLI:.0f}" for mean_s in summary.by_phase_s),
            f"{summary.p95_s / MILLI:.0f}",
            f"{summary.in_time:.0%}",
            f"{summary.sent_bytes / 1e3:.1f}",
            f"{summary.energy_j / MILLI:.0f}",
            f"{summary.prediction_error:.0%}",
            f"{summary.right:.1%}",
            *((" ".join(f"{s * 100:.0f}" for s in summary.exits),) if view.has_exits else ()),
        )
    return table


def write_json(
    path: Path,
    settings: Mapping[str, object],
    phases: Sequence[Phase],
    summaries: Sequence[Summary],
    pictures: str,
    view: View,
) -> None:
    """Write settings, phases and summaries; the run log beside the file holds the single requests.

    Args:
        path: of the file; an existing one is replaced.
        settings: of the demo, by name.
        phases: that were played.
        summaries: of the schemes.
        pictures: description of the pictures.
        view: of the run.

    Raises:
        OSError: if the file cannot be written.
    """
    content = {
        "settings": as_json(settings),
        "phases": [as_json(phase) for phase in phases],
        "pictures": pictures,
        "right means": view.criterion,
        "schemes": [as_json(summary) for summary in summaries],
    }
    write_atomic(path, json.dumps(content, indent=2, default=str) + "\n")

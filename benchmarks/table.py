"""Write the table of benchmarks/README.md from the records in benchmarks/results.

python benchmarks/table.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README, RESULTS = HERE / "README.md", HERE / "results"
START, END = "<!-- table -->", "<!-- end of table -->"
WORST = "*"
"""In place of a server and protocol: the worst of all that have such a figure."""
SINGLE = (
    (
        "partition",
        "hull decisions per second, ResNet-50, one call",
        "≥ 1,000,000",
        ("networks", "resnet50", "decisions_per_s"),
    ),
    ("partition", "building that hull, ms", "≤ 50", ("networks", "resnet50", "hull_build_ms")),
    ("partition", "minimum cut, ResNet-50, ms", "≤ 5", ("networks", "resnet50", "mincut_ms")),
    ("partition", "the same with NetworkX, ms", "", ("networks", "resnet50", "networkx_ms")),
    ("partition", "minimum cut, GoogLeNet, ms", "≤ 5", ("networks", "googlenet", "mincut_ms")),
    ("partition", "the same with NetworkX, ms", "", ("networks", "googlenet", "networkx_ms")),
    ("prediction", "error of a segment's predicted time, median over the zoo", "≤ 0.05", ("all", "median")),
    ("resume", "SAC-d: kills after which it was resumed to the same hash", "20", ("schemes", "sac-d", "kills")),
    ("resume", "CDO-DSAC, stacked: the same", "20", ("schemes", "cdo-dsac", "kills")),
    ("faults-kills", "requests lost while servers were killed 100 times, device", "0", ("device", "lost")),
    ("faults-kills", "seconds from a restart to the first answer, median", "≤ 2", ("device", "used_again_s", "median")),
    (
        "faults-kills-gateway",
        "requests lost while servers were killed, gateway over gRPC",
        "0",
        ("gateway-grpc", "lost"),
    ),
    (
        "faults-kills-gateway",
        "requests lost while servers were killed, gateway over REST",
        "0",
        ("gateway-http", "lost"),
    ),
    ("faults-freezes", "requests lost while servers froze, worst of three", "0", (WORST, "lost")),
    ("faults-freezes", "seconds until nobody asks a frozen server, longest of 24", "≤ 1", (WORST, "noticed_s", "max")),
    (
        "faults-freezes",
        "99th percentile after a freeze over the calm one, worst of three",
        "≤ 3",
        (WORST, "p99_over_calm"),
    ),
    ("faults-cuts", "requests lost while links were cut, worst of three", "0", (WORST, "lost")),
    ("faults-cuts", "seconds until nobody asks behind a cut link, longest of 24", "≤ 1.5", (WORST, "noticed_s", "max")),
    ("faults-grey", "requests lost while a server ran a tenth of the time, worst of three", "0", (WORST, "lost")),
    (
        "faults-restarts",
        "300 servers ended in order, one after the other: requests lost, worst of three",
        "0",
        (WORST, "lost"),
    ),
    ("faults-restarts", "the same: did not end with 0", "0", (WORST, "not_ended_with_0")),
    ("faults-restarts", "the same: did not say NOT_SERVING before", "0", (WORST, "not_announced")),
    ("faults-alone", "all servers gone: requests lost, worst of three", "0", (WORST, "lost")),
    (
        "faults-alone",
        "the same: connections a second to each, worst of three",
        "≤ 1",
        (WORST, "connections_per_s_and_server"),
    ),
    (
        "faults-alone",
        "the same: seconds to the first answer of one that is back",
        "≤ 5",
        (WORST, "used_again_s", "max"),
    ),
    ("faults-failing", "a server fails half: requests lost, worst of three", "0", (WORST, "one", "lost")),
    (
        "faults-failing",
        "the same: it is asked so often in 10 s, median, worst of three",
        "≤ 100",
        (WORST, "one", "attempts_in_a_fault", "median"),
    ),
    ("faults-failing", "all servers fail everything: requests lost, worst of three", "0", (WORST, "all", "lost")),
    (
        "faults-failing",
        "the same: attempts for each request, worst of three",
        "≤ 1.2",
        (WORST, "all", "attempts_per_request"),
    ),
    ("faults-deadlines", "random deadlines, 160,000 requests: began late, worst of four", "0", (WORST, "began_late")),
    ("faults-deadlines", "the same: more than 10 ms late, worst of four", "0", (WORST, "late")),
    ("faults-deadlines", "the same: refused without a reason", "0", (WORST, "without_a_reason")),
    ("faults-overload", "three times the load, worst of four: goodput", "≥ 0.95", (WORST, "3x", "goodput_ratio")),
    ("faults-overload", "six times the load, worst of four: goodput", "≥ 0.95", (WORST, "6x", "goodput_ratio")),
    ("faults-overload", "three times: admitted in time, worst of four", "≥ 0.999", (WORST, "3x", "admitted_in_time")),
    ("faults-overload", "six times: admitted in time, worst of four", "≥ 0.999", (WORST, "6x", "admitted_in_time")),
    (
        "faults-overload",
        "three times: refusals, 99th percentile, ms, worst of four",
        "≤ 20",
        (WORST, "3x", "refused_p99_ms"),
    ),
    (
        "faults-overload",
        "six times: refusals, 99th percentile, ms, worst of four",
        "≤ 20",
        (WORST, "6x", "refused_p99_ms"),
    ),
    (
        "faults-malformed",
        "malformed gRPC requests: memory of the edge grows by, MiB",
        "≤ 1",
        ("edge, grpc", "rss_growth_mib"),
    ),
    ("faults-malformed", "malformed gRPC requests: internal errors logged", "0", ("edge, grpc", "logged_errors")),
    ("faults-floods", "2,100 dead connections over gRPC: requests of others lost", "0", ("edge-grpc", "others_lost")),
    ("faults-cancels", "10,000 requests given up, worst of four: held afterwards", "0", (WORST, "held_then")),
    ("faults-cancels", "the same: memory grows by, MiB", "", (WORST, "rss_growth_mib")),
    (
        "faults-fairness",
        "a caller asks for ten times its share: the others lose, worst of four",
        "≤ 0.05",
        (WORST, "others_lose"),
    ),
    ("faults-fairness", "the same: Jain's index of the others", "≥ 0.95", (WORST, "others_jain")),
    (
        "faults-inputs",
        "wrong inputs: requests that reached the network, worst of four",
        "0",
        (WORST, "reached_the_network"),
    ),
    ("faults-inputs", "the same: refusals that do not name the input", "0", (WORST, "nameless")),
    (
        "faults-sizes",
        "bombs, gzip over gRPC: processor of the server, ms each",
        "≤ 50",
        ("bombs", "gzip, grpc", "processor_ms"),
    ),
    (
        "faults-sizes",
        "bombs, gzip over gRPC: memory grows by, MiB",
        "≤ 16",
        ("bombs", "gzip, grpc", "most_rss_growth_mib"),
    ),
    ("faults-soak", "soak: minutes", "≥ 60", ("minutes",)),
    ("faults-soak", "soak: memory of the edge grows by, MiB an hour", "", ("edge", "rss_slope_mib_per_hour")),
    ("faults-soak", "soak: memory of the gateway grows by, MiB an hour", "", ("gateway", "rss_slope_mib_per_hour")),
    ("faults-soak", "soak: requests lost, worst of four", "0", (WORST, "lost")),
    (
        "video",
        "15 frames a second, link that breaks: 95th percentile, ms",
        "≤ 133",
        ("watched", "planner, link that breaks", "latency_ms", "p95"),
    ),
    ("video", "the same: share of frames skipped", "", ("watched", "planner, link that breaks", "skipped_share")),
    (
        "video",
        "the same: share of answers at most one frame behind",
        "",
        ("watched", "planner, link that breaks", "in_time_of_answered"),
    ),
)
"""Figures without quartiles: (record, what, bar, where in the record)."""


def rows(name: str, record: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (figure, bar, measured, command) of a record."""
    command = f"`{record['command']}`"
    for figure, found in record.get("figures", {}).items():
        if "departure" in found:
            measured = f"{100 * found['departure']:+.1f} %"
            yield f"{figure}: mean latency in order of arrival over that in order of slots", "", measured, command
            continue
        bar = next(
            (f"{sign} {found[key]:g}" for key, sign in (("at_most", "≤"), ("at_least", "≥")) if key in found), ""
        )
        missed = "" if found.get("reached", True) else " **missed**"
        measured = f"{number(found['median'])} ({number(found['low'])} to {number(found['high'])}){missed}"
        yield figure, bar, measured, f"`{found['command']}`" if "command" in found else command
    for record_name, figure, bar, path in SINGLE:
        if record_name == name:
            found = list(values(record, path))
            value = min(found) if bar.startswith("≥") else max(found)
            yield figure, bar, f"{number(value)}{' **missed**' if is_missed(value, bar) else ''}", command


def values(record: Any, path: tuple[str, ...]) -> Iterator[float]:
    """Yield what a record holds at a path; of counts by kind, their sum."""
    if not path:
        yield sum(record.values()) if isinstance(record, dict) else record
    elif path[0] == WORST:
        for part in record.values():
            if isinstance(part, dict) and path[1] in part:
                yield from values(part, path[1:])
    else:
        yield from values(record[path[0]], path[1:])


def is_missed(value: float, bar: str) -> bool:
    """Return true if a figure is on the wrong side of its bar; a bar without a sign is reached exactly."""
    if not bar:
        return False
    sign, limit = bar[0], float(bar.lstrip("≤≥ ").replace(",", ""))
    return value > limit if sign == "≤" else value < limit if sign == "≥" else value != limit


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table() -> str:
    lines = ["| figure | bar | median (quartiles) | command |", "|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        lines += ["| " + " | ".join(row) + " |" for row in rows(path.stem, json.loads(path.read_text()))]
    return "\n".join(lines)


def main() -> None:
    text = README.read_text()
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

"""Compare planner, device only, server only and fixed best cut on measured bandwidth traces, from 3G to 5G, as the demo
does.

    python benchmarks/real_traces.py --data FOLDER

FOLDER holds one `<family>.csv.gz` for each family, columns trace_id, time_s, throughput_bytes_per_s; the three links of
a run follow the first three traces of a family. Writes benchmarks/results/real_traces.json.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
from rich.console import Console

from coinfer.demo.run import run_demo
from coinfer.demo.settings import DemoSettings

FAMILIES = ("hsdpa_norway_3g", "cellular_us_mahimahi", "lte_nyc_2019", "ucc_5g_production", "lumos5g_mmwave")
MODELS = ("alexnet",)


def compare(trace: str | None, model: str, scheme_s: float) -> list[dict]:
    """Return the schemes' summaries for one network on one family of traces; the shipped ones without a file."""
    with TemporaryDirectory(prefix="coinfer-") as folder:
        settings = DemoSettings(model=model, scheme_s=scheme_s, runs=folder)
        if trace is not None:
            settings = DemoSettings(model=model, trace=trace, scheme_s=scheme_s, runs=folder)
        run = run_demo(settings, Console(quiet=True))
        return json.loads((run / "summary.json").read_text())["schemes"]


def main() -> None:
    options = harness.parser(__doc__, "real_traces")
    options.add_argument("--data", type=Path, help="folder with the traces; without it only the shipped ones")
    options.add_argument("--scheme-s", type=float, default=20.0, help="seconds that each scheme runs")
    given = options.parse_args()
    families = {"shipped": None}
    if given.data is not None:
        families |= {family: str(given.data / f"{family}.csv.gz") for family in FAMILIES}
    runs = []
    for model in ("alexnet-cifar",) if given.quick else MODELS:
        for family, trace in families.items():
            schemes = compare(trace, model, 1.0 if given.quick else given.scheme_s)
            runs.append({"model": model, "family": family, "schemes": schemes})
            means = ", ".join(f"{s['scheme']} {s['mean_s'] * 1e3:.0f} ms ({s['in_time']:.0%} in time)" for s in schemes)
            harness.CONSOLE.print(f"{model} on {family}: {means}", soft_wrap=True)
    harness.write(given, scheme_s=given.scheme_s, runs=runs)


if __name__ == "__main__":
    main()

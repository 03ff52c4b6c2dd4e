"""Write src/coinfer/data/workloads/azure_llm_2023_code.csv.gz, the times of requests to one inference service.

    python tools/make_arrivals.py AzureLLMInferenceTrace_code.csv

The table is that of github:Azure/AzurePublicDataset, commit b469a113cedca53ddc3bdea71a143dc4b7d8700c, `data/` (column
TIMESTAMP, such as 2023-11-16 18:17:03.9799600). Only the times are kept, in seconds from the first request, in
milliseconds.
"""

import argparse
import csv
import gzip
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from coinfer.resources import WORKLOADS

TARGET = WORKLOADS / "azure_llm_2023_code.csv.gz"
MICROSECONDS = len("2023-11-16 18:17:03.979960")
"""A seventh digit of the second is always 0."""


def text(lines: Iterable[str]) -> str:
    """Return the content of the file for the lines of the table."""
    at = [datetime.fromisoformat(row["TIMESTAMP"][:MICROSECONDS]) for row in csv.DictReader(lines)]
    return "".join(["time_s\n", *(f"{(time - at[0]).total_seconds():.3f}\n" for time in at)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="AzureLLMInferenceTrace_code.csv")
    with parser.parse_args().table.open(encoding="utf-8", newline="") as lines:
        TARGET.write_bytes(gzip.compress(text(lines).encode(), mtime=0))
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()

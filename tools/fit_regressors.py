"""Fit the operation regressors that the package ships, and store their error on sizes that they have not seen.

    python tools/fit_regressors.py OP_LATENCY_CSV

The table (columns side, op, sizes, latency_ms) holds the measurements of github:Tjyy-1223/Neurosurgeon, commit
0f352d82a3b3e0951a5a72a5a7ea2aa605605d43, predictor/dataset/. Its two machines are not named. Errors come from 5-fold
cross-validation in which every (input channels, input size) pair is wholly inside one fold; the shipped fit uses all
rows. Needs the extra `fit`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from coinfer.profile.predict import KINDS, OpRegressor
from coinfer.resources import OP_REGRESSORS

SOURCE = "fitted to github:Tjyy-1223/Neurosurgeon, commit 0f352d82, predictor/dataset (machines not named there)"
FOLDS = 5


def held_out_error(kind: str, dims: np.ndarray, latency_s: np.ndarray, seed: int = 0) -> np.ndarray:
    """Relative error [n] of each row, predicted by a fit that saw no row of its input size."""
    columns = [i for i, name in enumerate(KINDS[kind].dims) if name in ("c_in", "hw", "in_features")]
    _, group = np.unique(dims[:, columns], axis=0, return_inverse=True)
    fold = np.random.default_rng(seed).integers(0, FOLDS, group.max() + 1)[group]
    predicted = np.empty(len(dims))
    for k in range(FOLDS):
        seen = OpRegressor(kind).fit(dims[fold != k], latency_s[fold != k])
        predicted[fold == k] = seen.predict(dims[fold == k])
    return np.abs(predicted / latency_s - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="op_latency.csv.gz")
    rows = pd.read_csv(parser.parse_args().table)
    sides: dict[str, dict[str, dict[str, list[float]]]] = {}
    errors: dict[str, dict[str, dict[str, float]]] = {}
    for (side, kind), group in rows.groupby(["side", "op"]):
        dims, latency_s = group[list(KINDS[kind].dims)].to_numpy(float), group["latency_ms"].to_numpy() * 1e-3
        sides.setdefault(side, {})[kind] = OpRegressor(kind).fit(dims, latency_s).to_dict()
        error = held_out_error(kind, dims, latency_s)
        median, p90 = float(np.median(error)), float(np.quantile(error, 0.9))
        errors.setdefault(side, {})[kind] = {"rows": len(group), "median": round(median, 4), "p90": round(p90, 4)}
        print(f"{side:5s} {kind:10s} {len(group):6d} rows  held-out error: median {median:6.1%}  p90 {p90:6.1%}")
    OP_REGRESSORS.parent.mkdir(parents=True, exist_ok=True)
    OP_REGRESSORS.write_text(
        json.dumps({"source": SOURCE, "held_out_relative_error": errors, "sides": sides}, indent=1)
    )


if __name__ == "__main__":
    main()

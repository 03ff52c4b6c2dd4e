"""What a fitted world says of the load in a few numbers, to see whether it is still that of the site."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinfer.files import write_atomic
from coinfer.site.fitting.fit import SiteFit

CHANGE = 0.5
"""A number that grew by more than this part, or shrank as much, is another load. The arrival rate of 100 decisions is
20 % off in 5 % of all cases, so that the ratio of two of them is no sign up to some 30 %."""


class SiteLoad(NamedTuple):
    """A site as its world was fitted."""

    servers: tuple[str, ...]
    numbers: Mapping[str, float]
    """By what they mean; all positive."""


def load_of_fit(fit: SiteFit) -> SiteLoad:
    """Return what a fit says of the load.

    Args:
        fit: of the site.
    """
    best_s = [float(kind.server_s[np.isfinite(kind.server_s)].min(initial=1e3)) for kind in fit.kinds]
    bits = [float(kind.bits.max()) for kind in fit.kinds]
    shares = [kind.share for kind in fit.kinds]
    numbers = {
        "requests per second": fit.rate_per_s,
        "seconds of computing per request": float(np.dot(shares, best_s)),
        "bits per request": max(float(np.dot(shares, bits)), 1.0),
        "bits per second of a link": float(np.median(fit.rate_bps)),
    }
    return SiteLoad(fit.servers, {name: float(f"{value:.4g}") for name, value in numbers.items()})


def what_changed(before: SiteLoad | None, now: SiteLoad) -> str:
    """Return in words why a world is no longer that of the site; empty if it is.

    Args:
        before: of the world; None if there is none.
        now: of a new fit.
    """
    if before is None or before.servers != now.servers:
        return "other servers are there"
    for name, value in now.numbers.items():
        old = before.numbers.get(name, 0.0)
        if not old / (1 + CHANGE) <= value <= old * (1 + CHANGE):
            return f"{name}: {value:.3g}, and not {old:.3g}"
    return ""


def read_load(path: Path) -> SiteLoad | None:
    """Return what `write_load` wrote; None if there is no such file, or it is damaged.

    Args:
        path: of the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return SiteLoad(tuple(found["servers"]), {name: float(value) for name, value in found["numbers"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_load(path: Path, load: SiteLoad) -> None:
    """Write what a world was fitted to.

    Args:
        path: of the file.
        load: of the fit.
    """
    write_atomic(path, json.dumps(load._asdict(), indent=1) + "\n")

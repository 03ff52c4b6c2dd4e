"""A fitted site as files: a scenario, and tables of what its requests cost on each of its nodes.

Options become cuts of a chain, and every node gets the table that "was measured on it": the chain's times are then the
measured ones exactly, whatever the network is.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from coinfer.errors import UserError
from coinfer.files import write_atomic
from coinfer.options.network import ChainCut, NetworkTable
from coinfer.profile.fields import Machine
from coinfer.scenario.arrivals import MAX_LOST, Arrivals, lognormal_arrivals, poisson_arrivals
from coinfer.scenario.recorded import RecordedRequest, slot_of
from coinfer.site.fitting.fit import Kind, SiteFit
from coinfer.units import FLOAT32_BITS, IMAGE_BITS

SCENARIO = "site.yaml"
REQUESTS = "requests.csv"
ON_DEVICE = 20.0
"""A request that no server takes takes its device so many times what the slowest server takes, if no device told."""
NEVER_S = 1e3
"""Where a server's time is not known: it does not serve the network."""
EPISODE_SLOTS = 200
MOST_PLACES = 256
"""For the tasks of a slot."""


def write_scenario(fit: SiteFit, folder: Path, name: str, requests: Sequence[RecordedRequest] = ()) -> Path:
    """Write a scenario that `coinfer simulate` opens, and return its path.

    Args:
        fit: of the site.
        folder: gets `site.yaml` and the tables; it is made if it is not there.
        name: of the scenario.
        requests: that come in it, in their order; without any, requests come by chance as often as they did.

    Raises:
        UserError: if the folder holds a scenario already.
        OSError: if a file cannot be written.
    """
    path = folder / SCENARIO
    if path.exists():
        raise UserError(f"{path}: there is such a file already; name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(fit.kinds):
        for file, table in _tables(fit, number, kind):
            table.save(folder / file)
    if requests:
        rows = "".join(f"{one.time_s:.6f},{one.device},{one.model}\n" for one in requests)
        write_atomic(folder / REQUESTS, f"{','.join(RecordedRequest._fields)}\n{rows}")
    text = yaml.safe_dump(_document(fit, name, requests), sort_keys=False, allow_unicode=True, width=100)
    notes = "".join(f"# {note}\n" for note in fit.notes)
    write_atomic(path, f"# Fitted to {fit.decisions} decisions of a site.\n{notes}{text}")
    return path


def _tables(fit: SiteFit, number: int, kind: Kind) -> Iterator[tuple[str, NetworkTable]]:
    """Yield the table of each decider and server with the name of its file."""
    order = np.argsort(np.median(kind.device_s, axis=0) + (kind.bits == 0) * 1e9, kind="stable")
    sent = [o for o in order if kind.bits[o] > 0]
    server_s = np.where(np.isfinite(kind.server_s), kind.server_s, NEVER_S)[sent]
    known_s = kind.server_s[np.isfinite(kind.server_s)]
    refused_s = ON_DEVICE * float(known_s.max(initial=0.01)) if kind.refused_s is None else kind.refused_s
    local_s = np.full(len(fit.deciders), refused_s)
    if len(sent) < len(order):
        local_s = kind.device_s[:, [o for o in order if kind.bits[o] == 0]].min(axis=1)
    bits, device_s = kind.bits[sent], kind.device_s[:, sent]
    if device_s[:, :1].max(initial=0) > 0:  # a chain begins with its input, which nobody may send: never the best
        first = bits[:1] + 2 * device_s[:, 0].max() * fit.rate_bps.max()
        bits, device_s = np.append(first, bits), np.insert(device_s, 0, 0.0, axis=1)
        server_s = np.insert(server_s, 0, server_s[0], axis=0)
    for u in range(len(fit.deciders)):
        done_s = np.append(np.maximum.accumulate(device_s[u]), max(local_s[u], float(device_s[u].max())))
        yield _file(number, "device", u), _table(kind.name, bits, done_s)
    for n in range(len(fit.servers)):
        left_s = np.append(np.maximum.accumulate(server_s[::-1, n])[::-1], 0.0)
        yield _file(number, "server", n), _table(kind.name, bits, left_s[0] - left_s)


def _file(number: int, role: str, index: int) -> str:
    return f"network-{number + 1}-{role}-{index + 1}.json"


def _table(name: str, bits: np.ndarray, done_s: np.ndarray) -> NetworkTable:
    """Return a chain that is cut once for each option, and ends with the answer."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    places = [*(float(size) for size in bits), None]
    cuts = tuple(
        ChainCut(
            tensors=(f"option-{i + 1}" if size else "answer",),
            kind="",
            elements=max(1, math.ceil(size / FLOAT32_BITS)) if size else 1,
            done_s=float(done_s[i]),
            done_flop=float(i),
            enter_s=0.0,
            leave_s=0.0,
            payload_bits={IMAGE_BITS: size} if size else {},
        )
        for i, size in enumerate(places)
    )
    return NetworkTable(
        network=name,
        fingerprint=f"site:{name}",
        machine=Machine(cpu="a node of the site", cores=1, os="", python="", onnxruntime="", date=now),
        threads=1,
        work_flop=float(len(bits)),
        whole_s=max(float(done_s[-1]), 1e-9),
        call_s=0.0,
        exits=(cuts,),
        encode_s_per_byte={},
        decode_s_per_byte={},
    )


def _document(fit: SiteFit, name: str, requests: Sequence[RecordedRequest]) -> dict[str, Any]:
    """Return the scenario as YAML has it."""
    numbers = range(len(fit.kinds))
    devices = [_computer([_file(number, "device", u) for number in numbers]) for u in range(len(fit.deciders))]
    servers = [
        _computer([_file(number, "server", n) for number in numbers])
        | ({"capacity": fit.capacity[n]} if fit.capacity[n] else {})
        | ({"download_s": _short(fit.download_s)} if fit.download_s > 0 else {})
        for n in range(len(fit.servers))
    ]
    links: dict[str, Any] = {"kind": "pairs", "rate_bps": [[_short(rate) for rate in row] for row in fit.rate_bps]}
    return {
        "name": name,
        "about": f"fitted to what {len(fit.deciders)} nodes of a site decided",
        "environment": "offload",
        "slot_s": fit.slot_s,
        **(_replay(fit, requests) if requests else _arrivals(fit)),
        "local": "refused" if fit.by_server else "choice",
        "models": [_model(number, kind) for number, kind in enumerate(fit.kinds)],
        "devices": devices,
        "servers": servers,
        "links": links | ({"variation": _short(fit.rate_variation)} if fit.rate_variation else {}),
        "staleness_slots": min(round(_unknown_s(fit) / fit.slot_s), 10_000),
        "compute_error": _short(fit.compute_error),
        "prune": "none",
    }


def _replay(fit: SiteFit, requests: Sequence[RecordedRequest]) -> dict[str, Any]:
    """Return the keys of requests that come as they did."""
    slots = Counter(slot_of(one, fit.slot_s) for one in requests)
    arrivals = {"kind": "recorded", "file": REQUESTS}
    return {"slots": max(slots) + 1, "tasks_per_slot": max(slots.values()), "arrivals": arrivals}


def _arrivals(fit: SiteFit) -> dict[str, Any]:
    """Return the keys of requests that come by chance."""
    mean = fit.rate_per_s * fit.slot_s
    if not _is_bursty(fit):
        places = _places(partial(poisson_arrivals, mean))
        return _by_chance({"kind": "poisson", "rate_per_s": _short(fit.rate_per_s)}, places or MOST_PLACES)
    whole = mean * (fit.dispersion - 1)
    smaller = (whole / 2**n for n in range(20))  # bursts that no slot could hold are made smaller
    tried = ((one, _places(partial(lognormal_arrivals, mean, one, 1.0))) for one in smaller)
    variance, places = next(((one, places) for one, places in tried if places), (whole, MOST_PLACES))
    arrivals = {"kind": "lognormal", "mean": _short(mean), "variance": _short(variance), "per_s": fit.slot_s}
    return _by_chance(arrivals, places)


def _by_chance(arrivals: dict[str, Any], places: int) -> dict[str, Any]:
    return {"slots": EPISODE_SLOTS, "tasks_per_slot": places, "arrivals": arrivals}


def _unknown_s(fit: SiteFit) -> float:
    """Return the age of knowledge in a world in which nobody knows anything sooner: servers know what they chose."""
    return fit.age_s * (1 - 1 / len(fit.deciders)) if fit.by_server else fit.age_s


def _is_bursty(fit: SiteFit) -> bool:
    """Return true if a Poisson process would hardly ever have such a dispersion (three standard deviations)."""
    slots = max(fit.decisions / max(fit.rate_per_s * fit.slot_s, 1e-9), 2.0)
    return fit.dispersion - 1 > max(3 * math.sqrt(2 / (slots - 1)), 0.1)


def _places(table: Callable[[int], Arrivals]) -> int | None:
    """Return enough places for the tasks of a slot; the scenario refuses more than `MAX_LOST` that find none.

    Args:
        table: of arrivals, for a number of places.
    """
    counts = (2**i for i in range(2, MOST_PLACES.bit_length()))
    return next((count for count in counts if table(count).lost <= MAX_LOST / 10), None)


def _model(number: int, kind: Kind) -> dict[str, Any]:
    deadline = {} if kind.deadline_s is None else {"deadline_s": sorted({_short(value) for value in kind.deadline_s})}
    known = {"network": _file(number, "device", 0), "share": _short(kind.share), "accuracy": _short(kind.accuracy)}
    return known | deadline


def _computer(profiles: Sequence[str]) -> dict[str, Any]:
    return {"profiles": list(profiles)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")

"""From a scenario to how its servers batch and load."""

from collections.abc import Iterator, Sequence

import numpy as np

from coinfer.options.table import Options
from coinfer.scenario.load import Source
from coinfer.scenario.serving import Serving
from coinfer.scenario.spec import OffloadScenario
from coinfer.scenario.spec_nodes import Batching, Server
from coinfer.scenario.yaml_file import Key


def build_serving(spec: OffloadScenario, source: Source, options: Sequence[Sequence[Options]]) -> Serving | None:
    """Return how a scenario's servers batch and load; None if they do neither.

    Args:
        spec: names the networks and the servers.
        source: locates errors.
        options: [X][C] what the networks may do.

    Raises:
        ScenarioError: if a figure that batching or loading needs is missing or wrong.
    """
    servers = [(i, server) for i, server in enumerate(spec.servers) for _ in range(server.count)]
    if not any(server.batching or server.memory_bytes for _, server in servers):
        return None
    for fault, text in _faults(spec):
        raise source.error(fault, text)
    pieces: dict[tuple[int, object], int] = {}
    width = max(len(one.bits) for row in options for one in row)
    numbers = np.zeros((len(options), len(spec.devices), width), dtype=np.int64)
    for x, row in enumerate(options):
        for c, one in enumerate(row):
            for o, piece in enumerate(one.pieces):
                numbers[x, c, o] = pieces.setdefault((x, piece), len(pieces))
    size_bytes = np.array([model.size_bytes or 1.0 for model in spec.models])
    return Serving(
        option_piece=numbers,
        piece_network=np.array([x for x, _ in pieces]),
        batch_ratio=_ratios([model.network for model in spec.models], [server.batching for _, server in servers]),
        memory_bytes=np.array([server.memory_bytes or np.inf for _, server in servers]),
        network_bytes=size_bytes,
        load_s=np.stack([_load_s(server, size_bytes) for _, server in servers], axis=-1),
    )


def _ratios(networks: Sequence[str], servers: Sequence[Batching | None]) -> np.ndarray:
    widest = max((batching.sizes[-1] for batching in servers if batching), default=1)
    ratio = np.full((len(networks), len(servers), widest), np.inf)
    ratio[..., 0] = 1.0
    for n, batching in enumerate(servers):
        for x, network in enumerate(networks):
            if batching and network in batching.times:
                size = np.arange(1, batching.sizes[-1] + 1)
                times = np.array(batching.times[network])
                ratio[x, n, : len(size)] = np.interp(size, batching.sizes, times / times[0])
    return ratio


def _load_s(server: Server, size_bytes: np.ndarray) -> np.ndarray:
    speed = server.load_bytes_per_s
    return server.load_s + (size_bytes / speed if speed else np.zeros_like(size_bytes))


def _faults(spec: OffloadScenario) -> Iterator[tuple[Key, str]]:
    known = {model.network for model in spec.models}
    for i, server in enumerate(spec.servers):
        key = ("servers", i)
        if server.capacity is None:
            yield (*key, "capacity"), "missing; a server that batches or loads, and those beside it, need one"
        if batching := server.batching:
            sizes = batching.sizes
            if sizes[0] != 1 or list(sizes) != sorted(set(sizes)):
                yield (*key, "batching", "sizes"), "expected rising numbers from 1"
            for network, times in batching.times.items():
                if network not in known:
                    wanted = ", ".join(sorted(known))
                    yield (*key, "batching", "times", network), f"no such network in models; expected one of {wanted}"
                if len(times) != len(sizes):
                    expected = f"expected {len(sizes)}, one for each size"
                    yield (*key, "batching", "times", network), f"got {len(times)} times, {expected}"
        if server.memory_bytes and not server.load_bytes_per_s:
            yield (*key, "load_bytes_per_s"), "missing; memory_bytes needs it"
        for x, model in enumerate(spec.models) if server.memory_bytes else ():
            if model.size_bytes is None or model.size_bytes > (server.memory_bytes or 0):
                yield ("models", x, "size_bytes"), f"expected at most {server.memory_bytes:g}, a server's memory_bytes"
    if spec.reward.kind == "weighted":
        yield ("reward", "kind"), "got weighted, which servers that batch or load do not have; expected another"

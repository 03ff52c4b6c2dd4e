"""Times and sizes of the codes of a network's bottleneck, measured in the pieces that run."""

from collections.abc import Callable, Sequence

import numpy as np

from coinfer.graph.ir import ModelGraph
from coinfer.profile.code_times import BottleneckTimes, CodeTimes
from coinfer.profile.samples import Sample
from coinfer.progress import Progress, quiet
from coinfer.runtime.codec.symbols import codec_of
from coinfer.runtime.executor import Executor
from coinfer.units import bits_of_bytes

RUNS = 20
WARM_UP = 2


def measure_codes(
    graph: ModelGraph,
    samples: Sequence[Sample],
    clock: Callable[[], float],
    *,
    threads: int = 1,
    provider: str = "cpu",
    progress: Progress = quiet,
) -> BottleneckTimes | None:
    """Return what the codes of a network's bottleneck cost here; None if it has none.

    Args:
        graph: the network.
        samples: inputs to measure on, one picture each.
        clock: returns seconds; times encoding and decoding.
        threads: threads within an operation.
        provider: short name of what computes.
        progress: called before each code.
    """
    if graph.bottleneck is None:
        return None
    executor, codes = Executor(graph, threads, provider=provider), graph.bottleneck.codes
    found = []
    for i, code in enumerate(codes):
        progress(i, len(codes), f"measuring {code.tensor}")
        codec = codec_of(code, graph.bottleneck.graph.tensors[code.tensor].shape)
        runs_s, size_bytes = [], []
        for k in range(WARM_UP + RUNS):
            inputs = dict(samples[k % len(samples)])
            symbols, device_s = executor.run(inputs, (code.tensor,))
            began_s = clock()
            payload = codec.encode(symbols[code.tensor])
            encoded_s = clock()
            received = codec.decode(payload, limit_bytes=symbols[code.tensor].size)
            decoded_s = clock()
            _, server_s = executor.run({code.tensor: received}, (code.answer,))
            runs_s.append((device_s, server_s, encoded_s - began_s, decoded_s - encoded_s))
            size_bytes.append(len(payload))
        device_s, server_s, encode_s, decode_s = np.median(runs_s[WARM_UP:], axis=0).tolist()
        mean_bytes = float(np.mean(size_bytes[: len(samples)])) if code.accuracy is None else code.accuracy.size_bytes
        found.append(
            CodeTimes(
                tensor=code.tensor,
                device_s=device_s,
                server_s=server_s,
                encode_s=encode_s,
                decode_s=decode_s,
                size_bits=bits_of_bytes(mean_bytes),
            )
        )
    return BottleneckTimes(fingerprint=graph.bottleneck.graph.fingerprint, codes=tuple(found))

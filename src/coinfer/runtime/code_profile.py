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
        progress: called before each round of all codes.
    """
    if graph.bottleneck is None:
        return None
    executor, codes = Executor(graph, threads, provider=provider), graph.bottleneck.codes
    codecs = [codec_of(code, graph.bottleneck.graph.tensors[code.tensor].shape) for code in codes]
    exits = len(graph.bottleneck.outputs)
    runs_s = np.zeros((len(codes), WARM_UP + RUNS, 3 + exits))
    sizes_bytes = np.zeros((len(codes), WARM_UP + RUNS))
    for k in range(WARM_UP + RUNS):
        progress(k, WARM_UP + RUNS, "measuring codes")
        for i, (code, codec) in enumerate(zip(codes, codecs, strict=True)):  # in turns: what disturbs, disturbs all
            symbols, device_s = executor.measure(samples[k % len(samples)], (code.tensor,))
            began_s = clock()
            payload = codec.encode(symbols[code.tensor])
            encoded_s = clock()
            received = codec.decode(payload, limit_bytes=symbols[code.tensor].size)
            decoded_s = clock()
            server_s = [executor.measure({code.tensor: received}, (answer.tensor,))[1] for answer in code.answers]
            runs_s[i, k] = device_s, encoded_s - began_s, decoded_s - encoded_s, *server_s
            sizes_bytes[i, k] = len(payload)
    found = []
    for i, code in enumerate(codes):
        device_s, encode_s, decode_s, *earlier_s, server_s = np.median(runs_s[i, WARM_UP:], axis=0).tolist()
        mean_bytes = code.size_bytes or sizes_bytes[i, : len(samples)].mean()
        earlier = [answer.tensor for answer in code.answers[:-1]]
        found.append(
            CodeTimes(
                tensor=code.tensor,
                device_s=device_s,
                server_s=server_s,
                earlier_s=dict(zip(earlier, earlier_s, strict=True)),
                encode_s=encode_s,
                decode_s=decode_s,
                size_bits=bits_of_bytes(float(mean_bytes)),
            )
        )
    return BottleneckTimes(fingerprint=graph.bottleneck.graph.fingerprint, codes=tuple(found))

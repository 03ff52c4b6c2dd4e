"""The last exit of a network as a network without exits, with the same bottleneck, for comparison.

    python experiments/bottlenecks/alone.py FILE.onnx --output FOLDER

Writes NAME-plain.onnx, NAME-plain.bottleneck.onnx and NAME-plain.accuracy.json, which states the accuracy that was
counted when the bottleneck was trained.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from coinfer.graph.bottleneck import SUFFIX, BottleneckRecord, with_record
from coinfer.graph.onnx.load import from_proto, load
from coinfer.graph.open_model import open_model
from coinfer.graph.segment import save_model
from coinfer.profile.accuracy import AccuracyTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parsed = parser.parse_args()
    graph, name = open_model(parsed.model), f"{parsed.model.stem}-plain"
    bottleneck = graph.bottleneck
    assert bottleneck is not None, f"{parsed.model} has no bottleneck beside it"
    parsed.output.mkdir(parents=True, exist_ok=True)
    path = parsed.output / f"{name}.onnx"
    output = graph.outputs[-1]
    save_model(replace(graph.pruned((output,)), name=name, bottleneck=None), path)
    plain = load(path)
    codes = tuple(code.model_copy(update={"answers": code.answers[-1:]}) for code in bottleneck.codes)
    record = BottleneckRecord(network=name, fingerprint=plain.fingerprint, source=bottleneck.source, codes=codes)
    proto = with_record(bottleneck.graph.proto, record)
    save_model(from_proto(proto, name, bottleneck.graph.weights), parsed.output / f"{name}{SUFFIX}", half=True)
    known = codes[-1].answers[-1].accuracy
    assert known is not None, "the bottleneck was not measured"
    AccuracyTable(
        model=name,
        fingerprint=plain.fingerprint,
        dataset=known.dataset,
        samples=known.samples,
        exits=(known.plain,),
        rows=(),
    ).save(parsed.output / f"{name}.accuracy.json")


if __name__ == "__main__":
    main()

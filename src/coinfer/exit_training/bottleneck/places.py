"""Where a bottleneck goes: as named, or at an early place that leaves the encoder enough work."""

from coinfer.errors import TrainingError
from coinfer.exit_training.bottleneck.settings import BottleneckSettings, Place
from coinfer.graph.ir import ModelGraph

MAX_SIDE_SHARE = 1 / 4
"""The code's side over that of the input, at most: pictures are shrunk before they are sent."""
MIN_SIDE = 4
_MAP_AXES = 4


def place_for(graph: ModelGraph, settings: BottleneckSettings, source: str = "", target: str = "") -> Place:
    """Return where a bottleneck of a network goes.

    Args:
        graph: the network; its last output is answered.
        settings: `device_share` bounds what the device computes before the encoder.
        source: tensor that the encoder reads; empty for the network's input.
        target: tensor that the decoder replaces; empty for the first one, behind the source, whose side is at most
            `MAX_SIDE_SHARE` of the input's.

    Raises:
        TrainingError: if there is no such place.
    """
    output = graph.outputs[-1]
    one = graph.pruned((output,))
    source = source or one.inputs[0]
    _check_map(one, source)
    if _done_flop(one, source) > settings.device_share * one.work_flop:
        share = _done_flop(one, source) / one.work_flop
        raise TrainingError(
            f"{graph.name}: {share:.0%} of its work lies before {source!r}, but the device may do "
            f"{settings.device_share:.0%}; choose an earlier tensor or a larger --device-share"
        )
    targets = [target] if target else [cut for cut in _maps(one) if _is_target(one, source, cut)]
    if not targets:
        raise TrainingError(
            f"{graph.name}: no feature maps of at most a quarter of its input's side behind {source!r}; name the "
            "tensor to replace with --target"
        )
    _check_map(one, targets[0])
    if not _follows(one, source, targets[0]):
        raise TrainingError(f"{graph.name}: the rest of it does not follow from {targets[0]!r} alone behind {source!r}")
    return Place(source, targets[0], output)


def _maps(graph: ModelGraph) -> list[str]:
    """Return the square feature maps that a cut sends alone, the earliest first."""
    names = [cut.tensors[0] for cut in graph.useful_cuts()[1:-1] if len(cut.tensors) == 1]
    return [name for name in names if len(graph.tensors[name].shape) == _MAP_AXES]


def _is_target(graph: ModelGraph, source: str, name: str) -> bool:
    side = graph.tensors[name].shape[2]
    limit = max(MAX_SIDE_SHARE * graph.tensors[graph.inputs[0]].shape[2], MIN_SIDE)
    return side <= limit and _done_flop(graph, name) > _done_flop(graph, source)


def _done_flop(graph: ModelGraph, name: str) -> float:
    return sum(graph.ops[i].work_flop for i in graph.needed(graph.inputs, (name,)))


def _check_map(graph: ModelGraph, name: str) -> None:
    if name not in graph.tensors:
        raise TrainingError(f"{graph.name}: no tensor {name!r} that its last output needs")
    shape = graph.tensors[name].shape
    if len(shape) != _MAP_AXES or shape[2] != shape[3]:
        raise TrainingError(f"{graph.name}: {name!r} is {list(shape)}; a bottleneck needs square feature maps")


def _follows(graph: ModelGraph, source: str, target: str) -> bool:
    names = {cut.tensors for cut in graph.single_cuts()}
    return (
        (target,) in names and (source,) in names and graph.tensors[target].shape[2] <= graph.tensors[source].shape[2]
    )

"""Where a bottleneck goes: as named, or at an early place that leaves the encoder enough work."""

import difflib
import math

from coinfer.errors import TrainingError
from coinfer.exit_training.bottleneck.nets import WIDTHS, encoder_shapes
from coinfer.exit_training.bottleneck.settings import BottleneckSettings, Place
from coinfer.graph.ir import GraphError, ModelGraph

MAX_SIDE_SHARE = 1 / 4
"""The code's side over that of the input, at most: pictures are shrunk before they are sent."""
MIN_SIDE = 4
"""A code of fewer places would hold too little."""
SOURCE_SHARE = 3 / 4
"""Of the device's work, what may be done before the encoder: the rest is the encoder's."""
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
        TrainingError: if there is no such place, or even the narrowest encoder exceeds the device's share.
    """
    one = graph.pruned(graph.outputs[-1:])
    source = source or one.inputs[0]
    _check_source(one, settings, source)
    targets = [target] if target else _targets(one, source)
    if not targets:
        raise TrainingError(
            f"{graph.name}: no feature maps of at most a quarter of its input's side behind {source!r}; name the "
            "tensor to replace with --target"
        )
    _check_map(one, targets[0])
    if not _follows(one, source, targets[0]):
        raise TrainingError(f"{graph.name}: the rest of it does not follow from {targets[0]!r} alone behind {source!r}")
    place = Place(source, targets[0], one.outputs[0])
    if (least := smallest_share(graph, place, settings)) > settings.device_share:
        raise TrainingError(
            f"{graph.name}: the smallest encoder from {place.source!r} to {place.target!r} needs a --device-share of "
            f"{math.ceil(1000 * least) / 1000:g}, got {settings.device_share:g}"
        )
    return place


def smallest_share(graph: ModelGraph, place: Place, settings: BottleneckSettings) -> float:
    """Return the arithmetic up to the code with the narrowest encoder, over that of the whole network.

    Args:
        graph: the network.
        place: where the bottleneck goes.
        settings: gives the channels of the code.
    """
    one = graph.pruned((place.output,))
    source, target = one.tensors[place.source].shape, one.tensors[place.target].shape
    shapes = encoder_shapes(source[1], source[2], target[2], WIDTHS[0], settings.channels[-1])
    return (_done_flop(one, place.source) + sum(shape.work_flop for shape in shapes)) / one.work_flop


def exits_behind(graph: ModelGraph, target: str) -> tuple[str, ...]:
    """Return the outputs of a network that follow from one tensor alone, the earliest exit first.

    Args:
        graph: the network.
        target: name of the tensor.
    """
    return tuple(output for output in graph.outputs if _is_enough(graph, target, output))


def _is_enough(graph: ModelGraph, target: str, output: str) -> bool:
    try:
        graph.needed((target,), (output,))
    except GraphError:
        return False
    return True


def candidates(graph: ModelGraph, settings: BottleneckSettings, source: str = "") -> list[Place]:
    """Return the places that are worth trying: for each side of a code, the first feature map that has it.

    Places whose narrowest encoder exceeds the device's share are left out.

    Args:
        graph: the network; its last output is answered.
        settings: `device_share` bounds what the device computes before the encoder.
        source: tensor that the encoder reads; empty for the network's input and the last feature map that takes no
            more than `SOURCE_SHARE` of what the device may compute.

    Raises:
        TrainingError: if there is no place.
    """
    one = graph.pruned(graph.outputs[-1:])
    most = SOURCE_SHARE * settings.device_share * one.work_flop
    early = [name for name in _maps(one) if _done_flop(one, name) <= most]
    sources = [source] if source else [one.inputs[0], *early[-1:]]
    places = []
    for name in sources:
        _check_source(one, settings, name)
        fitting = [target for target in _targets(one, name) if _follows(one, name, target)]
        sides = {one.tensors[target].shape[2]: target for target in reversed(fitting)}
        found = [Place(name, sides[side], one.outputs[0]) for side in sorted(sides) if side >= MIN_SIDE]
        places += [place for place in found if smallest_share(graph, place, settings) <= settings.device_share]
    return places or [place_for(graph, settings, source)]


def _check_source(one: ModelGraph, settings: BottleneckSettings, source: str) -> None:
    """Raise if the device may not compute so much, or an encoder cannot read it."""
    _check_map(one, source)
    if _done_flop(one, source) > settings.device_share * one.work_flop:
        share = _done_flop(one, source) / one.work_flop
        raise TrainingError(
            f"{one.name}: {share:.0%} of its work lies before {source!r}, but the device may do "
            f"{settings.device_share:.0%}; choose an earlier tensor or a larger --device-share"
        )


def _maps(graph: ModelGraph) -> list[str]:
    """Return the square feature maps that a cut sends alone, the earliest first."""
    names = [cut.tensors[0] for cut in graph.useful_cuts()[1:-1] if len(cut.tensors) == 1]
    return [name for name in names if len(graph.tensors[name].shape) == _MAP_AXES]


def _targets(graph: ModelGraph, source: str) -> list[str]:
    return [name for name in _maps(graph) if _is_target(graph, source, name)]


def _is_target(graph: ModelGraph, source: str, name: str) -> bool:
    side = graph.tensors[name].shape[2]
    limit = max(MAX_SIDE_SHARE * graph.tensors[graph.inputs[0]].shape[2], MIN_SIDE)
    return side <= limit and _done_flop(graph, name) > _done_flop(graph, source)


def _done_flop(graph: ModelGraph, name: str) -> float:
    return sum(graph.ops[i].work_flop for i in graph.needed(graph.inputs, (name,)))


def _check_map(graph: ModelGraph, name: str) -> None:
    if name not in graph.tensors:
        near = difflib.get_close_matches(name, graph.tensors, 3)
        hint = f"did you mean {', '.join(near)}?" if near else "`coinfer describe` lists those that cuts send"
        raise TrainingError(f"{graph.name}: no tensor {name!r} that its last output needs; {hint}")
    shape = graph.tensors[name].shape
    if len(shape) != _MAP_AXES or shape[2] != shape[3]:
        raise TrainingError(f"{graph.name}: {name!r} is {list(shape)}; a bottleneck needs square feature maps")


def _follows(graph: ModelGraph, source: str, target: str) -> bool:
    names = {cut.tensors for cut in graph.single_cuts()}
    return (
        (target,) in names and (source,) in names and graph.tensors[target].shape[2] <= graph.tensors[source].shape[2]
    )

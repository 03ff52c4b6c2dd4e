"""Print what a network is and where it can be cut: `coinfer describe`."""

import json
from collections import Counter
from collections.abc import Mapping

import onnx
from rich.console import Console
from rich.table import Table

from coinfer.cli.reports.cut_name import cut_name
from coinfer.graph.bottleneck import Bottleneck, Code, CodeAnswer
from coinfer.graph.ir import GraphError, ModelGraph
from coinfer.graph.onnx.axes import Shapes
from coinfer.graph.onnx.weights import DTYPES
from coinfer.graph.open_model import Declared, declared_if_sizes_are_missing, open_model
from coinfer.graph.pictures import PictureSettings, hint
from coinfer.units import MEGA, bytes_of_bits


def describe_network(
    console: Console,
    model: str,
    shapes: Shapes,
    pictures: PictureSettings,
    limits: Mapping[str, str],
    *,
    as_json: bool,
) -> None:
    """Print a description of a network.

    Args:
        console: prints it.
        model: an ONNX file, or a network of the zoo.
        shapes: sizes of its free axes.
        pictures: how it takes pictures.
        limits: other limits of what its file may take.
        as_json: print one JSON object instead of sentences and tables.

    Raises:
        UserError: for what a user can mend, in one line.
    """
    try:
        graph = open_model(model, shapes, pictures, limits)
    except GraphError:
        declared = declared_if_sizes_are_missing(model, shapes, pictures)
        if declared is None:
            raise
        _describe_declared(console, declared, as_json)
        return
    if as_json:
        print(json.dumps(description(graph), indent=1, ensure_ascii=False))
        return
    for line in _sentences(graph):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_operations_table(graph))
    console.print(_cuts_table(graph))
    console.print(_advice(graph), markup=False, soft_wrap=True)


def _describe_declared(console: Console, declared: Declared, as_json: bool) -> None:
    """Print what the file says without the sizes that are missing."""
    inputs = [(one.name, one.dtype.name, one.declared) for one in declared.inputs]
    outputs = [(one.name, *_type_of(one)) for one in declared.outputs]
    if as_json:
        keys = ("name", "type", "shape")
        ends = {"inputs": inputs, "outputs": outputs}
        said = {role: [dict(zip(keys, row, strict=True)) for row in rows] for role, rows in ends.items()}
        print(json.dumps({"network": declared.name, **said, "missing": declared.missing}, indent=1, ensure_ascii=False))
        return
    lines = [declared.name]
    for role, rows in (("input ", inputs), ("output", outputs)):
        lines += [f"  {role} {name}: {kind} [{', '.join(map(str, shape))}]" for name, kind, shape in rows]
    for line in (*lines, f"cannot say more without sizes: {declared.missing}"):
        console.print(line, markup=False, soft_wrap=True)


def _type_of(value: onnx.ValueInfoProto) -> tuple[str, list[int | str]]:
    """Return the type and shape that a file declares for an output."""
    kind = value.type.tensor_type
    dtype = DTYPES.get(kind.elem_type)
    return "unknown" if dtype is None else dtype.name, [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]


def description(graph: ModelGraph) -> dict[str, object]:
    """Return what `coinfer describe --json` prints, in SI units.

    Args:
        graph: the network.
    """
    return {
        "network": graph.name,
        "fingerprint": graph.fingerprint,
        "inputs": [_tensor(graph, name) for name in graph.inputs],
        "outputs": [_tensor(graph, name) for name in graph.outputs],
        "free_axes": [axis._asdict() for axis in graph.axes],
        "fixed_axes": dict(graph.fixed),
        "parameters": graph.params,
        "weights_bytes": sum(value.nbytes for value in graph.weights.values()),
        "work_flop": graph.work_flop,
        "operations": dict(Counter(op.kind for op in graph.ops).most_common()),
        "folded": list(graph.notes.folded),
        "not_cut": list(graph.notes.uncut),
        "picture": graph.image._asdict() if graph.image else None,
        "bottleneck": _codes(graph),
        "cuts": [
            {
                "after_operations": len(cut.head),
                "tensors": [_tensor(graph, name) for name in cut.tensors],
                "size_bits": sum(graph.tensors[name].size_bits for name in cut.tensors),
                "work_before_flop": sum(graph.ops[i].work_flop for i in cut.head),
            }
            for cut in graph.useful_cuts()
        ],
    }


def _codes(graph: ModelGraph) -> list[dict[str, object]]:
    """Return what is known of the codes of the network's bottleneck."""
    codes = () if graph.bottleneck is None else graph.bottleneck.codes
    return [code.model_dump(exclude={"lengths"}) for code in codes]


def _code_lines(bottleneck: Bottleneck | None) -> list[str]:
    """Return what is known of each exit's answers from each code, for a person."""
    codes = () if bottleneck is None else bottleneck.codes
    return [_code_line(code, answer) for code in codes for answer in code.answers]


def _code_line(code: Code, answer: CodeAnswer) -> str:
    known, name = answer.accuracy, f"bottleneck {code.tensor}"
    name += f", {answer.output}" if len(code.answers) > 1 else ""
    if known is None:
        return f"{name}: not measured"
    share, plain = known.correct / known.samples, known.plain / known.samples
    return (
        f"{name}: {known.size_bytes:.0f} bytes, {share:.2%} right of {known.samples} pictures, "
        f"{plain:.2%} without it ({known.dataset})"
    )


def _tensor(graph: ModelGraph, name: str) -> dict[str, object]:
    return {
        "name": graph.label(name),
        "type": str(graph.tensors[name].dtype),
        "shape": list(graph.free_shape(name)),
        "size_bits": graph.tensors[name].size_bits,
    }


def _sentences(graph: ModelGraph) -> list[str]:
    """Return what the network is, a line each."""
    weights_mb = sum(value.nbytes for value in graph.weights.values()) / MEGA
    lines = [f"{graph.name}, fingerprint {graph.fingerprint[:12]}"]
    lines += [f"  input  {_line(graph, name)}" for name in graph.inputs]
    lines += [f"  output {_line(graph, name)}" for name in graph.outputs]
    for axis in graph.axes:
        upper = f"to {axis.high}" if axis.high else "up"
        lines.append(f"  axis   {axis.name}: free, from {axis.low} {upper}; --shape {axis.name}=SIZE fixes it")
    lines += [f"  axis   {name}: fixed at {size}" for name, size in graph.fixed.items()]
    at = ", ".join(f"{name} {size}" for name, size in graph.sizes.items())
    lines.append(
        f"{graph.params:,} parameters ({weights_mb:.1f} MB), {graph.work_flop / MEGA:,.1f} million floating-point "
        f"operations{f' for {at}' if at else ''}; {len(graph.ops)} operations of ONNX"
    )
    lines += _code_lines(graph.bottleneck)
    lines += [f"folded: {note}" for note in graph.notes.folded]
    lines += [f"runs in one place: {reason}, so what follows from them is not cut" for reason in graph.notes.uncut]
    control = [op for op in graph.ops if op.kind in {"If", "Loop", "Scan"}]
    lines += [f"runs in one place: {op.kind} {graph.label(op.name)!r} and the graph inside it" for op in control]
    return lines


def _line(graph: ModelGraph, name: str) -> str:
    shape = ", ".join(map(str, graph.free_shape(name)))
    return f"{graph.label(name)}: {graph.tensors[name].dtype} [{shape}]"


def _operations_table(graph: ModelGraph) -> Table:
    """Return a row for each kind of operation, the one with most work first."""
    table = Table(title="operations")
    for heading in ("kind", "number", "parameters", "million operations", "share"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    counts, work, params = Counter[str](), Counter[str](), Counter[str]()
    for op in graph.ops:
        counts[op.kind] += 1
        work[op.kind] += int(op.work_flop)
        params[op.kind] += op.params
    for kind in sorted(counts, key=lambda kind: (-work[kind], kind)):
        share = work[kind] / max(graph.work_flop, 1)
        table.add_row(kind, str(counts[kind]), f"{params[kind]:,}", f"{work[kind] / MEGA:,.1f}", f"{share:.1%}")
    return table


def _cuts_table(graph: ModelGraph) -> Table:
    """Return a row for each useful cut, with what crosses it."""
    cuts = graph.useful_cuts()
    table = Table(title=f"{len(cuts)} useful cuts; `coinfer plan` says which is best for a link")
    for heading in ("cut after", "type and shape", "kB", "work before"):
        table.add_column(heading, justify="right" if heading in {"kB", "work before"} else "left", overflow="fold")
    for cut in cuts:
        done = sum(graph.ops[i].work_flop for i in cut.head) / max(graph.work_flop, 1)
        size_bits = sum(graph.tensors[name].size_bits for name in cut.tensors)
        shapes = " + ".join(_line(graph, name).removeprefix(f"{graph.label(name)}: ") for name in cut.tensors)
        table.add_row(cut_name(graph, cut.tensors), shapes, f"{bytes_of_bits(size_bits) / 1e3:.1f}", f"{done:.0%}")
    return table


def _advice(graph: ModelGraph) -> str:
    """Return what a picture input would need, or what the network takes instead."""
    if graph.image is not None:
        image = graph.image
        means, stds = (", ".join(f"{value:g}" for value in values) for values in (image.mean, image.std))
        return (
            f"pictures: {image.height} x {image.width}, {image.colors}, {image.layout}, {image.fit}; each value times "
            f"{image.scale:.4g}, minus {means}, over {stds}"
        )
    said = hint(graph)
    if said:
        return f"pictures: {said}"
    names = " ".join(f"--input {graph.label(name)}=FILE.npy" for name in graph.inputs)
    return f"pictures: no input has the form of one; coinfer infer takes {names}"

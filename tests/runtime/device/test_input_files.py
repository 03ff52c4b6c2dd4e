"""Inputs from files and texts."""

import wave
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from coinfer.graph.ir import ModelGraph, Tensor
from coinfer.graph.onnx.load import from_proto
from coinfer.runtime.device.input_files import fit, read_inputs, read_item_file, read_values, read_wav
from coinfer.runtime.device.inputs import ItemError

INPUTS = {
    "tokens": (TensorProto.INT64, [1, 4]),
    "mask": (TensorProto.BOOL, [1, 4]),
    "state": (TensorProto.FLOAT, [2, 3]),
}


def network() -> ModelGraph:
    nodes = [helper.make_node("Cast", [name], [name + "_out"], to=TensorProto.DOUBLE) for name in INPUTS]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in INPUTS.items()],
        [helper.make_tensor_value_info(name + "_out", TensorProto.DOUBLE, None) for name in INPUTS],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net")


def tensor(shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    return Tensor("x", np.dtype(dtype), shape)


def write_wav(path: Path, samples: np.ndarray, width: int, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(16000)
        whole = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
        raw = (whole + 128).astype(np.uint8) if width == 1 else whole[..., None].view(np.uint8)[..., :width]
        sound.writeframes(raw.tobytes())


def test_named_values_come_in_the_type_and_shape_of_their_input(tmp_path: Path):
    np.save(tmp_path / "state.npy", np.arange(6.0).reshape(2, 3))
    (tmp_path / "tokens.txt").write_text("101 7592\n2088, 102\n")
    given = read_inputs(network(), [f"state={tmp_path}/state.npy", f"tokens={tmp_path}/tokens.txt", "mask=1,1,1,0"])
    assert given["tokens"].dtype == np.int64
    assert given["tokens"].tolist() == [[101, 7592, 2088, 102]]
    assert given["mask"].tolist() == [[True, True, True, False]]
    assert (given["state"] == np.arange(6, dtype=np.float32).reshape(2, 3)).all()
    assert (read_inputs(network(), ["state=0.5"])["state"] == np.full((2, 3), 0.5)).all()


def test_an_archive_names_its_inputs_and_others_complete_it(tmp_path: Path):
    np.savez(tmp_path / "both.npz", tokens=np.arange(4), mask=np.ones(4, bool))
    given = read_item_file(network(), tmp_path / "both.npz", read_inputs(network(), ["state=0"]))
    assert set(given) == set(INPUTS)
    np.save(tmp_path / "tokens.npy", np.arange(4))
    others = read_inputs(network(), ["state=0", "mask=1"])
    assert read_item_file(network(), tmp_path / "tokens.npy", others)["tokens"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("width", "error"), [(1, 1 / 60), (2, 1e-4), (3, 1e-6), (4, 1e-7)])
def test_sounds_of_every_width_are_read(tmp_path: Path, width: int, error: float):
    samples = np.sin(np.linspace(0, 20, 400))
    write_wav(tmp_path / "mono.wav", samples, width)
    found = read_wav(tmp_path / "mono.wav")
    assert found.dtype == np.float32
    assert np.abs(found - samples).max() < error
    write_wav(tmp_path / "stereo.wav", np.stack([samples, -samples], 1), width, channels=2)
    assert np.abs(read_wav(tmp_path / "stereo.wav")).max() < error


def test_arrays_get_the_axes_that_are_missing():
    assert fit(np.zeros(5), tensor((1, 5)), "a").shape == (1, 5)
    assert fit(np.zeros((3, 2)), tensor((1, 1, 3, 2)), "a").shape == (1, 1, 3, 2)
    assert fit(np.array(16000), tensor((), "int64"), "a") == 16000
    assert fit(np.zeros((2, 5)), tensor((1, 5)), "a").shape == (2, 5), "a batch"


@pytest.mark.parametrize(
    ("array", "wanted", "message"),
    [
        (np.array([1.5]), tensor((1,), "int64"), r"a: value 1\.5 is none of int64; input 'x' is int64 \[1\]"),
        (np.array([300]), tensor((1,), "uint8"), "value 300 is none of uint8"),
        (np.array([1e300]), tensor((1,)), r"value 1e\+300 is none of float32"),
        (np.array(["a"]), tensor((1,)), "holds <U1"),
        (np.zeros(5), tensor((2, 3)), r"has shape \[5\]; input 'x' is float32 \[2, 3\]"),
    ],
)
def test_values_that_do_not_fit_are_refused(array, wanted, message):
    with pytest.raises(ItemError, match=message):
        fit(array, wanted, "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing=1", r"--input 'nothing=1': expected NAME=VALUE or a file \.npz; net has tokens, mask, state"),
        ("tokens=none.npy", r"none\.npy: no such file"),
        ("tokens=none.wav", r"none\.wav: no such file"),
        ("tokens=none.txt", r"none\.txt: cannot be read as text"),
        ("tokens=word", r"'word': expected numbers or a file that ends in \.npy"),
        ("tokens=", "expected numbers"),
        ("none.npz", r"none\.npz: no such file"),
    ],
)
def test_mistakes_of_inputs_are_one_line(text, message):
    with pytest.raises(ItemError, match=message) as refused:
        read_inputs(network(), [text])
    assert "\n" not in str(refused.value)


def test_an_input_that_is_given_twice_is_refused():
    with pytest.raises(ItemError, match="'state' is given twice"):
        read_inputs(network(), ["state=0", "state=1"])


def test_damaged_files_are_refused(tmp_path: Path):
    for name in ("a.npy", "a.npz", "a.wav"):
        (tmp_path / name).write_bytes(b"RIFFxxxxWAVEjunk")
    for name in ("a.npy", "a.wav"):
        with pytest.raises(ItemError, match="not a readable"):
            read_values(str(tmp_path / name), tensor((1, 4)))
    with pytest.raises(ItemError, match="not a readable array file"):
        read_inputs(network(), [str(tmp_path / "a.npz")])

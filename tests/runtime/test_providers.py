"""What computes, by its short name; what some of them compile is kept between starts."""

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from tests.graph.small_graphs import perceptron
from tests.tables import analytic_table

from coinfer.errors import UserError
from coinfer.graph.onnx.load import from_proto
from coinfer.profile.table import ProfileError
from coinfer.runtime import providers
from coinfer.runtime.executor import Executor
from coinfer.runtime.profiling import measure_with_codec, profile_for, samples_for

GRAPH = from_proto(perceptron(), "net")
GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: GPU)


def test_names_are_those_of_the_installed_onnx_runtime_without_remote_ones(gpu: None):
    assert providers.available()[:3] == ("tensorrt", "cuda", "cpu")
    assert "azure" not in providers.available()
    assert providers.is_onnxruntime("cuda")
    assert not providers.is_onnxruntime("openvino")
    with pytest.raises(UserError, match=r"provider is 'coreml', which is not installed here; there are tensorrt, cuda"):
        providers.check_provider("coreml")


def test_a_session_has_the_provider_first_and_the_processor_behind_it(gpu: None, tmp_path: Path):
    assert providers.session_providers("cuda", None) == [("CUDAExecutionProvider", {}), ("CPUExecutionProvider", {})]
    assert providers.session_providers("cpu", None) == [("CPUExecutionProvider", {})]
    (_, options), _ = providers.session_providers("tensorrt", tmp_path)
    assert (options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == ("True", str(tmp_path))


def test_networks_and_pieces_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = {providers.engine_folder("tensorrt", *key) for key in [("a" * 64, "x"), ("a" * 64, "y"), ("b" * 64, "x")]}
    assert len(found) == 3
    assert all(folder is not None and folder.is_dir() and tmp_path in folder.parents for folder in found)
    assert providers.engine_folder("cpu", "a" * 64, "x") is None, "compiles nothing"


def test_without_a_home_or_on_a_read_only_disk_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert providers.engine_folder("tensorrt", "a" * 64, "x") is None
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert providers.engine_folder("tensorrt", "a" * 64, "x") is None


def test_what_openvino_compiles_is_kept_and_answers_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = {"x": np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)}
    first = Executor(GRAPH, provider="openvino").run(x)[0]["y"]
    kept = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert kept
    assert os.path.commonpath(kept).startswith(str(tmp_path / "coinfer/engines/openvino"))
    again = Executor(GRAPH, provider="openvino").run(x)[0]["y"]
    assert (first == again).all()
    np.testing.assert_allclose(first, Executor(GRAPH).run(x)[0]["y"], rtol=1e-5)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept, "nothing was compiled anew"


def test_a_profile_belongs_to_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = measure_with_codec(GRAPH, 1, samples_for(GRAPH), provider="openvino")
    assert table.provider == "openvino"
    assert table.call_s + sum(table.op_s) == pytest.approx(table.whole_s, rel=1e-3)
    assert profile_for(GRAPH, table, provider="openvino") == profile_for(GRAPH, table, provider=None) == table
    with pytest.raises(ProfileError, match=r"measured with provider openvino, not cpu: .*profile --provider cpu"):
        profile_for(GRAPH, table)
    with pytest.raises(ProfileError, match="measured with provider cpu, not openvino"):
        profile_for(GRAPH, analytic_table(GRAPH), provider="openvino")

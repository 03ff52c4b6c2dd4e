"""`import coinfer` is cheap, and everything that it lists is there."""

import subprocess
import sys

import pytest

import coinfer

CHEAP = """
import sys
import coinfer
heavy = {"numpy", "onnx", "onnxruntime", "grpc", "torch", "gymnasium", "PIL", "pydantic"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
coinfer.Device, coinfer.load_policy, coinfer.load_images
assert "torch" not in sys.modules
"""


def test_importing_costs_nothing_and_a_device_needs_no_pytorch():
    subprocess.run([sys.executable, "-c", CHEAP], check=True)


@pytest.mark.parametrize("name", coinfer.__all__)
def test_all_that_is_listed_is_there(name: str):
    assert getattr(coinfer, name) is not None


def test_what_is_not_listed_is_not_there():
    with pytest.raises(AttributeError, match="module 'coinfer' has no attribute 'Wish'"):
        coinfer.Wish  # type: ignore[attr-defined]  # noqa: B018


def test_an_environment_and_a_policy_come_by_name():
    env = coinfer.make_env("campus")
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    assert coinfer.load_policy("learned").options is None


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "coinfer.envs.adapters.gymnasium_env", raising=False)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"coinfer\.make_env needs gymnasium: pip install '\.\[train\]'"):
        coinfer.make_env  # noqa: B018


def test_completion_shows_what_is_listed():
    assert {*coinfer.__all__} <= {*dir(coinfer)}

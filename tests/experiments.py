"""Scripts of `experiments/` as modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import pytest
from tests.paths import ROOT


@contextmanager
def script(folder: str, name: str) -> Iterator[ModuleType]:
    """A script, which finds its neighbours as if it were run; forgotten afterwards, as names recur in other folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments" / folder))
        try:
            yield import_module(name)
        finally:
            sys.modules.pop(name, None)

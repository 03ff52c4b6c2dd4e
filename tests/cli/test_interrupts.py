"""Ctrl-C ends a command without a traceback, also while it is still being loaded."""

import signal
import sys
from importlib.abc import MetaPathFinder

import pytest

from coinfer.__main__ import main
from coinfer.cli.console import interrupted_quietly


class _Interrupt(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "coinfer.cli.main":
            raise KeyboardInterrupt


def test_an_interrupt_while_the_command_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "coinfer.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Interrupt(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_libraries_cannot_catch_an_interrupt_while_they_load():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupted_quietly():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background
        with interrupted_quietly():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

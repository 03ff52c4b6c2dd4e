"""Makes this Python look like one on another platform, or in a container.

Python imports it at its start from PYTHONPATH. COINFER_TEST_LACKS says what is missing: `posix` (what Windows lacks),
`disk` (nothing can be written), `user` (an entry for this user).
"""

import asyncio
import builtins
import errno
import functools
import io
import os
import signal
import sys

LACKING_MODULES = frozenset(
    {"crypt", "fcntl", "grp", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty"}
)
LACKING_OS = (
    "chown",
    "fchmod",
    "fork",
    "forkpty",
    "geteuid",
    "getgid",
    "getloadavg",
    "getpgid",
    "getpriority",
    "getsid",
    "getuid",
    "killpg",
    "mkfifo",
    "nice",
    "posix_fadvise",
    "pread",
    "pwrite",
    "sched_getaffinity",
    "sched_setaffinity",
    "sched_yield",
    "setsid",
    "statvfs",
    "sysconf",
    "wait3",
    "wait4",
)
LACKING_SIGNALS = (
    "SIGALRM",
    "SIGCHLD",
    "SIGCONT",
    "SIGHUP",
    "SIGPIPE",
    "SIGQUIT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGXCPU",
    "SIGXFSZ",
    "alarm",
    "pthread_kill",
    "pthread_sigmask",
    "setitimer",
    "sigwait",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MISSING = os.environ.get("COINFER_TEST_LACKS", "").split(",")


class _Lacking:
    """Finds no module that Windows lacks."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in LACKING_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r} on this platform", name=name)


def _read_only(path):
    return OSError(errno.EROFS, os.strerror(errno.EROFS), path)


def _hide_posix():
    for name in LACKING_MODULES & sys.modules.keys():
        del sys.modules[name]
    sys.meta_path.insert(0, _Lacking)
    for module, names in ((os, LACKING_OS), (signal, LACKING_SIGNALS)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    asyncio.base_events.BaseEventLoop.add_signal_handler = asyncio.AbstractEventLoop.add_signal_handler
    asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = asyncio.AbstractEventLoop.add_signal_handler
    _refuse(lambda path, writes: FileNotFoundError(errno.ENOENT, "no such file", path) if _in_proc(path) else None)


def _in_proc(path):
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc")


def _refuse(problem):
    """Raise what `problem` says of a path and of whether it is opened to be written."""
    plain_open, plain_io_open = os.open, io.open

    def os_open(path, flags, *args, **kwargs):
        if error := problem(path, flags & WRITING):
            raise error
        return plain_open(path, flags, *args, **kwargs)

    def io_open(file, mode="r", *args, **kwargs):
        if error := problem(file, set(mode) & set("wax+") and not isinstance(file, int)):
            raise error
        return plain_io_open(file, mode, *args, **kwargs)

    # Objects, not functions: pathlib of Python 3.10 keeps them in a class, where functions would become methods.
    os.open = functools.partial(os_open)
    io.open = builtins.open = functools.partial(io_open)


def _make_disk_read_only():
    _refuse(lambda path, writes: _read_only(path) if writes and os.fspath(path) != os.devnull else None)

    def mkdir(path, *_, **__):
        if os.path.isdir(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        raise _read_only(path)

    os.mkdir = mkdir


def _hide_user():
    import pwd

    def getpwuid(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd.getpwuid = getpwuid
    os.environ.pop("HOME", None)


if "user" in _MISSING:
    _hide_user()
if "posix" in _MISSING:
    _hide_posix()
if "disk" in _MISSING:
    _make_disk_read_only()

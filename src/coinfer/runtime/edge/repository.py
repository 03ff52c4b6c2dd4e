"""Networks that come and go while an edge node serves: index, load and unload of Triton's repository protocol."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import NamedTuple

from coinfer.errors import UserError
from coinfer.runtime.edge.served_model import ECHO, VERSION, ServedModel
from coinfer.runtime.protocol.messages import WireError

_log = logging.getLogger("coinfer.edge")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}")
SUFFIX = ".onnx"


class IndexEntry(NamedTuple):
    """One network of the repository."""

    name: str
    version: str
    state: str
    """`READY` if requests are served, else `UNAVAILABLE`."""
    reason: str
    """Why it is unavailable, or that it is not in memory and what loading it costs."""


class Repository:
    """The networks that a node serves or may serve.

    Args:
        models: that are served, by name; changed in place.
        load: opens a network by its spec; runs off the event loop and may take seconds.
        specs: ONNX files and zoo networks that the node was started with.
        folder: more files that clients may have loaded; None lets clients load and unload nothing.
    """

    def __init__(
        self,
        models: MutableMapping[str, ServedModel],
        load: Callable[[str], ServedModel],
        specs: tuple[str, ...],
        folder: Path | None,
    ):
        self._models = models
        self._load = load
        self._specs = {Path(spec).stem: spec for spec in specs}
        self._folder = folder
        self._changing = asyncio.Lock()
        self.on_change: list[Callable[[str, bool], None]] = []
        """Called with the name of a network that is served from now on, or no longer."""
        self.before_removal: Callable[[str], Awaitable[None]] | None = None
        """Awaited with the name of a network that is about to go, or to give way to another, so that nobody asks for it
        any more by then."""

    def index(self, ready: bool = False) -> list[IndexEntry]:
        """Return all networks by name.

        Args:
            ready: only those that are served.
        """
        files = [] if self._folder is None else sorted(self._folder.glob(f"*{SUFFIX}"))
        names = sorted({*self._models, *self._specs, *(file.stem for file in files if _NAME.fullmatch(file.stem))})
        entries = [self._entry(name) for name in names]
        return [entry for entry in entries if entry.state == "READY" or not ready]

    async def load(self, name: str) -> None:
        """Serve a network from now on; one that is served already is replaced by what its file holds now.

        Args:
            name: of the network.

        Raises:
            WireError: if clients may not, there is no such network, or it cannot be opened.
        """
        spec = self._spec(name)
        async with self._changing:
            try:
                model = await asyncio.to_thread(self._load, spec)
            except UserError as error:
                raise WireError("INVALID_ARGUMENT", f"loading {name!r}: {error}", "not_loaded") from None
            if model.name != name:
                raise WireError("INVALID_ARGUMENT", f"the network in {name}{SUFFIX} is called {model.name!r}", "name")
            old = self._models.get(name)
            if old is not None and old.fingerprints != model.fingerprints:
                await self._prepare_removal(name)
            self._models[name] = model
            if old is not None:
                old.runs.close()
            _log.info("serving %s, fingerprint %s", name, model.fingerprint[:12])
            self._tell(name, True)

    async def unload(self, name: str) -> None:
        """Serve a network no longer; what was admitted is finished.

        Args:
            name: of the network.

        Raises:
            WireError: if clients may not, or it is not served.
        """
        self._check_allowed()
        async with self._changing:
            model = self._models.get(name)
            if model is None or name == ECHO:
                raise WireError("NOT_FOUND", f"no model {name[:64]!r} to unload here", "unknown_model")
            await self._prepare_removal(name)
            del self._models[name]
            model.runs.close()
            _log.info("serving %s no longer", name)
            self._tell(name, False)

    def _entry(self, name: str) -> IndexEntry:
        model = self._models.get(name)
        if model is None:
            return IndexEntry(name, VERSION, "UNAVAILABLE", "not loaded")
        load_s = model.runs.cold().get((tuple(one.name for one in model.inputs), tuple(o.name for o in model.outputs)))
        reason = "" if load_s is None else f"not in memory; loading it takes {load_s:.2g} s"
        return IndexEntry(name, VERSION, "READY", reason)

    def _spec(self, name: str) -> str:
        self._check_allowed()
        if name in self._specs:
            return self._specs[name]
        path = None if self._folder is None or not _NAME.fullmatch(name) else self._folder / f"{name}{SUFFIX}"
        if path is None or not path.is_file():
            raise WireError(
                "NOT_FOUND", f"no file {name[:64]!r}{SUFFIX} in the repository of this node", "unknown_model"
            )
        return str(path)

    def _check_allowed(self) -> None:
        if self._folder is None:
            text = "models are not loaded or unloaded here; start the server with --repository FOLDER"
            raise WireError("FAILED_PRECONDITION", text, "no_repository")

    async def _prepare_removal(self, name: str) -> None:
        if self.before_removal is not None:
            await self.before_removal(name)

    def _tell(self, name: str, is_served: bool) -> None:
        for tell in self.on_change:
            tell(name, is_served)

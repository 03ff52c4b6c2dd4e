"""The updater: it takes candidates in, has them judged, rolls them out step by step, and takes them back.

It believes no return that anybody reports: a candidate is judged in simulated worlds and by the log, in a process of
its own (`trainer.judge`), then as a shadow, on one server, and at last it is watched beside the fallback.
"""

import asyncio
import json
import logging
import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coinfer.errors import UserError
from coinfer.site.store import last_id
from coinfer.site.updater import live, rollout
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import RolloutSettings
from coinfer.site.updater.versions import (
    FALLBACK,
    PolicyFolder,
    Rollout,
    Version,
    describe,
    is_serving_policy,
    to_json,
    write_policy,
)

STEP_S = 1.0
JUDGE = "coinfer.site.trainer.judge"
NO_TRAINING = (
    "candidates cannot be judged and nothing is learned here: pip install '.[train]' in coinfer's folder; `pin` works"
)
NO_JUDGEMENT = (
    "a policy for servers that batch or load: a site can neither judge nor train these yet, as its fitted worlds and "
    "its log know no batches and no memory; `pin` lets it decide"
)
_log = logging.getLogger("coinfer.site")


class Updater:
    """Decides which policies the servers of a site use.

    Args:
        store: file of the experience.
        folder: of the versions.
        settings: thresholds.
        edges: returns the addresses of the servers that are there, by name.
        note: takes events for the page.
    """

    def __init__(
        self,
        store: Path,
        folder: Path,
        settings: RolloutSettings,
        edges: Callable[[], dict[str, str]],
        note: Callable[[str], None],
    ):
        self.settings = settings
        self.folder = PolicyFolder(folder)
        self.problem = "" if find_spec("torch") else NO_TRAINING
        self._store, self._edges, self._note = store, edges, note
        self._live = live.LiveLog(store, last_id(store))
        self._judging: asyncio.Future[Verdict] | None = None
        self._judged_s = 0.0
        self._refused_by: dict[str, str] = {}

    @property
    def rollout(self) -> Rollout:
        """Return the present state."""
        return self.folder.rollout

    def shares(self, node: str) -> dict[int, float]:
        """Return which versions decide on a server, with their shares; empty if nothing was ever pushed.

        Args:
            node: name of the server.
        """
        return rollout.shares(self.rollout, node, self.settings) if self.rollout.versions else {}

    def explore(self) -> float:
        """Return the share of decisions that try another server."""
        return self.settings.explore if rollout.explores(self.rollout) else 0.0

    def state(self) -> dict[str, object]:
        """Return everything as JSON has it, for the page and for operators."""
        return to_json(self.rollout) | {"problem": self.problem}

    # --- what operators and the trainer ask

    def push(self, onnx: bytes, sidecar: bytes, by: str) -> Version:
        """Take a candidate in.

        Args:
            onnx: content of the network's file.
            sidecar: content of its side-car.
            by: who pushed it.

        Raises:
            UserError: if it is no policy, or one that was refused or rolled back.
        """
        version = self.folder.add(onnx, sidecar, by, self.settings.keep_versions)
        if version.standing in ("refused", "rolled back"):
            raise UserError(f"this is {describe(version)}; pin it if you know better")
        if version.number in (self.rollout.running, self.rollout.candidate):
            raise UserError(f"this is {describe(version)} already")
        self._cancel()
        self._save(rollout.offer(self.rollout, version.number, time.time()))
        return self.rollout.version(version.number)

    def pin(self, number: int, by: str) -> None:
        """Let a version decide for all servers from now on, until an operator says otherwise.

        Args:
            number: of the version; 0 for the fallback.
            by: who says so.

        Raises:
            UserError: if there is no such version.
        """
        if number != FALLBACK:
            self.rollout.version(number)
        reason = f"pinned by {by}"
        self._save(rollout.run(self.rollout, number, reason, time.time(), self._live.last_id, pinned=True))

    def unpin(self, by: str) -> None:
        """Let candidates take the place of what runs again.

        Args:
            by: who says so.
        """
        self._save(rollout.noted(self.rollout, time.time(), f"unpinned by {by}", pinned=False))

    def roll_back(self, by: str) -> None:
        """Take the running version back.

        Args:
            by: who says so.

        Raises:
            UserError: if none runs.
        """
        if self.rollout.running == FALLBACK:
            raise UserError("nothing to roll back: no policy runs, sequential greedy decides")
        self._save(rollout.roll_back(self.rollout, f"by {by}", time.time()))

    def node_refused(self, node: str, problem: str) -> None:
        """Take in that a server could not use a policy.

        Args:
            node: name of the server.
            problem: one line, `version N: why`; empty if all is well.
        """
        if self._refused_by.get(node, "") == problem:
            return
        self._refused_by[node] = problem
        candidate = self.rollout.candidate
        if problem and candidate is not None and problem.startswith(f"version {candidate}:"):
            self._save(rollout.refuse(self.rollout, f"{node}: {problem}", time.time()))

    # --- its own steps

    async def run(self) -> None:
        """Take steps while the controller lives; ends by cancellation."""
        if self.problem:
            _log.warning("%s", self.problem)
        try:
            while True:
                try:
                    await self.step()
                except (UserError, OSError) as error:
                    _log.warning("the roll-out waits: %s", error)
                await asyncio.sleep(STEP_S)
        finally:
            self._cancel()

    async def step(self) -> None:
        """Look at what is new, and go on if it says enough."""
        if not self.rollout.versions:
            return
        with suppress(Exception):  # the file is locked for a moment
            await asyncio.to_thread(self._live.read, time.monotonic())
        self._watch()
        if self.rollout.candidate is not None and not self.rollout.pinned:
            await self._advance(self.rollout.version(self.rollout.candidate))

    def _watch(self) -> None:
        state = self.rollout
        if state.running == FALLBACK or state.pinned:
            return
        begin_s = time.monotonic() - self.settings.watch_window_s
        measured = live.since(self._live.measured, state.after_id, begin_s)
        verdict = live.judge_running(measured, state.running, self.settings)
        self._save(rollout.watch(state, verdict, time.time(), self.settings))

    async def _advance(self, version: Version) -> None:
        state = self.rollout
        if version.standing == "canary":
            verdict = self._canary_verdict(version.number)
        else:
            verdict = await self._verdict(version)
            if verdict is None:
                return
        if self.rollout.candidate != version.number:  # an operator was faster
            return
        canary = ""
        if version.standing == "shadow" and verdict.passed:
            there = self._edges()
            canary = live.canary_node({node: self._decided()[node] for node in there})
            if not canary:
                return
        salt = secrets.token_hex(8)
        self._save(rollout.advance(state, verdict, time.time(), self._live.last_id, canary, salt))

    def _decided(self) -> Counter[str]:
        return Counter(one.node for one in self._live.measured if not one.reached)

    def _canary_verdict(self, candidate: int) -> Verdict:
        state = self.rollout
        measured = live.since(self._live.measured, state.after_id)
        address = self._edges().get(state.canary, "")
        told = live.drawn_again(measured, state.canary, address, self.shares(state.canary), state.salt)
        verdict = live.judge_canary([*measured, *told], state.canary, candidate, state.running, self.settings)
        if verdict.passed is None and time.time() - state.since_s > self.settings.canary_limit_s:
            return Verdict(False, f"{verdict.reason}; not within {self.settings.canary_limit_s:.0f} s")
        return verdict

    async def _verdict(self, version: Version) -> Verdict | None:
        """Return what the judging process found; None while it has not ended or is not due."""
        if is_serving_policy(self.folder.path(version.number)):
            return Verdict(None, NO_JUDGEMENT)
        if self.problem and version.standing == "waiting":
            return Verdict(None, self.problem)
        now_s = time.monotonic()
        if self._judging is None:
            if now_s < self._judged_s:
                return None
            kind = "shadow" if version.standing == "shadow" else "judge"
            self._judging = asyncio.ensure_future(self.judge(self.folder.path(version.number), kind))
        if not self._judging.done():
            return None
        done, self._judging = self._judging, None
        verdict = done.result()
        self._judged_s = now_s + (self.settings.retry_s if verdict.passed is None else 0.0)
        return verdict

    async def judge(self, path: Path, kind: str = "judge") -> Verdict:
        """Judge a policy in a process of its own, which is ended if it takes too long.

        Args:
            path: ONNX file with its side-car beside it.
            kind: `judge` in worlds and by the log, or `shadow`.
        """
        running = self.rollout.running
        by_file = running != FALLBACK and not is_serving_policy(self.folder.path(running))
        job = {
            "kind": kind,
            "store": str(self._store),
            "candidate": str(path),
            "running": str(self.folder.path(running)) if by_file else "",
            "after_id": self.rollout.after_id if kind == "shadow" else 0,
            "settings": self.settings.model_dump(),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", JUDGE, str(os.getpid()),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            limit_s = self.settings.judge_limit_s
            out, said = await asyncio.wait_for(process.communicate(json.dumps(job).encode()), limit_s)
        except asyncio.TimeoutError:
            return Verdict(False, f"its judgement did not end within {self.settings.judge_limit_s:.0f} s")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _parse_verdict(process.returncode, out, said)

    async def judge_files(self, onnx: bytes, sidecar: bytes) -> Verdict:
        """Judge a policy that is not kept.

        Args:
            onnx: content of the network's file.
            sidecar: content of its side-car.

        Raises:
            UserError: if it is no policy.
        """
        if self.problem:
            raise UserError(self.problem)
        with tempfile.TemporaryDirectory(prefix="coinfer-judge-") as folder:
            path = Path(folder) / "policy.onnx"
            write_policy(path, onnx, sidecar)
            if is_serving_policy(path):
                raise UserError(NO_JUDGEMENT)
            return await self.judge(path)

    def _cancel(self) -> None:
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None
        self._judged_s = 0.0

    def _save(self, state: Rollout) -> None:
        if state is self.rollout or state == self.rollout:
            return
        events = state.history[len(self.rollout.history) :]
        self.folder.save(state)
        for event in events:
            _log.info("policy: %s", event.text)
            self._note(event.text)


def _parse_verdict(status: int | None, out: bytes, said: bytes) -> Verdict:
    """Return the verdict that the judging process printed; a process that failed refuses the candidate."""
    lines = out.decode(errors="replace").splitlines()
    try:
        found: Mapping[str, Any] = json.loads(lines[-1])
        return Verdict(found["passed"], str(found["reason"])[:500])
    except (IndexError, ValueError, KeyError, TypeError):
        words = said.decode(errors="replace").strip().splitlines()[-1:] or ["nothing was said"]
        return Verdict(False, f"its judgement failed (status {status}): {words[0][:200]}")

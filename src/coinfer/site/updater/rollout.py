"""The steps of a roll-out as pure functions: from a state and what was found to the next state, with the reason."""

from typing import NamedTuple

from coinfer.site.updater.settings import RolloutSettings
from coinfer.site.updater.versions import FALLBACK, Event, Rollout, Standing


class Verdict(NamedTuple):
    """What a judgement, a shadow or a canary found of a policy."""

    passed: bool | None
    """None if too little is known to say."""
    reason: str
    """One line with the figures."""


def noted(rollout: Rollout, at_s: float, text: str, **changes: object) -> Rollout:
    """Return a state with some fields changed and an event in its history.

    Args:
        rollout: before.
        at_s: seconds since 1970.
        text: what happened and why.
        changes: fields of `Rollout`.
    """
    event = Event(at_s=round(at_s, 3), text=text)
    return rollout.model_copy(update={**changes, "history": (*rollout.history, event)})


def marked(rollout: Rollout, number: int | None, standing: Standing, reason: str, judged: str = "") -> Rollout:
    """Return a state in which a version has another standing.

    Args:
        rollout: before.
        number: of the version; of the fallback nothing is marked.
        standing: the new one.
        reason: for it.
        judged: what a judgement found; empty to leave what is known.
    """
    versions = tuple(
        one.model_copy(update={"standing": standing, "reason": reason} | ({"judged": judged} if judged else {}))
        if one.number == number
        else one
        for one in rollout.versions
    )
    return rollout.model_copy(update={"versions": versions})


def offer(rollout: Rollout, number: int, at_s: float) -> Rollout:
    """Return the state after a version was pushed: it is the candidate, in the place of an older one.

    Args:
        rollout: before.
        number: of the version.
        at_s: seconds since 1970.
    """
    if rollout.candidate is not None and rollout.candidate != number:
        rollout = marked(rollout, rollout.candidate, "superseded", f"version {number} was pushed")
    version = rollout.version(number)
    text = f"version {number} ({version.scheme}) pushed by {version.by}"
    return noted(rollout, at_s, text, candidate=number, canary="", since_s=at_s, after_id=0)


def refuse(rollout: Rollout, reason: str, at_s: float) -> Rollout:
    """Return the state after the candidate was refused; what runs goes on.

    Args:
        rollout: before, with a candidate.
        reason: one line.
        at_s: seconds since 1970.
    """
    number = rollout.candidate
    rollout = marked(rollout, number, "refused", reason)
    return noted(rollout, at_s, f"version {number} refused: {reason}", candidate=None, canary="")


def advance(rollout: Rollout, verdict: Verdict, at_s: float, last_id: int, canary: str = "", salt: str = "") -> Rollout:
    """Return the state after the candidate's present stage was decided: it is refused, or enters the next stage.

    Args:
        rollout: before, with a candidate that waits, is a shadow, or a canary.
        verdict: of this stage.
        at_s: seconds since 1970.
        last_id: number of the newest decision of the log.
        canary: the server that tries it next, if it leaves the shadow.
        salt: by which that server draws who decides.
    """
    number = rollout.candidate
    standing = rollout.version(number).standing
    if verdict.passed is None:
        return marked(rollout, number, standing, verdict.reason)
    if not verdict.passed:
        return refuse(rollout, verdict.reason, at_s)
    if standing == "waiting":
        rollout = marked(rollout, number, "shadow", verdict.reason, judged=verdict.reason)
        return noted(rollout, at_s, f"version {number} in shadow: {verdict.reason}", since_s=at_s, after_id=last_id)
    if standing == "shadow":
        rollout = marked(rollout, number, "canary", f"on {canary}; {verdict.reason}")
        text = f"version {number} on {canary} (canary): {verdict.reason}"
        return noted(rollout, at_s, text, since_s=at_s, after_id=last_id, canary=canary, salt=salt)
    return run(rollout, number or FALLBACK, verdict.reason, at_s, last_id)


def run(rollout: Rollout, number: int, reason: str, at_s: float, last_id: int, *, pinned: bool = False) -> Rollout:
    """Return the state after a version was given to all servers.

    Args:
        rollout: before.
        number: of the version; `FALLBACK` for none.
        reason: one line.
        at_s: seconds since 1970.
        last_id: number of the newest decision of the log.
        pinned: an operator has said so.
    """
    if number != rollout.running:
        rollout = marked(rollout, rollout.running, "accepted", f"version {number} runs")
    rollout = marked(rollout, number, "running", reason)
    changes = {"running": number, "pinned": pinned, "since_s": at_s, "after_id": last_id, "worse_s": None}
    if number != rollout.running:
        changes["previous"] = rollout.running
    if rollout.candidate == number:
        changes |= {"candidate": None, "canary": ""}
    return noted(rollout, at_s, f"version {number} on all servers: {reason}", **changes)


def roll_back(rollout: Rollout, reason: str, at_s: float) -> Rollout:
    """Return the state after the running version was taken back: what ran before runs again.

    Args:
        rollout: before.
        reason: one line.
        at_s: seconds since 1970.
    """
    number, before = rollout.running, rollout.previous
    rollout = marked(rollout, number, "rolled back", reason)
    rollout = marked(rollout, before, "running", f"version {number} was rolled back")
    changes = {"running": before, "previous": FALLBACK, "pinned": False, "worse_s": None, "since_s": at_s}
    return noted(rollout, at_s, f"version {number} rolled back to version {before}: {reason}", **changes)


def watch(rollout: Rollout, verdict: Verdict, at_s: float, settings: RolloutSettings) -> Rollout:
    """Return the state after the running policy was compared with the fallback.

    Args:
        rollout: before.
        verdict: `passed` is false if it is worse, None if too little is known.
        at_s: seconds since 1970.
        settings: how long it may be worse.
    """
    if verdict.passed is None:
        return rollout
    if verdict.passed:
        return rollout.model_copy(update={"worse_s": None}) if rollout.worse_s is not None else rollout
    if rollout.worse_s is None:
        return rollout.model_copy(update={"worse_s": at_s})
    if at_s - rollout.worse_s < settings.worse_s:
        return rollout
    return roll_back(rollout, f"{verdict.reason}, for {at_s - rollout.worse_s:.0f} s", at_s)


def shares(rollout: Rollout, node: str, settings: RolloutSettings) -> dict[int, float]:
    """Return which versions decide on a server, with the share of its decisions that each makes.

    Args:
        rollout: the present state.
        node: name of the server.
        settings: give the shares.
    """
    found = {rollout.running: 1.0}
    if rollout.running != FALLBACK:
        found = {rollout.running: 1 - settings.fallback_share, FALLBACK: settings.fallback_share}
    if rollout.candidate is not None and rollout.canary == node:
        part = settings.canary_share
        found = {version: share * (1 - part) for version, share in found.items()} | {rollout.candidate: part}
    return found


def explores(rollout: Rollout) -> bool:
    """Return whether servers should try other choices now and then: somebody learns, or is judged.

    Args:
        rollout: the present state.
    """
    return rollout.running != FALLBACK or rollout.candidate is not None

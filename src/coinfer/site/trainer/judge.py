"""The process that judges a candidate: `python -m coinfer.site.trainer.judge PARENT`, a job as JSON in, a verdict out.

It is a process of its own so that a candidate that never ends, or takes all memory, harms nobody else. It ends when the
controller does that began it, PARENT.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from coinfer.errors import UserError
from coinfer.policies.onnx import load_policy
from coinfer.site.agent.padding import padded
from coinfer.site.fitting.evidence import Decided, decided
from coinfer.site.fitting.fit import FitError
from coinfer.site.store import newest_experience
from coinfer.site.updater.off_policy import judge_by_log
from coinfer.site.updater.rollout import Verdict
from coinfer.site.updater.settings import RolloutSettings
from coinfer.site.updater.shadow import judge_shadow


def judge(job: dict[str, Any]) -> Verdict:
    """Return the verdict on a candidate.

    Args:
        job: as `updater.Updater.judge` writes it.

    Raises:
        UserError: if the candidate or the store cannot be used.
    """
    settings = RolloutSettings.model_validate(job["settings"])
    candidate, store = Path(job["candidate"]), Path(job["store"])
    records = newest_experience(store, settings.judge_decisions)
    decisions = decided([one for one in records if int(str(one["id"])) > job["after_id"]])
    policy = padded(load_policy(candidate))
    if job["kind"] == "shadow":
        return judge_shadow(decisions, policy, settings)
    return judge_all(decisions, candidate, job["running"], settings)


def judge_all(decisions: list[Decided], candidate: Path, running: str, settings: RolloutSettings) -> Verdict:
    """Return what worlds and log say together: worlds must show that it is no worse, the log must not say that it is.

    Args:
        decisions: of the log.
        candidate: ONNX file.
        running: ONNX file of what runs; empty for sequential greedy.
        settings: thresholds.
    """
    from coinfer.site.trainer.worlds import judge_in_worlds

    try:
        in_worlds = judge_in_worlds(decisions, candidate, running, settings)
    except FitError as error:
        return Verdict(None, f"worlds: {error}")
    by_log = judge_by_log(decisions, padded(load_policy(candidate)), settings)
    return Verdict(in_worlds.passed and by_log.passed is not False, f"{in_worlds.reason}; {by_log.reason}")


def end_with(parent: int) -> None:
    """End this process when its parent has ended.

    Args:
        parent: its number.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    """Read a job, print a verdict."""
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    job = json.loads(sys.stdin.read())
    try:
        verdict = judge(job)
    except UserError as error:
        verdict = Verdict(False, str(error))
    print(json.dumps(verdict._asdict()))


if __name__ == "__main__":
    main()

"""The thresholds of judging and rolling out. Their values and reasons are in `data/rollout.yaml`."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coinfer.errors import UserError
from coinfer.profile.fields import first_problem
from coinfer.resources import ROLLOUT

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
Decisions = Annotated[int, Field(ge=2, le=10_000_000)]


class RolloutSettings(BaseModel):
    """See `data/rollout.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    worlds_margin: Share
    worlds_seeds: Annotated[int, Field(ge=2, le=1000)]
    effective_decisions: Decisions
    coverage: Share
    log_margin: Share
    shadow_decisions: Decisions
    shadow_margin: Share
    shadow_invalid: Share
    canary_share: Annotated[float, Field(gt=0, lt=1)]
    canary_decisions: Decisions
    canary_own_word: bool
    canary_margin: Share
    canary_missed: Share
    canary_limit_s: Seconds
    fallback_share: Annotated[float, Field(gt=0, lt=1)]
    watch_window_s: Seconds
    watch_decisions: Decisions
    watch_margin: Share
    worse_s: Seconds
    explore: Annotated[float, Field(ge=0, le=0.5)]
    retry_s: Seconds
    judge_limit_s: Seconds
    judge_decisions: Decisions
    keep_versions: Annotated[int, Field(ge=3, le=10_000)]


def load_settings(path: Path | None = None) -> RolloutSettings:
    """Return the settings of a file; what it leaves out is as shipped.

    Args:
        path: YAML; None for the shipped settings.

    Raises:
        UserError: if the file cannot be read, or a value in it is not allowed; one line.
    """
    values = yaml.safe_load(ROLLOUT.read_text(encoding="utf-8"))
    if path is not None:
        try:
            own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read as settings of a roll-out: {str(error).splitlines()[0]}") from None
        if not isinstance(own, dict):
            raise UserError(f"{path}: expected KEY: VALUE lines, such as canary_share: 0.5")
        values |= own
    try:
        return RolloutSettings.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path or ROLLOUT}: {first_problem(error)}") from None

"""Multi-task A3C (Li et al., IEEE TMC 2024): one policy head of N + 1 places for each of M blocks, on a shared trunk.

The learner is `a3c`, whose docstring names the departures from the paper; here are the heads and the states.

- Preset `paper` observes the paper's state (c, d and R of every block, and the remaining energy), in which tasks look
  alike. Decisions are drawn from the policy also after training, in all presets but `predicted`: one best place for
  all would overload it.
- Preset `quick` observes ours (`blocks.features.queue_state`), and a part of a task's reward is its slot's mean.
- Preset `predicted` is ours: one network scores the placements of a task with at most one cut (`place_scores`), for any
  number of blocks, tasks and servers. It knows how all tasks are shared out, so the best placement is taken, and a
  task's reward counts how long it makes others wait.
- Preset `threads` is `quick` with asynchronous workers; `tied` is `quick` with a trunk for every block, tied by a
  penalty (soft parameter sharing as the literature means it; the paper's is a shared trunk).

A slot holds K tasks. The paper does not say how one decision of M places serves them; here every task is decided by the
same network from its own state, and is rewarded by its own delay, or in part by its slot's mean (`others`).
"""

from dataclasses import replace

from typing_extensions import Unpack

from coinfer.rl.algorithms.a3c import QUICK, A3cSettings, train_a3c
from coinfer.rl.core.blocks_training import BlocksSettings, MakePlayer, with_rounds
from coinfer.rl.core.training import RunOptions, TrainingResult, TrainSettings

_SCORES = replace(QUICK, trunk=(32, 32), state="predicted", sampled=False, others=0.0, imposed=1.0, marginal=True)
PRESETS = {
    "predicted": with_rounds(_SCORES, 300),
    "quick": with_rounds(QUICK, 600),
    "threads": with_rounds(replace(QUICK, learner=replace(QUICK.learner, threads=5)), 600),
    "tied": with_rounds(replace(QUICK, trunks="tied", learner=replace(QUICK.learner, tie=1e-3)), 600),
    "paper": with_rounds(
        BlocksSettings(A3cSettings(), worlds=1, trunk=(256, 128), head=(64,), state="paper", sampled=True), 6000
    ),
}
"""Settings by name; `TrainSettings.steps` is rounds times workers times worlds."""


def train(
    settings: TrainSettings,
    *,
    blocks_settings: BlocksSettings[A3cSettings] | None = None,
    make_player: MakePlayer | None = None,
    **options: Unpack[RunOptions],
) -> TrainingResult:
    """Train multi-task A3C for every seed, side by side.

    Args:
        settings: scenario, seeds, length and preset.
        blocks_settings: settings to use instead of the preset that `settings` names.
        make_player: as in `a3c.train_a3c`.
        options: as in `RunOptions`.

    Returns:
        One policy for each seed.

    Raises:
        UserError: if scenario, preset or folder is not valid.
    """
    chosen = blocks_settings or settings.find_preset(PRESETS)
    return train_a3c("mtl-a3c", settings, chosen, make_player, **options)

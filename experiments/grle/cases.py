"""The worlds of the experiment, and what is trained in them: shared by `train.py`, `judge.py` and `figures.py`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from coinfer.rl.algorithms.grle import PRESETS, SCHEMES, GrleSettings, with_rounds
from coinfer.scenario.compile import Compiled, open_world

FOLDER = Path(__file__).parent
WEIGHTS = Path("runs/grle")
"""Trained weights, which are not kept with the results."""
SEEDS = 10
LEARNER = ("candidates", "sweeps", "learning_rate")
"""Settings of the learner that a training may change."""
ROUNDS = 200
"""Slots that each world of a learner plays; 4 worlds, so 800 slots a learner."""


@dataclass(frozen=True)
class World:
    """A scenario, a number of devices, and a factor on all deadlines."""

    scenario: str = "grle-s2"
    devices: int = 14
    deadlines: float = 1.0

    @property
    def name(self) -> str:
        """Return a name for files and tables."""
        return f"{self.scenario}-{self.devices}-{self.deadlines:g}"

    def compiled(self, slots: int | None = None) -> Compiled:
        """Return the compiled scenario.

        Args:
            slots: length of an episode; the preset's without it.
        """
        least, most = 0.03 * self.deadlines, 0.09 * self.deadlines
        sizes = {"devices.0.count": self.devices, "tasks_per_slot": self.devices, "arrivals.tasks": self.devices}
        length = {} if slots is None else {"slots": slots}
        return open_world(self.scenario, {**sizes, **length, "models.0.deadline_s": [least, most]})


HARDEST, HARD, MAIN, EASY = World(deadlines=0.5), World(deadlines=0.6), World(), World("grle", 6)
WORLDS = (
    HARD,
    HARDEST,
    *(World(scenario, deadlines=0.6) for scenario in ("grle-s3", "grle-s4", "grle")),
    World(devices=10, deadlines=0.6),
    World(devices=6, deadlines=0.6),
    MAIN,
    World(deadlines=2.0),
    EASY,
)
RATES = FOLDER / "results" / "rates.json"
"""What `tune.py` found."""


def best_rate(scheme: str) -> float | None:
    """Return the learning rate that was best for a scheme; None if none was tried.

    Args:
        scheme: one of `SCHEMES`.
    """
    tried = json.loads(RATES.read_text()).get(scheme, {}) if RATES.exists() else {}
    return float(max(tried, key=lambda rate: sum(tried[rate]["timely_accuracy"]))) if tried else None


VARIANTS: dict[str, tuple[str, dict[str, object], tuple[World, ...]]] = {
    "grle, no sweep": ("grle", {"sweeps": 0}, (HARD,)),
    "grle, no order": ("grle", {"ordered": False}, (HARD,)),
    "grle, no noise": ("grle", {"noisy": 0}, (HARD,)),
    "drooe, 4 times the slots": ("drooe", {"rounds": 4 * ROUNDS}, (HARD,)),
    "grle, 12 candidates": ("grle", {"candidates": 12, "noisy": 4}, (HARD,)),
    **{
        f"{scheme}, tuned rate": (scheme, {"learning_rate": best_rate(scheme)}, (HARD, HARDEST))
        for scheme in SCHEMES
        if best_rate(scheme)
    },
}
"""Longer trainings and ablations: a scheme with changed settings, and where."""


def settings_of(scheme: str, changes: dict[str, object] | None = None) -> GrleSettings:
    """Return the settings of a training.

    Args:
        scheme: one of `SCHEMES`.
        changes: of `GrleSettings`, of the learner (`LEARNER`), and `rounds` of the loop.
    """
    graph, early_exits = SCHEMES[scheme]
    changes = dict(changes or {})
    rounds = int(str(changes.pop("rounds", ROUNDS)))
    settings = replace(PRESETS["quick"], graph=graph, early_exits=early_exits)
    of_learner = {name: changes.pop(name) for name in LEARNER if name in changes}
    settings = replace(settings, learner=replace(settings.learner, **of_learner))
    return with_rounds(replace(settings, **changes), rounds)


def weights_file(name: str, world: World) -> Path:
    """Return the file of the trained weights.

    Args:
        name: of a scheme or a variant.
        world: of the training.
    """
    return WEIGHTS / f"{name.replace(', ', '-').replace(' ', '-')}-{world.name}.npz"

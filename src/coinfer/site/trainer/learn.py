"""The trainer: CDO-DSAC's agents on what the site experiences, after a start in the world that is fitted to it.

A round is: fit a world, if there is none yet, other servers are there, or the load is another; train in it, resumable
at any moment; learn from the log, half of each batch from the site and half from simulation; export the agent that does
best on common worlds. The controller judges what comes of it (`updater`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import torch

from coinfer import checkpoint
from coinfer.envs import offload
from coinfer.errors import UserError
from coinfer.policies.learned.export import export
from coinfer.policies.learned.placement.policy import policies_of
from coinfer.rl.algorithms.cdo_dsac import (
    CdoDsac,
    CdoSettings,
    MakePlayer,
    TrainingJob,
    features_of,
    make_loop,
    placements_of,
    with_rounds,
)
from coinfer.rl.core.broadcast import best_learners, select_best
from coinfer.rl.core.loop import Loop
from coinfer.rl.core.records import Transition
from coinfer.rl.core.replay import Replay
from coinfer.rl.core.training import TrainSettings, restore_latest, run_training, settings_record
from coinfer.scenario.compile import fingerprint, open_world
from coinfer.scenario.world import OffloadWorld
from coinfer.site.fitting.evidence import Decided, decided
from coinfer.site.fitting.fit import fit
from coinfer.site.fitting.load import load_of_fit, read_load, what_changed, write_load
from coinfer.site.fitting.scenario_file import SCENARIO, write_scenario
from coinfer.site.store import newest_experience
from coinfer.site.trainer.experience import Sizes, transitions

SCHEME = "cdo-dsac"
CAPACITY = 20_000
"""Steps of the site that are remembered."""
_SAMPLES = 1 << 40
"""Numbers of draws from the log begin here, those of simulation at 0."""


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a trainer."""

    store: Path
    """File of the experience."""
    folder: Path
    """World, checkpoints and policies; a trainer that starts again goes on from there."""
    rounds: int = 600
    """Slots that each world plays in simulation."""
    updates: int = 200
    """Updates from the log in each round."""
    decisions: int = 20_000
    """Newest decisions that are learned from."""
    fitted: int = 4_000
    """Newest decisions that the world is fitted to, so that it soon follows a load that has changed."""
    seed: int = 0


class Learned(NamedTuple):
    """What a round of training came to."""

    policy: Path
    steps: int
    """Of the site, from which was learned."""
    reward: float
    """On common worlds, of a slot."""


class Trainer:
    """Learns round after round.

    Args:
        settings: of the trainer.
        say: takes lines for people.
        make_player: has the agents play in other processes while they are in simulation (`rl.distributed.ray_workers`);
            None to train in this one.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        say: Callable[[str], None] = lambda text: None,
        make_player: MakePlayer | None = None,
    ):
        self.settings, self._say, self._make_player = settings, say, make_player
        settings.folder.mkdir(parents=True, exist_ok=True)

    def round(self) -> Learned:
        """Learn from what is in the log now, and export a policy.

        Raises:
            FitError: if the log does not tell enough of the site yet.
            UserError: if store or folder cannot be used.
        """
        decisions = decided(newest_experience(self.settings.store, self.settings.decisions))
        world = self._world(decisions)
        loop, number = self._simulated(world), 0
        before = checkpoint.load_latest(self.settings.folder / "learned")
        if before is not None:
            loop.learner.restore(before.tensors)
            number = int(str(before.record["round"]))
        steps = self._learn(loop, world, decisions)
        checkpoint.save(self.settings.folder / "learned", number + 1, loop.learner.tensors(), {"round": number + 1})
        return self._export(loop, world, number + 1, steps)

    def _world(self, decisions: Sequence[Decided]) -> OffloadWorld:
        """Return the fitted world; it is fitted anew, and training begins anew, if servers or load are others."""
        folder = self.settings.folder
        path, known = folder / "world" / SCENARIO, folder / "load.json"
        try:
            fitted = fit(decisions[-self.settings.fitted :])
        except UserError:
            if not path.is_file():
                raise
            fitted = None
        now = None if fitted is None else load_of_fit(fitted)
        change = "" if now is None else what_changed(read_load(known) if path.is_file() else None, now)
        if change and fitted is not None and now is not None:
            for part in ("world", "simulated", "learned"):
                rmtree(folder / part, ignore_errors=True)
            write_scenario(fitted, folder / "world", "site")
            write_load(known, now)
            self._say(f"a world with {len(fitted.servers)} servers, fitted to {fitted.decisions} decisions: {change}")
        world = open_world(path).world
        assert isinstance(world, OffloadWorld), "fitted scenarios are of environment offload"
        return world

    def _settings(self, world: OffloadWorld) -> CdoSettings:
        """Return the agents' settings: one agent for each server, as in the paper."""
        return with_rounds(replace(CdoSettings(), agents=max(world.edge.servers, 2)), self.settings.rounds)

    def _simulated(self, world: OffloadWorld) -> Loop[CdoDsac]:
        """Return agents that were trained in simulation; one that was stopped goes on."""
        chosen = self._settings(world)
        train = TrainSettings(SCENARIO, seed=self.settings.seed)
        loop = self._begin(chosen, world, train.learner_seeds())
        record = settings_record(train, SCHEME, world, chosen)
        folder = self.settings.folder / "simulated"
        restore_latest(loop, record, folder, resume=True)
        if self._make_player is None or loop.round == loop.settings.rounds:
            run_training(loop, record, folder=folder, resume=True)
            return loop
        job = TrainingJob(chosen, world, train.learner_seeds().tolist(), train.device, torch.get_num_threads())
        with self._make_player(job) as play:
            run_training(loop, record, folder=folder, resume=True, play=play)
        return loop

    def _begin(self, settings: CdoSettings, world: OffloadWorld, seeds: torch.Tensor) -> Loop[CdoDsac]:
        """Return agents that have learned nothing."""
        return make_loop(settings, world, seeds)

    def _learn(self, loop: Loop[CdoDsac], world: OffloadWorld, decisions: Sequence[Decided]) -> int:
        """Learn from the log, and return from how many steps."""
        learner = loop.learner
        sizes = Sizes(world.edge.tasks, world.options, world.edge.servers)
        steps = transitions(decisions, sizes, features_of(learner.settings))
        if steps is None or steps.action.shape[1] < learner.settings.batch:
            self._say("no decisions of edge servers to learn from yet; what simulation taught counts")
            return 0
        count = min(steps.action.shape[1], CAPACITY)
        memory = Replay(CAPACITY, steps)
        memory.add(Transition(*(part[:, -count:] for part in steps)))
        ring, half = torch.zeros_like(learner.keys), max(learner.settings.batch // 2, 1)
        for number in range(self.settings.updates):
            real = memory.sample(learner.keys, _SAMPLES + learner.sac.updates, half, ring)
            played = loop.sample(number)
            parts = (torch.cat((a, b[:, :half]), 1) for a, b in zip(real, played, strict=True))
            learner.update(Transition(*parts))
        return count

    def _export(self, loop: Loop[CdoDsac], world: OffloadWorld, number: int, steps: int) -> Learned:
        learner = loop.learner
        selection = select_best(learner.measure, learner.settings.agents)
        rows = learner.sac.actor_flat.detach()[best_learners(selection)]
        chosen = learner.settings
        module = policies_of(learner.sac.actor, rows, features_of(chosen, world.edge.tasks), placements_of(chosen))[0]
        tables = offload.load(world)
        example = offload.observe(tables, offload.reset(tables, torch.arange(2)))
        path = self.settings.folder / "policies" / f"{number}.onnx"
        record = {"round": number, "steps": steps, "rounds": self.settings.rounds, "updates": learner.sac.updates}
        mark = fingerprint(world)
        export(path, module, example, scheme=SCHEME, scenario="site", scenario_fingerprint=mark, training=record)
        reward = float(selection.returns[0, int(selection.best[0])])
        return Learned(path, steps, reward)

"""How an edge server batches and loads, as it tells the site."""

import math
from collections.abc import Iterable, Mapping
from itertools import islice

from coinfer.physics.batching import BatchTimes
from coinfer.runtime.edge.admission import expected_s, running_s
from coinfer.runtime.edge.node_state import Job, NodeState
from coinfer.runtime.edge.openings import Pending
from coinfer.runtime.edge.served_model import ServedModel
from coinfer.runtime.edge.service import EdgeService
from coinfer.runtime.piece_memory import MemoryUse, Owner
from coinfer.site.agent.view import work_key
from coinfer.site.serving_messages import (
    MAX_NETWORKS,
    MAX_PIECES,
    MAX_WAITING,
    NetworkProfile,
    PieceName,
    ServingLoad,
    ServingProfile,
)

LOOK_S = 1.0
"""Times of batches and loads are looked at so often; new networks and pieces at once."""
NEW_LOAD = 0.25
"""A load time is told anew if it differs by this share from what was told."""
Names = tuple[str, ...]


class ServingReporter:
    """Tells how an edge server batches and loads. One with several workers tells nothing: the rules are for one.

    A network counts as in memory if any of its pieces is.

    Args:
        service: of the server.
    """

    def __init__(self, service: EdgeService):
        self.profile: ServingProfile | None = None
        """None if it does neither."""
        self._service = service
        self._networks: dict[str, NetworkProfile] = {}
        self._numbers: dict[str, int] = {}
        self._pieces: dict[str, int] = {}
        """Index of each piece, by the key of its work."""
        self._piece_names: list[PieceName] = []
        self._of: dict[str, dict[tuple[Names, Names], None]] = {}
        """Inputs and outputs of the pieces of each network."""
        self._looked_s = -math.inf

    def load(self, now_s: float) -> ServingLoad | None:
        """Return queue and memory now, in indices of the profile; None if the server neither batches nor loads.

        Args:
            now_s: on the service's clock.
        """
        state, memory = self._service.scheduler.state, self._service.memory
        if state.workers != 1:
            return None
        uses = {} if memory is None else memory.uses()
        jobs, pending = (*state.waiting, *state.arriving), self._service.openings.pending()
        self._look(now_s, uses, [*(run.job for run in state.running), *jobs], pending)
        return None if self.profile is None else self._composed(state, now_s, uses, jobs, pending)

    def _composed(
        self, state: NodeState, now_s: float, uses: Mapping[Owner, MemoryUse], jobs: Iterable[Job],
        pending: Iterable[Pending],
    ) -> ServingLoad:  # fmt: skip
        free_s, waiting, deadlines_s = running_s(state, now_s), list[int](), list[float]()
        for job in jobs:
            piece = self._piece_of(job)
            if piece is None:
                free_s += expected_s(state, job)
            else:
                waiting.append(piece)
                deadlines_s.append(job.deadline_s)
        queued, loads = len(waiting), list[tuple[int, Pending]]()
        for one in pending:
            piece = self._pieces.get(work_key(one.model, one.inputs, one.outputs))
            if piece is not None:
                loads.append((self._piece_names[piece].network, one))
                waiting += [piece] * len(one.deadlines_s)
                deadlines_s += one.deadlines_s
        first, *later = loads or [(None, None)]
        running = (self._piece_of(run.job) for run in state.running)
        held = ((name, use.credit) for name, use in self._uses(uses) if name in self._numbers)
        warm = {self._numbers[name]: credit for name, credit in held if credit is not None}
        left_s = [None if one == math.inf else round(max(one - now_s, 0.0), 4) for one in deadlines_s]
        return ServingLoad(
            free_s=round(free_s, 4),
            running=tuple({self._piece_names[one].network: None for one in running if one is not None})[:8],
            waiting=tuple(waiting[:MAX_WAITING]),
            cold=max(min(len(waiting), MAX_WAITING) - queued, 0),
            deadlines_s=() if left_s.count(None) == len(left_s) else tuple(left_s[:MAX_WAITING]),
            warm=tuple(warm),
            credits=tuple(float(f"{credit:.4g}") for credit in warm.values()),
            loading=first[0],
            loaded_s=round(first[1].left_s, 4) if first[1] else 0.0,
            wanted=tuple({network: None for network, _ in later if network is not None and network != first[0]}),
        )

    def _look(
        self, now_s: float, uses: Mapping[Owner, MemoryUse], jobs: Iterable[Job], pending: Iterable[Pending]
    ) -> None:
        """Take in new networks and pieces, and now and then new times."""
        owned_ones = ((name, one) for name, one in self._service.models.items() if one.runs.owner is not None)
        models = dict(islice(owned_ones, MAX_NETWORKS))
        new = [name for name in models if name not in self._networks]
        if len(self._networks) + len(new) > MAX_NETWORKS or len(self._pieces) >= MAX_PIECES:
            self._networks, self._pieces, self._piece_names, self._of = {}, {}, [], {}
            new = list(models)
        before = len(self._pieces)
        if new or now_s - self._looked_s >= LOOK_S:
            self._looked_s, owned = now_s, dict(self._uses(uses))
            for name in [*(name for name in self._networks if name in models), *new]:
                self._networks[name] = self._measured(models[name], owned.get(name))
            self._numbers = {name: number for number, name in enumerate(self._networks)}
        for job in jobs:
            match job.kind:
                case (str(model), tuple(inputs), tuple(outputs), False, ()):
                    self._add(model, inputs, outputs)
                case _:
                    pass
        for one in pending:
            self._add(one.model, one.inputs, one.outputs)
        if len(self._pieces) != before or self._looked_s == now_s:
            self._compose_profile()

    def _add(self, model: str, inputs: Names, outputs: Names) -> None:
        work = work_key(model, inputs, outputs)
        if work not in self._pieces and model in self._networks and len(self._pieces) < MAX_PIECES:
            self._pieces[work] = len(self._pieces)
            self._piece_names.append(PieceName(work=work, network=self._numbers[model]))
            self._of.setdefault(model, {})[inputs, outputs] = None

    def _measured(self, model: ServedModel, use: MemoryUse | None) -> NetworkProfile:
        """Return what is known of a network: of its piece that runs in the largest batches, and of its largest one."""
        whole = tuple(one.name for one in model.inputs), ()
        times = [model.runs.batches(*piece).times for piece in (whole, *self._of.get(model.name, ()))]
        widest: BatchTimes = max(times, key=lambda one: one.limit)
        told = self._networks.get(model.name)
        load_s = use.load_s if use else 0.0
        if told is not None and abs(load_s - told.load_s) < NEW_LOAD * told.load_s:
            load_s = told.load_s
        return NetworkProfile(
            name=model.name,
            sizes=widest.sizes,
            ratios=tuple(float(f"{ratio:.4g}") for ratio in widest.ratios),
            load_s=float(f"{load_s:.3g}"),
            size_bytes=round(use.size_bytes) if use else 0,
        )

    def _compose_profile(self) -> None:
        memory, networks = self._service.memory, tuple(self._networks.values())
        if memory is None and all(one.sizes[-1] == 1 for one in networks):
            self.profile = None
            return
        limit_bytes = None if memory is None else round(memory.limit_bytes)
        self.profile = ServingProfile(memory_bytes=limit_bytes, networks=networks, pieces=tuple(self._piece_names))

    def _uses(self, uses: Mapping[Owner, MemoryUse]) -> Iterable[tuple[str, MemoryUse]]:
        """Yield what is known of networks that are told of, or will be, by name."""
        for name, model in self._service.models.items():
            owner = model.runs.owner
            if owner is not None and owner in uses:
                yield name, uses[owner]

    def _piece_of(self, job: Job) -> int | None:
        """Return the index of a job's piece; None if it is no such piece."""
        match job.kind:
            case (str(model), tuple(inputs), tuple(outputs), False, ()):
                return self._pieces.get(work_key(model, inputs, outputs))
            case _:
                return None

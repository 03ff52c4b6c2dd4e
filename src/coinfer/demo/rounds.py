"""Rounds: in each, every scheme answers the same picture, one after another, each time in another order.

Every scheme has a device of its own, with links of its own on the same traces, so that none learns from another's
transfers. One request is under way at a time, so none waits for another's.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from coinfer.demo.schemes import Scheme
from coinfer.demo.script import link_of
from coinfer.graph.ir import ModelGraph
from coinfer.records import Record
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.device import Device
from coinfer.runtime.device.result import Result
from coinfer.runtime.emulation.links import Link
from coinfer.traces import Trace

MAX_PHASE_S = 24.0
"""A phase ends after this time and at least `MIN_ROUNDS`, though rounds are left."""
MIN_ROUNDS = 3


class Player(NamedTuple):
    """A scheme with its device."""

    name: str
    scheme: Scheme
    device: Device
    links: dict[str, Link]
    """By server address; replaced when a phase begins."""


class Answer(NamedTuple):
    """One request of a scheme."""

    phase: int
    """Index of the phase."""
    round: int
    """Number of the round, over all phases."""
    record: Record
    is_right: bool


def players(
    stack: ExitStack,
    graph: ModelGraph,
    config: DeviceConfig,
    schemes: Mapping[str, Scheme],
    traces: Mapping[str, Trace],
) -> list[Player]:
    """Return an open device for each scheme.

    Args:
        stack: closes them.
        graph: the network.
        config: of the device, with its profile; servers are those of each scheme.
        schemes: by name.
        traces: of the first phase, by server address.
    """
    made = []
    for name, scheme in schemes.items():
        links = {address: link_of(traces[address], WallClock()) for address in scheme.servers}
        fits = config if name == next(iter(schemes)) else replace(config, policy=None)
        own = replace(fits, servers=scheme.servers)
        device = stack.enter_context(Device(graph, own, options=scheme.options, links=links))
        made.append(Player(name, scheme, device, links))
    return made


def begin_phase(made: Sequence[Player], traces: Mapping[str, Trace]) -> None:
    """Let the links of all players follow the traces of a phase from now on.

    Args:
        made: the players.
        traces: by server address.
    """
    for player in made:
        for address in player.links:
            player.links[address] = link_of(traces[address], WallClock())


def play(
    made: Sequence[Player],
    phase: int,
    numbers: range,
    pictures: Sequence[np.ndarray],
    truth: np.ndarray,
    deadline_s: float,
    began_s: float,
) -> Iterator[list[Answer]]:
    """Play the rounds of a phase.

    Args:
        made: the players.
        phase: its index.
        numbers: of its rounds.
        pictures: uint8 [height, width, 3] each; rounds repeat them in turn.
        truth: [N] the right class of each picture.
        deadline_s: of every request.
        began_s: when the first phase began, on the machine's monotonic clock.

    Yields:
        The answers of each round, in the order of the players.
    """
    phase_began_s = time.monotonic()
    for number in numbers:
        late = time.monotonic() - phase_began_s > MAX_PHASE_S
        if late and number >= numbers.start + MIN_ROUNDS:
            return
        answers: dict[str, Answer] = {}
        for turn in range(len(made)):
            player = made[(number + turn) % len(made)]
            at_s = time.monotonic() - began_s
            result, link_bps = _ask(player, pictures[number % len(pictures)], deadline_s)
            is_right = int(np.argmax(result.output)) == int(truth[number % len(truth)])
            answers[player.name] = Answer(phase, number, result.record(player.name, number, at_s, link_bps), is_right)
        yield [answers[player.name] for player in made]


def _ask(player: Player, picture: np.ndarray, deadline_s: float) -> tuple[Result, float]:
    """Return the answer, and the true rate of the link to the first server when it was asked."""
    rates_bps = {address: link.rate_bps() for address, link in player.links.items()}
    scheme = player.scheme
    result = player.device.infer(
        picture,
        deadline_s=deadline_s,
        policy=scheme.policy,
        hedge=scheme.hedges,
        early_exit=scheme.exits_early,
    )
    return result, rates_bps.get(result.route.hops[:2][-1].node, 0.0)

"""The picture that people watch while requests run."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from coinfer.demo.report import View, choice_name, place_name
from coinfer.demo.rounds import Answer
from coinfer.demo.script import Phase
from coinfer.units import MILLI

BAR = 20
"""Characters of a bar that is as long as the device alone takes."""


class LivePicture:
    """Shows the present phase and the last answer of every scheme, as a context manager.

    Without a terminal it prints one plain line for each round.

    Args:
        console: to print on.
        names: of the schemes.
        phases: of the run, in their order.
        rounds: of each phase.
        view: what is shown of answers.
        own_s: the device's time for the whole network.
    """

    def __init__(
        self, console: Console, names: Sequence[str], phases: Sequence[Phase], rounds: int, view: View, own_s: float
    ):
        self._console, self._names, self._phases, self._view, self._own_s = console, names, phases, view, own_s
        self._rounds = rounds
        self._phase = 0
        self._last: list[Answer] = []
        self._latency_s: list[list[list[float]]] = [[[] for _ in phases] for _ in names]
        self._progress = Progress(TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._task = self._progress.add_task("", total=rounds * len(phases))
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> "LivePicture":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, phase: int) -> None:
        """Show a new phase.

        Args:
            phase: its index.
        """
        self._phase = phase
        self._progress.update(self._task, completed=phase * self._rounds)
        if not self._console.is_terminal:
            self._console.print(_title(self._phases, phase), highlight=False, soft_wrap=True)

    def add(self, answers: Sequence[Answer]) -> None:
        """Show the answers of a round.

        Args:
            answers: one of each scheme, in the order of the names.
        """
        self._last = list(answers)
        for latency_s, answer in zip(self._latency_s, answers, strict=True):
            latency_s[answer.phase].append(answer.record.outcome.latency_s)
        self._progress.advance(self._task)
        if not self._console.is_terminal:
            said = (f"{answer.record.scheme} {' '.join(_cells(answer, self._view))}" for answer in answers)
            self._console.print(f"  {answers[0].round + 1}: {'; '.join(said)}", highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        table = Table(title=_title(self._phases, self._phase), title_justify="left", box=None, padding=(0, 1, 0, 0))
        for heading in ("scheme", "ms", "by", "how", *(("class",) if self._view.has_labels else ()), "mean ms", ""):
            table.add_column(heading, justify="right" if "ms" in heading else "left", no_wrap=True)
        for name, answer, latency_s in zip(self._names, self._last, self._latency_s, strict=False):
            means = [float(np.mean(of_phase)) for of_phase in latency_s if of_phase]
            row = [name, *_cells(answer, self._view), " ".join(f"{mean / MILLI:.0f}" for mean in means)]
            late = not answer.record.outcome.in_time
            table.add_row(*row, Text("█" * self._length(answer), style="red" if late else "green"))
        return Group(table, self._progress)

    def _length(self, answer: Answer) -> int:
        return round(min(BAR * answer.record.outcome.latency_s / self._own_s, 1.5 * BAR))


def _title(phases: Sequence[Phase], index: int) -> str:
    phase = phases[index]
    return f"{index + 1} of {len(phases)}: {phase.name}; best should be {phase.expects}"


def _cells(answer: Answer, view: View) -> list[str]:
    record = answer.record
    right = ["right" if answer.is_right else "wrong"] if view.has_labels else []
    return [
        f"{record.outcome.latency_s / MILLI:.0f}",
        place_name(record) + ("*" if record.fallback else ""),
        choice_name(record, view),
        *right,
    ]

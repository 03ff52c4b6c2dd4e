"""What a caller may ask of one request beside its answer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import NamedTuple, TypedDict, TypeVar

from coinfer.runtime.device.admission import RefusedError
from coinfer.runtime.device.config import DeviceConfig, DeviceError, check_deadline
from coinfer.runtime.device.objective import Objective
from coinfer.runtime.executor import Abort
from coinfer.types import Policy

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class InferSettings(TypedDict, total=False):
    """The arguments by name of `Device.infer`, which says what each means."""

    deadline_s: float | None
    policy: Policy | None
    hedge: bool | None
    early_exit: bool
    objective: Objective | None
    exit: int | None
    abort: Abort | None


class Terms(NamedTuple):
    """The same, complete and checked."""

    deadline_s: float
    policy: Policy | None
    hedge: bool
    early_exit: bool
    objective: Objective | None
    exit: int | None
    abort: Abort
    is_strict: bool = False
    """Whether an answer after the deadline is of no use."""


def terms_of(config: DeviceConfig, exits: int, settings: InferSettings) -> Terms:
    """Return the terms of a request, with the device's own where it asks for none.

    Args:
        config: settings of the device.
        exits: of the network.
        settings: of the request.

    Raises:
        DeviceError: if the deadline is not above 0, or there is no such exit.
    """
    deadline_s, hedge, exit_ = settings.get("deadline_s"), settings.get("hedge"), settings.get("exit")
    deadline_s = config.deadline_s if deadline_s is None else deadline_s
    check_deadline(deadline_s)
    if exit_ is not None and not 0 <= exit_ < exits:
        raise DeviceError(f"exit is {exit_!r}; expected 0 to {exits - 1}")
    return Terms(
        deadline_s,
        settings.get("policy"),
        config.hedge if hedge is None else hedge,
        settings.get("early_exit", True),
        settings.get("objective"),
        exit_,
        settings.get("abort") or Abort(),
        config.refuse_late and settings.get("deadline_s") is not None,
    )


def answer_in_order(
    submit: Callable[[Item], "tuple[Future[Answer], Abort]"], items: Iterable[Item], concurrency: int
) -> Iterator[Answer]:
    """Yield the answers of many items in their order, so many of them under way at the same time.

    Args:
        submit: starts one; a `RefusedError` means later.
        items: may be endless; taken as places become free.
        concurrency: 1 or more.
    """
    pending: deque[tuple[Future[Answer], Abort]] = deque()
    try:
        for item in items:
            if len(pending) >= concurrency:
                yield pending.popleft()[0].result()
            while True:
                try:
                    pending.append(submit(item))
                    break
                except RefusedError as refused:  # others use the device too
                    wait([future for future, _ in pending] or [Future()], refused.pushback_s)
        while pending:
            yield pending.popleft()[0].result()
    finally:
        for _, abort in pending:
            abort.set()

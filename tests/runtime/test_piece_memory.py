"""Pieces in memory: within the limit, loaded once, the right ones evicted, weights read again."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from coinfer.graph.zoo import networks
from coinfer.runtime.executor import Executor, Runner
from coinfer.runtime.piece_memory import Owner, PagedWeights, PieceKey, PieceMemory

GRAPH = networks.build("alexnet-cifar")
WEIGHTS_BYTES = sum(value.nbytes for value in GRAPH.weights.values())


class Clock:
    """Seconds go by only when a piece is loaded."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def loading(self, name: str, took_s: float):
        def open_() -> str:
            self.now_s += took_s
            return name

        return open_


def filled(limit: float, pieces: dict[str, tuple[int, float]]) -> tuple[PieceMemory[str], dict[str, PieceKey]]:
    clock = Clock()
    memory = PieceMemory[str](limit, 64, clock)
    keys = {name: PieceKey(Owner({}), (name,), ("y",)) for name in pieces}
    for name, (size, took_s) in pieces.items():
        assert memory.get(keys[name], size, clock.loading(name, took_s)) == name
    return memory, keys


def test_what_was_used_least_recently_goes_unless_it_is_dear_to_load():
    memory, keys = filled(30, {"a": (10, 1.0), "b": (10, 1.0), "c": (10, 1.0), "d": (10, 1.0)})
    assert [name for name in keys if memory.has(keys[name])] == ["b", "c", "d"]
    memory, keys = filled(30, {"a": (10, 9.0), "b": (10, 1.0), "c": (10, 1.0), "d": (10, 1.0)})
    assert [name for name in keys if memory.has(keys[name])] == ["a", "c", "d"]
    assert memory.cold(keys["b"].owner) == {keys["b"]: 1.0}
    report = memory.report()
    assert (report.used_bytes, report.pieces, report.loads, report.load_s, report.evictions) == (30, 3, 4, 12.0, 1)


def test_pieces_in_use_stay_and_one_more_may_come_but_not_two():
    memory, keys = filled(20, {"a": (10, 1.0), "b": (10, 1.0)})
    assert all(memory.hold(key) for key in keys.values())
    third, fourth = (PieceKey(Owner({}), (name,), ("y",)) for name in "cd")
    assert memory.get(third, 10, lambda: "c", hold=True) == "c"
    assert memory.report().used_bytes == 30
    loaded = threading.Event()

    def load_fourth() -> None:
        memory.get(fourth, 10, lambda: "d")
        loaded.set()

    thread = threading.Thread(target=load_fourth)
    thread.start()
    assert not loaded.wait(0.05), "three are in use where two have room"
    memory.release(keys["a"])
    assert loaded.wait(60)
    thread.join()
    assert not memory.has(keys["a"])
    assert memory.report().used_bytes == 30
    for key in (keys["b"], third):
        memory.release(key)
    assert memory.report().used_bytes <= 20


def test_threads_that_want_one_piece_load_it_once_and_a_failure_reaches_all():
    memory, loads = PieceMemory[str](100, 64), list[int]()
    key = PieceKey(Owner({}), ("x",), ("y",))
    come = threading.Barrier(8)

    def want(_: int) -> str:
        come.wait(60)
        return memory.get(key, 10, lambda: loads.append(1) or "piece")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(want, range(8))) == {"piece"}
    assert loads == [1]

    def fail() -> str:
        raise ValueError("no such piece")

    other = PieceKey(Owner({}), ("x",), ("z",))
    for _ in range(2):
        with pytest.raises(ValueError, match="no such piece"):
            memory.get(other, 10, fail)
    assert memory.report().used_bytes == 10


def paged_executor(memory: PieceMemory[Runner], reads: list[int]) -> Executor:
    weights = PagedWeights(GRAPH.weights, lambda: reads.append(1) or GRAPH.weights)
    return Executor(replace(GRAPH, weights=weights), memory=memory)


def test_weights_count_once_for_all_pieces_and_are_read_again_after_the_last_has_gone():
    memory, reads = PieceMemory[Runner](10 * WEIGHTS_BYTES, 64), list[int]()
    executor, cut = paged_executor(memory, reads), GRAPH.useful_cuts()[1].tensors
    x = {GRAPH.inputs[0]: np.ones(GRAPH.tensors[GRAPH.inputs[0]].shape, np.float32)}
    expected = Executor(GRAPH).run(x)[0][GRAPH.outputs[0]]
    executor.prepare(GRAPH.inputs)
    assert memory.report().used_bytes == pytest.approx(2 * WEIGHTS_BYTES, rel=0.01)
    executor.prepare(cut)
    assert memory.report().used_bytes < 3 * WEIGHTS_BYTES
    assert reads == []
    small = PieceMemory[Runner](2.5 * WEIGHTS_BYTES, 64)
    executor, other = paged_executor(small, reads), paged_executor(small, list[int]())
    for _ in range(2):
        np.testing.assert_array_equal(executor.run(x)[0][GRAPH.outputs[0]], expected)
        other.prepare(GRAPH.inputs)
        assert not executor.hold(GRAPH.inputs)
    assert reads == [1]
    assert list(executor.cold()) == [(GRAPH.inputs, GRAPH.outputs)]


def test_a_network_that_is_served_no_longer_leaves_nothing():
    memory = PieceMemory[Runner](10 * WEIGHTS_BYTES, 64)
    executor = paged_executor(memory, list[int]())
    cut = GRAPH.useful_cuts()[1].tensors
    for piece in (GRAPH.inputs, cut):
        executor.prepare(piece)
    assert executor.hold(cut)
    executor.close()
    assert memory.report().pieces == 1, "one is in use"
    executor.release(cut)
    assert memory.report().used_bytes == 0
    assert executor.cold() == {}

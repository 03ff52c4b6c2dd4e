"""Many requests at once: order, bounds, cancelling, what may be an item, and what a device does when all are full."""

import asyncio
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runtime.device.test_device import GRAPH, PICTURES, TABLE, Switched, exact, fails

import coinfer
from coinfer.runtime.device.admission import RefusedError
from coinfer.runtime.device.config import DeviceConfig, DeviceError
from coinfer.runtime.device.device import Device
from coinfer.runtime.images import preprocess
from coinfer.runtime.transport.base import InMemoryTransport

CONFIG = DeviceConfig(profile=TABLE, servers=["a:1"], bits=(32,), hedge=False)


def device(node: Switched, **settings: object) -> Device:
    return Device(GRAPH, replace(CONFIG, **settings), transport=InMemoryTransport({"a:1": node}))


def test_many_items_of_every_kind_are_answered_in_order(tmp_path):
    assert GRAPH.image is not None
    Image.fromarray(PICTURES[0]).save(tmp_path / "picture.png")
    array = preprocess(PICTURES[0], GRAPH.image)
    items = [PICTURES[1], tmp_path / "picture.png", Image.fromarray(PICTURES[2]), array, torch.from_numpy(array)]
    items += [{"input": torch.from_numpy(array).requires_grad_()}]
    expected = [exact(PICTURES[1]), exact(PICTURES[0]), exact(PICTURES[2]), *[exact(PICTURES[0])] * 3]
    with device(Switched()) as ours:
        results = list(ours.infer_many(iter(items), concurrency=3))
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.output, right, rtol=1e-4, atol=1e-5)


def test_no_more_items_are_taken_than_may_be_under_way():
    taken, gate, node = [], threading.Event(), Switched()
    node.bad = lambda: gate.wait(60) and None

    def items():
        for index in range(9):
            taken.append(index)
            yield PICTURES[index % len(PICTURES)]

    with device(node) as ours:
        results = ours.infer_many(items(), concurrency=2)
        thread = threading.Thread(target=lambda: next(results))
        thread.start()
        while node.asked < 2:
            time.sleep(0.005)
        assert len(taken) <= 3
        gate.set()
        thread.join()
        assert len(list(results)) == 8
        with pytest.raises(DeviceError, match="concurrency is 0; expected 1 or more"):
            ours.infer_many([], concurrency=0)


def test_an_asynchronous_request_leaves_the_loop_free_and_can_be_cancelled():
    gate, node = threading.Event(), Switched()

    async def play(ours: Device) -> None:
        result = await ours.infer_async(PICTURES[0])
        np.testing.assert_allclose(result.output, exact(PICTURES[0]), rtol=1e-4, atol=1e-5)
        node.bad = lambda: gate.wait(60) and None
        task = asyncio.ensure_future(ours.infer_async(PICTURES[0]))
        while not node.asked:
            await asyncio.sleep(0.005)
        with pytest.raises(RefusedError, match="1 requests are under way, as many as max_in_flight allows") as refused:
            await ours.infer_async(PICTURES[0])
        assert refused.value.reason == "queue_full"
        assert refused.value.pushback_s > 0
        task.cancel()
        while ours._in_flight.count:
            await asyncio.sleep(0.005)
        gate.set()
        node.bad = None
        assert (await ours.infer_async(PICTURES[0])).output.shape == (1, 10)

    with device(node, max_in_flight=1) as ours:
        asyncio.run(play(ours))


def test_a_full_server_is_worth_a_wait_where_the_device_has_more_to_do():
    """The device takes 20 s by its profile, the server is free again after 30 ms."""
    node, busy = Switched(), threading.Event()
    refuse = fails("RESOURCE_EXHAUSTED", "queue_full", 0.03)

    def bad() -> None:
        if not busy.is_set():
            busy.set()
            refuse()

    node.bad = bad
    with device(node) as ours:
        result = ours.infer(PICTURES[0])
    assert (result.executed_on, node.asked) == ("a:1", 2)
    assert "queue_full" in result.fallback


def test_what_would_be_late_behind_others_is_refused_and_alone_it_is_answered():
    node = Switched()
    with device(node, refuse_late=True) as ours:
        result = ours.infer(PICTURES[0], deadline_s=1e-6)
        assert result.unmet == ("deadline",)
        gate = threading.Event()
        node.bad, node.asked = (lambda: gate.wait(60) and None), 0
        thread = threading.Thread(target=lambda: ours.infer(PICTURES[0]))
        thread.start()
        while not node.asked:
            time.sleep(0.005)
        with pytest.raises(coinfer.RefusedError, match="later than its deadline") as refused:
            ours.infer(PICTURES[0], deadline_s=1e-6)
        assert refused.value.reason == "hopeless"
        gate.set()
        thread.join()


def test_an_exit_that_is_not_there():
    with device(Switched()) as ours, pytest.raises(DeviceError, match="exit is 1; expected 0 to 0"):
        ours.infer(PICTURES[0], exit=1)

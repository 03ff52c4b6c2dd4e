import math

import numpy as np
import pytest
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.runtime.device import estimate as est
from coinfer.runtime.device import forecast
from coinfer.runtime.device.config import DeviceConfig
from coinfer.runtime.device.planning.plan import DeviceState
from coinfer.runtime.device.planning.planner import Planner
from coinfer.runtime.device.planning.sized import request_sizes
from coinfer.runtime.device.processor import Processor
from coinfer.runtime.executor import Executor

GRAPH = networks.build("alexnet-cifar")
TABLE = analytic_table(GRAPH).model_copy(update={"sizes": {"N": {1: 1.0, 2: 1.8, 8: 6.0}}})
PLANNER = Planner(GRAPH, TABLE, DeviceConfig(servers=("a:1",)))
BATCH = (("N", 8),)
NOW_S = 100.0


def state() -> DeviceState:
    known = est.first_server(1e6, NOW_S)
    up = est.after_reply(known._replace(failures=0), 0.0, math.inf, NOW_S)
    return DeviceState(NOW_S, (up,), 1.0, 0.0)


def test_the_sizes_of_a_request_are_those_of_its_arrays():
    one, many = (np.zeros((batch, 3, 32, 32), np.float32) for batch in (1, 8))
    assert request_sizes(GRAPH, {"input": one}) == ()
    assert request_sizes(GRAPH, {"input": many}) == BATCH


def test_a_batch_is_planned_with_its_own_times_and_bits():
    one = PLANNER.observe(state(), math.inf, raw_input=True)
    many = PLANNER.observe(state(), math.inf, raw_input=True, sizes=BATCH)
    local = PLANNER.options.is_local
    assert many.option_device_s[0, local] == pytest.approx(6.0 * one.option_device_s[0, local])
    sent = one.option_upload_bits[0, ~local]
    once_bits = 8 * sent - many.option_upload_bits[0, ~local]
    assert (once_bits >= 0).all()
    assert (once_bits < 8 * 5000).all(), "only headers are sent once"
    whole = np.array([cut == GRAPH.inputs for cut in PLANNER.options.cuts])
    assert many.option_upload_bits[0, whole] == pytest.approx(8 * one.option_upload_bits[0, whole])


def test_a_plan_of_a_batch_knows_its_rest():
    one, many = PLANNER.plan(state(), math.inf), PLANNER.plan(state(), math.inf, sizes=BATCH)
    assert many.work == est.Work(many.piece, BATCH)
    assert many.predicted_s > 4 * one.predicted_s
    for piece, tail_s in PLANNER.tail_s.items():
        assert PLANNER.at(BATCH).tail_s[piece] == pytest.approx(6.0 * tail_s)


def test_sizes_that_are_nearly_equal_share_a_plan():
    assert PLANNER.at((("N", 33),)) is PLANNER.at((("N", 32),))
    assert PLANNER.at(()).graph is GRAPH


def test_what_a_server_takes_for_a_batch_says_nothing_of_single_requests():
    piece = (("pool1",), ("logits",))
    server = est.after_service(est.first_server(1e6, 0.0), est.Work(piece), 0.1, 0.1, 0.0)
    for _ in range(20):
        server = est.after_service(server, est.Work(piece, BATCH), 5.0, 0.8, 0.0)
    assert forecast.service_now_s(server, est.Work(piece), 0.1, 0.0) == pytest.approx(0.1)
    assert forecast.service_now_s(server, est.Work(piece, BATCH), 0.8, 0.0) == pytest.approx(5.0, rel=0.01)


def test_times_of_sizes_without_end_are_forgotten_but_never_those_of_single_requests():
    piece, server = (("pool1",), ("logits",)), est.first_server(1e6, 0.0)
    server = est.after_service(server, est.Work(piece), 0.1, 0.1, 0.0)
    for size in range(2, est.MAX_SIZED + 50):
        server = est.after_service(server, est.Work(piece, (("N", size),)), 0.1, 0.1, float(size))
    assert len(server.service) == est.MAX_SIZED + 1
    assert est.Work(piece) in server.service
    assert est.Work(piece, (("N", 2),)) not in server.service


def test_runs_of_a_batch_correct_the_speed_of_batches_only():
    processor = Processor(Executor(GRAPH), lambda inputs, outputs, sizes: 1e9 if sizes else 1e-9, scale=2.0)
    try:
        batch = {"input": np.zeros((8, 3, 32, 32), np.float32)}
        processor.submit(batch, ("pool1",), sizes=BATCH).result()
        processor.submit(batch, ("pool1",), sizes=BATCH).result()
    finally:
        processor.close()
    assert processor.scale == processor.scale_at(()) == processor.scale_at((("N", 3),)) == 2.0
    assert processor.scale_at(BATCH) < 2.0


def test_options_over_the_message_limit_at_this_size_are_not_chosen():
    large = (("N", 4096),)
    observation = PLANNER.observe(state(), math.inf, raw_input=True, sizes=large)
    sizes_bits = observation.option_upload_bits[0]
    over = np.isinf(observation.option_server_s[0, :, 0])
    assert over.any()
    assert PLANNER.plan(state(), math.inf, raw_input=True, sizes=large).predicted_s < math.inf
    assert (sizes_bits[over & ~PLANNER.options.is_local] > 0).all()

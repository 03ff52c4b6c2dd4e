"""One request over two real edge servers, where no single server is near and strong: a weak one is near the device, and
a strong one is behind it. Also where a policy file says so."""

from pathlib import Path

import numpy as np
from tests.e2e.sites import edges, relative_error
from tests.patience import one_round_right, patient_transport, wait_until
from tests.runtime.device.test_blocks_decider import policy_file
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.runtime.clock import WallClock
from coinfer.runtime.device.device import Device
from coinfer.runtime.emulation.links import Link
from coinfer.runtime.executor import Executor
from coinfer.runtime.images import load_images, preprocess
from coinfer.traces import Trace

GRAPH = networks.build("alexnet-cifar")
PICTURE = load_images()[0][1]
TIMEOUT_S = 120.0
"""Only ends a test that has failed."""


def exact() -> np.ndarray:
    assert GRAPH.image is not None
    inputs = {GRAPH.inputs[0]: preprocess(PICTURE, GRAPH.image)}
    return Executor(GRAPH).run(inputs)[0][GRAPH.outputs[0]]


def test_two_hops_win_where_the_near_server_is_weak_and_the_strong_one_far(tmp_path: Path):
    whole = exact()
    slow, strong = ("--slowdown", "600"), ("--slowdown", "2")
    with edges(["alexnet-cifar"], [slow, strong]) as (near, far):
        links = {
            node.address: Link(Trace.constant(rate_bps), WallClock()) for node, rate_bps in ((near, 20e6), (far, 40e3))
        }
        settings = {
            "servers": list(links),
            "profile": analytic_table(GRAPH, whole_s=0.005),
            "links": links,
            "slowdown": 3000,
            "bits": (32,),
            "hedge": False,
        }
        with Device(GRAPH, transport=patient_transport(), **settings) as device:

            def compare() -> list[str]:
                wait_until(lambda: len(device.plan().hops) == 3, TIMEOUT_S, "a route over both servers is planned")
                by_both = device.infer(PICTURE)
                alone = device.planner.plan(device._parts.state(), np.inf).route
                by_one = device.infer_by_route(PICTURE, alone)
                assert relative_error(by_both.output, whole) <= 1e-4
                if [hop.node for hop in by_both.route.hops] != ["device", near.address, far.address]:
                    return ["links or servers seemed to be others for a moment"]
                if by_both.fallback:
                    return [by_both.fallback]
                took_s = [float(result.outcome.latency_s) for result in (by_both, by_one)]
                return [] if took_s[0] < took_s[1] else [f"{took_s}"]

            one_round_right(compare, 15)
            far.kill()
            lost = device.infer(PICTURE)
            assert relative_error(lost.output, whole) <= 1e-4
            assert lost.executed_on in ("device", near.address)
            wait_until(lambda: len(device.plan().hops) < 3, TIMEOUT_S, "no route over the server that is gone")
            far.launch()
            far.wait_ready()
            wait_until(lambda: len(device.plan().hops) == 3, TIMEOUT_S, "both servers are used again")
            assert relative_error(device.infer(PICTURE).output, whole) <= 1e-4

        policy = policy_file(tmp_path, [0, 1, 1, 2])
        with Device(GRAPH, transport=patient_transport(), policy=policy, **settings) as device:

            def by_policy() -> list[str]:
                wait_until(lambda: len(device.plan().hops) == 3, TIMEOUT_S, "the policy's choice can be carried out")
                result = device.infer(PICTURE)
                assert relative_error(result.output, whole) <= 1e-4
                nodes = [hop.node for hop in result.route.hops]
                right = nodes == ["device", near.address, far.address] and not result.fallback
                return [] if right else [f"{nodes} {result.fallback}"]

            one_round_right(by_policy, 15)

"""A device asks an edge server that a user has started: it chooses cut and server, and then is killed."""

from pathlib import Path

import numpy as np
from tests.e2e.sites import edges
from tests.patience import wait_until
from tests.site.site_processes import WAIT_S, controller_thread, member_edge
from tests.site.test_devices import GRAPH, PICTURE, TABLE

from coinfer.runtime.device.device import Device
from coinfer.runtime.edge.served_model import serve_graph
from coinfer.runtime.executor import Executor
from coinfer.site.agent.actors import GREEDY
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.agent.serving_plan import RULE
from coinfer.site.store import newest_experience


def test_a_server_chooses_and_nothing_is_lost_when_it_is_killed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with controller_thread(tmp_path / "store") as controller:
        options = ["--controller", controller.address, "--state", str(tmp_path), "--name", "fast", "--slowdown", "100"]
        slow = AgentSettings("slow", tmp_path / "slow", controller.address)
        models = [serve_graph(GRAPH, Executor(GRAPH, slowdown=150.0))]
        with member_edge(slow, models=models) as second, edges([GRAPH.name], [options]) as (first,):
            wait_until(lambda: len(controller.there()) == 2, WAIT_S, "all servers have joined")
            settings = {"controller": controller.address, "name": "camera", "dispatch_cut": True}
            with Device(GRAPH, profile=TABLE, slowdown=1000.0, **settings) as camera:
                exact = camera.infer(PICTURE).output

                def chosen() -> set[object]:
                    """Nodes that have answered what a server had chosen."""
                    np.testing.assert_allclose(camera.infer(PICTURE).output, exact, rtol=1e-3, atol=1e-3)
                    told = newest_experience(tmp_path / "store", 20)
                    mine = [one for one in told if one["node"] == "camera" and one["policy"] in {GREEDY, RULE}]
                    assert all("group" not in one and "request" not in one for one in mine)
                    return {one["executed_on"] for one in mine}

                wait_until(chosen, WAIT_S, "a server has chosen")
                assert chosen() <= {"device", first.address, second.address}
                first.kill()
                for _ in range(3):
                    chosen()

"""Who is there: leases, names, epochs."""

from coinfer.site.controller import registry
from coinfer.site.controller.registry import INTERVAL_S, LEASE_S, forget, hear, interval_s, join, leave, loads, servers
from coinfer.site.load import is_news
from coinfer.site.messages import Hello, Report


def hello(name: str = "edge-1", epoch: int = 1, role: str = "edge") -> Hello:
    return Hello(name=name, role=role, epoch=epoch, address="10.0.0.1:8001")  # type: ignore[arg-type]


def test_a_node_is_there_as_long_as_it_speaks():
    nodes = join({}, hello(), 1, 0.0).nodes
    nodes = {"edge-1": hear(nodes["edge-1"], 1.0, Report(room=3))}
    assert [load.room for load in loads(nodes, 1.0 + LEASE_S)] == [3]
    assert (loads(nodes, 1.01 + LEASE_S), servers(nodes, 1.01 + LEASE_S)) == ((), [])
    assert hear(nodes["edge-1"], 9.0, Report()).is_there(9.0)


def test_of_two_nodes_with_one_name_the_newer_stays():
    first = join({}, hello(epoch=5), 1, 0.0)
    newer = join(first.nodes, hello(epoch=6), 2, 0.1)
    assert (newer.refusal, newer.superseded) == ("", 1)
    older = join(newer.nodes, hello(epoch=5), 3, 0.2)
    assert "a newer node called edge-1 at 10.0.0.1:8001 is there; stop one of them" in older.refusal
    assert older.nodes is newer.nodes
    assert "there" not in join(newer.nodes, hello(epoch=5), 3, 0.2 + LEASE_S).refusal


def test_the_end_of_an_older_connection_changes_nothing():
    nodes = join(join({}, hello(epoch=5), 1, 0.0).nodes, hello(epoch=5), 2, 0.1).nodes
    assert leave(nodes, "edge-1", 1) == nodes
    assert not leave(nodes, "edge-1", 2)["edge-1"].is_there(0.2)


def test_ages_count_from_the_report():
    nodes = {"edge-1": hear(join({}, hello(), 1, 0.0).nodes["edge-1"], 2.0, Report(backlog_s=0.5))}
    assert [(load.backlog_s, load.age_s) for load in loads(nodes, 2.5, 1.9)] == [(0.5, 0.5)]
    assert loads(nodes, 2.5, 2.0) == ()


def test_counters_alone_are_no_news_for_others():
    first = Report(backlog_s=0.1, room=3, received=5)
    assert not is_news(first, first.model_copy(update={"received": 9, "backlog_s": 0.1001}))
    assert is_news(first, first.model_copy(update={"room": 2}))
    assert is_news(first, first.model_copy(update={"policies": (1,)}))


def test_devices_are_no_servers_and_the_lost_are_forgotten():
    nodes = join(join({}, hello("cam", role="device"), 1, 0.0).nodes, hello(), 2, 0.0).nodes
    assert [info.name for info in servers(nodes, 0.1)] == ["edge-1"]
    assert forget(nodes, registry.FORGET_S - 1) == nodes
    assert forget(nodes, registry.FORGET_S + 1) == {}


def test_many_nodes_report_less_often():
    assert interval_s({}) == INTERVAL_S
    many = {str(number): join({}, hello(), 1, 0.0).nodes["edge-1"] for number in range(50)}
    assert interval_s(many) == 50 / registry.NODES_PER_S

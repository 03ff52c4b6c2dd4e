"""Dashboard, alerts and Prometheus' settings: every query is about metrics and labels that nodes expose."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.paths import ROOT

from coinfer.runtime.edge.metrics import Exposition, Metrics, Timing
from coinfer.runtime.edge.node_state import Counts
from coinfer.runtime.protocol.messages import LoadReport, WireError
from coinfer.site.controller import registry
from coinfer.site.controller.exposition import SiteExposition
from coinfer.site.controller.service import ControllerService
from coinfer.site.messages import Decision, Hello, Report
from coinfer.site.store import ExperienceStore

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "coinfer.json").read_text(encoding="utf-8"))
PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus itself adds."""
FUNCTIONS = {"rate", "increase", "sum", "histogram_quantile", "label_values"}
WORDS = {"by", "bool"}
Found = dict[str, set[str]]


def node_text() -> str:
    """What an edge server and a gateway expose after an answer, a refusal and a failure."""
    metrics = Metrics()
    for error in (None, WireError("RESOURCE_EXHAUSTED", "full", "queue_full")):
        stats = metrics.count_arrival("net")
        if error is None:
            metrics.count_success("net", 0.25, Timing(0.05, 0.0, 0.1, 0.0, 1, 'x to "y"\n', 0.1, 0.02))
        else:
            metrics.count_failure(stats, error, 0.1)
    metrics.count_node("net", "device")
    metrics.count_answer("grpc", "OK", 10, 10)
    return Exposition(metrics, lambda: LoadReport(0.5, 2, 3), lambda: Counts()).text().decode()


@pytest.fixture(scope="module")
def site_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = ExperienceStore(tmp_path_factory.mktemp("store") / "experience.sqlite")
    service = ControllerService(store, None)
    hello = Hello(name="edge-1", role="edge", epoch=1, address="127.0.0.1:8001")
    joined = registry.join({}, hello, 1, service.now_s()).nodes
    report = Report(queued=2, received=7, dropped=1)
    service.nodes = {"edge-1": registry.hear(joined["edge-1"], service.now_s(), report)}
    measured = {"queue_s": 0.1, "server_s": 0.2, "upload_s": 0.3, "latency_s": 0.7}
    decided = {"model": "net", "policy": "planner", "server": 0, "executed_on": "a:1", "cut": "x"}
    decision = Decision(seq=1, at_s=1.0, **decided, **measured)
    service.history.count([decision, decision.model_copy(update={"group": 1})])
    yield SiteExposition(service).text().decode()
    store.close()


def exposed(text: str) -> Found:
    """The labels of every metric in a text, which must parse."""
    found: Found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def known(site_text: str) -> Found:
    return {"up": set(), **exposed(node_text()), **exposed(site_text)}


def queries() -> list[tuple[str, str]]:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    shown = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    variables = [(one["name"], one["query"]) for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return [*shown, *variables, *((rule["alert"], rule["expr"]) for rule in rules)]


def metrics_in(query: str) -> list[tuple[str, set[str]]]:
    """The metrics of a query with the labels that select them."""
    text = re.sub(r"\[[^\]]*\]", "", re.sub(r"label_values\((\w+), \w+\)", r"\1", query))
    text = re.sub(r"\bby \([^)]*\)", "", text)
    named = re.findall(r"([a-zA-Z_]\w*)(\{[^}]*\})?(?!\w|\()", text)
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!=|=)", labels)))
        for name, labels in named
        if name not in FUNCTIONS | WORDS
    ]


@pytest.mark.parametrize(("where", "query"), queries())
def test_queries_are_about_what_nodes_expose(where: str, query: str, known: Found):
    asked = metrics_in(query)
    assert asked, where
    assert {name for name, _ in asked} <= known.keys(), where
    for name, labels in asked:
        assert labels <= known[name] | PROMETHEUS, f"{where}: {name}"
    grouped = {word.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for word in group.split(",")}
    assert grouped <= set.union(PROMETHEUS, *(known[name] for name, _ in asked)), where
    assert query.count("(") == query.count(")")
    assert set(re.findall(r"(\w+)\s*\(", query)) <= FUNCTIONS | WORDS, where
    assert "_bucket" in query or "histogram_quantile" not in query, where


def test_an_unknown_metric_would_be_found(known: Found):
    assert metrics_in('sum by (a) (rate(nothing_total{b="c"}[5m])) / up') == [("nothing_total", {"b"}), ("up", set())]
    assert "nothing_total" not in known


@pytest.mark.parametrize("prefix", ["coinfer", "coinfer_site"])
def test_histograms_add_up(prefix: str, site_text: str):
    families = {family.name: family for family in text_string_to_metric_families(node_text() + site_text)}
    for step in ("request_latency", "queue_wait", "compute", "upload"):
        family = families[f"{prefix}_{step}_seconds"]
        assert family.type == "histogram"
        series: dict[str, list[float]] = {}
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "le"}
            series.setdefault(f"{labels}", []).append(sample.value)
        for *buckets, count, total in series.values():
            assert buckets == sorted(buckets)
            assert buckets[-1] == count > 0
            assert total > 0


def test_the_dashboard_can_be_loaded():
    """What Grafana needs of a file that it provisions: places that do not overlap, numbers, a data source to choose."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 39
    places = set()
    for panel in panels:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    named = {f"${{{one['name']}}}" for one in DASHBOARD["templating"]["list"] if one["type"] == "datasource"}
    assert {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"} == named


def test_every_alert_says_what_is_wrong():
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            shown = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
            grouped = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
            assert not grouped or set(shown) <= {word.strip() for word in ",".join(grouped).split(",")}


def test_prometheus_reads_the_alerts_and_scrapes_both_kinds_of_nodes():
    path = DEPLOY / "prometheus" / "prometheus.yaml"
    settings = yaml.safe_load(path.read_text())
    assert [(path.parent / name).resolve() for name in settings["rule_files"]] == [Path(ALERTS).resolve()]
    ports = {job["job_name"]: job["static_configs"][0]["targets"][0][-4:] for job in settings["scrape_configs"]}
    assert ports == {"coinfer": "8000", "coinfer-controller": "8443"}

"""The controller's page: what it serves, to whom, and, where a browser is at hand, what it shows."""

import asyncio
import http.client
import json
import re
import shutil
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from unittest.mock import ANY

import pytest
from tests.patience import wait_until
from tests.site.site_files import BAD_AT_ONCE, make_site, tls_context
from tests.site.site_processes import WAIT_S, ControllerProcess, ControllerThread, controller_thread, member_edge
from tests.site.test_policies import call, policy_files, start_updater, step_until
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.resources import PAGE_FILES
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.roles import ROLES
from coinfer.site.controller.registry import Node, hear
from coinfer.site.dashboard.server import PageServer, States, changes
from coinfer.site.messages import Hello, LinkReport, Report, ServedName
from coinfer.site.store import ExperienceStore
from coinfer.site.updater.rollout import Verdict

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Answer(NamedTuple):
    status: int
    policy: str
    text: str


class Page:
    """The page of a controller that runs on a thread."""

    def __init__(self, controller: ControllerThread, identity: Identity | None = None):
        self._controller = controller

        async def start() -> PageServer:
            page = PageServer(controller.service, "127.0.0.1", 0, identity)
            await page.start()
            return page

        self._page = controller.run(start())
        self.url = self._page.url
        self.port = int(re.findall(r":(\d+)/", self.url)[0])

    def stop(self) -> None:
        self._controller.run(self._page.stop())

    def get(self, path: str, context: ssl.SSLContext | None = None, method: str = "GET") -> Answer:
        with closing(self.connect(context)) as connection:
            connection.request(method, path)
            found = connection.getresponse()
            return Answer(found.status, found.headers.get("Content-Security-Policy", ""), found.read().decode())

    def connect(self, context: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
        if context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=WAIT_S, context=context)


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[ControllerThread]:
    with controller_thread(tmp_path / "store") as running:
        yield running


@pytest.fixture
def page(controller: ControllerThread) -> Iterator[Page]:
    page = Page(controller)
    yield page
    page.stop()


def test_nothing_is_loaded_from_elsewhere(page: Page):
    for path in ("/", "/page.js", "/page.css"):
        answer = page.get(path)
        assert answer.status == 200
        assert "default-src 'none'" in answer.policy
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", answer.text) == []
    assert {page.get("/elsewhere").status, page.get("/../store").status} == {404}
    assert page.get("/", method="POST").status == 405
    assert "innerHTML" not in (PAGE_FILES / "page.js").read_text()  # names of nodes are never taken for HTML


def test_states_are_streamed(controller: ControllerThread, page: Page, tmp_path: Path):
    connection = page.connect()
    connection.request("GET", "/events")
    events = connection.getresponse()
    assert events.headers["Content-Type"].startswith("text/event-stream")

    shown: dict = {}

    def there(expected: list[bool]) -> bool:
        while not (line := events.readline().decode()).startswith("data: "):
            pass
        merge(shown, json.loads(line.removeprefix("data: ")))
        return [node["there"] for node in shown["nodes"]] == expected

    assert there([])
    with member_edge(AgentSettings("edge-1", tmp_path / "edge-1", controller.address)):
        wait_until(lambda: there([True]), WAIT_S, "it is there")
    wait_until(lambda: there([False]), WAIT_S, "it is gone")
    wait_until(lambda: there([False]) and len(shown["events"]) == 2, WAIT_S, "all is told")
    assert [event["text"] for event in shown["events"]] == ["edge edge-1 joined", "edge edge-1 is gone"]
    state = controller.service.state()
    assert {key: shown[key] for key in ("nodes", "events", "stored")} == {
        key: state[key] if key != "nodes" else [ANY] for key in ("nodes", "events", "stored")
    }
    events.close()
    connection.close()


def test_who_comes_and_goes_is_streamed_at_once(controller: ControllerThread, page: Page, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("coinfer.site.dashboard.server.INTERVAL_S", 1e6)
    connection = page.connect()
    connection.request("GET", "/events")
    events, seen = connection.getresponse(), list[bool]()
    with member_edge(AgentSettings("edge-1", tmp_path / "edge-1", controller.address)):
        while True not in seen:  # if nothing comes the connection gives up
            seen += next_present(events)
    while seen[-1]:
        seen += next_present(events)
    events.close()
    connection.close()


def next_present(events: http.client.HTTPResponse) -> list[bool]:
    """Whether the nodes of the next state are there."""
    while not (line := events.readline().decode()).startswith("data: "):
        assert line, "the stream ended"
    return [node["there"] for node in json.loads(line.removeprefix("data: ")).get("nodes", [])]


def test_a_slow_reader_gets_a_whole_state(controller: ControllerThread):
    async def read() -> list[str]:
        states = States(controller.service)
        stream, writer = states.stream(), asyncio.ensure_future(states.run())
        got = [await anext(stream)]
        while states._number < 3:
            await asyncio.sleep(0.01)
        got += [await anext(stream), await anext(stream)]
        writer.cancel()
        await stream.aclose()
        return ["whole" if "event: whole" in one else "changes" for one in got]

    assert controller.run(read()) == ["whole", "whole", "changes"]


def merge(shown: dict, changed: dict) -> None:
    """What the page does with what it hears."""
    for key, value in changed.items():
        mark = {"nodes": "name", "series": "number", "events": "number"}.get(key)
        if mark is None:
            shown[key] = value
        else:
            kept = {one[mark]: one for one in shown.get(key, [])} | {one[mark]: one for one in value}
            shown[key] = [kept[name] for name in sorted(kept)]


def test_only_what_is_new_is_streamed():
    first = {"nodes": [{"name": "a", "x": 1}, {"name": "b", "x": 1}], "series": [], "events": [], "stored": 3}
    second = first | {"nodes": [{"name": "b", "x": 2}, {"name": "c", "x": 1}], "series": [{"number": 0, "x": 5.0}]}
    assert changes(first, first) == {}
    found = changes(first, second)
    assert found == {"nodes": second["nodes"], "series": second["series"], "forgotten": ["a"]}
    assert changes({}, first) == {"nodes": first["nodes"], "stored": 3}


def test_a_controller_ends_while_a_page_is_open(tmp_path: Path):
    controller = ControllerProcess(tmp_path)
    controller.start()
    try:
        with urllib.request.urlopen(controller.page + "events", timeout=WAIT_S) as events:
            assert b"data:" in b"".join(events.readline() for _ in range(3))
            assert controller.terminate() == 0
        assert "Traceback" not in controller.log()
    finally:
        controller.kill()


def test_only_operators_see_the_page_of_a_site(tmp_path: Path):
    site = make_site(tmp_path)
    identity = Identity(site.home / "controller")
    with controller_thread(tmp_path / "store", identity) as controller:
        page = Page(controller, identity)
        for role in ROLES:
            assert page.get("/state", tls_context(site, role)).status == (200 if role == "operator" else 403)
            may_scrape = role in ("operator", "controller")
            assert page.get("/metrics", tls_context(site, role)).status == (200 if may_scrape else 403)
        assert page.get("/state", tls_context(site, "operator"), "POST").status == 403
        assert page.get("/state", tls_context(site, "revoked")).status == 401
        for who in BAD_AT_ONCE:
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                page.get("/state", None if who == "plain" else tls_context(site, who))
        named = ssl.create_default_context(cafile=str(site.home / "ca.pem"))  # a browser checks the name
        named.load_cert_chain(site.home / "operator" / "node.pem")
        assert page.get("/", named).status == 200
        page.stop()


def test_a_terminal_shows_the_same(controller: ControllerThread, tmp_path: Path):
    with member_edge(AgentSettings("edge-1", tmp_path / "edge-1", controller.address)) as edge:
        wait_until(lambda: controller.there() == {"edge-1"}, WAIT_S, "it is there")
        words = ["top", "--once", "--controller", controller.address]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})
        row = next(line.split() for line in done.output.splitlines() if "edge-1" in line)
        assert row[:4] == ["edge-1", "edge", "there", edge.address]
        assert "0 decisions kept" in done.output


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_servers_that_come_and_go(controller: ControllerThread, page: Page, tmp_path: Path):
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, height in ((1280, 900), (390, 844)):
            view = browser.new_page(viewport={"width": width, "height": height})
            problems: list[str] = []
            view.on("console", lambda message, problems=problems: problems.append(message.text))
            view.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            view.goto(page.url)
            view.wait_for_selector("body[data-frame-ms]", timeout=WAIT_S * 1e3)
            with member_edge(AgentSettings("edge-1", tmp_path / f"edge-{width}", controller.address)):
                view.wait_for_selector(".card:not(.gone)", timeout=WAIT_S * 1e3)
                assert "echo" in (view.text_content(".card") or "")
            view.wait_for_selector(".card.gone", timeout=WAIT_S * 1e3)
            assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert problems == []
        browser.close()


def crowd(controller: ControllerThread, count: int) -> None:
    """Lets a controller believe that many servers report to it, each with a link to all others."""

    async def join() -> None:
        now_s, nodes = controller.service.now_s(), controller.service.nodes
        for n in range(count):
            hello = Hello(
                name=f"edge-{n:02}", role="edge", epoch=1, address=f"192.0.2.{n}:8001", models=(ServedName(name="m"),)
            )
            others = [(f"192.0.2.{to}:8001", 1e6 * (n + to + 1)) for to in range(count) if to != n]
            links = [LinkReport(to=to, rate_bps=rate_bps, round_trip_s=0.01) for to, rate_bps in others]
            report = Report(backlog_s=0.01 * n, queued=n % 7, room=17 - n % 7, success=100 * n, links=links)
            nodes[hello.name] = hear(Node(hello, -1, now_s, now_s), now_s + 1e6, report)  # it will not fall silent

    controller.run(join())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_fifty_servers_and_how_far_a_policy_came(controller: ControllerThread, page: Page):
    api = pytest.importorskip("playwright.sync_api")
    updater = start_updater(controller, judge=lambda path, kind: Verdict(True, f"{kind}: fine"))
    crowd(controller, 50)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        view.on("console", lambda message: problems.append(message.text))
        view.goto(page.url)
        api.expect(view.locator(".card[data-name]")).to_have_count(50, timeout=WAIT_S * 1e3)
        assert "The 30 slowest of 2450 links" in (view.text_content("#links-title") or "")

        def shows(standing: str, decides: str) -> None:
            view.wait_for_selector(f".version[data-standing='{standing}']", timeout=WAIT_S * 1e3)
            api.expect(view.locator("#rollout-now")).to_contain_text(decides, timeout=WAIT_S * 1e3)

        controller.run(call(updater.push, *policy_files(), "a test"))
        for standing in ("waiting", "shadow", "canary"):
            step_until(controller, updater, standing)
            shows(standing, "sequential greedy decides")
        assert updater.rollout.canary in (view.text_content(".version .now") or "")
        controller.run(call(updater.pin, 1, "a test"))
        shows("running", "version 1 decides on all servers")
        controller.run(call(updater.roll_back, "a test"))
        shows("rolled back", "sequential greedy decides")
        assert "rolled back to version 0" in (view.text_content("#rollout-events .gone") or "")
        assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert float(view.get_attribute("body", "data-frame-ms") or "nan") >= 0
        assert problems == []
        browser.close()


def test_a_store_that_cannot_be_written_is_shown(controller: ControllerThread):
    store: ExperienceStore = controller.store
    store.problem = "the disk is full"
    assert controller.service.state()["store_problem"] == "the disk is full"

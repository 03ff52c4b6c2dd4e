"""The controller's page: what it serves, to whom, and, where a browser is at hand, what it shows."""

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

import pytest
from tests.patience import wait_until
from tests.site.site_files import BAD_AT_ONCE, make_site, tls_context
from tests.site.site_processes import WAIT_S, ControllerProcess, ControllerThread, controller_thread, member_edge
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.resources import PAGE_FILES
from coinfer.site.agent.edge_agent import AgentSettings
from coinfer.site.certificates.identity import Identity
from coinfer.site.certificates.roles import ROLES
from coinfer.site.dashboard.server import PageServer
from coinfer.site.store import ExperienceStore

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

    def next_state() -> dict:
        while True:
            line = events.readline().decode()
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))

    assert next_state()["nodes"] == []
    with member_edge(AgentSettings("edge-1", tmp_path / "edge-1", controller.address)):
        wait_until(lambda: [node["there"] for node in next_state()["nodes"]] == [True], WAIT_S, "it is there")
    wait_until(lambda: [node["there"] for node in next_state()["nodes"]] == [False], WAIT_S, "it is gone")
    assert [event["text"] for event in next_state()["events"]] == ["edge edge-1 joined", "edge edge-1 is gone"]
    events.close()
    connection.close()


def test_a_controller_ends_while_a_page_is_open(tmp_path: Path):
    controller = ControllerProcess(tmp_path)
    controller.start()
    try:
        with urllib.request.urlopen(controller.page + "events", timeout=WAIT_S) as events:
            assert b"data:" in events.readline() + events.readline()
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
            view.wait_for_function("document.body.dataset.frameMs !== undefined", timeout=WAIT_S * 1e3)
            with member_edge(AgentSettings("edge-1", tmp_path / f"edge-{width}", controller.address)):
                view.wait_for_selector(".card:not(.gone)", timeout=WAIT_S * 1e3)
                assert "echo" in (view.text_content(".card") or "")
            view.wait_for_selector(".card.gone", timeout=WAIT_S * 1e3)
            assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert problems == []
        browser.close()


def test_a_store_that_cannot_be_written_is_shown(controller: ControllerThread):
    store: ExperienceStore = controller.store
    store.problem = "the disk is full"
    assert controller.service.state()["store_problem"] == "the disk is full"

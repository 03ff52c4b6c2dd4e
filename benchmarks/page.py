"""Measure how soon a controller's page shows a server that fell away, and what its frames take, in a real Chromium.

    python benchmarks/page.py [--quick]

A controller, 50 edge servers that only tell of themselves and decide 20 requests a second each, and one real edge
server beside them, which is killed with SIGKILL (its connections close) or stopped with SIGSTOP (it only falls silent,
as a machine without power does) and started again, round by round. Meanwhile the browser notes what each drawing of
the page takes and the time from one of its frames to the next.

Needs Playwright and a Chromium of the system. Writes benchmarks/results/page.json.
"""

import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from harness import figure, parser, rounds, save
from playwright.sync_api import Page, sync_playwright
from site_cost import COMMAND, NODE_RATE, NODES, controller_process
from site_parts import FakeNode, Loop

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VICTIM = "edge-victim"
HOW = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
PATIENCE_MS = 60_000.0
REST_S = 1.0
"""Mean time for which a server is there before it is killed; random, so that it meets its leases at any moment."""
WATCH = """() => {
  window.drawn = []; window.between = [];
  new MutationObserver(() => window.drawn.push(Number(document.body.dataset.frameMs)))
    .observe(document.body, { attributes: true, attributeFilter: ["data-frame-ms"] });
  let before = performance.now();
  const next = (now) => { window.between.push(now - before); before = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""


def start_server(controller: str, folder: Path) -> subprocess.Popen[bytes]:
    """Return a real edge server that joins a site, at once."""
    ports = ["--grpc-port", "0", "--http-port", "-1"]
    joins = ["--controller", controller, "--name", VICTIM, "--state", str(folder / VICTIM)]
    command = [COMMAND, "edge", "alexnet-cifar", *ports, *joins]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds_until_red(view: Page, controller: str, folder: Path, how: signal.Signals) -> float:
    """Start a server, send it a signal, and return how long the page showed it as if it were there."""
    server = start_server(controller, folder)
    try:
        view.wait_for_selector(f".card[data-name='{VICTIM}']:not(.gone)", timeout=PATIENCE_MS)
        time.sleep(random.expovariate(1 / REST_S))
        began_s = time.perf_counter()
        server.send_signal(how)
        view.wait_for_selector(f".card.gone[data-name='{VICTIM}']", timeout=PATIENCE_MS)
        return time.perf_counter() - began_s
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Kill a server again and again while the page is open."""
    made = parser(__doc__, "page")
    settings = made.parse_args()
    if CHROMIUM is None:
        raise SystemExit("no Chromium here: install the system's package `chromium`")
    count, nodes = (1, 3) if settings.quick else (30, NODES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, address, page = stack.enter_context(controller_process(folder))
        loop = Loop()
        for i in range(nodes):
            stack.callback(FakeNode(address, f"edge-{i}", folder, NODE_RATE, loop).close)
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        view = browser.new_page(viewport={"width": 1280, "height": 900})
        view.goto(page)
        view.wait_for_selector(f"#edges:has(.card:nth-of-type({nodes}))", timeout=PATIENCE_MS)
        view.evaluate(WATCH)
        red_s: dict[str, list[float]] = {how: [] for how in HOW}
        for _ in rounds(count, "servers that fall away"):
            for how, number in HOW.items():
                red_s[how].append(seconds_until_red(view, address, folder, number))
        drawn_ms, between_ms = view.evaluate("[window.drawn, window.between]")
        browser.close()
    figures = {
        **{f"a server that is {how} is red on the page after, s": figure(red_s[how], 2.0) for how in HOW},
        **{f"a server that is {how}, the longest of all, s": figure([max(red_s[how])], 2.0) for how in HOW},
        f"page of {nodes + 1} servers, {nodes * NODE_RATE:g} decisions/s: drawing, ms": figure(drawn_ms, 100.0),
        "the same, 99 % of drawings, ms": figure([float(np.quantile(drawn_ms, 0.99))], 100.0),
        "the same, from a frame to the next, 99 %, ms": figure([float(np.quantile(between_ms, 0.99))], 100.0),
    }
    save(settings, figures)


if __name__ == "__main__":
    main()

"""What an operator asks a running controller, from the command line."""

import json
from pathlib import Path

import pytest
from tests.patience import wait_until
from tests.site.site_files import make_site
from tests.site.site_processes import WAIT_S, controller_thread
from tests.site.test_store import batch
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.errors import UserError
from coinfer.site.certificates.authority import revoke
from coinfer.site.certificates.identity import Identity
from coinfer.site.operator import Operator, OperatorError


def coinfer(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], env={"COLUMNS": "200", "NO_COLOR": "1"})
    if done.exception is not None:
        raise done.exception
    return done.output


def test_experience_is_exported_from_a_controller_that_runs(tmp_path: Path):
    site = make_site(tmp_path)
    out = tmp_path / "log.jsonl"
    with controller_thread(tmp_path / "store", Identity(site.home / "controller")) as controller:
        for first in range(0, 1200, 200):
            controller.store.put("camera", batch(*range(first, first + 200))).result(WAIT_S)
        words = ("experience", "export", str(out), "--controller", controller.address)
        assert "wrote 1200 decisions" in coinfer(*words, "--site", str(site.home))
        with pytest.raises(UserError, match="of role device; expected operator"):
            coinfer(*words, "--site", str(site.home / "device"))
        with Operator(controller.address, site.home, False) as operator:
            assert operator.state()["stored"] == 1200
    assert [json.loads(line)["seq"] for line in out.read_text().splitlines()] == list(range(1200))


def test_a_controller_that_is_not_there_is_named_in_one_line(tmp_path: Path):
    with controller_thread(tmp_path / "store") as gone:
        address = gone.address
    with Operator(address, None, False) as operator, pytest.raises(OperatorError) as caught:
        operator.state()
    assert f"the controller at {address} does not answer (UNAVAILABLE" in str(caught.value)
    with pytest.raises(UserError, match="would be reached in plain text"):
        Operator("192.0.2.1:8600", None, False)


def test_who_comes_with_no_certificate_or_another_sites_is_told_so(tmp_path: Path):
    site = make_site(tmp_path)
    with controller_thread(tmp_path / "store", Identity(site.home / "controller")) as controller:
        said = {site.foreign: "is its certificate of another site", None: "give your certificate with --site"}
        for folder, words in said.items():
            with Operator(controller.address, folder, False) as operator, pytest.raises(OperatorError, match=words):
                operator.state()
        with Operator(controller.address, site.home, False) as operator:
            revoke(site.home, "operator")
            wait_until(lambda: is_refused(operator), WAIT_S, "the revoked operator is refused")


def is_refused(operator: Operator) -> bool:
    try:
        operator.state()
    except OperatorError as error:
        return "refuses this node (UNAUTHENTICATED" in str(error) and "was revoked" in str(error)
    return False

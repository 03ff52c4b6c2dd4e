"""`coinfer ca` from the first command to the last."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from coinfer.cli.main import app
from coinfer.site.certificates.roles import SecurityError


def ca(*words: str) -> str:
    done = CliRunner().invoke(app, ["ca", *words], env={"COLUMNS": "200", "NO_COLOR": "1"})
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_site_from_its_creation_to_a_revoked_member(tmp_path: Path):
    site = str(tmp_path / "site")
    assert "next: coinfer ca join" in ca("init", site)
    assert "start it with --site" in ca("join", site, "edge-1", "--role", "edge").replace("\n", "")
    first = (tmp_path / "site/edge-1/node.pem").read_bytes()
    ca("renew", site, "edge-1", "--days", "7")
    assert (tmp_path / "site/edge-1/node.pem").read_bytes() != first
    assert (tmp_path / "site/edge-1/node.pem").stat().st_mode & 0o077 == 0
    assert "revoked edge-1 (role edge)" in ca("revoke", site, "edge-1")
    assert "edge-1 was revoked already" in ca("revoke", site, "edge-1")
    rows = [line.split("│")[1:5:3] for line in ca("list", site).splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [["controller", "valid"], ["edge-1", "revoked"]]
    with pytest.raises(SecurityError, match=r"edge-1 was revoked; `coinfer ca join \S+ edge-1 --role edge` admits it"):
        ca("renew", site, "edge-1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init", "SITE"], "a site is here already; add members with `coinfer ca join"),
        (["join", "SITE", "Edge/1", "--role", "edge"], "name 'Edge/1': expected small letters, digits and hyphens"),
        (
            ["join", "SITE", "edge-1", "--role", "egde"],
            "expected one of edge, device, controller, operator",
        ),
        (["join", "SITE", "controller", "--role", "edge"], "controller is a member already; `coinfer ca renew"),
        (["renew", "SITE", "edge-9"], "no member edge-9; `coinfer ca list"),
        (["list", "elsewhere"], "elsewhere: no site is here; create one with `coinfer ca init elsewhere`"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, tmp_path: Path):
    site = str(tmp_path / "site")
    ca("init", site)
    with pytest.raises(SecurityError) as caught:
        ca(*(site if word == "SITE" else word for word in words))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("days", ["100000", "1e300", "inf"])
def test_no_member_outlives_its_authority(days: str, tmp_path: Path):
    site = str(tmp_path / "site")
    ca("init", site)
    told = r"for \S+ days would outlive the site's authority, which ends on \S+; choose --days up to \d+$"
    with pytest.raises(SecurityError, match=told):
        ca("join", site, "edge-1", "--role", "edge", "--days", days)
    assert not (tmp_path / "site" / "edge-1").exists()

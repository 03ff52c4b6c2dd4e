"""Manifests, units and the container file: they fit one another, and the commands in them exist with these options."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.paths import ROOT
from typer.testing import CliRunner

from coinfer.cli.main import app

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """The schema of an object that has these keys and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, COUNT, YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"const": True}
LABELS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^\d+(m|Mi|Gi)?$"}
META = closed(["name"], name=TEXT, labels=LABELS)
TCP = closed(["tcpSocket"], tcpSocket=closed(["port"], port=TEXT), periodSeconds=COUNT, failureThreshold=COUNT)
RESOURCES = closed(
    ["requests", "limits"], requests=closed(["cpu", "memory"], cpu=QUANTITY, memory=QUANTITY),
    limits=closed(["memory"], memory=QUANTITY),
)  # fmt: skip
LOCKED = closed(
    ["allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"],
    allowPrivilegeEscalation={"const": False}, readOnlyRootFilesystem=YES, capabilities={"const": {"drop": ["ALL"]}},
)  # fmt: skip
ENV = closed(["name"], name=TEXT, value=TEXT, valueFrom={"const": {"fieldRef": {"fieldPath": "metadata.name"}}})
COMMON = {
    "name": TEXT, "image": TEXT, "env": many(ENV), "resources": RESOURCES, "securityContext": LOCKED,
    "volumeMounts": many(closed(["name", "mountPath"], name=TEXT, mountPath=TEXT, readOnly=YES)),
}  # fmt: skip
INIT = closed(["name", "image", "command", "resources", "securityContext"], command=many(TEXT), **COMMON)
CONTAINER = closed(
    ["name", "image", "args", "ports", "startupProbe", "livenessProbe", "readinessProbe", "resources"],
    args=many(TEXT), ports=many(closed(["name", "containerPort"], name=TEXT, containerPort=COUNT)),
    startupProbe=TCP, livenessProbe=TCP, readinessProbe=TCP, **COMMON,
)  # fmt: skip
ITEM = closed(["key", "path"], key=TEXT, path=TEXT)
VOLUME = {
    "oneOf": [
        closed(["name", "secret"], name=TEXT, secret=closed(["secretName"], secretName=TEXT, defaultMode=COUNT)),
        closed(["name", "emptyDir"], name=TEXT, emptyDir={"enum": [{}, {"medium": "Memory"}]}),
        closed(
            ["name", "projected"], name=TEXT,
            projected=closed(
                ["sources"], defaultMode=COUNT,
                sources=many(closed(["secret"], secret=closed(["name", "items"], name=TEXT, items=many(ITEM)))),
            ),
        ),
    ]
}  # fmt: skip
POD = closed(
    ["containers", "securityContext", "automountServiceAccountToken", "volumes"],
    automountServiceAccountToken={"const": False}, terminationGracePeriodSeconds=COUNT,
    securityContext=closed(
        ["runAsNonRoot"], runAsNonRoot=YES, runAsUser={"type": "integer", "minimum": 1000}, fsGroup=COUNT,
        seccompProfile={"const": {"type": "RuntimeDefault"}},
    ),
    initContainers=many(INIT), containers=many(CONTAINER), volumes=many(VOLUME),
)  # fmt: skip
TEMPLATE = closed(["metadata", "spec"], metadata=closed(["labels"], labels=LABELS), spec=POD)
CLAIM = closed(
    ["metadata", "spec"], metadata=META,
    spec=closed(
        ["accessModes", "resources"], accessModes={"const": ["ReadWriteOnce"]},
        resources=closed(["requests"], requests=closed(["storage"], storage=QUANTITY)),
    ),
)  # fmt: skip
WORKLOAD = {
    "replicas": COUNT, "selector": closed(["matchLabels"], matchLabels=LABELS), "template": TEMPLATE,
}  # fmt: skip
SPECS = {
    "Service": closed(
        ["selector", "ports"], clusterIP={"const": "None"}, publishNotReadyAddresses=YES, selector=LABELS,
        ports=many(closed(["name", "port", "targetPort"], name=TEXT, port=COUNT, targetPort=TEXT)),
    ),
    "Deployment": closed([*WORKLOAD], strategy={"const": {"type": "Recreate"}}, **WORKLOAD),
    "StatefulSet": closed(
        [*WORKLOAD, "serviceName"], serviceName=TEXT, podManagementPolicy={"const": "Parallel"},
        volumeClaimTemplates=many(CLAIM), **WORKLOAD,
    ),
}  # fmt: skip
VERSIONS = {"Service": "v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1", "Namespace": "v1"}


def documents() -> list[dict[str, Any]]:
    found = [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [one for one in found if one["kind"] != "Kustomization"]


def pods() -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one["spec"]["template"] for one in documents() if "template" in one.get("spec", {})
    }


@pytest.mark.parametrize("document", documents(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_manifests_have_the_keys_of_their_kind(document: dict[str, Any]):
    kind = document["kind"]
    assert document["apiVersion"] == VERSIONS[kind]
    if kind in SPECS:
        schema = closed(
            ["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT, kind=TEXT, metadata=META, spec=SPECS[kind]
        )
        Draft202012Validator.check_schema(schema)
        assert [
            f"{list(error.path)}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)
        ] == []


def test_services_choose_pods_and_ports_that_are_there():
    for service in (one for one in documents() if one["kind"] == "Service"):
        pod = pods()[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    for one in documents():
        if one["kind"] == "StatefulSet":
            assert one["spec"]["serviceName"] == one["metadata"]["name"]
            assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]


def test_pods_mount_what_they_have_and_probe_their_own_ports():
    claims = {
        one["metadata"]["name"]: one["spec"].get("volumeClaimTemplates", []) for one in documents() if "spec" in one
    }
    for name, pod in pods().items():
        volumes = {
            volume["name"] for volume in (*pod["spec"]["volumes"], *(claim["metadata"] for claim in claims[name]))
        }
        for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["image"] == "coinfer"
        (main,) = pod["spec"]["containers"]
        ports = {port["name"] for port in main["ports"]}
        assert {main[probe]["tcpSocket"]["port"] for probe in ("startupProbe", "livenessProbe")} <= ports


def test_every_edge_server_has_its_certificate():
    edge = next(one for one in documents() if one["kind"] == "StatefulSet" and one["metadata"]["name"] == "edge")
    (projected,) = [
        volume["projected"] for volume in edge["spec"]["template"]["spec"]["volumes"] if "projected" in volume
    ]
    assert [source["secret"]["name"] for source in projected["sources"]] == [
        f"edge-{index}" for index in range(edge["spec"]["replicas"])
    ]
    for source in projected["sources"]:
        name = source["secret"]["name"]
        assert {item["path"] for item in source["secret"]["items"]} == {
            f"{name}/{file}" for file in ("node.pem", "ca.pem", "revoked.pem")
        }


def test_kustomize_lists_every_manifest():
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in MANIFESTS}


def check_command(words: list[str]) -> None:
    """The command exists, and every option that is used."""
    shown = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert "Usage" in shown, words[0]
    missing = [word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in shown]
    assert missing == [], words[0]


@pytest.mark.parametrize("name", sorted(pods()))
def test_pods_run_commands_that_exist(name: str):
    (main,) = pods()[name]["spec"]["containers"]
    check_command(main["args"])
    for word in main["args"]:
        assert set(re.findall(r"\$\((\w+)\)", word)) <= {one["name"] for one in main.get("env", [])}
    folders = [mount["mountPath"] for mount in main["volumeMounts"] if not mount.get("readOnly")]
    paths = [word.partition("=")[2] or word for word in main["args"] if "/" in word]
    assert paths
    assert all(any(path.startswith(folder) for folder in folders) for path in paths)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_units_run_commands_that_exist(unit: Path):
    text = unit.read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    words = shlex.split(command)
    assert words[0] == "/opt/coinfer/bin/coinfer"
    check_command(words[1:])
    given = set(re.findall(r"^(\w+)=", (unit.parent / "coinfer.env").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$(\w+)", command)) <= given
    assert bool(re.search(r"^EnvironmentFile=", text, re.MULTILINE)) == ("$" in command)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_the_units(unit: Path, tmp_path: Path):
    """With a program that exists here in place of the one that is installed there."""
    copied = tmp_path / unit.name
    copied.write_text(unit.read_text().replace("/opt/coinfer/bin/coinfer", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copied)], capture_output=True, text=True, check=False
    )
    about = [line for line in done.stderr.splitlines() if unit.name in line]
    assert about == [], done.stderr


def test_the_container_is_small_and_without_root():
    lines = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert len(bases) == 2
    assert all(base.endswith("-slim") for base in bases)
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    allowed = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= set(allowed)

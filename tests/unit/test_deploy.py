"""deploy: the dashboard and the alert rules ask for metrics that there are, by labels that they have.

The files for places to run in give settings that there are, values that they take, a command line that is understood,
and time enough to end. docs/deploy.md and docs/tuning.md name nothing that there is not.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace import cli, units
from headrace.config import KNOBS
from headrace.settings import load as load_settings

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
ALERTS = (ROOT / "deploy/alerts.yml").read_text()
# Labels by metric as docs/operations.md lists them; tests/unit/test_metrics.py compares that list with what is told.
ROWS = re.findall(
    r"^\| `(headrace_\w+)` \| ?([\w, ]*) \| (.*) \|$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
)
METRICS = {
    f"{name}{suffix}": {*filter(None, labels.split(", ")), *(("le",) if suffix == "_bucket" else ())}
    for name, labels, help in ROWS
    for suffix in (("_bucket", "_sum", "_count") if help.startswith("histogram") else ("",))
}
SCRAPED = {"instance", "job"}  # labels that Prometheus adds


def expressions() -> list[str]:
    """Those of the dashboard's panels and variables, and those of the rules."""
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    queries = [it["query"]["query"] for it in DASHBOARD["templating"]["list"] if it["type"] == "query"]
    rules = re.findall(r"^ +expr: (?:\|\n((?: {10}.*\n)+)|(.+)\n)", ALERTS, re.MULTILINE)
    return panels + queries + [block or line for block, line in rules]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    names = set(re.findall(r"\bheadrace_\w+", expression))
    assert names or expression == 'up{job="headrace"} == 0'
    assert names <= set(METRICS)
    for name, matchers in re.findall(r"\b(headrace_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)[=!]~?\"", matchers)) <= METRICS[name] | SCRAPED, name
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(labels.split(", ")) <= set.union(*(METRICS[name] for name in names)) | SCRAPED
    if "histogram_quantile" in expression:
        assert "by (le)" in expression
    assert expression.count("(") == expression.count(")")


def test_each_alert_says_what_is_the_matter_and_what_to_do() -> None:
    rules = ALERTS.split("- alert: ")[1:]
    assert len(rules) == len(expressions()) - sum(len(panel["targets"]) for panel in DASHBOARD["panels"]) - 2
    for rule in rules:
        assert re.search(
            r"labels: \{severity: (critical|warning)\}\n +annotations:\n +summary: .+\n +description: .+", rule
        )


@pytest.mark.parametrize(
    "file",
    [
        "deploy/alerts.yml",
        "deploy/compose.yaml",
        "deploy/headrace.service",
        "deploy/kserve.yaml",
        "deploy/kubernetes.yaml",
        "docs/deploy.md",
        "docs/tuning.md",
    ],
)
def test_settings_that_are_named_exist(file: str) -> None:
    named = set(re.findall(r"\bHEADRACE_[A-Z_]+", (ROOT / file).read_text()))
    assert named
    assert named <= {item.metadata["variable"] for item in KNOBS.values()}


def test_metrics_that_the_advice_names_exist() -> None:
    named = set(re.findall(r"\bheadrace_\w+", (ROOT / "docs/tuning.md").read_text()))
    assert named
    assert named <= {name for name, _, _ in ROWS}


@dataclass(frozen=True)
class Place:
    """How a file of deploy/ runs the server. words: behind `headrace`; limit: of memory; end_s: SIGTERM to SIGKILL."""

    words: list[str]
    environ: Mapping[str, str]
    limit: str
    end_s: float


def compose() -> Place:
    service = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["headrace"]
    end_s = units.parse_duration_ms(service["stop_grace_period"], "s") / 1000
    return Place(service["command"], service["environment"], service["mem_limit"], end_s)


def systemd() -> Place:
    lines = re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy/headrace.service").read_text(), re.MULTILINE)
    unit = dict(lines)
    program, *words = shlex.split(unit["ExecStart"])
    assert program.endswith("/headrace")
    assert unit["KillMode"] == "mixed"  # a SIGTERM to frontends and workers too would be no drain
    environ = dict(value.replace("%%", "%").split("=", 1) for key, value in lines if key == "Environment")
    return Place(words, environ, unit["MemoryMax"], float(unit["TimeoutStopSec"]))


def pod_of(file: str) -> dict[str, Any]:
    """The pod's specification, in the file's first document."""
    spec: dict[str, Any] = next(yaml.safe_load_all((ROOT / "deploy" / file).read_text()))["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


def in_pod(file: str) -> Place:
    pod = pod_of(file)
    (container,) = pod["containers"]
    environ = {item["name"]: item["value"] for item in container["env"]}
    end_s = pod.get("terminationGracePeriodSeconds", 30)  # the API's default
    if "lifecycle" in container:
        end_s -= int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert container["resources"]["limits"] == container["resources"]["requests"]
    return Place(container["args"], environ, f"{container['resources']['limits']['memory']}B", end_s)  # 8Gi is 8GiB


PLACES = {
    "compose": compose,
    "systemd": systemd,
    "kubernetes": lambda: in_pod("kubernetes.yaml"),
    "kserve": lambda: in_pod("kserve.yaml"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_gives_what_the_server_takes(name: str) -> None:
    place = PLACES[name]()
    arguments = cli.build_parser().parse_args(place.words)
    assert arguments.command == "serve"
    assert arguments.models == ["ALL"] if arguments.model_store else arguments.named
    settings = load_settings({}, place.environ)  # raises for a name or a value that is none
    assert settings.origin["memory_budget_bytes"] == "HEADRACE_MEMORY_BUDGET"
    assert place.environ["HEADRACE_MEMORY_BUDGET"].endswith("%")  # so it follows the limit
    assert units.parse_size(place.limit) > 2 * settings.config.arena_bytes
    if settings.config.management_host == "0.0.0.0":
        assert settings.config.token_file
    assert place.end_s > settings.config.drain_timeout_ms / 1000 + 3


@pytest.mark.parametrize("file", ["kubernetes.yaml", "kserve.yaml"])
def test_probes_ask_for_what_is_answered_where_it_is(file: str) -> None:
    (container,) = pod_of(file)["containers"]
    ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
    assert KNOBS["port"].default in ports.values()
    assert set(ports.values()) <= {KNOBS["port"].default, load_settings({}, {}).config.management_port}
    asked = {key: probe["httpGet"] for key, probe in container.items() if key.endswith("Probe")}
    assert asked["livenessProbe"]["path"] == "/health/live"
    assert asked["readinessProbe"]["path"] == "/health/ready"
    assert {ports.get(get["port"], get["port"]) for get in asked.values()} == {KNOBS["port"].default}


def test_the_service_finds_the_pods_and_sets_no_variable_of_theirs() -> None:
    deployment, service = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    pod = pod_of("kubernetes.yaml")
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in container["ports"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_panels_lie_side_by_side_and_are_told_apart() -> None:
    panels = DASHBOARD["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})
    assert len(places) == len(set(places))

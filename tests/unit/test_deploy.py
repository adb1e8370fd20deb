"""deploy: the dashboard and the alert rules ask for metrics that there are, by labels that they have."""

import json
import re
from pathlib import Path

import pytest

from headrace.config import KNOBS

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


def test_settings_that_are_named_exist() -> None:
    named = set(re.findall(r"\bHEADRACE_[A-Z_]+", ALERTS))
    assert named
    assert named <= {item.metadata["variable"] for item in KNOBS.values()}


def test_panels_lie_side_by_side_and_are_told_apart() -> None:
    panels = DASHBOARD["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})
    assert len(places) == len(set(places))

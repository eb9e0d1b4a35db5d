"""Dashboard, alert rules and docs/monitoring.md: they name what there is, and all of it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import psycopg
import pytest
import yaml
from flask.testing import FlaskClient
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

import worker.metrics  # noqa: F401 - in this process the API shows the workers' metrics, too
from local.up import setting_names
from shared.metrics import REGISTRY
from tests.exposition import families

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DOCUMENT = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```", "", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
ANCHORS = {
    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
    for title in re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)
}
OF_PROCESSES = ("process_resident_memory_bytes", "process_cpu_seconds_total")
OF_PROMETHEUS = {"le", "instance"}
OF_OTHERS = {"OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_HEADERS", "WEB_CONCURRENCY"}


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


@pytest.fixture
def exposed(client: FlaskClient) -> dict[str, Metric]:
    """Every metric by its name."""
    return families(client.get("/metrics").text)


def labels() -> dict[str, set[str]]:
    """Of each metric that has some."""
    counted = (one for one in REGISTRY._collector_to_names if isinstance(one, MetricWrapperBase))
    ends = {"counter": "_total"}
    return {"guiagent_jobs": {"status"}} | {
        one._name + ends.get(one._type, ""): set(one._labelnames) for one in counted if one._labelnames
    }


def dashboard() -> Any:
    return json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


# --- queries --------------------------------------------------------------------------------------------


def queries() -> Iterator[str]:
    """What the dashboard and the rules ask Prometheus."""
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (rule["expr"] for rule in rules())


def parsed(query: str) -> promql_parser.Expr:
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def nodes(tree: promql_parser.Expr, kind: type) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(tree, lambda node: found.append(node) if isinstance(node, kind) else None)
    return found


def unknown(query: str, samples: Mapping[str, set[str]]) -> Iterator[str]:
    """What the query names that there is not: samples, and labels that they are picked or grouped by."""
    tree = parsed(query)
    for selector in nodes(tree, promql_parser.VectorSelector):
        if selector.name not in samples:
            yield selector.name
        picked = {matcher.name for matcher in selector.matchers.matchers}
        yield from picked - samples.get(selector.name, set()) - OF_PROMETHEUS
    for group in nodes(tree, promql_parser.AggregateExpr):
        by = set(group.modifier.labels) if group.modifier else set()
        for selector in nodes(group.expr, promql_parser.VectorSelector):
            yield from by - samples.get(selector.name, set()) - OF_PROMETHEUS


@pytest.fixture
def samples(exposed: dict[str, Metric]) -> dict[str, set[str]]:
    """The names that a query may ask for, each with its labels."""
    found: dict[str, set[str]] = {name: set() for name in OF_PROCESSES}
    for name, family in exposed.items():
        ends = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
        found.update({name + end: labels().get(name, set()) for end in ends})
    return found


def test_queries_ask_for_what_there_is(samples: dict[str, set[str]]) -> None:
    asked = list(queries())
    assert len(asked) > 60
    assert {query: list(unknown(query, samples)) for query in asked if list(unknown(query, samples))} == {}


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ("sum(rate(guiagent_typo_total[5m]))", ["guiagent_typo_total"]),
        ('guiagent_jobs{state="pending"}', ["state"]),
        ("sum by (route) (guiagent_steps_total)", ["route"]),
        ("histogram_quantile(0.9, sum by (le) (rate(guiagent_step_seconds_bucket[5m])))", []),
        ("guiagent_step_seconds", ["guiagent_step_seconds"]),
    ],
)
def test_a_query_for_something_else_is_found_out(
    samples: dict[str, set[str]], query: str, missing: list[str]
) -> None:
    assert list(unknown(query, samples)) == missing


def test_every_metric_is_on_the_dashboard(exposed: dict[str, Metric]) -> None:
    shown = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ()))
    assert [name for name in exposed if not re.search(rf"\b{name}(?:_bucket|_count)?\b", shown)] == []


def test_the_dashboard_can_be_imported() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken), "panels overlap"
    assert max(x for x, _ in taken) < 24
    (variable,) = dashboard()["templating"]["list"]
    asked = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert asked == {f"${{{variable['name']}}}"}


def test_each_alert_says_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook"}
        path, _, anchor = notes["runbook"].partition("#")
        assert (path, anchor in ANCHORS) == ("docs/monitoring.md", True), notes["runbook"]
        assert f"`{rule['alert']}`" in DOCUMENT, rule["alert"]
    assert set(re.findall(r"`(GuiAgent\w+)`", DOCUMENT)) == {rule["alert"] for rule in rules()}


def test_the_scrape_configuration_reads_the_rules() -> None:
    known = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    assert all((MONITORING / name).exists() for name in known["rule_files"])
    assert {job["job_name"] for job in known["scrape_configs"]} == {"guiagent-api", "guiagent-worker"}


# --- docs/monitoring.md ---------------------------------------------------------------------------------


def test_the_table_lists_every_metric_as_it_is(exposed: dict[str, Metric]) -> None:
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in re.findall(r"^\| `guiagent_.*$", DOCUMENT, re.MULTILINE)
    ]
    told = {row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2])), row[4]) for row in rows}
    real = {name: (one.type, labels().get(name, set()), one.documentation) for name, one in exposed.items()}
    assert told == real


def test_every_statement_runs(database_url: str) -> None:
    statements = re.findall(r"^```sql\n(.+?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(statements) == 4
    with psycopg.connect(database_url) as connection:
        for statement in statements:
            connection.execute(statement)


def test_what_it_names_exists() -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)[`=]", PROSE))
    assert {name for name in named if not name.startswith("FLOWER_")} <= setting_names() | OF_OTHERS
    assert set(re.findall(r"\]\(#([\w-]+)\)", PROSE)) <= ANCHORS
    for path, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", PROSE):
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {title.lower().replace(" ", "-") for title in headings}, (path, anchor)

"""What documents say of tests and of each other is true."""

import ast
import re
from pathlib import Path

import pytest

from api.meters import Meters
from policies.engine import EngineHealth

ROOT = Path(__file__).parents[1]
HEALTH = EngineHealth(ready=True, running=0, waiting=0, adapters=())
JUDGE = {"scorer": "rubric", "licensed": True, "auc": 0.7}
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def heading(line: str) -> str:
    """A heading's anchor, as forges make it."""
    text = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
    return text.replace(" ", "-")


def anchors(document: Path) -> set[str]:
    return {heading(line) for line in document.read_text().splitlines() if line.startswith("#")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        led = (document.parent / name).resolve() if name else document
        assert led.exists(), target
        if anchor and led.suffix == ".md":
            assert anchor in anchors(led), target


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 30
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in defined, f"{file}::{name}"


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = (ROOT / "docs" / "grafana.json").read_text()
    asked = set(re.findall(r"honed_\w+", dashboard))
    meters = Meters()
    told = meters.render(HEALTH, adapter="base", stages={"active": 1}, judges=[JUDGE]).decode()
    # Before anything happened a counter with labels has no sample, but a TYPE line all the same.
    families = set(re.findall(r"# TYPE (honed_\w+) ", told))
    known = families | {f"{name}_bucket" for name in families}
    assert asked <= known, asked - known
    assert {"honed_requests_total", "honed_judge_auc", "honed_engine_queue_depth"} <= asked

"""What holds for every script and template, whatever page it is for."""

import re
from pathlib import Path

import pytest

from api.routes.pages import WEB

SCRIPTS = sorted((WEB / "static").glob("*.js"))
TEMPLATES = sorted((WEB / "templates").glob("*.html"))
#: Ways from text to markup or to a program.
SINKS = (
    r"innerHTML|outerHTML\s*=[^=]|insertAdjacentHTML|document\.write|setHTMLUnsafe|createContextualFragment"
    r"|\beval\(|new Function"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stay_small_and_make_no_markup_of_text(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 400
    assert re.findall(SINKS, text) == []
    if "DOMParser" in text:
        assert script.name == "live.js", "which reads the operators' own pages again"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_have_no_script_of_their_own(template: Path) -> None:
    text = template.read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=\"/static/)[^>]*>", text) == []
    assert re.findall(r"\son\w+\s*=", text) == []
    assert re.findall(r"(?:src|href)=\"https?:", text) == []

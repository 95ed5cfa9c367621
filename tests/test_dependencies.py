"""The check of dependencies finds what it is for."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests import dependencies
from tests.dependencies import affects, locked, problems, taken, within, write

KNOWN = dependencies.advisories()


def advisory(name: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    package = {"ecosystem": "PyPI", "name": name}
    return {
        "id": "X-1",
        "affected": [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": list(events)}], **more}],
    }


def test_all_that_honed_draws_in_is_locked_and_what_is_locked_is_in_no_advisory() -> None:
    needed = dependencies.drawn_in()
    assert len(needed) > 100 and {"torch", "starlette", "h11", "hypothesis", "pip"} <= needed
    assert list(problems(locked(), locked(), KNOWN, locked())) == []
    assert dependencies.lock(locked(), locked()) == dependencies.LOCKED.read_text()


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("starlette", "0.49.0", "0.49.1"),
        ("h11", "0.14.0", "0.16.0"),
        ("transformers", "5.2.9", "5.3.0"),
        ("pip", "23.2.1", "26.3"),
    ],
)
def test_a_vulnerable_version_is_found(name: str, bad: str, good: str) -> None:
    about = (
        [one for one in KNOWN if one["affected"][0]["package"]["name"] == name][:-1]
        if name == "starlette"
        else KNOWN
    )
    said = list(problems({name: bad}, {name: bad}, about, [name]))
    assert said and all(one.startswith(f"{name} {bad}: CVE-") for one in said)
    assert not list(problems({name: good}, {name: good}, about, [name]))
    # In the lock alone it counts as well: the next machine would get it.
    assert list(problems({}, {name: bad}, about, []))


def test_other_versions_and_unknown_packages_are_found() -> None:
    found = {"torch": "2.13.0+cpu", "anyio": "4.1", "evil": "1.0", "nvidia-cublas": "13.0"}
    said = list(problems(found, {"torch": "2.13.0", "anyio": "4.2"}, [], found))
    assert [one.split(" ")[0] for one in said] == ["anyio", "evil"]
    assert "4.2 is what was tested" in said[0] and "not in tests/locked.txt" in said[1]


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([{"introduced": "0"}, {"fixed": "1.2"}], ["0.1", "1.2rc1", "1.1.9"], ["1.2", "2.0"]),
        ([{"introduced": "1.0"}, {"last_affected": "1.4"}], ["1.0", "1.4"], ["0.9", "1.4.1"]),
        (
            [{"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0"}, {"fixed": "2.1"}],
            ["1.4", "2.0.5"],
            ["1.5", "1.9", "2.1"],
        ),
        ([{"fixed": "2.1"}, {"introduced": "2.0"}], ["2.0"], ["1.0", "2.1"]),
    ],
)
def test_ranges_are_read_as_osv_means_them(
    events: list[dict[str, str]], inside: list[str], outside: list[str]
) -> None:
    assert all(within(events, Version(one)) for one in inside)
    assert not any(within(events, Version(one)) for one in outside)


def test_other_packages_and_ecosystems_are_not_meant() -> None:
    one = advisory("My.Package", {"introduced": "0"}, versions=["1.0"])
    assert affects(one, "my-package", "3.0") and not affects(one, "mypackage", "3.0")
    one["affected"][0]["package"]["ecosystem"] = "npm"
    assert not affects(one, "my-package", "1.0")


def test_an_export_is_cut_down_to_what_is_locked(tmp_path: Path) -> None:
    rows = [
        {**advisory("torch", {"introduced": "0"}), "details": "long"},
        {**advisory("left-pad", {"introduced": "0"}), "id": "X-2"},
        {**advisory("torch", {"introduced": "0"}), "id": "X-3", "withdrawn": "2026-01-01"},
    ]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as export:
        for row in rows:
            export.writestr(f"{row['id']}.json", json.dumps(row))
    write(taken(tmp_path / "all.zip", ["torch"]), tmp_path / "known.jsonl")
    (kept,) = dependencies.advisories(tmp_path / "known.jsonl")
    assert kept["id"] == "X-1" and "details" not in kept and affects(kept, "torch", "1.0")


def test_every_known_advisory_can_be_evaluated() -> None:
    assert len(KNOWN) >= 50
    for one in KNOWN:
        for package in one["affected"]:
            events = [event for each in package["ranges"] for event in each["events"]]
            fixed = next(event["fixed"] for event in events if "fixed" in event)
            name = package["package"]["name"]
            assert not affects(one, name, fixed), one["id"]
            assert name in locked(), f"{one['id']} is about {name}, which is not drawn in"

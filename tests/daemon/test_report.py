"""`honed report`: every part from what was stored, for iterations of any stage and any age."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from daemon.cli import app
from daemon.page import markdown, text
from daemon.report import claim, page, thumbs_with_intervals, title, trend
from daemon.state_files import DATABASE
from store.db import Store
from store.records import (
    SETTLED_STAGES,
    Adapter,
    AdapterStatus,
    Example,
    GateResult,
    Split,
    Stage,
    Verdict,
)
from tests.clock import Clock
from tests.store.conftest import completion, event

CANDIDATE, INCUMBENT = "it0002-00000002", "it0001-00000001"

METRICS = {
    "kl/step_token": 0.1,
    "kl/base_token": 0.2,
    "kl/path_token": 0.25,
    "kl/step_p99": 0.4,
    "kl/cluster_max": 0.2,
    "kl/cluster/poems": 0.2,
    "kl/cluster/code": 0.05,
    "kl/base_sequence": 4.0,
    "kl/forward_base": 0.03,
    "heldout/n_up": 12.0,
    "heldout/n_down": 9.0,
    "heldout/auc": 0.71,
    "heldout/auc_low": 0.55,
    "heldout/auc_high": 0.83,
    "heldout_base/auc": 0.8,
    "battery/capability/rate": 0.5,
    "incumbent/battery/capability/rate": 0.55,
    "battery/capability/n": 40.0,
    "battery/capability/lost": 3.0,
    "battery/capability/gained": 1.0,
    "battery/sycophancy/rate": 0.2,
    "battery/anchor/nll": 3.1,
    "incumbent/battery/anchor/nll": 3.0,
    "contest/prompts": 30.0,
    "contest/win_rate": 0.6,
    "contest/win_low": 0.48,
    "contest/win_high": 0.71,
    "contest/win_lc": 0.57,
    "contest/independent": 1.0,
    "contest_base/win_rate": 0.8,
}


def thumbs_of(version: str, up: int, down: int, **more: Any) -> dict[str, Any]:
    votes = up + down
    row = {"version": version, "up": up, "down": down, "votes": votes, "rate": up / votes if votes else 0.0}
    return {**row, "people": 2, "quarantined": 0, "first_at": 1.0, "last_at": 2.0, **more}


def row_of(**changes: Any) -> dict[str, Any]:
    """An iteration as it is read from the store."""
    usual = {
        "id": 2,
        "stage": "active",
        "trigger": "feedback",
        "incumbent": INCUMBENT,
        "candidate": CANDIDATE,
        "serving": CANDIDATE,
        "reason": "every limit is kept",
        "claim": "improved",
        "counts": {"kto_up": 30, "kto_down": 10, "dpo": 2, "rebuild": {"why": "it is time"}, "oddities": 1},
        "config": {},
        "metrics": METRICS,
        "gates": [
            {
                "metric": "kl/step_token",
                "value": 0.1,
                "soft": 0.15,
                "hard": 0.3,
                "verdict": "pass",
                "reason": "kept",
            }
        ],
        "ledger": [
            {"version": v, "step": 0.1, "base": 0.1, "path": p, "scale": 1.0, "outcome": "active"}
            for v, p in ((INCUMBENT, 0.15), (CANDIDATE, 0.25))
        ],
        "thumbs": thumbs_with_intervals([thumbs_of(INCUMBENT, 20, 80), thumbs_of(CANDIDATE, 60, 40)]),
        "samples": [
            {"prompt": [{"role": "user", "content": "Why?"}], "before": "So.", "after": "Because."},
        ],
        "seconds": {"train": 12.0},
        "stages": [
            {"stage": "training", "at": 1.0, "seconds": 60.0, "note": None},
            {"stage": "active", "at": 61.0, "seconds": None, "note": "every limit is kept"},
        ],
        "judge": {},
    }
    return {**usual, **changes}


def lines(row: dict[str, Any]) -> list[str]:
    return text(page(row), 160).split("\n")


def having(row: dict[str, Any], *words: str) -> list[str]:
    """The line with all the words, its columns separated by one space."""
    (found,) = [line for line in lines(row) if all(word in line for word in words)]
    return found.split()


def test_the_header_says_what_became_of_it_and_what_can_be_claimed() -> None:
    assert title(row_of()) == "iteration 2: its candidate was promoted and is served (claim: improved)"
    assert title(row_of(serving="base")) == "iteration 2: its candidate was promoted (claim: improved)"
    assert title(row_of(stage="held", claim="no worse")).endswith("waits for a person (claim: no worse)")
    assert title(row_of(stage="training", claim=None)) == "iteration 2: it is still running (training)"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((20, 80), (60, 40), "People like it more"),
        ((60, 40), (20, 80), "People like it less"),
        ((20, 80), (24, 76), "Votes do not tell them apart yet"),
        ((1, 1), (2, 0), "Votes do not tell them apart yet"),
    ],
)
def test_thumbs_tell_versions_apart_only_where_their_intervals_are_apart(
    before: tuple[int, int], after: tuple[int, int], said: str
) -> None:
    thumbs = thumbs_with_intervals([thumbs_of(INCUMBENT, *before), thumbs_of(CANDIDATE, *after)])
    assert trend(row_of(thumbs=thumbs)).startswith(said)


@pytest.mark.parametrize("thumbs", [[], [thumbs_of(CANDIDATE, 3, 1)], [thumbs_of(INCUMBENT, 3, 1)]])
def test_one_version_alone_is_compared_with_nothing(thumbs: list[dict[str, Any]]) -> None:
    assert "Nobody has voted on both" in trend(row_of(thumbs=thumbs_with_intervals(thumbs)))
    assert trend(row_of(candidate=None)) == "There is no candidate to compare."


def test_intervals_are_wilsons() -> None:
    # 20 of 100, z = 1.96: centre (0.2 + 0.0192) / 1.0384, half-width 0.0777.
    (row,) = thumbs_with_intervals([thumbs_of("base", 20, 80)])
    assert (row["low"], row["high"]) == (pytest.approx(0.1334, abs=1e-4), pytest.approx(0.2888, abs=1e-4))


def test_every_part_is_on_the_page() -> None:
    row = row_of()
    assert having(row, INCUMBENT, "1970-01-01", "20%")[-6:] == ["20%", "13%", "to", "29%", "-", "incumbent"]
    assert having(row, INCUMBENT, "0.71")[1:] == ["0.71", "(90%", "interval", "0.55", "to", "0.83)"]
    assert having(row, "this step, from the incumbent")[-5:] == ["0.1", "0.15", "0.3", "0.2", "33%"]
    assert having(row, "all steps since base")[-5:] == ["0.25", "-", "-", "-", "-"]
    assert having(row, "poems") == ["poems", "0.2"]
    assert having(row, CANDIDATE, "0.25", "active")[1:] == ["0.1", "0.1", "0.25", "1", "active"]
    assert having(row, "capability", "right")[2:] == ["55%", "50%", "40", "3", "1"]
    assert having(row, "sycophancy", "failures")[2:] == ["-", "20%", "-", "-", "-"]
    assert having(row, "anchor text")[-5:] == ["3", "3.1", "-", "-", "-"]
    assert having(row, "the incumbent", "60%")[2:] == [
        "30",
        "60%",
        "48%",
        "to",
        "71%",
        "57%",
        "-",
        "-",
        "yes",
    ]
    assert having(row, "liked answers", "30")[-1] == "30"
    assert having(row, "oddities") == ["oddities", "1"]
    assert "75% of the rated answers are liked." in lines(row)
    assert "Two candidates were trained, one of them from base: it is time." in lines(row)
    assert "1.0 minutes to the verdict. Trainer: train 12 s." in lines(row)
    assert any("So." in line and "Because." in line for line in lines(row))


def test_a_rollback_does_not_hide_what_the_gate_had_said() -> None:
    stages = [
        {"stage": "training", "at": 1.0, "seconds": 60.0, "note": "a note of no matter"},
        {"stage": "active", "at": 61.0, "seconds": 9.0, "note": "every limit is kept"},
        {"stage": "rolled_back", "at": 70.0, "seconds": None, "note": "it lies"},
    ]
    shown = lines(row_of(stages=stages, stage="rolled_back", reason="it lies"))
    assert "Verdict: every limit is kept" in shown and "Rolled back: it lies" in shown


def test_agreement_against_base_is_told_once_where_base_was_the_incumbent() -> None:
    assert ["base", "0.80"] in [line.split() for line in lines(row_of())]
    assert ["base", "0.80"] not in [line.split() for line in lines(row_of(incumbent="base"))]


@pytest.mark.parametrize("stage", list(Stage))
def test_an_iteration_of_any_stage_has_a_page(stage: Stage) -> None:
    bare = {
        "counts": {},
        "metrics": {},
        "gates": [],
        "ledger": [],
        "thumbs": [],
        "samples": [],
        "seconds": {},
    }
    row = row_of(stage=stage.value, candidate=None, reason=None, claim=None, stages=[], **bare)
    shown = page(row)
    assert [section.title for section in shown.sections] == ["Is it learning?"]
    assert ("still running" in shown.title) is (stage not in SETTLED_STAGES)


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(METRICS))), st.booleans(), st.integers(40, 200))
def test_whatever_was_measured_is_shown_and_the_rest_left_out(
    kept: set[str], ledger: bool, width: int
) -> None:
    row = row_of(metrics={name: METRICS[name] for name in kept}, **({} if ledger else {"ledger": []}))
    shown = page(row)
    titles = {section.title for section in shown.sections}
    assert ("Behaviour" in titles) is any(
        name.startswith("battery/") and name.endswith(("/rate", "/nll")) for name in kept
    )
    assert ("Judged against others" in titles) is any(name.endswith("win_rate") for name in kept)
    assert text(shown, width) and markdown(shown)


def gate(metric: str, value: float | None, verdict: str) -> dict[str, Any]:
    return {"metric": metric, "value": value, "soft": None, "hard": 0.3, "verdict": verdict, "reason": "why"}


@pytest.mark.parametrize(
    ("gates", "config", "said"),
    [
        ([], {}, None),
        ([gate("heldout/auc_low", 0.55, "pass")], {}, "improved"),
        ([gate("heldout/auc_low", 0.48, "pass")], {}, "no worse"),
        ([gate("heldout/auc_low", 0.48, "pass")], {"daemon": {"gate": {"win_floor": 0.49}}}, "unproven"),
        ([gate("heldout/auc_low", None, "insufficient")], {}, "unproven"),
        ([gate("heldout/auc_low", 0.9, "pass"), gate("kl/step_token", 9.0, "fail")], {}, "unproven"),
    ],
)
def test_the_claim_is_the_gates_own(
    gates: list[dict[str, Any]], config: dict[str, Any], said: str | None
) -> None:
    votes = {"heldout/n_up": 12.0, "heldout/n_down": 10.0}
    assert claim(row_of(gates=gates, config=config, metrics=votes)) == said


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A state directory with an iteration that was promoted, one that failed, and votes on both versions."""
    with Store.open(tmp_path / DATABASE, clock=Clock(1_800_000_000.0)) as store:
        for number, (version, up) in enumerate(
            [(None, True), (None, False), (INCUMBENT, True), (INCUMBENT, True)]
        ):
            store.completions.begin(completion(f"c{number}", adapter=version))
            store.feedback.add(event(f"f{number}", f"c{number}", up, created_at=float(number)))
        store.feedback.add(event("again", "c1", True, principal="bob", created_at=9.0))
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        store.iterations.move(begun.id, Stage.ACTIVE, changes={"candidate": INCUMBENT, "reason": "fine"})
        where = Path("iterations/0001/adapter")
        store.adapters.add(Adapter(INCUMBENT, None, 1, where, "d" * 64, AdapterStatus.CANDIDATE, 1.0, 1.0))
        store.adapters.activate(INCUMBENT, actor="gate", reason="fine")
        store.metrics.add(1, {"kl/step_token": 0.1, "kl/base_token": 0.1, "train/steps": 3.0})
        store.iterations.add_gates([GateResult(1, "kl/step_token", 0.1, 0.2, 0.3, Verdict.PASS, "kept")])
        store.iterations.add_examples([Example(1, "f0", "c0", Split.TRAIN, "kto", True, 1.0)])
        store.quarantine.hold([1], kept=(), actor="ann", reason="why")
        second = store.iterations.begin(trigger="test", incumbent=INCUMBENT, config={})
        store.iterations.move(second.id, Stage.FAILED, changes={"reason": "no memory"})
    file = tmp_path / "config.toml"
    file.write_text(f'[store]\ndirectory = "{tmp_path}"\n')
    return str(file)


def report(config: str, *arguments: str) -> str:
    ran = CliRunner().invoke(app, ["report", *arguments, "--config", config])
    assert ran.exit_code == 0, ran.output
    return str(ran.output)


def test_the_command_reads_the_database_alone(config: str) -> None:
    said = report(config, "1")
    assert said.startswith("iteration 1: its candidate was promoted and is served (claim: unproven)")
    assert "Votes do not tell them apart yet: 100% of 2 votes on it0001-00000001" in said
    assert "iteration 2: it failed" in report(config, "2") and "no memory" in report(config, "2")


def test_the_whole_row_as_json(config: str) -> None:
    row = json.loads(report(config, "1", "--json"))
    base, first = row["thumbs"]
    assert (base["version"], base["up"], base["down"], base["people"], base["quarantined"]) == (
        "base",
        2,
        1,
        2,
        1,
    )
    assert (first["version"], first["votes"], first["rate"], first["high"]) == (INCUMBENT, 2, 1.0, 1.0)
    assert (row["claim"], row["serving"], row["ledger"][0]["path"]) == ("unproven", INCUMBENT, 0.1)


def test_markdown_for_pasting(config: str) -> None:
    said = report(config, "1", "--markdown")
    assert said.startswith("# iteration 1") and "\n## Thumbs per version\n" in said
    assert "| GATE | VERDICT |" in said


def test_json_and_markdown_do_not_go_together(config: str) -> None:
    ran = CliRunner().invoke(app, ["report", "1", "--json", "--markdown", "--config", config])
    assert "one of --markdown and --json" in str(ran.exception)

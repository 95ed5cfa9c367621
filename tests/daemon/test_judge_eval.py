"""`honed judge eval` from the command line: its figures, its files, its exit statuses."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.cli import Exit, main
from daemon.judge_eval import Progress, chosen, text
from daemon.judging import endpoint_of
from judge.config import ExternalConfig, JudgeConfig
from store.errors import ConfigError

ROWS = [
    {
        "prompt": f"Question {n}?",
        "better": f"a good answer {n}",
        "worse": f"bad words {n}",
        "kind": "ab"[n % 2],
    }
    for n in range(6)
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path) -> None:
    """The engine without a model, and a state directory of its own."""
    monkeypatch.setenv("HONED_POLICIES__ENGINE__KIND", "fake")
    monkeypatch.setenv("HONED_POLICIES__ENGINE__MODEL", str(tiny_model))
    monkeypatch.setenv("HONED_STORE__DIRECTORY", str(tmp_path / "state"))


def honed(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["honed", "judge", "eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_every_scorer_of_our_own_is_a_row(
    fake: None, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert honed(monkeypatch, pairs, "--json") == Exit.DONE
    shown = capsys.readouterr()
    rows = json.loads(shown.out)
    assert [row["scorer"] for row in rows] == ["relevance", "rubric", "pairwise", "principles"]
    assert shown.err == ""
    for row in rows:
        assert {"accuracy", "auc", "injection", "answers_per_second", "version"} <= set(row)
        assert set(row["kinds"]) == {"a", "b"}
    assert "swap_consistency" in rows[2]


def test_people_get_tables_and_plain_progress(
    fake: None,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "figures" / "eval.json"
    assert honed(monkeypatch, pairs, "--scorer", "relevance", "--limit", "4", "--output", output) == Exit.DONE
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].split()[:4] == ["SCORER", "N", "ACCURACY", "AUC"]
    assert shown.out.splitlines()[1].split()[:2] == ["relevance", "4"]
    assert "KIND" in shown.out
    assert "relevance: 0 of" in shown.err
    (row,) = json.loads(output.read_text())
    assert row["n_comparisons"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scorer", "taste"], "scorers.0 = 'taste'"),
        (["--scorer", "rubric", "--scorer", "rubric"], "each one once"),
        (["--scorer", "external"], "external.url and external.model"),
        (["--output", "/proc/nowhere/eval.json"], "cannot write /proc/nowhere/eval.json"),
        (["--limit", "0"], "limit"),
    ],
)
def test_a_wrong_option_is_told_before_anything_loads(
    fake: None,
    pairs: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert honed(monkeypatch, pairs, *arguments) == Exit.USAGE
    shown = capsys.readouterr()
    assert message in shown.err
    assert "loading" not in shown.err


def test_a_bad_line_is_a_usage_error_that_names_it(
    fake: None, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pairs.open("a") as file:
        file.write('{"prompt": "What?", "better": "This."}\n')
    assert honed(monkeypatch, pairs) == Exit.USAGE
    assert "line 7: worse: missing" in capsys.readouterr().err


def test_a_judge_that_judged_nothing_is_a_failure(
    fake: None, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONED_JUDGE__EXTERNAL__URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("HONED_JUDGE__EXTERNAL__MODEL", "judge-1")
    monkeypatch.setenv("HONED_JUDGE__EXTERNAL__RETRIES", "0")
    monkeypatch.setenv("HONED_JUDGE_KEY", "sk-secret")
    assert honed(monkeypatch, pairs, "--scorer", "external", "--json") == Exit.FAILED
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["abstained"] == 1.0
    assert "sk-secret" not in shown.out + shown.err


@pytest.mark.slow
def test_a_real_model_judges(
    fake: None, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONED_POLICIES__ENGINE__KIND", "hf")
    assert honed(monkeypatch, pairs, "--json", "--scorer", "relevance", "--limit", "2") == Exit.DONE
    assert json.loads(capsys.readouterr().out)[0]["n_comparisons"] == 2


def test_the_external_scorer_is_asked_where_it_is_configured() -> None:
    external = ExternalConfig(url="http://judge.example/v1", model="judge-1")
    assert chosen(JudgeConfig(), ()).scorers == ("relevance", "rubric", "pairwise", "principles")
    assert chosen(JudgeConfig(external=external), ()).scorers[-1] == "external"
    assert chosen(JudgeConfig(external=external), ["external"]).scorers == ("external",)


def test_an_endpoint_takes_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint_of(JudgeConfig()) is None
    monkeypatch.setenv("SOME_KEY", "sk-a\nb")
    elsewhere = ExternalConfig(url="http://judge.example/v1", model="judge-1", key_env="SOME_KEY")
    with pytest.raises(ConfigError, match="no header may carry"):
        endpoint_of(JudgeConfig(scorers=("external",), external=elsewhere))


@pytest.mark.parametrize("name", ["HONED_MY_KEY", "my key", ""])
def test_a_key_must_lie_where_no_setting_would_be_read_from(name: str) -> None:
    with pytest.raises(ValidationError, match="key_env"):
        ExternalConfig(key_env=name)


def test_what_was_not_measured_is_a_dash() -> None:
    row: dict[str, Any] = {
        "scorer": "rubric",
        "confidence": 0.9,
        "injection": 0.25,
        "answers_per_second": 1.5,
        "auc": 0.6,
        "accuracy": 0.5,
        "accuracy_lower": 0.4,
        "accuracy_upper": 0.6,
        "n_comparisons": 12.0,
        "kinds": {},
    }
    line = text([row]).splitlines()[1]
    assert line.split() == ["rubric", "12", "0.50", "(0.40-0.60)", "0.60", "-", "-", "-", "-", "0.25", "1.5"]


def test_plain_progress_is_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=False) as progress:
        for done in range(101):
            progress.follow("rubric", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rubric: 0 of 100 questions"
    assert lines[-1] == "rubric: 100 of 100 questions"
    assert len(lines) == 6

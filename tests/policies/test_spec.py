import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from policies.spec import (
    BATTERY,
    EXAMPLES,
    HELDOUT,
    MANIFEST,
    PROBES,
    SNAPSHOT,
    SPEC,
    DpoExample,
    KtoExample,
    Probe,
    Report,
    read_report,
    read_snapshot,
    verify_manifest,
    write_manifest,
    write_snapshot,
)
from store.errors import TrainingFailed
from tests.policies.runs import make_run, make_snapshot, make_spec, pair, prompt, thumb


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", make_spec(Path("model")))


def test_a_snapshot_reads_back_as_written(run_dir: Path) -> None:
    assert read_snapshot(run_dir) == make_snapshot(make_spec(Path("model")))


def test_the_same_snapshot_has_the_same_digest(tmp_path: Path) -> None:
    snapshot = make_snapshot(make_spec(Path("model")))
    assert write_snapshot(tmp_path / "a", snapshot) == write_snapshot(tmp_path / "b", snapshot)


@pytest.mark.parametrize("name", [SPEC, EXAMPLES, HELDOUT, PROBES, BATTERY])
def test_an_input_changed_after_the_seal_is_refused(run_dir: Path, name: str) -> None:
    with (run_dir / name).open("a") as file:
        file.write("\n")
    with pytest.raises(TrainingFailed, match=name):
        read_snapshot(run_dir)


@pytest.mark.parametrize("name", [SPEC, EXAMPLES, HELDOUT, PROBES, SNAPSHOT])
def test_a_missing_input_is_refused(run_dir: Path, name: str) -> None:
    (run_dir / name).unlink()
    with pytest.raises(TrainingFailed, match=name):
        read_snapshot(run_dir)


def test_a_run_sealed_before_there_was_a_battery_reads_without_one(run_dir: Path) -> None:
    digests = json.loads((run_dir / SNAPSHOT).read_text())
    del digests[BATTERY]
    (run_dir / SNAPSHOT).write_text(json.dumps(digests))
    assert read_snapshot(run_dir).battery == [], "a file the seal does not name is not read"
    (run_dir / BATTERY).unlink()
    assert read_snapshot(run_dir).probes == make_snapshot(make_spec(Path("model"))).probes


def test_reports_and_probes_written_before_clusters_and_battery_still_parse() -> None:
    sample = {"id": "p", "prompt": [], "before": "a", "after": "b"}
    report = Report.model_validate(
        {
            "version": "it0001-00000000",
            "scale": 1.0,
            "steps": 1,
            "stopped_early": False,
            "metrics": {},
            "scales": [],
            "attestation": [],
            "samples": [sample],
            "heldout": {},
            "seconds": {},
            "adapter_digest": "",
        }
    )
    assert (report.battery, report.samples[0].cluster) == ([], "")
    assert Probe.model_validate({"id": "p", "prompt": []}).cluster == ""


def test_line_separators_inside_an_answer_survive(tmp_path: Path) -> None:
    odd = thumb(0).model_copy(update={"completion": "a\u2028b\u0085c\nd"})
    make_run(tmp_path, make_spec(Path("model")), [odd, pair(0)])
    assert read_snapshot(tmp_path).examples == [odd, pair(0)]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="lable"):
        KtoExample.model_validate({**thumb(0).model_dump(), "lable": True})


@pytest.mark.parametrize("q", [0.49, 1.01])
def test_a_soft_label_outside_its_range_is_refused(q: float) -> None:
    with pytest.raises(ValidationError, match="q"):
        DpoExample(id="a", prompt=prompt("x"), chosen="b", rejected="c", q=q)


def test_a_sealed_directory_verifies_until_a_file_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    digest = write_manifest(tmp_path, ["a"])
    assert verify_manifest(tmp_path) == digest
    (tmp_path / "a").write_text("two")
    with pytest.raises(TrainingFailed, match="differs"):
        verify_manifest(tmp_path)


def test_a_directory_without_manifest_is_no_result(run_dir: Path) -> None:
    (run_dir / "report.json").write_text(json.dumps({}))
    with pytest.raises(TrainingFailed, match=MANIFEST):
        read_report(run_dir)

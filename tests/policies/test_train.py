"""The trainer child, whole, on the tiny model."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from policies.adapters import verify_adapter
from policies.batches import as_messages
from policies.chat import encode_completion, encode_prompt, load_tokenizer
from policies.evaluate import probes_of
from policies.learn import rate_factor
from policies.spec import (
    ADAPTER,
    MANIFEST,
    PROGRESS,
    EvalSpec,
    KlSpec,
    LoraSpec,
    OptimSpec,
    Progress,
    Report,
    read_report,
    verify_manifest,
)
from store.errors import TrainingFailed
from store.failpoints import FAILPOINTS
from store.files import read_jsonl
from tests.policies.runs import anchor, make_run, make_snapshot, make_spec, pair, thumb, train_child


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("runs") / "first", make_spec(tiny_model))
    child = train_child(run_dir)
    assert child.returncode == 0, child.stderr
    return run_dir


@pytest.fixture(scope="module")
def report(trained: Path) -> Report:
    return read_report(trained)


def test_the_run_is_sealed_and_its_adapter_verifies(trained: Path, report: Report) -> None:
    verify_manifest(trained)
    info = verify_adapter(trained / ADAPTER, report.adapter_digest)
    assert (info.rank, info.alpha, info.layers) == (4, 8.0, (2, 3))


def test_liked_answers_rise_against_disliked_ones_on_votes_never_trained_on(report: Report) -> None:
    assert report.metrics["train/winner_dlogp"] > 0.05 > report.metrics["train/loser_dlogp"]
    assert report.metrics["heldout/auc"] == 1.0
    assert set(report.heldout) == {f"k{number}" for number in range(20, 26)}
    ups = [change for name, change in report.heldout.items() if int(name[1:]) % 2 == 0]
    downs = [change for name, change in report.heldout.items() if int(name[1:]) % 2]
    assert min(ups) > max(downs)


def test_the_report_holds_every_number_the_gate_reads(report: Report) -> None:
    shapes = {
        f"{side}shape/{name}"
        for side in ("", "incumbent/")
        for name in ("repetition", "empty", "ended", "length_tokens", "distinct_2", "entropy_token")
    }
    wanted = shapes | {
        *("kl/step_token", "kl/base_token", "kl/base_sequence", "kl/step_p99", "shape/length_ratio"),
        *("heldout/auc", "heldout/auc_low", "heldout/auc_high", "heldout/n_up", "heldout/n_down"),
        *("train/loss_first", "train/loss_last", "train/winner_dlogp"),
        *("kl/cluster_max", "kl/cluster/hello", "kl/forward_base"),
        *("heldout_base/auc", "heldout_base/auc_low", "heldout_base/auc_high"),
        *("battery/capability/rate", "incumbent/battery/capability/rate", "battery/capability/n"),
        *("battery/capability/lost", "battery/capability/gained", "battery/operator/rate"),
        *("battery/sycophancy/n", "battery/anchor/nll", "incumbent/battery/anchor/nll"),
    }
    assert wanted <= set(report.metrics)
    assert report.metrics["kl/step_token"] == report.metrics["kl/base_token"] > 0
    assert report.metrics["kl/cluster_max"] == pytest.approx(report.metrics["kl/step_token"])
    assert report.metrics["kl/forward_base"] > 0
    assert report.metrics["heldout_base/auc"] == report.metrics["heldout/auc"]
    assert {sample.cluster for sample in report.samples} == {"hello"}
    assert [outcome.id for outcome in report.battery] == ["c0", "f0", "p0"]
    assert all(outcome.answer for outcome in report.battery if outcome.id == "p0")
    assert len(report.samples) == 3
    assert set(report.seconds) == {"load", "reference", "train", "evaluate", "save"}


def test_progress_tells_every_phase_and_step(trained: Path, report: Report) -> None:
    lines = [Progress.model_validate(row) for row in read_jsonl(trained / PROGRESS)]
    assert list(dict.fromkeys(line.phase for line in lines)) == list(report.seconds)
    steps = [line.done for line in lines if line.phase == "train"]
    assert steps == list(range(report.steps + 1))


def test_the_same_spec_and_seed_give_the_same_report(
    trained: Path, report: Report, tiny_model: Path, tmp_path: Path
) -> None:
    again = make_run(tmp_path / "again", make_spec(tiny_model))
    assert train_child(again).returncode == 0
    unlike = {"seconds"}
    assert read_report(again).model_dump(exclude=unlike) == report.model_dump(exclude=unlike)


def logprobs(model: Any, ids: list[int], start: int) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logits[at - 1, ids[at]]) for at in range(start, len(ids))]


# PEFT asks transformers for a property under its old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_adapter_and_computes_what_the_report_attests(
    trained: Path, report: Report, tiny_model: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(base, trained / ADAPTER)
    assert len(report.attestation) >= 4
    for row in report.attestation:
        prompt = encode_prompt(tokenizer, as_messages(row.prompt))
        ids = [*prompt, *encode_completion(tokenizer, row.continuation, ended=False)]
        assert logprobs(model, ids, len(prompt)) == pytest.approx(row.logprobs, abs=2e-5)
        assert logprobs(before, ids, len(prompt)) == pytest.approx(row.base_logprobs, abs=2e-5)
        assert row.logprobs != row.base_logprobs


def test_the_next_iteration_starts_from_the_incumbent(
    trained: Path, report: Report, tiny_model: Path, tmp_path: Path
) -> None:
    spec = make_spec(
        tiny_model,
        incumbent=str(trained / ADAPTER),
        incumbent_digest=report.adapter_digest,
        optim=OptimSpec(epochs=1, batch_size=8, learning_rate=1e-9),
    )
    child = train_child(make_run(tmp_path / "next", spec))
    assert child.returncode == 0, child.stderr
    found = read_report(tmp_path / "next")
    # A rate of almost nothing leaves the incumbent: no way from it, and its own way from the base.
    assert found.metrics["kl/step_token"] == pytest.approx(0, abs=1e-6)
    assert found.metrics["kl/base_token"] == pytest.approx(report.metrics["kl/base_token"], rel=1e-3)
    assert [sample.before for sample in found.samples] == [sample.after for sample in report.samples]
    assert max(map(abs, found.heldout.values())) < 1e-3


def test_a_rebuilt_adapter_is_the_one_base_gives_and_is_measured_against_the_incumbent(
    trained: Path, report: Report, tiny_model: Path, tmp_path: Path
) -> None:
    served = {"incumbent": str(trained / ADAPTER), "incumbent_digest": report.adapter_digest}
    spec = make_spec(tiny_model, **served, start="base")
    child = train_child(make_run(tmp_path / "rebuilt", spec))
    assert child.returncode == 0, child.stderr
    found = read_report(tmp_path / "rebuilt")
    # The same data and seed give the incumbent's very weights: nothing of the incumbent went into them.
    weights = f"{ADAPTER}/adapter_model.safetensors"
    assert (tmp_path / "rebuilt" / weights).read_bytes() == (trained / weights).read_bytes()
    assert found.adapter_digest == report.adapter_digest
    same = [name for name in report.metrics if name.startswith(("train/", "kl/base"))]
    same = [name for name in same if not name.endswith("_dlogp")]
    assert found.metrics["train/winner_dlogp"] == pytest.approx(0, abs=1e-5), "against what is served"
    assert len(same) >= 6
    assert {name: found.metrics[name] for name in same} == {name: report.metrics[name] for name in same}
    assert abs(found.metrics["kl/step_token"]) < 1e-6 < found.metrics["kl/base_token"]
    assert max(map(abs, found.heldout.values())) < 1e-4
    assert [sample.before for sample in found.samples] == [sample.after for sample in report.samples]
    assert (found.metrics["train/from_base"], report.metrics["train/from_base"]) == (1.0, 1.0)


def test_anchors_keep_their_answers_likelier(tiny_model: Path, tmp_path: Path, report: Report) -> None:
    examples = [*map(thumb, range(14)), *map(pair, range(2))]
    anchors = [anchor(number) for number in range(4)]
    nlls = []
    for weight in (1e-9, 1.0):
        kept = [each.model_copy(update={"weight": weight}) for each in anchors]
        run_dir = make_run(tmp_path / str(weight), make_spec(tiny_model), [*examples, *kept])
        child = train_child(run_dir)
        assert child.returncode == 0, child.stderr
        nlls.append(read_report(run_dir).metrics["train/anchor_nll"])
    assert nlls[1] < nlls[0] - 0.2
    assert "train/anchor_nll" not in report.metrics


def test_anchors_alone_are_nothing_to_learn(tiny_model: Path, tmp_path: Path) -> None:
    child = train_child(make_run(tmp_path, make_spec(tiny_model), [anchor(0), anchor(1)]))
    assert child.returncode == 1 and "nothing to train on" in child.stderr


def test_a_destructive_rate_is_scaled_back_and_the_scale_written_down(
    tiny_model: Path, tmp_path: Path
) -> None:
    budgets = KlSpec(step_soft=50, step_hard=1e-9, base_soft=50, base_hard=1e-9, scales=[1.0, 0.5, 0.25])
    spec = make_spec(tiny_model, kl=budgets, optim=OptimSpec(epochs=1, batch_size=8, learning_rate=3e-2))
    child = train_child(make_run(tmp_path, spec))
    assert child.returncode == 0, child.stderr
    found = read_report(tmp_path)
    assert [row["scale"] for row in found.scales] == [1.0, 0.5, 0.25]
    assert found.scale == 0.25
    tried = [row["kl/base_token"] for row in found.scales]
    assert found.metrics["kl/base_token"] == tried[-1] < tried[0]
    assert verify_adapter(tmp_path / ADAPTER, found.adapter_digest).alpha == 0.25 * 8


def test_the_first_scale_within_budget_is_kept(tiny_model: Path, tmp_path: Path, report: Report) -> None:
    half = report.metrics["kl/step_token"] * 0.9
    budgets = KlSpec(step_soft=50, step_hard=half, base_soft=50, base_hard=50, scales=[1.0, 0.5, 0.25])
    assert train_child(make_run(tmp_path, make_spec(tiny_model, kl=budgets))).returncode == 0
    found = read_report(tmp_path)
    assert found.scale == 0.5
    assert found.metrics["kl/step_token"] <= half < found.scales[0]["kl/step_token"]
    unscaled = [found.metrics[f"kl/unscaled_{name}_token"] for name in ("step", "base")]
    assert unscaled == [report.metrics["kl/step_token"], report.metrics["kl/base_token"]]
    assert 0 < found.metrics["train/winner_dlogp"] < report.metrics["train/winner_dlogp"]


def test_one_destructive_step_is_seen_in_the_liked_answers_of_the_finished_candidate(
    tiny_model: Path, tmp_path: Path
) -> None:
    destructive = OptimSpec(epochs=1, batch_size=32, learning_rate=3.0, warmup=0)
    child = train_child(make_run(tmp_path, make_spec(tiny_model, optim=destructive)))
    assert child.returncode == 0, child.stderr
    found = read_report(tmp_path)
    assert found.steps == 1
    # A random model is nearly uniform: there is little to lose, and a tenth of a nat per token is most of it.
    assert found.metrics["train/winner_dlogp"] < -0.1


def test_training_stops_when_the_measured_kl_reaches_the_soft_budget(
    tiny_model: Path, tmp_path: Path, report: Report
) -> None:
    budgets = KlSpec(step_soft=1e-6, step_hard=50, base_soft=50, base_hard=50)
    assert train_child(make_run(tmp_path, make_spec(tiny_model, kl=budgets))).returncode == 0
    found = read_report(tmp_path)
    assert found.stopped_early and not report.stopped_early
    assert 0 < found.steps < report.steps


@pytest.mark.parametrize("form", ["kto", "dpo"])
def test_either_form_of_example_suffices(tiny_model: Path, tmp_path: Path, form: str) -> None:
    examples = [thumb(0)] if form == "kto" else [pair(0), pair(1)]
    spec = make_spec(tiny_model, lora=LoraSpec(rank=2, alpha=4, top_layers=None))
    child = train_child(make_run(tmp_path, spec, examples))
    assert child.returncode == 0, child.stderr
    assert read_report(tmp_path).metrics["train/winner_dlogp"] > 0


@pytest.mark.parametrize("point", [name for name in FAILPOINTS if name.startswith("trainer.")])
def test_a_trainer_killed_anywhere_leaves_nothing_half_believed_and_runs_again(
    tiny_model: Path, tmp_path: Path, report: Report, point: str
) -> None:
    run_dir = make_run(tmp_path, make_spec(tiny_model))
    child = train_child(run_dir, HONED_FAILPOINT=point)
    assert child.returncode == -signal.SIGKILL
    if point != "trainer.manifest.written":
        assert not (run_dir / MANIFEST).exists()
        with pytest.raises(TrainingFailed):
            verify_manifest(run_dir)
    assert train_child(run_dir).returncode == 0
    assert read_report(run_dir).metrics == report.metrics
    assert not list(run_dir.glob(".*"))


@pytest.mark.parametrize("size", [8, 32], ids=["seen by the next step", "in the only step"])
def test_an_update_that_breaks_the_numbers_ends_the_run_with_its_reason(
    tiny_model: Path, tmp_path: Path, size: int
) -> None:
    spec = make_spec(tiny_model, optim=OptimSpec(epochs=1, batch_size=size, learning_rate=1e30, warmup=0))
    child = train_child(make_run(tmp_path, spec))
    assert child.returncode == 1
    assert child.stderr.startswith("TrainingFailed: step ") and child.stderr.count("\n") == 1
    assert not (tmp_path / MANIFEST).exists()


def test_nothing_to_learn_is_said_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    child = train_child(make_run(tmp_path, make_spec(tiny_model), []))
    assert (child.returncode, child.stderr.count("\n")) == (1, 1)
    assert "nothing to train on" in child.stderr


def test_inputs_changed_after_the_seal_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, make_spec(tiny_model))
    with (run_dir / "spec.json").open("a") as file:
        file.write(" ")
    child = train_child(run_dir)
    assert child.returncode == 1 and "spec.json" in child.stderr


def test_probes_are_borrowed_from_the_examples_where_there_are_none(tiny_model: Path) -> None:
    snapshot = make_snapshot(make_spec(tiny_model)).model_copy(update={"probes": []})
    assert [probe.id for probe in probes_of(snapshot)] == [f"k{number}" for number in range(8)]


@pytest.mark.parametrize(
    ("step", "total", "warmup", "wanted"),
    [
        (0, 10, 0.2, 0.5),
        (1, 10, 0.2, 1.0),
        (2, 10, 0.2, 1.0),
        (9, 10, 0.2, 0.125),
        (0, 1, 0.1, 1.0),
        (0, 4, 0.0, 1.0),
    ],
)
def test_the_rate_rises_then_falls(step: int, total: int, warmup: float, wanted: float) -> None:
    assert rate_factor(step, total, warmup) == pytest.approx(wanted)


def test_long_prompts_and_greedy_probes_work(tiny_model: Path, tmp_path: Path) -> None:
    spec = make_spec(tiny_model, max_length=24, evaluation=EvalSpec(probe_tokens=8, temperature=0))
    child = train_child(make_run(tmp_path, spec))
    assert child.returncode == 0, child.stderr
    json.loads((tmp_path / "report.json").read_text())

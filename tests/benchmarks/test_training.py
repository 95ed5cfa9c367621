import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_training import RESULTS, Side, missed, report, same_satisfaction
from benchmarks.training_data import answers, comparisons, thumbs
from benchmarks.training_sides import columns, filled
from benchmarks.training_work import beginnings, common, forward_flop, matmul_peak, step_flop
from daemon.people import has_list
from policies.batches import Pair, Row, Thumb
from policies.learner import load_learner
from policies.spec import LoraSpec
from tests.policies.runs import make_spec

ROW = Row(tuple(range(3, 23)), 8)


def products(row: Row, model: Path, *, backward: bool) -> float:
    """Multiplications and additions of the linear layers' products that torch counts, the head left out."""
    learner = load_learner(make_spec(model, lora=LoraSpec(rank=4, alpha=8, top_layers=None)))
    with learner.fast.off(), FlopCounterMode(display=False) as counter:
        states = learner.causal.base_model(
            input_ids=torch.tensor([row.ids[:-1]]), use_cache=False
        ).last_hidden_state
        if backward:
            states.square().sum().backward()
    counted = counter.get_flop_counts()["Global"]
    return float(sum(count for name, count in counted.items() if "mm" in str(name)))


@pytest.mark.parametrize("backward", [False, True])
def test_the_formula_counts_the_products_that_are_made(tiny_model: Path, backward: bool) -> None:
    config = load_learner(make_spec(tiny_model)).causal.config
    flop = step_flop if backward else forward_flop
    found = flop(ROW, config, blocks=config.num_hidden_layers, rank=4, shared=0)
    passes = 3 if backward else 1
    fed = len(ROW.ids) - 1
    attention = passes * config.num_hidden_layers * 2 * config.hidden_size * fed * (fed + 1)
    head = (1 + backward) * 2 * config.vocab_size * config.hidden_size * len(ROW.answer)
    assert found - attention - head == products(ROW, tiny_model, backward=backward)


def test_what_all_rows_begin_with_is_not_counted(tiny_model: Path) -> None:
    rows = [Row((1, 2, 3, 4, 9, 9), 4), Row((1, 2, 3, 7, 9, 9), 4), Row((1, 2, 3, 4, 5, 9), 5)]
    assert common(rows) == 3
    config = load_learner(make_spec(tiny_model)).causal.config
    sizes = {"blocks": 2, "rank": 0}
    whole, part = (forward_flop(rows[0], config, shared=shared, **sizes) for shared in (0, 3))
    assert 0 < part < whole


def test_a_prompt_with_two_answers_is_counted_once(tiny_model: Path) -> None:
    config = load_learner(make_spec(tiny_model)).causal.config
    rows = [Row((*range(40), last, last), 40) for last in (50, 51)] + [Row((*range(9), 7, 7), 9)]
    assert beginnings(rows, 5, config) == [5, 40, 5]


def test_a_peak_is_measured() -> None:
    assert min(matmul_peak().values()) > 0


def test_everybody_votes_and_what_is_compared_differs() -> None:
    asked = answers("asked")
    votes = thumbs(asked, noise=0.0, seed=0)
    assert votes == thumbs(asked, noise=0.0, seed=0) != thumbs(asked, noise=0.0, seed=1)
    assert all(vote.label == has_list(vote.completion) for vote in votes)
    assert 0.1 < sum(vote.label for vote in votes) / len(votes) < 0.4
    pairs = comparisons(asked, seed=0)
    assert len(pairs) >= 48
    assert all(has_list(pair.chosen) and not has_list(pair.rejected) for pair in pairs)
    assert not {vote.prompt[-1].content for vote in votes} & {
        answer.prompt for answer in answers("never_asked")
    }


def test_trl_gets_the_same_tokens_and_mismatches_within_a_batch() -> None:
    rows = [Row((1, 2, 10 + i), 2) for i in range(5)]
    told = columns([Thumb(str(i), row, i % 2 == 0, 1.0) for i, row in enumerate(rows)], 3)
    assert told["prompt_ids"] == [[1, 2]] * 5
    assert told["completion_ids"] == [[10], [11], [12], [13], [14]]
    assert told["KL_completion_ids"] == [[12], [10], [11], [14], [13]]
    assert told["label"] == [True, False, True, False, True]
    pair = columns([Pair("p", rows[0], rows[1], 1.0, 1.0)], 3)
    assert pair == {"prompt_ids": [[1, 2]], "chosen_ids": [[10]], "rejected_ids": [[11]]}


def a_side(name: str, reference: float, steps: list[float]) -> Side:
    side = Side(name, subprocess.Popen(["true"], text=True))
    side.process.wait()
    side.pieces = {"reference": [{"wall": reference, "cpu": reference / 2}]}
    side.pieces["train"] = [{"wall": step, "cpu": step / 2} for step in steps]
    return side


@pytest.mark.parametrize(
    ("ours", "theirs", "target", "seconds"),
    [
        ([0.3, 0.5, 0.6], [0.4, 0.5, 0.5], 0.5, (10 + 4, 20 + 40)),
        ([0.5, 0.5, 0.4], [0.4, 0.5, 0.6], 0.5, (10 + 2, 20 + 40)),
        ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], 0.3, (10 + 6, 20 + 20)),
    ],
)
def test_time_to_the_same_satisfaction(
    ours: list[float], theirs: list[float], target: float, seconds: tuple[float, float]
) -> None:
    sides = a_side("honed", 10.0, [1.0] * 6), a_side("trl", 20.0, [10.0] * 6)
    row = {
        name: {"heldout": [{"satisfied": share} for share in shares]}
        for name, shares in (("honed", ours), ("trl", theirs))
    }
    found = same_satisfaction(sides[0], sides[1:], row)
    assert found["target"] == target
    expected = {"honed": seconds[0], "trl": seconds[1], "of": "trl", "ratio": seconds[1] / seconds[0]}
    assert found["wall"] == expected
    assert found["cpu"]["ratio"] == found["wall"]["ratio"]


@pytest.mark.parametrize(
    ("theirs", "target", "seconds", "of"),
    [
        ({"trl": [0.2, 0.3, 0.5], "trl1": [0.5]}, 0.5, 20 + 6, "trl1"),
        ({"trl": [0.2, 0.3, 0.4], "trl1": [0.3]}, 0.4, 20 + 60, "trl"),
        ({"trl": [0.2, 0.3, 0.4], "trl1": [0.6]}, 0.5, 20 + 6, "trl1"),
    ],
)
def test_the_fastest_of_trls_runs_counts(
    theirs: dict[str, list[float]], target: float, seconds: float, of: str
) -> None:
    """Honed reaches 0.5 in its second epoch."""
    ours = a_side("honed", 10.0, [1.0] * 6)
    sides = [a_side("trl", 20.0, [10.0] * 6), a_side("trl1", 20.0, [3.0] * 2)]
    reached = {"honed": [0.1, 0.5, 0.4], **theirs}
    row = {name: {"heldout": [{"satisfied": share} for share in shares]} for name, shares in reached.items()}
    found = same_satisfaction(ours, sides, row)
    assert found["target"] == target
    assert found["wall"] == {"honed": 14, "trl": seconds, "of": of, "ratio": seconds / 14}


def test_the_committed_figures_can_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    report(json.loads(RESULTS.read_text()))
    told = capsys.readouterr().out
    assert "kto ratios" in told and "dpo ratios" in told and "% satisfied (base" in told


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, []),
        ({"ratio": {"per_second": 1.79}}, ["speed"]),
        ({"memory_ratio": 0.61}, ["memory"]),
        ({"arithmetic": 0.49}, ["arithmetic"]),
        ({"same_satisfaction": {"wall": {"ratio": 3.9}}}, ["time to the same satisfaction"]),
    ],
)
def test_a_ratio_that_does_not_hold_is_named(change: dict[str, Any], names: list[str]) -> None:
    held = {
        "ratio": {"per_second": 1.8},
        "memory_ratio": 0.6,
        "arithmetic": 0.5,
        "same_satisfaction": {"wall": {"ratio": 4.0}},
    }
    assert missed(held | change) == names


def test_an_adapter_on_fewer_layers_does_nothing_on_the_others() -> None:
    shapes = {"low": torch.ones(2, 3), "high": torch.ones(3, 2)}
    found = filled({"high": torch.full((3, 2), 5.0)}, shapes)
    assert found["low"].shape == (2, 3) and not found["low"].any()
    assert bool((found["high"] == 5).all())

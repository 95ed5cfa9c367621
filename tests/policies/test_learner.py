from pathlib import Path

import pytest
import torch

from policies.adapters import save_adapter
from policies.batches import Row
from policies.learner import Learner, load_learner
from policies.spec import LoraSpec, Spec
from store.errors import AdapterInvalid, TrainingFailed
from tests.policies.runs import make_spec

ROWS = [Row(tuple(range(5, 30)), 10), Row(tuple(range(40, 52)), 3)]


def disturb(learner: Learner) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in learner.weights():
            weight.add_(torch.randn_like(weight) * 0.2)


def served(tiny_model: Path, directory: Path, lora: LoraSpec) -> tuple[Path, str, torch.Tensor]:
    """An adapter as an earlier iteration left it, and the log-probabilities it gives."""
    learner = load_learner(make_spec(tiny_model, lora=lora))
    disturb(learner)
    digest = save_adapter(learner.tensors(), directory, shape=learner.shape, base=str(tiny_model))
    return directory, digest, learner.sums(ROWS)


def continued(tiny_model: Path, path: Path, digest: str, **changes: LoraSpec) -> Spec:
    return make_spec(tiny_model, incumbent=str(path), incumbent_digest=digest, **changes)


def test_a_fresh_adapter_changes_nothing(tiny_model: Path) -> None:
    learner = load_learner(make_spec(tiny_model))
    assert learner.from_base
    assert torch.equal(learner.sums(ROWS), learner.sums(ROWS, view="base"))
    assert torch.equal(learner.sums(ROWS), learner.sums(ROWS, view="incumbent"))


def test_views_do_not_disturb_each_other(tiny_model: Path) -> None:
    learner = load_learner(make_spec(tiny_model))
    base = learner.sums(ROWS)
    disturb(learner)
    candidate = learner.sums(ROWS)
    assert not torch.allclose(candidate, base)
    assert torch.equal(learner.sums(ROWS, view="incumbent"), base)
    assert torch.equal(learner.sums(ROWS, view="base"), base)
    assert torch.equal(learner.sums(ROWS), candidate)
    assert all(weight.requires_grad for weight in learner.weights())


def test_scale_moves_the_candidate_alone(tiny_model: Path) -> None:
    learner = load_learner(make_spec(tiny_model))
    base = learner.sums(ROWS)
    disturb(learner)
    learner.set_scale(0.0)
    torch.testing.assert_close(learner.sums(ROWS), base)
    assert torch.equal(learner.sums(ROWS, view="incumbent"), base)
    assert learner.scale == 0.0


@pytest.mark.parametrize(
    "lora",
    [
        LoraSpec(rank=4, alpha=8, top_layers=2),
        LoraSpec(rank=4, alpha=2, top_layers=2),
        LoraSpec(rank=6, alpha=8, top_layers=3),
        LoraSpec(rank=2, alpha=8, top_layers=1),
        LoraSpec(rank=4, alpha=8, top_layers=None),
    ],
    ids=["same", "other alpha", "larger", "smaller", "all blocks"],
)
def test_a_continued_adapter_starts_as_the_incumbent(
    tiny_model: Path, tmp_path: Path, lora: LoraSpec
) -> None:
    path, digest, wanted = served(tiny_model, tmp_path / "a", LoraSpec(rank=4, alpha=8, top_layers=2))
    learner = load_learner(continued(tiny_model, path, digest, lora=lora))
    assert not learner.from_base
    torch.testing.assert_close(learner.sums(ROWS), wanted, atol=1e-4, rtol=0)
    assert torch.equal(learner.sums(ROWS), learner.sums(ROWS, view="incumbent"))
    assert not torch.allclose(learner.sums(ROWS, view="base"), wanted)


def test_an_incumbent_in_every_block_is_continued_in_every_block(tiny_model: Path, tmp_path: Path) -> None:
    path, digest, wanted = served(tiny_model, tmp_path / "a", LoraSpec(rank=4, alpha=8, top_layers=None))
    learner = load_learner(continued(tiny_model, path, digest))
    torch.testing.assert_close(learner.sums(ROWS), wanted, atol=1e-4, rtol=0)


def test_the_kept_incumbent_does_not_follow_the_candidate(tiny_model: Path, tmp_path: Path) -> None:
    path, digest, wanted = served(tiny_model, tmp_path / "a", LoraSpec(rank=4, alpha=8, top_layers=2))
    learner = load_learner(continued(tiny_model, path, digest))
    disturb(learner)
    torch.testing.assert_close(learner.sums(ROWS, view="incumbent"), wanted, atol=1e-4, rtol=0)
    assert not torch.allclose(learner.sums(ROWS), wanted)


def test_a_rebuilt_adapter_starts_as_base_and_still_shows_the_incumbent(
    tiny_model: Path, tmp_path: Path
) -> None:
    path, digest, wanted = served(tiny_model, tmp_path / "a", LoraSpec(rank=4, alpha=8, top_layers=2))
    spec = continued(tiny_model, path, digest)
    fresh = load_learner(make_spec(tiny_model))
    learner = load_learner(spec.model_copy(update={"start": "base"}))
    assert (learner.reference, learner.from_base) == ("base", False)
    assert all(map(torch.equal, learner.weights(), fresh.weights()))
    assert torch.equal(learner.sums(ROWS), learner.sums(ROWS, view="base"))
    disturb(learner)
    torch.testing.assert_close(learner.sums(ROWS, view="incumbent"), wanted, atol=1e-4, rtol=0)
    assert load_learner(spec).reference == "incumbent"


def test_an_incumbent_that_does_not_verify_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path, _, _ = served(tiny_model, tmp_path / "a", LoraSpec(rank=4, alpha=8, top_layers=2))
    with pytest.raises(AdapterInvalid, match="digest"):
        load_learner(continued(tiny_model, path, "0" * 64))


def test_an_incumbent_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    learner = load_learner(make_spec(tiny_model))
    foreign = {key.replace("q_proj", "w_proj"): value for key, value in learner.tensors().items()}
    shape = learner.shape
    shape = type(shape)(shape.rank, shape.alpha, (*shape.modules, "w_proj"), shape.layers)
    digest = save_adapter(foreign, tmp_path / "a", shape=shape, base="x")
    with pytest.raises(TrainingFailed, match="w_proj"):
        load_learner(continued(tiny_model, tmp_path / "a", digest))


def test_only_linear_layers_of_the_top_blocks_are_adapted(tiny_model: Path) -> None:
    learner = load_learner(make_spec(tiny_model))
    assert learner.shape.layers == (2, 3)
    assert learner.shape.modules == (
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    )  # fmt: skip
    assert all(weight.dtype == torch.float32 for weight in learner.weights())
    trained = {name for name, weight in learner.model.named_parameters() if weight.requires_grad}
    assert len(trained) == len(learner.weights()) == 2 * 7 * 2

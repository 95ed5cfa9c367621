"""What a piece of a step costs, and that pieces add up to the step's gradient."""

from pathlib import Path

import pytest
import torch

from policies.batches import Anchor, Encoder, Item, Row
from policies.chat import load_tokenizer
from policies.learner import Learner, load_learner
from policies.objective import Lesson, piece_losses, prepare
from policies.spec import Spec
from tests.policies.runs import anchor, make_spec, pair, thumb

NONE = torch.zeros(0)


@pytest.fixture
def spec(tiny_model: Path) -> Spec:
    return make_spec(tiny_model)


@pytest.fixture
def learner(spec: Spec) -> Learner:
    return load_learner(spec)


@pytest.fixture
def items(spec: Spec) -> list[Item]:
    encoder = Encoder(load_tokenizer(Path(spec.model)), 128)
    heavy = anchor(1).model_copy(update={"weight": 2.0})
    return encoder.items([thumb(0), thumb(1), pair(0), anchor(0), heavy])


def gradient(learner: Learner, lesson: Lesson, spec: Spec, pieces: list[list[Item]]) -> torch.Tensor:
    """Of the summed losses of some pieces, every weight's, as one vector."""
    for piece in pieces:
        rows = list(dict.fromkeys(row for item in piece for row in item.rows))
        logprobs = dict(zip(rows, learner.logprobs(rows), strict=True))
        piece_losses(lesson, piece, logprobs, kl_rho=NONE, loss=spec.loss).sum().backward()
    found = torch.cat(
        [torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in learner.weights()]
    )
    for weight in learner.weights():
        weight.grad = None
    return found


def plain_nll(learner: Learner, row: Row) -> torch.Tensor:
    """Token-mean NLL by the model's own forward, nothing cut or batched."""
    logits = learner.causal(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer))


def test_an_anchors_gradient_is_its_weight_times_that_of_its_token_mean_nll(
    learner: Learner, items: list[Item], spec: Spec
) -> None:
    lesson = prepare(learner, items, spec)
    anchors = [item for item in items if isinstance(item, Anchor)]
    found = gradient(learner, lesson, spec, [list(anchors)])
    torch.stack([item.weight * plain_nll(learner, item.row) for item in anchors]).sum().backward()
    wanted = torch.cat(
        [torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in learner.weights()]
    )
    assert float(wanted.norm()) > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_pieces_of_every_form_add_up_to_the_step(learner: Learner, items: list[Item], spec: Spec) -> None:
    lesson = prepare(learner, items, spec)
    whole = gradient(learner, lesson, spec, [items])
    torch.testing.assert_close(
        gradient(learner, lesson, spec, [[i] for i in items]), whole, atol=1e-6, rtol=1e-4
    )


def test_anchors_need_no_reference(learner: Learner, items: list[Item], spec: Spec) -> None:
    lesson = prepare(learner, items, spec)
    assert not {item.row for item in items if isinstance(item, Anchor)} & set(lesson.reference)

import pytest
import torch
from torch import nn

from policies import logprobs
from policies.logprobs import Head, entropy, exact_kl, token_logprobs


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def linear(request: pytest.FixtureRequest) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 50, bias=request.param).requires_grad_(False)


@pytest.fixture(
    params=[(7, 16, False), (7, 16, True), (4096, 512, False)], ids=["tiles", "packed", "one tile"]
)
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, linear: nn.Linear) -> Head:
    """The head in tiles that do not divide the vocabulary, packed or not, and in one."""
    tile, rows, packed = request.param
    monkeypatch.setattr(logprobs, "TILE", tile)
    monkeypatch.setattr(logprobs, "ROWS", rows)
    return Head(linear, packed=packed)


def states(seed: int, rows: int = 41) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def test_token_logprobs_and_their_gradient_equal_the_plain_formula(linear: nn.Linear, head: Head) -> None:
    targets = torch.randint(50, (41,), generator=torch.Generator().manual_seed(1))
    ours, plain = states(2).requires_grad_(), states(2).requires_grad_()
    weights = torch.linspace(-1, 2, 41)
    found = token_logprobs(ours, targets, head)
    wanted = linear(plain).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.grad, plain.grad)


def test_exact_kl_equals_the_full_sum(linear: nn.Linear, head: Head) -> None:
    p, q, r = states(1), states(2), states(3)
    to_q, to_r = exact_kl(p, [q, r], head)
    for other, found in ((q, to_q), (r, to_r)):
        wanted = nn.functional.kl_div(
            linear(other).log_softmax(-1), linear(p).log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1)
        torch.testing.assert_close(found, wanted)
    assert (to_q > 0).all()


def test_kl_of_equal_states_is_exactly_zero(head: Head) -> None:
    (kl,) = exact_kl(states(1), [states(1)], head)
    assert kl.abs().max() == 0


def test_logits_of_all_tiles_equal_the_layers(linear: nn.Linear, head: Head) -> None:
    torch.testing.assert_close(head.logits(states(1)[None]), linear(states(1)[None]))


def test_log_probabilities_in_half_precision_come_out_in_single(linear: nn.Linear) -> None:
    hidden = states(1).bfloat16() * 40  # sure of what comes next
    targets = linear.bfloat16()(hidden).argmax(-1)
    found = token_logprobs(hidden, targets, Head(linear))
    wanted = linear(hidden).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    assert (found <= 0).all()
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)


def test_entropy_of_a_uniform_distribution_is_the_log_of_its_size() -> None:
    assert entropy(torch.zeros(2, 8)).tolist() == pytest.approx([2.0794415] * 2)

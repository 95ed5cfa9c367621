import pytest
import torch
from torch import nn

from policies import logprobs
from policies.logprobs import entropy, exact_kl, token_logprobs


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 50).requires_grad_(False)


@pytest.fixture(params=[50 * 16, 2**23], ids=["many pieces", "one piece"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "PIECE", request.param)


def states(seed: int, rows: int = 41) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("piece")
def test_token_logprobs_and_their_gradient_equal_the_plain_formula(head: nn.Linear) -> None:
    targets = torch.randint(50, (41,), generator=torch.Generator().manual_seed(1))
    ours, plain = states(2).requires_grad_(), states(2).requires_grad_()
    weights = torch.linspace(-1, 2, 41)
    found = token_logprobs(ours, targets, head)
    wanted = head(plain).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.usefixtures("piece")
def test_exact_kl_equals_the_full_sum(head: nn.Linear) -> None:
    p, q, r = states(1), states(2), states(3)
    to_q, to_r = exact_kl(p, [q, r], head)
    for other, found in ((q, to_q), (r, to_r)):
        wanted = nn.functional.kl_div(
            head(other).log_softmax(-1), head(p).log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1)
        torch.testing.assert_close(found, wanted)
    assert (to_q > 0).all()


def test_kl_of_equal_states_is_exactly_zero(head: nn.Linear) -> None:
    (kl,) = exact_kl(states(1), [states(1)], head)
    assert kl.abs().max() == 0


def test_log_probabilities_in_half_precision_come_out_in_single(head: nn.Linear) -> None:
    found = token_logprobs(states(1).bfloat16(), torch.arange(41), head.bfloat16())
    assert found.dtype == torch.float32


def test_entropy_of_a_uniform_distribution_is_the_log_of_its_size() -> None:
    assert entropy(torch.zeros(2, 8)).tolist() == pytest.approx([2.0794415] * 2)

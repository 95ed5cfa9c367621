"""Answers drawn from a view of the learner, to be measured.

transformers' own `generate`: the trainer has no streams and no neighbours to care for. Entropy is read off the raw
logits as they pass, so that it costs no second forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from policies.batches import Row
from policies.chat import end_token
from policies.learner import Learner, View
from policies.logprobs import entropy
from policies.shape import Answer
from policies.spec import EvalSpec

#: Prompts answered together.
TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answer and the exact tokens drawn, end token included (`row.answer`)."""

    answer: Answer
    row: Row


class _Entropies(LogitsProcessor):
    """Runs before temperature and top-p: sees what the policy said, not what the sampler made of it."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        self.steps.append(entropy(scores).cpu())
        return scores


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws answers as `evaluation` says; the same seed and prompts give the same answers."""

    learner: Learner
    tokenizer: Any
    evaluation: EvalSpec
    seed: int

    def draw(self, prompts: Sequence[Sequence[int]], *, view: View) -> list[Drawn]:
        """One answer to each prompt (token ids), in order."""
        drawn: list[Drawn] = []
        devices = [self.learner.device] if self.learner.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.learner.seen_as(view):
            torch.manual_seed(self.seed)
            for at in range(0, len(prompts), TOGETHER):
                drawn += self._together(prompts[at : at + TOGETHER])
        return drawn

    def _together(self, prompts: Sequence[Sequence[int]]) -> list[Drawn]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts])
        mask = torch.tensor([[*[0] * (longest - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
        seen, ends = _Entropies(), self._ends()
        out = self.learner.causal.generate(
            input_ids=ids.to(self.learner.device),
            attention_mask=mask.to(self.learner.device),
            generation_config=self._config(ends),
            logits_processor=LogitsProcessorList([seen]),
        )
        entropies = torch.stack(seen.steps, dim=1)
        return [
            self._drawn(prompt, tokens[longest:].tolist(), ends=ends, entropies=row.tolist())
            for prompt, tokens, row in zip(prompts, out, entropies, strict=True)
        ]

    def _drawn(
        self, prompt: Sequence[int], tokens: list[int], *, ends: list[int], entropies: list[float]
    ) -> Drawn:
        at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        ended = at < len(tokens)
        text = self.tokenizer.decode(tokens[:at], skip_special_tokens=True)
        answer = Answer(tuple(tokens[:at]), text, ended, tuple(entropies[: at + ended]))
        return Drawn(answer, Row((*prompt, *tokens[: at + ended]), len(prompt)))

    def _ends(self) -> list[int]:
        """Tokens that end an answer: the template's own, and whatever the model's authors listed."""
        listed = self.learner.causal.generation_config.eos_token_id
        own = [end_token(self.tokenizer)]
        return sorted({*own, *([listed] if isinstance(listed, int) else listed or [])})

    def _config(self, ends: list[int]) -> GenerationConfig:
        warm = self.evaluation.temperature > 0
        return GenerationConfig(
            do_sample=warm,
            temperature=self.evaluation.temperature if warm else 1.0,
            top_p=self.evaluation.top_p if warm else 1.0,
            top_k=0 if warm else 50,  # 0 switches it off; greedy decoding objects to any but the default
            max_new_tokens=self.evaluation.probe_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )

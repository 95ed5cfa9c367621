"""Judged answers into pairs: the best against the worst, where the panel is sure enough and people said nothing.

Pure functions. Every pair that was considered comes back, those that do not train with the reason, so that an
iteration shows what the judge would have done as well as what it did.

Lengths are in characters: they need no tokenizer, and a revision has no token count of the model's own.

Left out: several pairs from one prompt; the second adds little and doubles the prompt's weight.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from statistics import fmean
from typing import Any

from judge.config import PairsConfig
from judge.pairs import Answer, Preferences
from judge.panel import Panel
from judge.prompts import prompt_key
from store.judging import JudgedPair, PairOrigin
from store.records import Completion, CompletionStatus, Message

#: Why a pair does not train. Earlier ones in this list are found first.
ABSTAINED = "abstained"
SAME_TEXT = "same_text"
TIE = "tie"
WORSE = "worse"
INCONSISTENT = "inconsistent"
LENGTH = "length"
SAME_PROMPT = "same_prompt"
HUMAN_PAIR = "human_pair"
PEOPLE_DISLIKED = "people_disliked_chosen"
PEOPLE_LIKED = "people_liked_rejected"
SHARE = "share"
#: How far a pair came; of a question's failed pairs the one that came farthest is kept.
PROGRESS = (SAME_TEXT, WORSE, TIE, INCONSISTENT, LENGTH)


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """One prompt, its answers, and what the panel says of them.

    `base`: places of answers drawn from the base model; they are only ever rejected. For a revision the answers are
    (the disliked one, the revised one), and only the revised one can be chosen. `details` goes into the pair.
    """

    answers: tuple[Answer, ...]
    panel: Panel
    origin: PairOrigin = PairOrigin.CANDIDATES
    base: frozenset[int] = frozenset()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A judged pair as training sees it: what `judge.pairs.Pair` is for people's, without anybody's events."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    chosen_ended: bool
    rejected: Answer
    q: float
    weight: float


def answers_of(completion: Completion) -> tuple[Answer, ...]:
    """A sampled completion's answers as training sees them, in order; none of one that failed."""
    return _answers(completion) if completion.status is CompletionStatus.DONE else ()


def pairs_from(
    judged: Sequence[JudgedQuestion], rules: PairsConfig, *, iteration: int, consistency: float = 1.0
) -> list[JudgedPair]:
    """One pair for each question with two answers, in order, dropped ones with their reason.

    Args:
        judged: the questions.
        rules: `[judge.pairs]`.
        iteration: whose pairs these are.
        consistency: how far the judge agrees with the one before it (`ranking_agreement`), 0..1. It softens every q
            to C*q + (1 - C)*(1 - q) (CREAM, arXiv 2410.12735), which has to clear `min_q` once more.
    """
    return [
        _pair(question, rules, iteration=iteration, consistency=consistency)
        for question in judged
        if len(question.answers) > 1
    ]


def one_per_prompt(pairs: Sequence[JudgedPair], completions: Mapping[str, Completion]) -> list[JudgedPair]:
    """Of several pairs that would train for one prompt the surest, and of equals the first.

    Last of the rules: a pair that is dropped for another reason must not take its prompt's place.

    Args:
        pairs: those to look at; dropped ones stay as they are.
        completions: at least those the pairs name, by id.
    """

    def prompt(pair: JudgedPair) -> object:
        return prompt_key(completions[pair.chosen[0]].messages)

    best: dict[object, JudgedPair] = {}
    for pair in pairs:
        key = prompt(pair)
        if pair.dropped is None and (key not in best or pair.q > best[key].q):
            best[key] = pair
    return [
        pair if pair.dropped is not None or best[prompt(pair)] is pair else replace(pair, dropped=SAME_PROMPT)
        for pair in pairs
    ]


@dataclass(frozen=True, slots=True)
class _Match:
    """One way to pair a question's answers, and what speaks against it."""

    chosen: int
    rejected: int
    q: float
    against: str | None


def _pair(question: JudgedQuestion, rules: PairsConfig, *, iteration: int, consistency: float) -> JudgedPair:
    matches = []
    for chosen, rejected in _in_order(question, rules.near_tie):
        match = _match(question, (chosen, rejected), rules, consistency)
        matches.append(match)
        if match.against is None:
            break
    match = max(
        matches,
        key=lambda m: len(PROGRESS) if m.against is None else PROGRESS.index(m.against),
        default=_Match(0, 1, 0.5, ABSTAINED),
    )
    chosen_answer, rejected_answer = question.answers[match.chosen], question.answers[match.rejected]
    return JudgedPair(
        iteration=iteration,
        origin=question.origin,
        chosen=(chosen_answer.completion_id, chosen_answer.choice_index),
        rejected=(rejected_answer.completion_id, rejected_answer.choice_index),
        q=match.q,
        weight=rules.weight,
        dropped=match.against,
        details={
            **question.details,
            "values": [question.panel.value(match.chosen), question.panel.value(match.rejected)],
            "lengths": [len(chosen_answer.text), len(rejected_answer.text)],
            "judges": len(question.panel.opinions),
            "consistency": consistency,
            "base_rejected": match.rejected in question.base,
        },
    )


def _in_order(question: JudgedQuestion, near_tie: float) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) to try: of answers as good as the best the shortest first, of those as bad as the
    worst the longest first (Meta-Rewarding, arXiv 2407.19594); a rejected answer of base before any other.
    """
    panel, lengths = question.panel, [len(answer.text) for answer in question.answers]
    if question.origin is PairOrigin.REVISION:
        return [(1, 0)] if len(panel.judged) == 2 else []
    own = [index for index in panel.judged if index not in question.base]
    if not own or len(panel.judged) < 2:
        return []
    best, worst = max(own, key=lambda i: _standing(panel, i)), min(own, key=lambda i: _standing(panel, i))
    level = 0.5 + near_tie
    good = sorted((i for i in own if _q(panel, best, i) <= level), key=lambda i: lengths[i])
    bad = sorted((i for i in own if _q(panel, i, worst) <= level), key=lambda i: -lengths[i])
    base = sorted(question.base.intersection(panel.judged), key=lambda i: (-lengths[i], i))
    return [
        (chosen, rejected)
        for rejects in (base, bad)
        for chosen, rejected in product(good, rejects)
        if chosen != rejected
    ]


def _match(
    question: JudgedQuestion, places: tuple[int, int], rules: PairsConfig, consistency: float
) -> _Match:
    chosen, rejected = (question.answers[place] for place in places)
    plain = _q(question.panel, *places)
    q = consistency * plain + (1 - consistency) * (1 - plain)
    shorter, longer = sorted((len(chosen.text), len(rejected.text)))
    against = None
    if _plain(chosen.text) == _plain(rejected.text):
        against = SAME_TEXT
    elif plain < rules.min_q:
        # Candidates are put in order of merit first; a revision, or an answer beside base's, may be the worse.
        against = WORSE if plain <= 1 - rules.min_q else TIE
    elif q < rules.min_q:
        against = INCONSISTENT
    elif longer > rules.max_length_ratio * shorter:
        against = LENGTH
    return _Match(*places, q, against)


def ranking_agreement(rankings: Sequence[tuple[Sequence[float | None], Sequence[float | None]]]) -> float:
    """CREAM's C, 0..1: mean over questions of (Kendall tau + 1) / 2 between this judge's scores and the last one's.

    Two answers that either judge ties count one half. Without two scored answers anywhere there is nothing that
    disagrees: 1.

    Args:
        rankings: for each question, its answers' scores by this judge and by the one before; None abstains.
    """
    shares = []
    for now, before in rankings:
        known = [(a, b) for a, b in zip(now, before, strict=True) if a is not None and b is not None]
        agree = [
            0.5 if (a - c) * (b - d) == 0 else float((a - c) * (b - d) > 0)
            for (a, b), (c, d) in combinations(known, 2)
        ]
        shares += [fmean(agree)] if agree else []
    return fmean(shares) if shares else 1.0


def gap(judged: Sequence[JudgedQuestion]) -> float | None:
    """How far the model's own best and worst answers lie apart: the mean of 2q - 1 over questions, 0..1.

    None where no question has two judged answers. Base's answers do not count: the gap says whether the model by
    itself still offers a choice.
    """
    gaps = []
    for question in judged:
        own = [index for index in question.panel.judged if index not in question.base]
        if question.origin is PairOrigin.CANDIDATES and len(own) > 1:
            gaps.append(max(abs(2 * _q(question.panel, a, b) - 1) for a, b in combinations(own, 2)))
    return fmean(gaps) if gaps else None


def wants_base(gap_now: float | None, gap_first: float | None) -> bool:
    """Whether the gap has halved since it was first measured (Temporal Self-Rewarding, arXiv 2508.06026).

    Then best and worst have converged, and some rejected answers come from base. While base is served they are no
    different, so ask only where an adapter is.
    """
    return gap_now is not None and gap_first is not None and gap_now <= gap_first / 2


def takes_base(prompt: Sequence[Message], share: float) -> bool:
    """Whether this prompt is of the `share` whose rejected answer comes from base: a stable hash decides."""
    digest = hashlib.sha256(json.dumps(prompt_key(prompt)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def outranked(
    pairs: Sequence[JudgedPair], preferences: Preferences, completions: Mapping[str, Completion]
) -> list[JudgedPair]:
    """Drop what people's own evidence contradicts, or speaks to already.

    A pair goes when people disliked what it chooses or liked what it rejects, for that prompt, or when a pair of
    theirs for that prompt trains now. What people said of never-train answers is not looked at: it would leak.

    Args:
        pairs: those to look at; dropped ones stay as they are.
        preferences: what trains now from people.
        completions: at least those the pairs name, by id.
    """
    taught = {prompt_key(pair.prompt) for pair in preferences.pairs}
    said = {
        (prompt_key(item.answer.prompt), _plain(item.answer.text), item.label) for item in preferences.likings
    }
    result = []
    for pair in pairs:
        prompt = prompt_key(completions[pair.chosen[0]].messages)
        chosen, rejected = (_plain(_answer(completions, side).text) for side in (pair.chosen, pair.rejected))
        against = (
            HUMAN_PAIR
            if prompt in taught
            else PEOPLE_DISLIKED
            if (prompt, chosen, False) in said
            else PEOPLE_LIKED
            if (prompt, rejected, True) in said
            else None
        )
        result.append(replace(pair, dropped=pair.dropped or against))
    return result


def cap_share(pairs: Sequence[JudgedPair], human_weight: float, max_share: float) -> list[JudgedPair]:
    """Scale judged weights down so that they hold at most `max_share` of the total, judged and human together.

    All alike, rather than the least sure dropped: q already makes those count for less, and many prompts each at a
    small weight teach more broadly than a few at full weight. Where people said nothing (`human_weight` 0) there is
    nothing to outweigh, and weights stay as they are. A pair whose weight comes to nothing is dropped.

    Args:
        pairs: with their configured weights; dropped ones neither count nor change.
        human_weight: summed weight of everything that trains from people.
        max_share: `[judge.pairs] max_share`, 0..1.
    """
    total = sum(pair.weight for pair in pairs if pair.dropped is None)
    factor = 1.0
    if human_weight > 0 and max_share < 1 and total > 0:
        factor = min(1.0, max_share * human_weight / (1 - max_share) / total)
    return [
        pair
        if pair.dropped is not None
        else replace(pair, weight=pair.weight * factor, dropped=None if pair.weight * factor > 0 else SHARE)
        for pair in pairs
    ]


def as_pair(pair: JudgedPair, completions: Mapping[str, Completion]) -> TrainingPair:
    """A judged pair with its texts, ready for a snapshot.

    Raises:
        KeyError: `completions` lacks an answer the pair names.
    """
    chosen, rejected = _answer(completions, pair.chosen), _answer(completions, pair.rejected)
    return TrainingPair(pair.id, rejected.prompt, chosen.text, chosen.ended, rejected, pair.q, pair.weight)


def _answers(completion: Completion) -> tuple[Answer, ...]:
    # With a stop string of the client's own, "stop" does not say that the model ended its turn.
    unstopped = not completion.sampling.stop
    return tuple(
        Answer(completion.id, c.index, completion.messages, c.text, c.finish_reason == "stop" and unstopped)
        for c in completion.choices
    )


def answer_at(completion: Completion, index: int) -> Answer | None:
    """One recorded answer, whatever its status: people also vote on answers they cut short. None without one."""
    return next((answer for answer in _answers(completion) if answer.choice_index == index), None)


def _answer(completions: Mapping[str, Completion], side: tuple[str, int]) -> Answer:
    found = answer_at(completions[side[0]], side[1])
    if found is None:
        raise KeyError(side)
    return found


def _plain(text: str) -> str:
    """A text as it is compared: spacing makes no other answer."""
    return " ".join(text.split())


def _q(panel: Panel, one: int, other: int) -> float:
    q = panel.q(one, other)
    return 0.5 if q is None else q


def _standing(panel: Panel, index: int) -> float:
    standing = panel.standing(index)
    return 0.5 if standing is None else standing

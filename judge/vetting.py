"""Nobody steers alone: what of the evidence does not count, or counts less, in the light of all that was said. Pure.

Four questions. Who votes more in a day than one person should decide? Whose votes contradict operators and everybody
else on the same answers (`judge.raters`)? Which phrases are in what only one person, or a few, would have the model
say (`judge.phrases`)? And who alone turns round what all the others teach (`judge.steering`)? The events of the first
two and the last go into quarantine, where operators see them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from judge.background import NOTHING, Background
from judge.config import DefenceConfig, FeedbackConfig
from judge.opinions import person_opinion
from judge.pairs import Preferences, answer_of, build, cap_people
from judge.phrases import Heard, Said, needed, private, runs_of_all
from judge.raters import below_chance, rate, worth
from judge.steering import overbearing, turning
from store.judging import Label
from store.records import Completion, Evidence, Feedback, Message, Source

DAY = 86_400.0
#: With so few people each may hold all the weight (`judge.pairs.share_cap`), and no limit is on anybody's votes.
FEW = 3
#: An answer, whoever got it: the prompt and the text.
Answered = tuple[tuple[Message, ...], str]
DAILY_LIMIT, UNRELIABLE, STEERS = "daily_limit", "unreliable", "steers"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was said and answered.

    `said`: the latest of everybody on every answer, oldest first; `quarantined`: those of these events that are held
    back. `known`: completions that votes and labels name, by id. `log`: answers given to anybody. `pardoned`: events
    that an operator let out of quarantine; they are not held again.
    """

    said: Sequence[Evidence]
    known: Mapping[str, Completion] = field(default_factory=dict)
    log: Sequence[Completion] = ()
    labels: Sequence[Label] = ()
    quarantined: Collection[str] = ()
    pardoned: Collection[str] = ()


def vet(facts: Facts, config: FeedbackConfig) -> Background:
    """What the evidence is held against."""
    rules = config.defence
    if not rules.enabled:
        return NOTHING
    people = {item.feedback.principal for item in facts.said}
    # What an operator imported was not said on the day it came.
    here = [item for item in facts.said if item.completion.source is not Source.IMPORT]
    held = dict.fromkeys(too_many(here, rules.daily_votes), DAILY_LIMIT)
    raters = rate(votes_of(facts.said, config), truths_of(facts))
    outliers = {name for name, rater in raters.items() if below_chance(rater, least=rules.min_shared)}
    held |= {item.feedback.id: UNRELIABLE for item in facts.said if item.feedback.principal in outliers}
    spared = {*facts.pardoned, *facts.quarantined}
    held = {name: why for name, why in held.items() if name not in spared}
    good = would_train(facts, {*held, *facts.quarantined}, config)
    counts = {
        name: worth(rater, least=rules.min_shared) for name, rater in raters.items() if name not in outliers
    }
    if len(people) > FEW:
        newest = config.max_examples
        likings, pairs = list(good.likings[-newest:]), list(good.pairs[-newest:])
        for name, factor in overbearing(likings, pairs).items():
            counts[name] = factor * counts.get(name, 1.0)
        turned = turning(*cap_people(likings, pairs, config.principal_share_floor))
        steers = [item.feedback for item in facts.said if item.feedback.principal in turned]
        held |= {event.id: STEERS for event in steers if event.id not in {*spared, *held}}
    return Background(
        alone=len(people) <= 1,
        held=held,
        worth={name: value for name, value in counts.items() if value < 1},
        private=private_phrases(facts, good, len(people), config),
    )


def too_many(live: Sequence[Evidence], limit: int) -> set[str]:
    """Ids of events on answers beyond the first `limit` that somebody spoke of on one day (UTC), from the day on that
    more than `FEW` people had spoken: who taught alone at first does not lose it when others come.
    """
    since: dict[str, int] = {}
    for item in live:
        day, who = int(item.feedback.created_at // DAY), item.feedback.principal
        since[who] = min(day, since.get(who, day))
    if len(since) <= FEW:
        return set()
    several = sorted(since.values())[FEW]
    answers: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    beyond = set()
    for item in live:
        if int(item.feedback.created_at // DAY) < several:
            continue
        event = item.feedback
        today = answers[event.principal, int(event.created_at // DAY)]
        answer = (event.completion_id, event.choice_index)
        if answer not in today and len(today) >= limit:
            beyond.add(event.id)
        else:
            today.add(answer)
    return beyond


def votes_of(live: Iterable[Evidence], config: FeedbackConfig) -> dict[Answered, dict[str, bool]]:
    """Who likes which answer (a prompt and a text), by what they said last of it."""
    events: dict[tuple[Answered, str, str], list[Feedback]] = defaultdict(list)
    for item in live:
        answer = answer_of(item.completion, item.feedback.choice_index)
        if answer is not None:
            key = (answer.prompt, answer.text)
            events[key, item.feedback.principal, answer.completion_id].append(item.feedback)
    votes: dict[Answered, dict[str, bool]] = defaultdict(dict)
    for (key, person, _), said in events.items():
        opinion = person_opinion(said, config.signals)
        if opinion:
            votes[key][person] = opinion > 0
    return votes


def truths_of(facts: Facts) -> dict[Answered, bool]:
    """What operators say of answers, the newest label last heard."""
    truths: dict[Answered, bool] = {}
    for label in sorted(facts.labels, key=lambda one: (one.created_at, one.id)):
        completion = facts.known.get(label.completion_id)
        answer = answer_of(completion, label.choice_index) if completion is not None else None
        if answer is not None and label.good is not None and label.other_id is None:
            truths[answer.prompt, answer.text] = label.good
    return truths


def would_train(facts: Facts, held: Collection[str], config: FeedbackConfig) -> Preferences:
    """What everything said would teach, were it all trained on now and nobody's share capped; without what is held
    back, or dictated.
    """
    whole = {"never_train": 0.0, "max_examples": 2**31, "principal_share_floor": 1.0}
    everything = config.model_copy(update=whole)
    trained = [item for item in facts.said if item.feedback.id not in held]
    return build(trained, facts.known, everything)


def private_phrases(facts: Facts, found: Preferences, people: int, config: FeedbackConfig) -> frozenset[str]:
    """Phrases that only few people would have the model say, without those in answers that operators call good.

    `found` is only what would train otherwise: a dictated answer vouches for nobody's phrase.
    """
    rules: DefenceConfig = config.defence
    said = [
        Said(one.answer.text, frozenset(event.principal for event in one.events))
        for one in found.likings
        if one.label
    ]
    said += [
        Said(one.chosen, frozenset(event.principal for event in one.events), one.rejected.text)
        for one in found.pairs
    ]
    heard = [
        Heard(choice.text, tuple(turn.content for turn in completion.messages), completion.principal)
        for completion in facts.log
        for choice in completion.choices
    ]
    length = rules.phrase_words
    phrases = private(
        said,
        heard,
        length=length,
        repeats=rules.phrase_repeats,
        people=needed(people, least=rules.phrase_people, share=rules.phrase_share),
    )
    approved = [text for (_, text), good in truths_of(facts).items() if good]
    return phrases - runs_of_all(approved, length) if phrases else phrases

"""Nobody steers alone, at its edge: reads what evidence is held against, and puts what is found into quarantine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from daemon.runtime import Known
from judge.background import Background
from judge.config import FeedbackConfig, PropensityConfig
from judge.prompts import words
from judge.propensity import Shown, weights
from judge.signals import refit
from judge.vetting import DAILY_LIMIT, STEERS, UNRELIABLE, Facts, vet
from store.db import Store
from store.quarantine import Quarantined
from store.records import Completion, Evidence, Source

#: Who holds events back before anything learned from them.
ACTOR = "vetting"
#: Why, as operators read it.
REASONS = {
    DAILY_LIMIT: "more votes in one day than count of one person (feedback.defence.daily_votes)",
    STEERS: "votes without which all the others would teach the contrary",
    UNRELIABLE: "votes that contradict operators and other people on the same answers more often than not",
}
#: The newest operators' labels that are looked at.
LABELS = 1000
#: Seconds between holding and letting go in one transaction, at the most.
BREATH = 1.0


def background_now(runtime: Known) -> Background:
    """What the evidence is held against. The latest of everybody, what is in quarantine among it: else somebody whose
    votes were held back would begin anew with the next.
    """
    return background_of(runtime.store, runtime.config.feedback, before=runtime.clock())


def background_of(store: Store, config: FeedbackConfig, *, before: float | None = None) -> Background:
    """The same, of what was said before a time, or up to now."""
    said = store.feedback.spoken(before=before, most=config.max_history)
    found = vetted(store, config, said)
    held = {*found.held, *(one.feedback_id for one in store.quarantine.held())}
    return replace(
        found,
        propensity=weights(shown_of(store, said, config.propensity), config.propensity),
        signals=refit([item for item in said if item.feedback.id not in held], config.signals),
    )


def shown_of(store: Store, said: Sequence[Evidence], config: PropensityConfig) -> list[Shown]:
    """The newest answers that anybody was given, oldest first, and whether they were spoken of."""
    if not config.enabled:
        return []
    log = store.completions.recent(limit=config.log, source=Source.CHAT, done_only=True)
    spoken = {item.completion.id for item in said}
    return [shown(one, one.id in spoken) for one in reversed(log) if one.stored and one.choices]


def shown(answered: Completion, spoken: bool) -> Shown:
    """One logged answer, its first choice for all."""
    turns = answered.messages
    return Shown(
        answered.id,
        answered.principal,
        len(words(answered.choices[0].text)),
        len(words(turns[-1].content)) if turns else 0,
        len(turns),
        spoken,
    )


def vetted(store: Store, config: FeedbackConfig, said: Sequence[Evidence]) -> Background:
    """Who would steer alone; nobody, where defence is off."""
    if not config.defence.enabled:
        return Background()
    labels = store.labels.recent(LABELS)
    named = [item.feedback.value for item in said if isinstance(item.feedback.value, str)]
    known = store.completions.get_all([*named, *(label.completion_id for label in labels)])
    log = store.completions.recent(limit=config.defence.phrase_log, source=Source.CHAT, done_only=True)
    history = store.quarantine.history()
    facts = Facts(
        said=said,
        known={name: one for name, one in known.items() if one.stored},
        log=[one for one in log if one.stored],
        labels=labels,
        quarantined={one.feedback_id for one in history if one.released_at is None},
        pardoned={one.feedback_id for one in history if pardoned(one)},
    )
    return vet(facts, config)


def pardoned(one: Quarantined) -> bool:
    """Whether an operator let it out. Held and let go in one breath, as when what somebody else was forgotten for is
    made new again (`Quarantine.renew`), is no pardon.
    """
    if one.released_at is None:
        return False
    renewed = (one.actor, one.reason) == (one.released_by, one.released_because)
    return not (renewed and one.released_at - one.at < BREATH)


def hold(store: Store, iteration: int, background: Background) -> dict[str, int]:
    """Put what does not count into quarantine, and write it down. Returns how many events by reason, as counts."""
    if not background.held:
        return {}
    counts = Counter(background.held.values())

    def work(tx: Store) -> None:
        reasons = {event: REASONS[why] for event, why in background.held.items()}
        tx.quarantine.hold_events(reasons, iteration=iteration, actor=ACTOR)
        said = "; ".join(f"{count} with {REASONS[why]}" for why, count in sorted(counts.items()))
        tx.audit.add(
            actor=ACTOR,
            action="quarantine",
            subject=f"iteration {iteration}",
            reason=said,
            details=dict(counts),
        )

    store.atomic(work)
    return {f"dropped_{why}": count for why, count in sorted(counts.items())}

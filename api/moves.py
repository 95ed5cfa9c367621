"""What a move of the pointer would do, in plain sentences, before anybody asks for it. Pure.

The loop decides what happens when it acts; these are its rules for what is known now. A form names the version that
was shown, and what was served then, so that nobody confirms one thing and gets another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from store.descent import left_behind, way_back
from store.errors import Invalid, NotFound
from store.records import BASE, SERVABLE, Adapter, AdapterStatus, Canary


@dataclass(frozen=True, slots=True)
class Move:
    """`to`, `serving`: versions, base among them. `leaves`: what feedback a quarantine would hold back is of."""

    kind: str
    to: str
    serving: str
    says: tuple[str, ...]
    leaves: tuple[str, ...] = ()


def named(version: str | None) -> str:
    return "the untouched base model" if version in (None, BASE) else str(version)


def sentence(text: str) -> str:
    """Begun with a capital, unless it begins with a version, which is a name."""
    return "T" + text[1:] if text.startswith("the ") else text


@dataclass(frozen=True, slots=True)
class Standing:
    """Where things stand: every adapter by version, the active one (None: base), the open canary."""

    known: Mapping[str, Adapter]
    active: Adapter | None
    canary: Canary | None = None

    @property
    def serving(self) -> str:
        return self.active.version if self.active else BASE


def rollback(now: Standing, version: str | None = None) -> Move:
    """A rollback to a version (`base` too), or one step back.

    Raises:
        NotFound: no such version.
        Invalid: it is served already, never was, or there is nothing to go back to (`param` names the field).
    """
    trial = now.canary
    if trial is not None and version in (None, trial.version, trial.incumbent or BASE):
        return canary_end(trial, now)
    if version is None:
        if now.active is None:
            raise Invalid("the base model is being served: there is nothing to roll back", param="version")
        version = way_back(now.active, now.known) or BASE
    if version == now.serving:
        raise Invalid(f"{version} is already being served", param="version")
    if version != BASE and find(now, version).status not in SERVABLE:
        raise Invalid(
            f"{version} is {now.known[version].status.value}: only versions that were served can be rolled back to",
            param="version",
        )
    parents = {one.version: one.parent for one in now.known.values()}
    to = None if version == BASE else version
    served = [now.active.version if now.active else None, trial.version if trial else None]
    leaves = left_behind(served, to, parents)
    says = [
        f"{version} answers everybody again, as soon as the engine has proven it."
        if to
        else "The untouched base model answers everybody again, at once.",
        f"Answers that {named(now.serving)} has begun are finished by it; the next question goes to "
        f"{named(version)}.",
        f"{now.serving} stays on disk, marked as rolled back, and may be promoted again."
        if now.active
        else "",
        "No gate is asked: what was served before passed one, or was chosen by a person."
        if to
        else "No gate is asked: the base needs none.",
        f"The canary {trial.version} ends." if trial else "",
        sentence(f"the next iteration starts from {named(version)}."),
    ]
    return Move("rollback", version, now.serving, tuple(filter(None, says)), leaves)


def canary_end(trial: Canary, now: Standing) -> Move:
    """A rollback while a canary runs ends it and leaves the pointer alone."""
    incumbent = trial.incumbent or BASE
    says = (
        f"The canary {trial.version} ends: it answers {trial.share:.0%} of people now, and nobody afterwards.",
        sentence(f"{named(incumbent)} answers everybody, as it answers the others now."),
        "Answers that the canary has begun are finished by it. No gate is asked.",
    )
    return Move("rollback", trial.version, now.serving, says, (trial.version,))


def promote(now: Standing, version: str) -> Move:
    """Serving a version because a person says so.

    Raises:
        NotFound: no such version.
        Invalid: it is served already, or a gate refused it.
    """
    adapter = find(now, version)
    if version == now.serving:
        raise Invalid(f"{version} is already being served", param="version")
    if adapter.status not in SERVABLE | {AdapterStatus.HELD, AdapterStatus.CANARY}:
        raise Invalid(
            f"{version} is {adapter.status.value}: only held, canary or earlier served versions can be promoted",
            param="version",
        )
    other = now.canary is not None and now.canary.version != version
    says = [
        f"{version} answers everybody, as soon as the engine has proven it.",
        f"The gate held {version} for a person: nobody but you has said yes to it."
        if adapter.status is AdapterStatus.HELD
        else "",
        f"{version} is a canary now: it serves everybody before its people's votes have decided."
        if adapter.status is AdapterStatus.CANARY
        else "",
        f"{version} was rolled back before; whoever did that had a reason."
        if adapter.status is AdapterStatus.ROLLED_BACK
        else "",
        sentence(f"{named(now.serving)} is kept: one rollback leads back to it."),
        f"The canary {now.canary.version} ends and is held." if other and now.canary else "",
    ]
    return Move("promote", version, now.serving, tuple(filter(None, says)))


def find(now: Standing, version: str) -> Adapter:
    """
    Raises:
        NotFound: there is none of that name.
    """
    if version not in now.known:
        raise NotFound(f"no adapter {version!r}", param="version")
    return now.known[version]

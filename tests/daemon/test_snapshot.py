"""Prompts that are replayed for the judges of an iteration, and for nobody else."""

from pathlib import Path
from typing import Any

import pytest

from daemon.clusters import SHIPPED
from daemon.runtime import Runtime
from daemon.snapshot import labelled, messages_of, probes, replayed, shipped_probes, turns
from judge.pairs import Preferences, build
from policies.fake_engine import FakeEngine, FakeLimits
from policies.spec import Probe, Turn
from store.db import Store
from store.records import Choice, Completion, Message
from tests.daemon.conftest import runtime_with
from tests.daemon.test_contest import licence
from tests.store.conftest import completion

SUBJECTS = ("eggs", "tides", "violins", "taxes", "moss", "chess", "bread", "glass", "bees", "snow")


def chatted(store: Store, **changes: Any) -> list[Completion]:
    """Every person asks about everything, the same in other words."""
    logged = []
    for number, subject in enumerate(SUBJECTS):
        asked = (Message("user", f"What should I know of {subject}?"),)
        one = completion(
            f"c{number}",
            messages=asked,
            choices=(Choice(0, "Much.", "stop", 2),),
            created_at=float(number),
            **changes,
        )
        store.completions.begin(one)
        logged.append(one)
    return logged


def judged(store: Store, directory: Path, *, given: bool = True, **config: Any) -> Runtime:
    runtime = runtime_with(store, FakeEngine(FakeLimits(verify=False)), directory, **config)
    store.iterations.begin(trigger="test", incumbent=None, config={})
    store.judgements.set_licences(1, [licence("made", 0.9, given=given)])
    return runtime


def nothing(runtime: Runtime) -> Preferences:
    return build([], {}, runtime.config.feedback)


def test_a_licensed_judge_is_given_what_people_asked_lately_beside_the_probes(
    store: Store, tmp_path: Path
) -> None:
    chatted(store)
    runtime = judged(store, tmp_path, policies={"train": {"probes": 6}})
    found = probes(runtime, 1, nothing(runtime), [])
    measured, replays = [one for one in found if not one.replay], [one for one in found if one.replay]
    assert found == [*measured, *replays] and len(measured) == 6
    taken = {one.id for one in measured}
    assert [one.id for one in replays] == [f"c{n}" for n in range(9, -1, -1) if f"c{n}" not in taken]
    alone = probes(judged_off(runtime), 1, nothing(runtime), [])
    assert [one.prompt for one in measured] == [one.prompt for one in alone], "the same with nobody to judge"
    assert all(one.cluster for one in found)


def judged_off(runtime: Runtime) -> Runtime:
    return runtime_with(
        runtime.store,
        FakeEngine(),
        runtime.directory,
        judge={"enabled": False},
        policies={"train": {"probes": 6}},
    )


@pytest.mark.parametrize(
    ("given", "config"),
    [
        (False, {}),
        (True, {"judge": {"enabled": False}}),
        (True, {"daemon": {"gate": {"replay_prompts": 0}}}),
    ],
)
def test_where_nobody_may_compare_nothing_is_replayed(
    store: Store, tmp_path: Path, given: bool, config: dict[str, Any]
) -> None:
    chatted(store)
    assert replayed(judged(store, tmp_path, given=given, **config), 1, []) == []


def test_no_more_than_asked_for_and_nothing_the_trainer_would_cut(store: Store, tmp_path: Path) -> None:
    chatted(store)
    few = judged(store, tmp_path, daemon={"gate": {"replay_prompts": 3}})
    assert [one.id for one in replayed(few, 1, [])] == ["c9", "c8", "c7"]
    short = runtime_with(
        store, FakeEngine(), tmp_path, policies={"train": {"max_length": 72, "probe_tokens": 64}}
    )
    assert replayed(short, 1, []) == [], "eight tokens hold none of these prompts"


def test_turns_and_messages_are_the_same_conversation() -> None:
    said = (Message("system", "Be brief."), Message("user", "Hm?"))
    assert messages_of(turns(said)) == said


def test_shipped_prompts_are_one_cluster_and_asked_ones_are_told_apart() -> None:
    asked = [f"Where does {what} grow?" for what in ("rice tea", "tea", "rice", "green tea")]
    asked += [f"Tune my {what} guitar" for what in ("old", "steel", "bass", "loud")]
    own = [Probe(id=f"c{n}", prompt=[Turn(role="user", content=text)]) for n, text in enumerate(asked)]
    replay = own[1].model_copy(update={"id": "r", "replay": True})
    found = labelled([*shipped_probes()[:2], *own, replay])
    assert [probe.id for probe in found] == ["shipped-00", "shipped-01", *(one.id for one in own), "r"]
    names = [probe.cluster for probe in found]
    assert names[:2] == [SHIPPED] * 2 and len(set(names[2:])) == 2
    assert len(set(names[2:6])) == len(set(names[6:10])) == 1
    assert names[-1] == names[3], "a prompt that is only replayed belongs to what was asked"
    assert labelled(shipped_probes()) == shipped_probes()

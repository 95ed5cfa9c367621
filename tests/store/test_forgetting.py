"""What is held of a person, and that scrubbing takes all of it and nothing of anybody else."""

import json
from pathlib import Path

import pytest

from store.db import Store
from store.errors import HonedError
from store.judging import JudgedPair, Judgement, PairOrigin
from store.quotes import GONE, Quotes, renamed
from store.records import Choice, Example, FeedbackKind, Message, Source, Split
from store.scrubbing import Person
from tests.store.conftest import completion, event

ANN = Person("ann", "forgotten:1")
PROMPT = (Message("user", "where do my blue herons sleep at night?"),)


@pytest.fixture
def spoken(store: Store) -> Store:
    """Ann's answer, an answer drawn for her prompt, one written from it; bob's answer; votes on both by both."""
    store.completions.begin(
        completion("a1", messages=PROMPT, choices=(Choice(0, "In reeds, mostly.", "stop"),))
    )
    store.completions.begin(completion("b1", principal="bob"))
    drawn = {"source": Source.SAMPLE, "principal": "honed"}
    told = {"iteration": 1, "purpose": "candidates"}
    store.completions.begin(completion("s1", messages=PROMPT, metadata={**told, "prompt": "a1"}, **drawn))
    store.completions.begin(
        completion("s2", messages=(Message("user", "And owls?"),), metadata=told, **drawn)
    )
    store.completions.begin(completion("s3", metadata={**told, "prompt": "b1"}, **drawn))
    store.feedback.add(event("ann says", "a1", "In old reeds.", kind=FeedbackKind.EDIT), idempotency_key="k")
    store.feedback.add(event("on-bob", "b1", False, reason="dull"))
    store.feedback.add(event("bob-1", "b1", True, principal="bob", comment="fine"))
    return store


def test_holdings_are_answers_what_was_drawn_for_them_and_every_word(spoken: Store) -> None:
    held = spoken.forgetting.of(ANN)
    assert (held.own, held.drawn, held.events) == ({"a1"}, {"s1", "s2"}, {"ann says", "on-bob"})
    assert {"In reeds, mostly.", "In old reeds.", "dull", PROMPT[0].content} <= held.quotes.whole
    assert spoken.forgetting.name_of("ann") == "ann"
    assert not spoken.forgetting.of(Person("nobody", "forgotten:2"))


def test_people_are_known_by_what_applications_call_them(spoken: Store) -> None:
    assert spoken.forgetting.of(Person("u1", "forgotten:2")).own == {"a1", "b1"}


def test_scrubbing_takes_hers_and_leaves_his(spoken: Store) -> None:
    store = spoken
    begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
    store.iterations.add_examples(
        [
            Example(begun.id, name, on, Split.TRAIN, "kto", True, 1.0)
            for name, on in (("ann says", "a1"), ("bob-1", "b1"))
        ]
    )
    store.judgements.add(
        [
            Judgement(digest, "rubric", "1", 0.5, 1.0, of, 0, 1, {})
            for digest, of in (("x", "a1"), ("y", "b1"))
        ]
    )
    store.judgements.go_by(begun.id, "rubric", "1", ["x", "y"])
    store.judgements.set_pairs(
        begun.id,
        [JudgedPair(begun.id, PairOrigin.CANDIDATES, ("s1", 0), ("s1", 1), 0.7, 0.5, None, {"n": 1})],
    )
    sample = {"before": "b", "after": "a", "cluster": "herons-sleep"}
    samples = [{**sample, "id": "a1"}, {**sample, "id": "b1", "cluster": "grüezi"}]
    store.iterations.save_report(begun.id, {"samples": samples, "heldout": {"a1/0": 1.0, "b1/0": 2.0}})
    store.metrics.add(begun.id, {"kl/cluster/herons-sleep": 0.5, "kl/cluster/grüezi": 0.4})
    store.audit.add(
        actor="ann", action="train", subject="x", reason="see 'where do my blue herons sleep at night'"
    )
    store.audit.add(actor="gate", action="reject", subject="x", reason="kl/cluster/herons-sleep too far")

    held = store.forgetting.of(ANN)
    assert store.forgetting.learned(held) == {(begun.id, None)}
    assert store.forgetting.iterations(held) == {begun.id}
    store.forgetting.scrub(held, {begun.id}, person=ANN)

    gone, kept = store.completions.get("a1"), store.completions.get("b1")
    assert (gone.principal, gone.messages, gone.stored, gone.choices[0].text) == (ANN.alias, (), False, "")
    assert (kept.principal, kept.choices[0].text, kept.metadata) == ("bob", "Hello.", {"user": "u1"})
    assert store.completions.get("s2").messages == () and store.completions.get("s3").messages
    mine = store.feedback.events("a1")
    assert [(one.principal, one.value, one.id.startswith("fb-")) for one in mine] == [(ANN.alias, None, True)]
    assert [(one.value, one.reason, one.comment) for one in store.feedback.events("b1")] == [
        (None, None, None),
        (True, None, "fine"),
    ]
    assert {one.feedback_id for one in store.iterations.examples(begun.id)} == {mine[0].id, "bob-1"}
    assert [one.answer for one in store.judgements.in_iteration(begun.id)] == ["y"]
    report = store.iterations.report(begun.id)
    assert report == {"samples": [samples[1]], "heldout": {"b1/0": 2.0}}
    assert store.metrics.get(begun.id) == {"kl/cluster/forgotten-1": 0.5, "kl/cluster/grüezi": 0.4}
    told, *entries = store.audit.list()
    assert (told.action, told.details) == ("redact", {"entries": [1, 2]})
    assert [(one.actor, one.reason) for one in entries] == [
        ("gate", "kl/cluster/forgotten-1 too far"),
        (ANN.alias, GONE),
    ]
    # Carried out again it finds what it left, and lineage still tells what learned from it.
    again = store.forgetting.of(ANN)
    assert (again.own, again.drawn) == ({"a1"}, {"s1", "s2"})
    assert store.forgetting.learned(again) == {(begun.id, None)}
    with pytest.raises(Exception, match="append-only"):
        store._session.write(lambda db: db.execute("update audit set reason = 'x'"))


def test_what_others_said_stays_to_the_letter_however_alike(spoken: Store) -> None:
    store = spoken
    asked = "Please answer my question about this text: "
    for name, text in (("a2", asked + "herons"), ("a3", "1"), ("a4", "user")):
        store.completions.begin(completion(name, messages=(Message("user", text),)))
    begun = store.iterations.begin(trigger="manual", incumbent=None, config={})
    turns = [{"role": "user", "content": asked + "owls, 1 by 1"}]
    row = {"prompt": turns, "continuation": "Two.", "logprobs": [0.5], "base_logprobs": [0.5]}
    report = {"version": "it-1", "attestation": [row]}
    store.iterations.save_report(begun.id, report)
    store.audit.add(actor="gate", action="reject", subject="user", reason="2 of 1")
    store.forgetting.scrub(store.forgetting.of(ANN), {begun.id}, person=ANN)
    assert store.iterations.report(begun.id) == report
    assert store.audit.list()[0].reason == "2 of 1"
    # An application may call its people what it likes.
    user = Person("user", "forgotten:3")
    store.completions.begin(completion("u1", metadata={"user": "user"}))
    store.forgetting.scrub(store.forgetting.of(user), {begun.id}, person=user)
    assert store.iterations.report(begun.id) == report
    assert store.audit.list()[0].subject == "user"


def test_events_have_no_id_that_a_name_leads_to(store: Store) -> None:
    store.completions.begin(completion("a1"))
    guessed = [f"fb-{number:032x}" for number in (1, 2)]
    for name, value in zip(guessed, (True, False), strict=True):
        store.feedback.add(event(name, "a1", value))
    store.forgetting.scrub(store.forgetting.of(ANN), (), person=ANN)
    first, second = store.feedback.events("a1")
    assert second.supersedes == first.id
    assert not {first.id, second.id} & set(guessed)


def test_a_label_on_what_was_asked_goes_with_it(spoken: Store) -> None:
    system = Message("system", "Be brief.")
    question = Message("user", "how deep is lake Zug?")
    spoken.completions.begin(completion("a2", messages=(system, question)))
    for name, turn in (("l1", question), ("l2", Message("user", "Hello"))):
        spoken.completions.begin(completion(name, principal="op", source=Source.LABEL, messages=(turn,)))
    spoken.completions.begin(completion("a3", messages=(system, Message("user", "Hello"))))
    assert spoken.forgetting.of(ANN).drawn == {"s1", "s2", "l1"}


def test_nothing_is_left_in_the_files(tmp_path: Path) -> None:
    with Store.open(tmp_path / "honed.db") as store:
        for number in range(200):
            text = f"unmistakable{number} heron"
            store.completions.begin(completion(f"a{number}", messages=(Message("user", text),)))
        files = [tmp_path / "honed.db", tmp_path / "honed.db-wal"]
        assert any(b"unmistakable" in path.read_bytes() for path in files)
        store.forgetting.scrub(store.forgetting.of(ANN), (), person=ANN)
        store.compact()
        for path in files:
            assert b"unmistakable" not in path.read_bytes(), path
        reader = Store.read_only(tmp_path / "honed.db")
        with pytest.raises(HonedError, match="open for writing"):
            reader.compact()
        reader.close()


def test_an_answer_that_ends_after_its_person_was_forgotten_keeps_no_text(store: Store) -> None:
    from store.records import CompletionStatus

    store.completions.begin(completion("a1", status=CompletionStatus.STREAMING, choices=()))
    store.forgetting.scrub(store.forgetting.of(ANN), (), person=ANN)
    store.completions.finish("a1", status=CompletionStatus.DONE, choices=[Choice(0, "late words", "stop")])
    assert store.completions.get("a1").choices[0].text == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("she asked: one two three four five six seven", True),
        ("two three four five six seven", True),
        ("one two three four five and six", False),
        ("yes", False),
        ("room 101", True),
        ("just finished", False),
    ],
)
def test_quotations(text: str, found: bool) -> None:
    quotes = Quotes.of(["one two three four five six seven eight", "yes", "finished", "101"])
    assert quotes.within(text) is found


def test_names_and_what_was_said_are_found_in_json() -> None:
    quotes = Quotes.of(["active"], ["a1"])
    rows = [{"id": "a1/0"}, {"content": "active"}, {"stage": "active"}]
    assert quotes.without({"rows": rows, "a1/0": 1, "stage": "active"}) == {
        "rows": rows[2:],
        "stage": "active",
    }
    assert quotes.anywhere(rows[1]) and not quotes.anywhere(rows[2])
    assert Quotes.of(["very active"]).anywhere({"stage": "very active"})
    assert json.dumps(quotes.without([1, None, True])) == "[1, null, true]"


def test_names_are_replaced_where_they_stand_alone() -> None:
    names = {"list": "forgotten-1", "list-bread": "forgotten-2"}
    assert (
        renamed("kl/cluster/list-bread and list, listed", names)
        == "kl/cluster/forgotten-2 and forgotten-1, listed"
    )

"""Forgetting: what honed holds of a person (or of a time), and what of honed learned from it or shows it."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

from store.errors import NotFound
from store.quotes import Quotes
from store.scrubbing import Holdings, Person, arrays, scrub
from store.session import Session


class Forgetting:
    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session, self._clock = session, clock

    def of(self, person: Person) -> Holdings:
        """Everything of a person, also what an interrupted attempt has scrubbed already."""
        own = self._ids(
            "completions where source <> 'sample' and (principal in (:name, :alias) "
            "or metadata ->> 'user' = :name or metadata ->> 'safety_identifier' = :name "
            "or metadata ->> 'forgotten' = :alias)",
            **asdict(person),
        )
        return self._with_events(own, alias=person.alias, name=person.name)

    def older(self, before: float, *, keep: Iterable[str]) -> Holdings:
        """Everything kept from before a time, but for the answers to `keep`."""
        stay = frozenset(keep)
        own = self._ids(
            "completions where source <> 'sample' and stored = 1 and status <> 'streaming' "
            "and created_at < :before",
            before=before,
        )
        return self._with_events(own - stay, alias="", name="", keep=stay)

    def behind(self, iterations: Iterable[int], prompts: Iterable[str]) -> frozenset[str]:
        """Answers that the candidates of these iterations were trained on, those whose prompts others of them were
        drawn for, and those to one of `prompts` (as stored).
        """
        trained = self._ids(
            "completions where messages in (select value from json_each(:prompts)) or id in ("
            "  select completion_id from learned_examples where iteration in (select value from json_each(:of))"
            "  union select completion_id from learned_anchors where iteration in (select value from json_each(:of))"
            "  union select chosen_id from judged_pairs where dropped is null"
            "    and iteration in (select value from json_each(:of))"
            "  union select rejected_id from judged_pairs where dropped is null"
            "    and iteration in (select value from json_each(:of)))",
            prompts=json.dumps(sorted(set(prompts))),
            of=json.dumps(sorted(set(iterations))),
        )
        asked = self._session.rows(
            "select metadata ->> 'prompt' from completions where source = 'sample' "
            "and metadata ->> 'prompt' is not null and id in (select value from json_each(?))",
            [json.dumps(sorted(trained))],
        )
        return trained | {row[0] for row in asked}

    def name_of(self, user: str) -> str:
        """The name under which somebody is known: the one given, or the principal that ends in it.

        Raises:
            NotFound: nothing is held of anybody of that name.
        """
        for name in (user, f"key:{user}", f"owui:{user}"):
            if self.of(Person(name, "")):
                return name
        raise NotFound(
            f"nothing is held of {user!r}: no answer was given to them, and no feedback came", param="user"
        )

    def _with_events(
        self, own: frozenset[str], *, alias: str, name: str, keep: frozenset[str] = frozenset()
    ) -> Holdings:
        drawn = self._drawn(own, alias) - keep
        events = self._ids(
            "feedback where principal in (:name, :alias) and principal <> '' "
            "or completion_id in (select value from json_each(:ids))",
            ids=json.dumps(sorted(own | drawn)),
            alias=alias,
            name=name,
        )
        quotes = Quotes.of(self._texts(own | drawn, events), own | drawn)
        if keep:
            # The words of what stays are not gone from anywhere, nor from what adapters are attested by.
            quotes = quotes.but(Quotes.of(self._texts(keep, frozenset())))
        return Holdings(own, drawn, events, quotes)

    def _ids(self, tail: str, **parameters: Any) -> frozenset[str]:
        return frozenset(row[0] for row in self._session.rows(f"select id from {tail}", parameters))

    def _drawn(self, own: frozenset[str], alias: str) -> frozenset[str]:
        """Answers to the same prompts, and what was written from them: a prompt in people's manner is made from
        several people's at once, so where any of the person's was drawn for, none of those written stays.
        """
        ids = json.dumps(sorted(own))
        drawn = self._ids(
            "completions where source in ('sample', 'label') and ("
            "  metadata ->> 'prompt' in (select value from json_each(:ids))"
            "  or metadata ->> '$.revision_of[0]' in (select value from json_each(:ids))"
            "  or (messages <> '[]' and messages in (select messages from completions"
            "      where id in (select value from json_each(:ids))))"
            # An operator who asks judges about it leaves the system prompt out; single words are everybody's.
            "  or (source = 'label' and exists (select 1 from json_each(messages) t"
            "      where trim(t.value ->> 'content') like '% %' and t.value ->> 'content' in ("
            "        select u.value ->> 'content' from completions o, json_each(o.messages) u"
            "        where o.id in (select value from json_each(:ids)) and u.value ->> 'role' = 'user'))))"
            "  or (source = 'sample' and :alias <> '' and metadata ->> 'forgotten' = :alias)",
            ids=ids,
            alias=alias,
        )
        written = self._ids(
            "completions where source = 'sample' and metadata ->> 'prompt' is null "
            "and metadata ->> 'revision_of' is null and metadata ->> 'iteration' in ("
            "  select metadata ->> 'iteration' from completions where source = 'sample' "
            "  and id in (select value from json_each(:ids)))",
            ids=json.dumps(sorted(drawn)),
        )
        return drawn | written

    def _texts(self, answers: frozenset[str], events: frozenset[str]) -> Iterator[str]:
        ids = json.dumps(sorted(answers))
        inside = "in (select value from json_each(?))"
        for row in self._session.rows(f"select messages, metadata from completions where id {inside}", [ids]):
            # What a system prompt says is the application's, and everybody's who uses it.
            said = (turn for turn in json.loads(row[0]) if turn["role"] in ("user", "assistant"))
            yield from (turn["content"] for turn in said)
            told = json.loads(row[1])
            yield from (told[key] for key in ("critique",) if told.get(key))
        sql = f"select text from completion_choices where completion_id {inside}"
        yield from (row[0] for row in self._session.rows(sql, [ids]))
        sql = f"select kind, value, reason, comment from feedback where id {inside}"
        for row in self._session.rows(sql, [json.dumps(sorted(events))]):
            value = json.loads(row["value"])
            if row["kind"] in ("edit", "comment") and isinstance(value, str):
                yield value
            yield from (text for text in (row["reason"], row["comment"]) if text)

    def learned(self, held: Holdings) -> set[tuple[int, str | None]]:
        """(iteration, version) of every candidate that was trained on any of it; version None is all candidates."""
        rows = self._session.rows(
            "select distinct iteration, version from iteration_examples where split = 'train' and "
            "(feedback_id in (select value from json_each(:events)) "
            " or completion_id in (select value from json_each(:answers))) "
            "union select iteration, version from iteration_anchors "
            "where completion_id in (select value from json_each(:answers)) "
            "union select iteration, null from judged_pairs where dropped is null and "
            "(chosen_id in (select value from json_each(:answers)) "
            " or rejected_id in (select value from json_each(:answers)))",
            arrays(held),
        )
        return {(row[0], row[1]) for row in rows}

    def iterations(self, held: Holdings) -> set[int]:
        """Iterations that had anything to do with it: trained or tested on it, drew for it, or show it."""
        rows = self._session.rows(
            "select iteration from iteration_examples where "
            "feedback_id in (select value from json_each(:events)) "
            "or completion_id in (select value from json_each(:answers)) "
            "union select iteration from iteration_anchors "
            "where completion_id in (select value from json_each(:answers)) "
            "union select iteration from judged_pairs where chosen_id in (select value from json_each(:answers)) "
            "or rejected_id in (select value from json_each(:answers)) "
            "union select metadata ->> 'iteration' from completions where source = 'sample' "
            "and id in (select value from json_each(:answers))",
            arrays(held),
        )
        shown = self._session.rows("select id, report from iterations where report is not null")
        return {row[0] for row in rows} | {
            row["id"] for row in shown if held.quotes.mentioned(json.loads(row["report"]))
        }

    def scrub(
        self, held: Holdings, iterations: Iterable[int], *, person: Person | None = None
    ) -> dict[str, int]:
        """Take the words out. Returns how many rows of what lost theirs.

        Args:
            held: what goes.
            iterations: those that showed it: names of their prompts' clusters that are made of its words go too.
            person: whose name goes with it; None where only words do.
        """
        at = self._clock()
        return self._session.write(lambda db: scrub(db, held, frozenset(iterations), person, at=at))

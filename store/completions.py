"""Answers: begun before their first token, finished before their last is acknowledged."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from sqlite_utils import Database

from store.errors import NotFound
from store.failpoints import around
from store.records import Choice, Completion, CompletionStatus, Message, Sampling, Source, Target
from store.session import Row, Session

COLUMNS = (
    "id, created_at, principal, source, messages, sampling, adapter, engine, status, stored, prompt_tokens, "
    "completion_tokens, first_token_s, latency_s, metadata"
)


class Completions:
    def __init__(self, session: Session) -> None:
        self._session = session

    def begin(self, completion: Completion) -> None:
        """Record an answer about to be given, so that feedback always finds it."""
        row = asdict(completion)
        row.pop("choices")
        row.update(
            messages=json.dumps([message.as_dict() for message in completion.messages], ensure_ascii=False),
            sampling=json.dumps(asdict(completion.sampling)),
            metadata=json.dumps(completion.metadata, ensure_ascii=False),
            stored=int(completion.stored),
            source=completion.source.value,
            status=completion.status.value,
        )
        names = [name.strip() for name in COLUMNS.split(",")]
        marks = ", ".join("?" * len(names))

        def work(db: Database) -> None:
            with around("status", f"answer, {completion.status}"):
                db.execute(f"insert into completions ({COLUMNS}) values ({marks})", [row[n] for n in names])
            insert_choices(db, completion.id, completion.choices)

        self._session.write(work)

    def finish(
        self,
        completion_id: str,
        *,
        status: CompletionStatus,
        choices: Sequence[Choice],
        usage: tuple[int, int] = (0, 0),
        first_token_s: float | None = None,
        latency_s: float | None = None,
    ) -> None:
        """Record how an answer ended. `usage` is prompt and completion tokens; times in seconds.

        Without its text, where the person was forgotten while it was written.
        """

        def work(db: Database) -> None:
            row = db.execute("select stored from completions where id = ?", [completion_id]).fetchone()
            kept = choices if row is None or row[0] else [replace(choice, text="") for choice in choices]
            with around("status", f"answer, {status}"):
                db.execute(
                    "update completions set status = ?, prompt_tokens = ?, completion_tokens = ?, "
                    "first_token_s = ?, latency_s = ? where id = ?",
                    [status.value, *usage, first_token_s, latency_s, completion_id],
                )
            insert_choices(db, completion_id, kept)

        self._session.write(work)

    def find(self, completion_id: str) -> Completion | None:
        rows = self._session.rows(f"select {COLUMNS} from completions where id = ?", [completion_id])
        return self._with_choices(rows)[0] if rows else None

    def get(self, completion_id: str) -> Completion:
        """
        Raises:
            NotFound: there is none of that id.
        """
        found = self.find(completion_id)
        if found is None:
            raise NotFound(f"no completion {completion_id!r}", param="completion_id")
        return found

    def target(self, completion_id: str) -> Target | None:
        """An answer as something to vote on; read for every vote, so without its words."""
        rows = self._session.rows(
            'select c.principal, c.adapter, c.stored, k."index" from completions c '
            'left join completion_choices k on k.completion_id = c.id where c.id = ? order by k."index"',
            [completion_id],
        )
        if not rows:
            return None
        principal, adapter, stored, _ = rows[0]
        choices = tuple(row[3] for row in rows if row[3] is not None)
        return Target(completion_id, principal, adapter, bool(stored), choices)

    def get_all(self, ids: Iterable[str]) -> dict[str, Completion]:
        """Those of the ids that exist."""
        wanted = json.dumps(sorted(set(ids)))
        rows = self._session.rows(
            f"select {COLUMNS} from completions where id in (select value from json_each(?))",
            [wanted],
        )
        return {completion.id: completion for completion in self._with_choices(rows)}

    def recent(
        self,
        *,
        limit: int = 50,
        source: Source | None = None,
        before: float | None = None,
        done_only: bool = False,
    ) -> list[Completion]:
        """Newest first."""
        rows = self._session.rows(
            f"select {COLUMNS} from completions where (:source is null or source = :source) "
            "and (:before is null or created_at < :before) and (not :done or status = 'done') "
            "order by created_at desc, rowid desc limit :limit",
            {
                "source": source.value if source else None,
                "before": before,
                "done": done_only,
                "limit": limit,
            },
        )
        return self._with_choices(rows)

    def of_base(self, *, limit: int) -> list[Completion]:
        """The newest answers that people got from the base itself, whole and kept."""
        rows = self._session.rows(
            f"select {COLUMNS} from completions where adapter is null and source = :chat and status = 'done' "
            "and stored = 1 order by created_at desc, rowid desc limit :limit",
            {"chat": Source.CHAT.value, "limit": limit},
        )
        return self._with_choices(rows)

    def samples(self, iteration: int) -> dict[str, Completion]:
        """Answers honed drew for itself during an iteration, by id."""
        rows = self._session.rows(
            f"select {COLUMNS} from completions where source = 'sample' "
            "and json_extract(metadata, '$.iteration') = ? order by created_at, id",
            [iteration],
        )
        return {completion.id: completion for completion in self._with_choices(rows)}

    def fail_streaming(self) -> int:
        """Mark answers a dead process left unfinished. Returns how many."""
        sql = "update completions set status = 'failed' where status = 'streaming'"

        def work(db: Database) -> int:
            with around("status", "answers, failed"):
                return int(db.execute(sql).rowcount)

        return self._session.write(work)

    def count(self) -> int:
        """Answers that were asked for: what honed drew for itself and operators wrote down is not among them."""
        sql = "select count(*) from completions where source in ('chat', 'task')"
        return int(self._session.rows(sql)[0][0])

    def _with_choices(self, rows: Sequence[Row]) -> list[Completion]:
        ids = json.dumps([row["id"] for row in rows])
        choices: dict[str, list[Choice]] = {}
        for row in self._session.rows(
            'select completion_id, "index", text, finish_reason, tokens from completion_choices '
            'where completion_id in (select value from json_each(?)) order by completion_id, "index"',
            [ids],
        ):
            choice = Choice(row["index"], row["text"], row["finish_reason"], row["tokens"])
            choices.setdefault(row["completion_id"], []).append(choice)
        return [completion_of(row, choices.get(row["id"], [])) for row in rows]


def insert_choices(db: Database, completion_id: str, choices: Sequence[Choice]) -> None:
    for choice in choices:
        db.execute(
            'insert or replace into completion_choices (completion_id, "index", text, finish_reason, tokens) '
            "values (?, ?, ?, ?, ?)",
            [completion_id, choice.index, choice.text, choice.finish_reason, choice.tokens],
        )


def completion_of(row: Row, choices: Sequence[Choice]) -> Completion:
    sampling = json.loads(row["sampling"])
    return Completion(
        id=row["id"],
        created_at=row["created_at"],
        principal=row["principal"],
        source=Source(row["source"]),
        messages=tuple(Message(**message) for message in json.loads(row["messages"])),
        sampling=Sampling(**{**sampling, "stop": tuple(sampling["stop"])}),
        adapter=row["adapter"],
        engine=row["engine"],
        status=CompletionStatus(row["status"]),
        choices=tuple(choices),
        stored=bool(row["stored"]),
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        first_token_s=row["first_token_s"],
        latency_s=row["latency_s"],
        metadata=json.loads(row["metadata"]),
    )

"""What judges said, what that was worth, and what came of it: scores, texts, licences, pairs.

All of it is appended per iteration; a resumed iteration replaces what its first attempt wrote of itself.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from sqlite_utils import Database

from store.judging import JudgedPair, Judgement, Licence, PairOrigin
from store.session import Row, Session

COLUMNS = "answer, scorer, version, score, at, completion_id, choice_index, iteration, details"
LICENCE = "iteration, scorer, version, licensed, reasons, measures, calibration, texts, at"
PAIR = "iteration, origin, chosen_id, chosen_index, rejected_id, rejected_index, q, weight, dropped, details"


class Judgements:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, judgements: Sequence[Judgement]) -> None:
        """Write scores down. One that is there already, by that scorer and version, stays as it is."""
        names = COLUMNS.split(", ")
        rows = [[*map(asdict(one).get, names[:-1]), json.dumps(one.details)] for one in judgements]

        def work(db: Database) -> None:
            marks = ", ".join("?" * len(names))
            db.conn.executemany(f"insert or ignore into judgements ({COLUMNS}) values ({marks})", rows)

        self._session.write(work)

    def go_by(self, iteration: int, scorer: str, version: str, answers: Iterable[str]) -> None:
        """Write down that an iteration went by these scores, whenever they were given."""
        values = [iteration, scorer, version, json.dumps(sorted(set(answers)))]
        sql = (
            "insert or ignore into iteration_judgements (iteration, judgement) select ?, id from judgements "
            "where scorer = ? and version = ? and version <> '' and answer in (select value from json_each(?))"
        )
        self._session.write(lambda db: db.execute(sql, values) and None)

    def of(self, completion_id: str) -> list[Judgement]:
        """Everything scorers said of an answer, oldest first."""
        sql = f"select {COLUMNS} from judgements where completion_id = ? order by id"
        return [judgement_of(row) for row in self._session.rows(sql, [completion_id])]

    def about(self, completion_ids: Iterable[str]) -> list[Judgement]:
        """Everything scorers said of these answers, oldest first."""
        sql = f"select {COLUMNS} from judgements where completion_id in (select value from json_each(?)) order by id"
        wanted = json.dumps(sorted(set(completion_ids)))
        return [judgement_of(row) for row in self._session.rows(sql, [wanted])]

    def known(self, scorer: str, version: str, answers: Iterable[str]) -> dict[str, Judgement]:
        """What a scorer of that version said already, by the digest of the answer."""
        rows = self._session.rows(
            # The last condition is the index's own: without it every score ever given would be looked at.
            f"select {COLUMNS} from judgements where scorer = ? and version = ? and version <> '' "
            "and answer in (select value from json_each(?)) order by id",
            [scorer, version, json.dumps(sorted(set(answers)))],
        )
        return {row["answer"]: judgement_of(row) for row in rows}

    def in_iteration(self, iteration: int) -> list[Judgement]:
        """The scores an iteration went by, those given before it too."""
        sql = (
            f"select {COLUMNS} from judgements where id in "
            "(select judgement from iteration_judgements where iteration = ?) order by id"
        )
        return [judgement_of(row) for row in self._session.rows(sql, [iteration])]

    def keep_texts(self, texts: Mapping[str, tuple[str, str]], *, at: float) -> None:
        """Keep versioned texts: digest -> (name, text). One known already stays as it is."""
        rows = [(digest, name, text, at) for digest, (name, text) in texts.items()]
        sql = "insert or ignore into judge_texts (digest, name, text, first_seen_at) values (?, ?, ?, ?)"
        self._session.write(lambda db: db.conn.executemany(sql, rows) and None)

    def texts(self, digests: Iterable[str]) -> dict[str, str]:
        """The texts of those digests, as they were when a judge read them."""
        rows = self._session.rows(
            "select digest, text from judge_texts where digest in (select value from json_each(?))",
            [json.dumps(sorted(set(digests)))],
        )
        return {row["digest"]: row["text"] for row in rows}

    def set_licences(self, iteration: int, licences: Sequence[Licence]) -> None:
        """Write down who may judge in an iteration, and why."""
        rows = [
            (
                licence.iteration,
                licence.scorer,
                licence.version,
                int(licence.licensed),
                json.dumps(licence.reasons),
                json.dumps(licence.measures),
                json.dumps(licence.calibration),
                json.dumps(licence.texts),
                licence.at,
            )
            for licence in licences
        ]

        def work(db: Database) -> None:
            db.execute("delete from licences where iteration = ?", [iteration])
            db.conn.executemany(f"insert into licences ({LICENCE}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

        self._session.write(work)

    def licences(self, iteration: int) -> list[Licence]:
        sql = f"select {LICENCE} from licences where iteration = ? order by scorer"
        return [licence_of(row) for row in self._session.rows(sql, [iteration])]

    def licence_history(self, *, limit: int = 200) -> list[Licence]:
        """Newest iteration first."""
        sql = f"select {LICENCE} from licences order by iteration desc, scorer limit ?"
        return [licence_of(row) for row in self._session.rows(sql, [limit])]

    def set_pairs(self, iteration: int, pairs: Sequence[JudgedPair]) -> None:
        """Write down every comparison of an iteration, those that did not train too."""
        rows = [
            (
                pair.iteration,
                pair.origin.value,
                *pair.chosen,
                *pair.rejected,
                pair.q,
                pair.weight,
                pair.dropped,
                json.dumps(pair.details),
            )
            for pair in pairs
        ]

        def work(db: Database) -> None:
            db.execute("delete from judged_pairs where iteration = ?", [iteration])
            db.conn.executemany(
                f"insert into judged_pairs ({PAIR}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

        self._session.write(work)

    def pairs(self, iteration: int) -> list[JudgedPair]:
        sql = f"select {PAIR} from judged_pairs where iteration = ? order by id"
        return [pair_of(row) for row in self._session.rows(sql, [iteration])]


def judgement_of(row: Row) -> Judgement:
    return Judgement(**{**dict(row), "details": json.loads(row["details"])})


def licence_of(row: Row) -> Licence:
    parsed = {name: json.loads(row[name]) for name in ("measures", "calibration", "texts")}
    reasons = tuple(json.loads(row["reasons"]))
    return Licence(**{**dict(row), **parsed, "licensed": bool(row["licensed"]), "reasons": reasons})


def pair_of(row: Row) -> JudgedPair:
    return JudgedPair(
        iteration=row["iteration"],
        origin=PairOrigin(row["origin"]),
        chosen=(row["chosen_id"], row["chosen_index"]),
        rejected=(row["rejected_id"], row["rejected_index"]),
        q=row["q"],
        weight=row["weight"],
        dropped=row["dropped"],
        details=json.loads(row["details"]),
    )

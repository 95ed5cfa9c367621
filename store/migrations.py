"""The schema, as numbered steps: append-only, each in its own transaction, tracked by sqlite-utils.

Facts (completions, feedback, activations, stage moves, audit) are appended; triggers refuse to change the two
logs whose history people rely on. Erasing a person's text is the one exception (`store.scrubbing`), and it has to
drop those triggers in its own transaction, which is deliberate: it should not happen by accident.
"""

import time

from sqlite_utils import Database, Migrations

from store.chain import chain_up
from store.errors import SchemaTooNew

MIGRATIONS = Migrations("honed")


@MIGRATIONS()
def m001_answers_and_feedback(db: Database) -> None:
    db.execute("""
        create table completions (
            id text primary key, created_at real not null, principal text not null, source text not null,
            messages text not null, sampling text not null, adapter text, engine text not null,
            status text not null, stored integer not null, prompt_tokens integer not null,
            completion_tokens integer not null, first_token_s real, latency_s real, metadata text not null
        ) strict""")
    db.execute("create index completions_by_time on completions (created_at)")
    db.execute("create index completions_by_status on completions (status)")
    db.execute("""
        create table completion_choices (
            completion_id text not null references completions (id), "index" integer not null,
            text text not null, finish_reason text, tokens integer not null,
            primary key (completion_id, "index")
        ) strict""")
    db.execute("""
        create table feedback (
            seq integer primary key, id text not null unique, created_at real not null,
            completion_id text not null references completions (id), choice_index integer not null,
            principal text not null, kind text not null, value text not null, reason text, comment text,
            metadata text not null, supersedes text
        ) strict""")
    db.execute(
        "create index feedback_by_target on feedback (completion_id, choice_index, principal, kind, seq)"
    )
    db.execute("create index feedback_by_time on feedback (created_at)")
    db.execute("""
        create trigger feedback_is_append_only before update on feedback
        begin select raise(abort, 'feedback is append-only'); end""")
    db.execute("""
        create view latest_feedback as
        select f.* from feedback f join (
            select max(seq) as seq from feedback group by completion_id, choice_index, principal, kind
        ) l on l.seq = f.seq""")
    db.execute("""
        create table idempotency_keys (
            principal text not null, key text not null, body_digest text not null,
            feedback_id text not null references feedback (id), primary key (principal, key)
        ) strict""")


@MIGRATIONS()
def m002_iterations_and_adapters(db: Database) -> None:
    db.execute("""
        create table iterations (
            id integer primary key, stage text not null, "trigger" text not null, incumbent text,
            candidate text, created_at real not null, updated_at real not null, finished_at real,
            attempt integer not null, snapshot_digest text, reason text, config text not null,
            counts text not null, progress text not null, report text
        ) strict""")
    db.execute("""
        create table iteration_stages (
            id integer primary key, iteration integer not null references iterations (id),
            stage text not null, at real not null, note text
        ) strict""")
    db.execute("create index stages_by_iteration on iteration_stages (iteration, id)")
    db.execute("""
        create table iteration_examples (
            iteration integer not null references iterations (id),
            feedback_id text not null references feedback (id), completion_id text not null,
            split text not null, form text not null, label integer, weight real not null,
            primary key (iteration, feedback_id, form)
        ) strict""")
    db.execute("create index examples_by_completion on iteration_examples (completion_id)")
    db.execute("create index examples_by_feedback on iteration_examples (feedback_id)")
    db.execute("""
        create table adapters (
            version text primary key, parent text, iteration integer references iterations (id),
            path text not null, digest text not null, status text not null, scale real not null,
            created_at real not null
        ) strict""")
    db.execute("""
        create table active (
            id integer primary key check (id = 1), version text references adapters (version)
        ) strict""")
    db.execute("insert into active (id, version) values (1, null)")
    db.execute("""
        create table activations (
            id integer primary key, at real not null, version text, previous text,
            actor text not null, reason text not null
        ) strict""")
    db.execute("""
        create table metrics (
            iteration integer not null references iterations (id), name text not null, value real,
            primary key (iteration, name)
        ) strict""")
    db.execute("""
        create table gate_results (
            id integer primary key, iteration integer not null references iterations (id),
            metric text not null, value real, soft real, hard real, verdict text not null, reason text not null
        ) strict""")
    db.execute("create index gates_by_iteration on gate_results (iteration, id)")


@MIGRATIONS()
def m003_judgements_intents_audit_state(db: Database) -> None:
    db.execute("""
        create table judgements (
            id integer primary key, completion_id text not null references completions (id),
            choice_index integer not null, scorer text not null, score real not null, at real not null,
            iteration integer references iterations (id), details text not null
        ) strict""")
    db.execute("create index judgements_by_completion on judgements (completion_id)")
    db.execute("""
        create table intents (
            id text primary key, created_at real not null, kind text not null, principal text not null,
            reason text not null, arguments text not null, status text not null, outcome text not null,
            updated_at real
        ) strict""")
    db.execute("create index intents_by_status on intents (status, created_at)")
    db.execute("""
        create table audit (
            id integer primary key, at real not null, actor text not null, action text not null,
            subject text not null, reason text not null, details text not null
        ) strict""")
    for change in ("update", "delete"):
        db.execute(f"""
            create trigger audit_refuses_{change} before {change} on audit
            begin select raise(abort, 'the audit log is append-only'); end""")
    db.execute("create table service_state (key text primary key, value text not null) strict")


@MIGRATIONS()
def m004_judging(db: Database) -> None:
    # Judges also look at texts that are no recorded answer of honed's (a correction a person wrote), so the score
    # belongs to prompt and answers by digest, and names the recorded answer only where there is one.
    db.execute("alter table judgements rename to old_judgements")
    db.execute("drop index judgements_by_completion")
    db.execute("""
        create table judgements (
            id integer primary key, answer text not null, completion_id text references completions (id),
            choice_index integer, scorer text not null, version text not null, score real not null,
            at real not null, iteration integer references iterations (id), details text not null
        ) strict""")
    db.execute(
        "insert into judgements select id, '', completion_id, choice_index, scorer, '', score, at, iteration, "
        "details from old_judgements"
    )
    db.execute("drop table old_judgements")
    db.execute("create index judgements_by_completion on judgements (completion_id)")
    # An answer is scored once per scorer and version. (Scores from before there were versions are left alone.)
    db.execute(
        "create unique index judgements_once on judgements (answer, scorer, version) where version <> ''"
    )
    db.execute("create index judgements_by_iteration on judgements (iteration)")
    db.execute("""
        create table judge_texts (
            digest text primary key, name text not null, text text not null, first_seen_at real not null
        ) strict""")
    db.execute("""
        create table labels (
            id text primary key, created_at real not null, principal text not null, reason text not null,
            completion_id text not null references completions (id), choice_index integer not null, good integer,
            other_id text references completions (id), other_index integer not null,
            check ((good is null) <> (other_id is null))
        ) strict""")
    db.execute("""
        create table licences (
            iteration integer not null references iterations (id), scorer text not null, version text not null,
            licensed integer not null, reasons text not null, measures text not null, calibration text not null,
            texts text not null, at real not null, primary key (iteration, scorer)
        ) strict""")
    db.execute("""
        create table judged_pairs (
            id integer primary key, iteration integer not null references iterations (id), origin text not null,
            chosen_id text not null references completions (id), chosen_index integer not null,
            rejected_id text not null references completions (id), rejected_index integer not null,
            q real not null, weight real not null, dropped text, details text not null
        ) strict""")
    for side in ("iteration", "chosen_id", "rejected_id"):
        db.execute(f"create index judged_pairs_by_{side} on judged_pairs ({side})")
    # Scores are kept from one iteration to the next: which of them each iteration went by.
    db.execute("""
        create table iteration_judgements (
            iteration integer not null references iterations (id),
            judgement integer not null references judgements (id),
            primary key (iteration, judgement)
        ) strict, without rowid""")
    db.execute("create index completions_by_source on completions (source, created_at)")


@MIGRATIONS()
def m005_canaries(db: Database) -> None:
    db.execute("""
        create table canaries (
            id integer primary key, version text not null references adapters (version),
            incumbent text references adapters (version), iteration integer references iterations (id),
            step integer not null, share real not null, began_at real not null, step_at real not null,
            ended_at real, outcome text, reason text,
            check ((ended_at is null) = (outcome is null))
        ) strict""")
    # One at a time: two would each be held against people whom the other answers.
    db.execute("create unique index canaries_open on canaries ((1)) where ended_at is null")
    db.execute("create index completions_by_adapter on completions (adapter, created_at)")


@MIGRATIONS()
def m006_quarantine(db: Database) -> None:
    # What a rolled back adapter learned from, held back until somebody lets it go: both moves are facts.
    db.execute("""
        create table quarantine (
            id integer primary key, feedback_id text not null references feedback (id),
            iteration integer not null references iterations (id), at real not null,
            actor text not null, reason text not null
        ) strict""")
    db.execute("create index quarantine_by_feedback on quarantine (feedback_id)")
    # `last_iteration`: the newest one then. Up to it, having been learned from does not use a released event up.
    db.execute("""
        create table quarantine_releases (
            quarantine integer primary key references quarantine (id), at real not null,
            actor text not null, reason text not null, last_iteration integer not null
        ) strict""")
    for table in ("quarantine", "quarantine_releases"):
        for change in ("update", "delete"):
            db.execute(f"""
                create trigger {table}_refuses_{change} before {change} on {table}
                begin select raise(abort, 'quarantine is append-only'); end""")
    db.execute("""
        create view quarantined as
        select q.* from quarantine q left join quarantine_releases r on r.quarantine = q.id
        where r.quarantine is null""")


@MIGRATIONS()
def m007_replay(db: Database) -> None:
    # An iteration may train two candidates, not from the same examples. `version` null: every candidate.
    db.execute("alter table iteration_examples add column version text")
    db.execute("alter table iteration_examples add column replayed integer not null default 0")
    db.execute("""
        create table iteration_anchors (
            iteration integer not null references iterations (id),
            completion_id text not null references completions (id), version text
        ) strict""")
    for column in ("iteration", "completion_id"):
        db.execute(f"create index anchors_by_{column} on iteration_anchors ({column})")
    # What the candidate that an iteration ended with was trained on; the one it passed over counts for nothing.
    for view, table, condition in (
        ("learned_examples", "iteration_examples", "e.split = 'train' and"),
        ("learned_anchors", "iteration_anchors", ""),
    ):
        db.execute(f"""
            create view {view} as select e.* from {table} e join iterations i on i.id = e.iteration
            where {condition} (e.version is null or e.version = i.candidate)""")


@MIGRATIONS()
def m008_moves_back(db: Database) -> None:
    db.execute("alter table activations add column left_as text not null default 'superseded'")
    # Of earlier moves the audit row of the same transaction tells; older releases wrote none for moves at start.
    db.execute("""
        update activations set left_as = 'rolled_back' where actor in ('watch', 'start') or exists (
            select 1 from audit where audit.action = 'rollback' and audit.actor = activations.actor
              and audit.subject = coalesce(activations.version, 'base') and abs(audit.at - activations.at) < 1)""")


@MIGRATIONS()
def m009_labels_by_themselves(db: Database) -> None:
    # Imported answers train and test as people's own do; texts that operators wrote for a label do neither.
    db.execute("update completions set source = 'label' where source = 'import'")
    db.execute("alter table labels add column same integer not null default 0")


@MIGRATIONS()
def m010_audit_chain(db: Database) -> None:
    for column in ("salt", "seal", "digest"):
        db.execute(f"alter table audit add column {column} text not null default ''")
    db.execute("alter table audit add column resealed text")
    db.execute("create index audit_resealed on audit (id) where resealed is not null")
    db.execute("create index audit_by_digest on audit (digest)")
    db.execute("drop trigger audit_refuses_update")
    chain_up(db, time.time())
    db.execute("""
        create trigger audit_refuses_update before update on audit
        begin select raise(abort, 'the audit log is append-only'); end""")
    # "insert or replace" deletes without asking the trigger on deletes; and nothing comes in between.
    db.execute("""
        create trigger audit_refuses_insert before insert on audit
        when new.id is not (select coalesce(max(id), 0) + 1 from audit)
        begin select raise(abort, 'the audit log is append-only'); end""")


def pending(db: Database) -> list[str]:
    """Names of the steps this database still lacks.

    Raises:
        SchemaTooNew: it has steps this code does not know.
    """
    known = {migration.name for migration in MIGRATIONS._migrations}
    unknown = sorted({migration.name for migration in MIGRATIONS.applied(db)} - known)
    if unknown:
        raise SchemaTooNew(
            f"the database was written by a newer honed (it has {', '.join(unknown)}); "
            "install that version, or restore the snapshot made before it was upgraded"
        )
    return [migration.name for migration in MIGRATIONS.pending(db)]

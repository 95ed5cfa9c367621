"""`honed audit`: the log of who did what, and whether it is still what was written. Rows, and the same as text."""

from dataclasses import asdict
from typing import Any

from daemon.views import table, when
from store.chain import Chain
from store.db import Store

Row = dict[str, Any]


def rows(store: Store, limit: int, before: int | None) -> list[Row]:
    """Entries, newest first."""
    return [asdict(one) for one in store.audit.list(limit, before=before)]


def text(entries: list[Row]) -> str:
    if not entries:
        return "nothing yet"
    lines = [
        (one["id"], when(one["at"]), one["actor"], one["action"], one["subject"], one["reason"])
        for one in entries
    ]
    return table(("ENTRY", "AT", "BY", "ACTION", "WHAT", "WHY"), lines)


def verified(store: Store, noted: str | None) -> Row:
    """What a look through the log finds. `noted`: a digest from earlier, which an entry must still have."""
    found = store.audit.verify()
    row: Row = {**asdict(found), "ok": found.broken is None}
    if noted is None:
        return row
    at = store.audit.has(noted)
    return {**row, "noted": noted, "noted_at": at, "ok": row["ok"] and at is not None}


def verified_text(row: Row) -> str:
    found = Chain(row["entries"], row["head"], row["broken"], row["why"])
    lines = [told(found)]
    if "noted" in row:
        at = row["noted_at"]
        lines.append(
            "no entry has the digest that was noted: entries were taken off the end, or all written anew"
            if at is None
            else f"entry {at} has the digest that was noted: up to there it is the log it was then"
        )
    return "\n".join(lines)


def told(found: Chain) -> str:
    """One line about a whole log."""
    if found.broken is not None:
        return f"broken at entry {found.broken} of {found.entries}: {found.why}"
    return f"{found.entries} entries hold, head {found.head}"

"""`honed report`: one page that answers "is it learning?". Pure: the row of an iteration in, a page out.

Every part stands by itself and is left out where nothing of it was measured, so an iteration that failed, or one from
before a measurement existed, has a page too.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from api.detail import COUNTS
from daemon.gate import claim_of
from daemon.limits import GateConfig
from daemon.page import Block, Exchange, Page, Section, Table, counted
from daemon.weighing import Check
from store.records import Verdict
from store.shares import wilson

Row = Mapping[str, Any]

#: Coverage of the intervals of thumbs-up rates.
CONFIDENCE = 0.95
#: What a stage says of the candidate.
STANDS = {
    "rejected": "the gate refused its candidate",
    "held": "its candidate waits for a person",
    "canary": "its candidate answers some people first",
    "active": "its candidate was promoted",
    "rolled_back": "its candidate was served and rolled back",
    "failed": "it failed",
    "aborted": "it ended without training",
}
#: Distances, in the order people read them: metric, what it is.
DISTANCES = (
    ("kl/step_token", "this step, from the incumbent"),
    ("kl/base_token", "from base"),
    ("kl/path_token", "all steps since base, summed"),
    ("kl/step_p99", "this step, worst prompts (99th percentile)"),
    ("kl/cluster_max", "this step, worst kind of prompt"),
    ("kl/base_sequence", "from base, nats per answer"),
    ("kl/forward_base", "forgetting, on base's own answers"),
)
#: Battery groups whose rate is accuracy; of all others it is the share of failures.
HIGHER_IS_BETTER = frozenset({"capability"})
OPPONENTS = {
    "contest": "the incumbent",
    "contest_base": "base",
    "contest_golden": "the golden adapter",
}


def thumbs_with_intervals(thumbs: Sequence[Row]) -> list[dict[str, Any]]:
    """Votes per version with the interval of each rate (Wilson, 95%)."""
    rows = []
    for one in thumbs:
        low, high = wilson(one["rate"], one["votes"], CONFIDENCE) if one["votes"] else (0.0, 1.0)
        rows.append({**one, "low": low, "high": high})
    return rows


def claim(row: Row) -> str | None:
    """What the gate's own rule says can be claimed of a candidate, from what was stored; None without a verdict."""
    if not row["gates"]:
        return None
    found = [
        Check(one["metric"], one["value"], one["soft"], one["hard"], Verdict(one["verdict"]), one["reason"])
        for one in row["gates"]
    ]
    # An iteration from before the floor was a setting was held against none; today's default is what it meets here.
    floor = row["config"].get("daemon", {}).get("gate", {}).get("win_floor", GateConfig().win_floor)
    return claim_of(found, row["metrics"], floor)[0].value


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"


def between(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def day(at: float | None) -> str:
    return "-" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def standing(row: Row) -> str:
    """What became of the iteration, in a clause."""
    said = STANDS.get(row["stage"], f"it is still running ({row['stage']})")
    if row["stage"] == "active" and row.get("serving") == row["candidate"]:
        said += " and is served"
    return said


def trend(row: Row) -> str:
    """What thumbs say of the candidate against its incumbent: a difference only where the intervals are apart."""
    if row["candidate"] is None:
        return "There is no candidate to compare."
    thumbs = {one["version"]: one for one in row.get("thumbs", ())}
    after, before = thumbs.get(row["candidate"]), thumbs.get(row["incumbent"])
    if after is None or before is None or not (after["votes"] and before["votes"]):
        return "Nobody has voted on both versions' answers yet."
    rates = (
        f"{percent(after['rate'])} of {counted(after['votes'], 'vote')} on {row['candidate']} are thumbs up, "
        f"{percent(before['rate'])} of {before['votes']} on {row['incumbent']}"
    )
    if after["low"] > before["high"]:
        return f"People like it more: {rates}."
    if after["high"] < before["low"]:
        return f"People like it less: {rates}."
    return f"Votes do not tell them apart yet: {rates}."


def title(row: Row) -> str:
    claim = row.get("claim")
    said = f"{standing(row)} (claim: {claim})" if claim else standing(row)
    return f"iteration {row['id']}: {said}"


def summary(row: Row) -> Section:
    moved = f"{row['incumbent']} -> {row['candidate'] or 'no candidate'}"
    return Section("Is it learning?", (trend(row), *verdicts(row), f"{moved}; started by: {row['trigger']}"))


def verdicts(row: Row) -> list[str]:
    """Why it ended as it did, and what became of it since; a rollback does not hide what the gate had said."""
    ends = [one for one in row["stages"] if one["stage"] in STANDS and one["note"]]
    if not ends:
        return [f"Verdict: {row['reason'] or 'none yet'}"]
    first, *later = ends
    words = [f"{one['stage'].replace('_', ' ')}: {one['note']}" for one in later]
    return [f"Verdict: {first['note']}", *(word[0].upper() + word[1:] for word in words)]


def thumbs(row: Row) -> list[Block]:
    """Oldest version first: the rate over time."""
    marks = {row["candidate"]: "candidate", row["incumbent"]: "incumbent"}
    rows = [
        (
            one["version"],
            day(one["first_at"]),
            one["votes"],
            one["people"],
            percent(one["rate"]),
            between(one["low"], one["high"]),
            one["quarantined"] or "-",
            marks.get(one["version"], ""),
        )
        for one in row.get("thumbs", ())
    ]
    headings = ("VERSION", "VOTES SINCE", "VOTES", "PEOPLE", "UP", "95% INTERVAL", "QUARANTINED", "")
    return [Table(headings, rows)] if rows else []


def agreement(row: Row) -> list[Block]:
    """What never-train votes say of the update."""
    metrics = row["metrics"]
    told: list[tuple[str, str]] = []
    for group, since in (("heldout", row["incumbent"]), ("heldout_base", "base")):
        auc = metrics.get(f"{group}/auc")
        low, high = metrics.get(f"{group}/auc_low"), metrics.get(f"{group}/auc_high")
        known = {since for since, _ in told}
        if auc is not None and since not in known:
            interval = f" (90% interval {low:.2f} to {high:.2f})" if None not in (low, high) else ""
            told.append((since, f"{auc:.2f}{interval}"))
    ups, downs = metrics.get("heldout/n_up"), metrics.get("heldout/n_down")
    if ups is None and not told:
        return []
    counted = f"{ups or 0:g} liked and {downs or 0:g} disliked answers that never train. "
    meaning = (
        "Of one liked and one disliked, how often the update favours the liked one; one half is chance."
        if told
        else "Too few for an agreement."
    )
    tables = [Table(("AGAINST", "AGREEMENT"), told)] if told else []
    return [counted + meaning, *tables]


def limits(row: Row, metric: str) -> tuple[float | None, float | None]:
    """Soft and hard limit the gate held a metric against."""
    for gate in row["gates"]:
        if gate["metric"] == metric:
            return gate["soft"], gate["hard"]
    return None, None


def distances(row: Row) -> list[Block]:
    """The KL ledger: what was spent, what is left of each budget, and every step from base to here."""
    chain = row.get("ledger", ())
    # Iterations from before the path was a metric have one all the same.
    known = {"kl/path_token": chain[-1]["path"] if chain else None, **row["metrics"]}
    rows = []
    for metric, what in DISTANCES:
        value = known.get(metric)
        if value is None:
            continue
        soft, hard = limits(row, metric)
        left = None if hard is None else max(hard - value, 0.0)
        rows.append((what, value, soft, hard, left, "-" if not hard else percent(value / hard)))
    kinds = [
        (name.removeprefix("kl/cluster/"), value)
        for name, value in row["metrics"].items()
        if name.startswith("kl/cluster/")
    ]
    blocks: list[Block] = []
    if rows:
        headings = ("KL, NATS PER TOKEN", "SPENT", "SOFT", "HARD", "LEFT", "USED")
        blocks.append(Table(headings, rows))
    if kinds:
        blocks.append(Table(("KIND OF PROMPT", "STEP"), sorted(kinds, key=lambda one: -one[1])))
    if len(chain) > 1:
        steps = [
            (one["version"], one["step"], one["base"], one["path"], one["scale"], one["outcome"])
            for one in chain
        ]
        blocks.append(Table(("FROM BASE TO HERE", "STEP", "FROM BASE", "PATH", "SCALE", "STAGE"), steps))
    return blocks


def gates(row: Row) -> list[Block]:
    rows = [
        (one["metric"], one["verdict"], one["value"], one["soft"], one["hard"], one["reason"])
        for one in row["gates"]
    ]
    return [Table(("GATE", "VERDICT", "VALUE", "SOFT", "HARD", "WHY"), rows)] if rows else []


def battery(row: Row) -> list[Block]:
    """How it behaves on fixed questions, against the incumbent."""
    metrics, rows = row["metrics"], []
    for name in metrics:
        if not (name.startswith("battery/") and name.endswith("/rate")):
            continue
        group = name.split("/")[1]
        kind = "right" if group in HIGHER_IS_BETTER else "failures"
        before = metrics.get(f"incumbent/{name}")
        counted = [metrics.get(f"battery/{group}/{what}") for what in ("n", "lost", "gained")]
        numbers = [None if value is None else f"{value:g}" for value in counted]
        rows.append((group, kind, percent(before), percent(metrics[name]), *numbers))
    anchor = "battery/anchor/nll"
    if anchor in metrics:
        before = metrics.get(f"incumbent/{anchor}")
        rows.append(("anchor text", "nats/token", before, metrics[anchor], None, None, None))
    headings = ("GROUP", "RATE OF", "INCUMBENT", "CANDIDATE", "ITEMS", "LOST", "GAINED")
    return [Table(headings, rows)] if rows else []


def contests(row: Row) -> list[Block]:
    """Judged win rates on replayed prompts."""
    metrics, rows = row["metrics"], []
    for group, opponent in OPPONENTS.items():
        rate = metrics.get(f"{group}/win_rate")
        if rate is None:
            continue
        low, high = metrics.get(f"{group}/win_low"), metrics.get(f"{group}/win_high")
        interval = between(low, high) if low is not None and high is not None else "-"
        independent = metrics.get(f"{group}/independent")
        rows.append(
            (
                opponent,
                f"{metrics.get(f'{group}/prompts', 0):g}",
                percent(rate),
                interval,
                percent(metrics.get(f"{group}/win_lc")),
                percent(metrics.get(f"{group}/win_lc_low")),
                metrics.get(f"{group}/worst_cluster"),
                "-" if independent is None else "yes" if independent else "no",
            )
        )
    headings = (
        "AGAINST",
        "PROMPTS",
        "WINS",
        "90% INTERVAL",
        "AT EQUAL LENGTH",
        "AT LEAST",
        "WORST KIND",
        "INDEPENDENT",
    )
    return [Table(headings, rows)] if rows else []


def data(row: Row) -> list[Block]:
    """What it learned from, and how one-sided that was."""
    counts = row["counts"]
    if not counts:
        return []
    known = [(COUNTS[name], counts[name]) for name in COUNTS if name in counts]
    rest = {name: value for name, value in counts.items() if name not in COUNTS and name != "rebuild"}
    others = [(name.replace("_", " "), value) for name, value in rest.items()]
    up, down = counts.get("kto_up", 0), counts.get("kto_down", 0)
    told: list[Block] = []
    if up + down:
        told.append(f"{percent(up / (up + down))} of the rated answers are liked.")
    if "rebuild" in counts:
        told.append(f"Two candidates were trained, one of them from base: {counts['rebuild']['why']}.")
    return [*told, Table(("WHAT", "COUNT"), [*known, *others])]


def times(row: Row) -> list[Block]:
    rows = [
        (
            one["stage"],
            day(one["at"]),
            None if one["seconds"] is None else f"{one['seconds']:.0f}",
            one["note"] or "",
        )
        for one in row["stages"]
    ]
    # What was served, or waited, took time too, but not work.
    total = sum(one["seconds"] or 0.0 for one in row["stages"] if one["stage"] not in STANDS)
    phases = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in row["seconds"].items())
    told = [f"{total / 60:.1f} minutes to the verdict." + (f" Trainer: {phases}." if phases else "")]
    return [*told, Table(("STAGE", "AT (UTC)", "SECONDS", "NOTE"), rows)] if rows else []


def exchanges(row: Row) -> list[Block]:
    """The same prompts before and after."""
    before, after = f"before: {row['incumbent']}", f"after: {row['candidate']}"
    return [
        Exchange(
            " / ".join(turn["content"] for turn in one.get("prompt", []) if turn["role"] == "user"),
            (before, one.get("before", "")),
            (after, one.get("after", "")),
        )
        for one in row["samples"]
    ]


PARTS = (
    ("Thumbs per version", thumbs),
    ("Votes it never trained on", agreement),
    ("Distance", distances),
    ("Gates", gates),
    ("Behaviour", battery),
    ("Judged against others", contests),
    ("Data", data),
    ("Before and after", exchanges),
    ("Time", times),
)


def page(row: Row) -> Page:
    """The whole page of one iteration; parts that were not measured are left out."""
    found = [(name, tuple(part(row))) for name, part in PARTS]
    return Page(title(row), (summary(row), *(Section(name, blocks) for name, blocks in found if blocks)))

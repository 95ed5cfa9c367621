"""People who chat and vote, some of whom leave in the middle; an operator; and somebody who looks at pages."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.soak_report import Timing
from benchmarks.soak_world import Cut, Wire, World
from daemon.state_files import DATABASE

#: Answers of one visit; then another person sits down. Votes of one person on many answers a day would be set aside.
VISIT = 20
#: Seconds between two things one person does, on average.
PAUSE = 0.5
FINISHED = {"rejected", "held", "active", "rolled_back", "failed", "aborted"}
PAGES = (
    *("/", "/ops", "/ops/iterations", "/ops/adapters", "/ops/feedback", "/metrics", "/healthz", "/readyz"),
    *("/v1/status", "/v1/models", "/v1/iterations", "/v1/adapters", "/v1/operator/queue", "/openapi.json"),
)


def principal(token: str) -> str:
    """What an open service calls who sends this key."""
    return "key:" + sha256(token.encode()).hexdigest()[:12]


def chat_and_vote(world: World, number: int) -> None:
    """One seat: person after person, each asks a few things and says what they think of the answers."""
    rng, wire = world.rng(f"person {number}"), Wire(world)
    asked = 0
    while not world.over.is_set():
        person = f"person-{number}-{asked // VISIT}"
        try:
            answer = ask(
                wire, person, f"Question {number}/{asked}: what is {rng.randrange(1000)}?", rng.random()
            )
            for turn in range(rng.choice((1, 1, 1, 2)) if answer else 0):
                vote(wire, person, answer, f"{number}.{asked}.{turn}")
        except Cut:
            time.sleep(0.2)
        asked += 1
        if asked % VISIT == 0:
            world.gone.append(person)
        world.over.wait(rng.expovariate(1 / PAUSE))
    wire.close()


def ask(wire: Wire, person: str, question: str, fate: float) -> str:
    """One question, streamed or not. Returns the answer's id; empty for somebody who left (`fate`) before its end."""
    world, streamed = wire.world, fate < 0.6
    leaves = fate < 0.12 or fate > 0.96
    body = {"model": "honed", "messages": [{"role": "user", "content": question}], "temperature": 1.0}
    body |= {"stream": streamed}
    began = world.now()
    if leaves and not streamed:
        return leave_at_once(wire, person, body)
    response = wire.send("POST", "/v1/chat/completions", body, Authorization=f"Bearer {person}")
    if response.status != 200:
        world.fault(f"chat: {response.status} {wire.read(response, 'chat')[:200]!r}")
        return ""
    answer = (
        stream(wire, response, leaves=leaves) if streamed else json.loads(wire.read(response, "chat"))["id"]
    )
    if answer:
        world.timings.append(Timing(began, "chat", 1000 * (world.now() - began)))
        world.answers.append(answer)
        world.count(world.counts, "answers")
    return answer


def leave_at_once(wire: Wire, person: str, body: dict[str, Any]) -> str:
    """Ask and be gone before anything comes."""
    connection = wire.open()
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {person}"}
        connection.request("POST", "/v1/chat/completions", body=json.dumps(body), headers=headers)
    except OSError as error:
        raise wire.lost("chat", error) from error
    wire.close()
    wire.world.count(wire.world.counts, "left before the answer")
    return ""


def stream(wire: Wire, response: Any, *, leaves: bool) -> str:
    """Read to the end, or up to the first words and away."""
    found, ended = "", False
    while line := wire.line(response, "stream"):
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            ended = True
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise wire.lost("stream", RuntimeError(str(chunk["error"])))
        found = chunk["id"]
        if leaves:
            wire.close()
            wire.world.count(wire.world.counts, "left in the middle")
            return ""
    if not ended:
        raise wire.lost("stream", RuntimeError("ended without [DONE]"))
    return found


def vote(wire: Wire, person: str, answer: str, key: str) -> None:
    """One opinion, sent until it is acknowledged: a restart in between must not lose or double it."""
    world, rng = wire.world, wire.world.rng(f"vote {key}")
    kind, value = opinion(rng.random(), rng.random() < 0.5)
    body: dict[str, Any] = {"completion_id": answer, "kind": kind, "value": value, "metadata": {"soak": key}}
    headers = {"Authorization": f"Bearer {person}"}
    if rng.random() < 0.5:
        body["id"] = f"soak-{key}"
    else:
        headers["Idempotency_Key"] = f"soak-{key}"
    times, first = 2 if rng.random() < 0.1 else 1, ""
    while times and not world.over.is_set():
        began = world.now()
        try:
            row = wire.json("POST", "/v1/feedback", body, want=201, **headers)
        except Cut:
            time.sleep(0.2)
            continue
        if row is None:
            return
        world.timings.append(Timing(began, "vote", 1000 * (world.now() - began)))
        if first and first != row["id"]:
            world.fault(f"a repeated vote {key} got another id: {first}, {row['id']}")
        first, times = row["id"], times - 1
        world.ledger.write(key, person, spelt(answer, kind, value))


def opinion(draw: float, up: bool) -> tuple[str, Any]:
    """Thumbs mostly, one in ten taken back."""
    if draw < 0.8:
        return "thumb", None if draw < 0.08 else up
    if draw < 0.86:
        return "edit", "That would be said better like this, with more care."
    if draw < 0.92:
        return "rating", 5 if up else 1
    return ("comment", "A remark on it.") if up else ("click", "copy")


def spelt(answer: str, kind: str, value: Any) -> str:
    return json.dumps([answer, kind, value])


def operate(world: World, folder: Path, environment: dict[str, str]) -> None:
    """Iteration after iteration; what is held is promoted, and now and then one goes back, forgets, labels, saves."""
    rng, wire, turn = world.rng("operator"), Wire(world), 0
    while not world.over.is_set():
        turn += 1
        try:
            for answer in world.answers[-3:]:
                order(wire, "label", completion_id=answer, good=rng.random() < 0.5, reason="soak")
            del world.answers[:-50]
            order(wire, "train", reason=f"soak, turn {turn}")
            latest = wire.json("GET", "/v1/iterations?limit=1")["data"]
            if latest and latest[0]["stage"] == "held":
                order(wire, "promote", version=latest[0]["candidate"], reason="soak: held")
            if turn % 4 == 0:
                order(wire, "rollback", reason="soak")
            if turn % 9 == 0:
                order(wire, "rollback", reason="soak", quarantine=True)
                order(wire, "release", all=True, reason="soak: honest after all")
            if turn % 12 == 5 and world.gone:
                forget(wire, world.gone.pop(0))
            if turn % 10 == 7:
                back_up(world, folder, environment)
        except Cut:
            time.sleep(0.5)
        world.over.wait(2.0)
    wire.close()


def order(wire: Wire, kind: str, **arguments: Any) -> str:
    """Give an order and wait until the loop has dealt with it. Returns how."""
    world = wire.world
    row = wire.json("POST", f"/v1/operator/{kind}", arguments, want=202)
    while row is not None and not world.over.is_set():
        try:
            now = wire.json("GET", f"/v1/operator/intents/{row['id']}")
        except Cut:
            time.sleep(0.2)
            continue
        if now is not None and now["status"] not in ("pending", "running"):
            world.count(world.orders, f"{kind}: {now['status']}")
            # An iteration whose service was killed too often ends as failed; that is counted among the iterations.
            if now["status"] == "failed" and kind != "train":
                world.fault(f"{kind} failed: {now['outcome']}")
            return str(now["status"])
        world.over.wait(0.3)
    return ""


def forget(wire: Wire, person: str) -> None:
    """Whoever is forgotten has no votes any more, acknowledged or not."""
    if order(wire, "forget", user=principal(person), reason="soak: asked to be forgotten") == "done":
        wire.world.forgotten.add(person)


def back_up(world: World, folder: Path, environment: dict[str, str]) -> None:
    """`honed backup` beside everything else; every vote acknowledged before it began is in it."""
    known, to = list(world.ledger.acknowledged.items()), folder / f"backup-{world.now():.0f}"
    command = [sys.executable, "-m", "daemon", "backup", str(to), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    world.count(world.orders, f"backup: exit {done.returncode}")
    if done.returncode:
        world.fault(f"backup: {done.stderr[-500:]}")
        return
    rows = stored(to / DATABASE)
    lost = [key for key, (person, _) in known if key not in rows and person not in world.forgotten]
    if lost:
        world.fault(f"backup {to.name} lacks {len(lost)} acknowledged votes: {lost[:5]}")
    shutil.rmtree(to)


def stored(database: Path) -> dict[str, list[str]]:
    """Votes of the soak as they lie in a database, read without honed: key -> what each row says."""
    found: dict[str, list[str]] = {}
    sql = "select metadata, completion_id, kind, value from feedback order by seq"
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        for metadata, answer, kind, value in connection.execute(sql):
            key = json.loads(metadata).get("soak")
            if key is not None:
                found.setdefault(key, []).append(spelt(answer, kind, json.loads(value)))
    finally:
        connection.close()
    return found


def look(world: World) -> None:
    """Pages, metrics and lists, one every few seconds, and an event stream that is left open for a while."""
    wire, turn = Wire(world), 0
    while not world.over.is_set():
        path = PAGES[turn % len(PAGES)]
        turn += 1
        try:
            response = wire.send("GET", path)
            content = wire.read(response, path)
            if response.status != 200:
                world.fault(f"GET {path}: {response.status} {content[:200]!r}")
            if turn % 10 == 0:
                wire.send("GET", "/v1/events?after=0")
                world.over.wait(3.0)
                wire.close()
        except Cut:
            time.sleep(0.2)
        world.over.wait(2.0)
    wire.close()

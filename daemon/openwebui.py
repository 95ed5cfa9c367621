"""Open WebUI's feedback export (Admin Panel, Evaluations): a JSON array of ratings, each with its whole chat.

Read from a row: `user_id`, `data.rating` (1 or -1) with `reason`, `comment`, `tags` and `details.rating`,
`meta.message_id`, and `snapshot.chat.chat`: the messages by id, each naming its parent, so that a rated answer's
prompt is the way up from it, whatever branches the chat has [open-webui/open-webui:
backend/open_webui/models/feedbacks.py, src/lib/components/chat/Messages/ResponseMessage.svelte].

Left out: arena verdicts beyond their thumb, since the export does not keep the answers together that were compared;
prompts with files, whose content is not in it.
"""

import re
from collections.abc import Mapping
from typing import Any

from daemon.rows import MAX_NAME, BadRow, Said, required, shown, spoken, text
from store.records import FeedbackKind, Message, Role

RATINGS = {"1": True, "-1": False}
#: What Open WebUI shows of a model's thinking and does not send back to it.
ASIDE = re.compile(r'<details type="(?:reasoning|code_interpreter)"[^>]*>.*?</details>\s*', re.DOTALL)
#: Under which key the time of a rating is kept, in seconds since the epoch.
SAID_AT = "said_at"
#: Characters of a reason at the most, as over HTTP.
MAX_REASON = 1000


def is_openwebui(row: Mapping[str, Any]) -> bool:
    return "data" in row and ("snapshot" in row or "meta" in row)


def rating(row: Mapping[str, Any]) -> Said:
    """One rating as a thumb of the person's who gave it, under the name live requests from Open WebUI have.

    Raises:
        BadRow: a field is missing, or not what it must be.
    """
    data, meta = section(row, "data"), section(row, "meta")
    user = text(required(row, "user_id"), "user_id", most=MAX_NAME)
    if not user.strip():
        raise BadRow("user_id", "empty")
    value = required(data, "rating", of="data.")
    if isinstance(value, bool) or str(value) not in RATINGS:
        raise BadRow("data.rating", f"{shown(value)} is neither 1 nor -1")
    message_id = text(required(meta, "message_id", of="meta."), "meta.message_id", most=MAX_NAME)
    prompt, answer = exchange(row, message_id)
    return Said(
        principal=f"owui:{user[:128]}",
        prompt=prompt,
        answers=(answer,),
        kind=FeedbackKind.THUMB,
        value=RATINGS[str(value)],
        # Not what was said: another rating of the same message replaces this one, as a new vote does.
        identity=("openwebui", str(meta.get("chat_id")), message_id),
        reason=optional(data, "reason", most=MAX_REASON),
        comment=optional(data, "comment"),
        metadata=extras(row, data),
        repeats=False,
    )


def section(row: Mapping[str, Any], name: str, *, of: str = "") -> Mapping[str, Any]:
    found = required(row, name, of=of)
    if not isinstance(found, dict):
        raise BadRow(f"{of}{name}", f"{shown(found)} is not an object")
    return found


def optional(data: Mapping[str, Any], name: str, **limits: int) -> str | None:
    return None if data.get(name) is None else text(data[name], f"data.{name}", **limits)


def extras(row: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What else is worth keeping beside a thumb: it trains nothing."""
    details = data.get("details")
    found = {
        "model": data.get("model_id"),
        "stars_of_ten": details.get("rating") if isinstance(details, dict) else None,
        "tags": ", ".join(map(str, data["tags"])) if isinstance(data.get("tags"), list) else None,
        SAID_AT: row.get("updated_at") or row.get("created_at"),
    }
    kept = {name: value for name, value in found.items() if isinstance(value, int | float | str) and value}
    if not isinstance(kept.get(SAID_AT, 0), int | float):
        raise BadRow("updated_at", f"{shown(kept[SAID_AT])} is not a time in seconds")
    return kept


def exchange(row: Mapping[str, Any], message_id: str) -> tuple[tuple[Message, ...], str]:
    """The rated answer, and the conversation that led to it."""
    place = "snapshot.chat.chat"
    if row.get("snapshot") is None:
        raise BadRow("snapshot", "missing: an export without chats says nothing of what was rated")
    chat = section(section(section(row, "snapshot"), "chat", of="snapshot."), "chat", of="snapshot.chat.")
    path = ancestry(messages_of(chat, place), message_id, f"{place}.history.messages")
    *before, rated = [message_at(one, where) for where, one in path]
    if rated.role != Role.ASSISTANT:
        raise BadRow("meta.message_id", f"names a message of the {rated.role}'s")
    if not before:
        raise BadRow("meta.message_id", "names an answer to nothing: no message stands before it")
    system = system_prompt(chat, place)
    if system is not None and before[0].role != Role.SYSTEM:
        before.insert(0, Message(Role.SYSTEM, system))
    return tuple(before), spoken(rated.content, f"{path[-1][0]}.content")


def messages_of(chat: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Messages by id; older chats have a list of them."""
    history, listed = chat.get("history"), chat.get("messages")
    if isinstance(history, dict) and isinstance(history.get("messages"), dict):
        found: dict[str, Any] = history["messages"]
        return found
    if isinstance(listed, list):
        return {one["id"]: one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)}
    raise BadRow(f"{place}.history.messages", "missing")


def ancestry(messages: Mapping[str, Any], last: str, place: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The messages from the first to `last`, each with its place in the row."""
    path: list[tuple[str, Mapping[str, Any]]] = []
    at: Any = last
    while at is not None:
        where = f"{place}[{shown(at)}]"
        one = messages.get(at) if isinstance(at, str) else None
        if not isinstance(one, dict):
            raise BadRow(where, "missing")
        if len(path) > len(messages):
            raise BadRow(f"{where}.parentId", "goes round in a circle")
        path.append((where, one))
        at = one.get("parentId")
    return path[::-1]


def message_at(one: Mapping[str, Any], place: str) -> Message:
    role = required(one, "role", of=f"{place}.")
    if not isinstance(role, str) or role not in frozenset(Role):
        raise BadRow(f"{place}.role", f"{shown(role)} is not one of {', '.join(Role)}")
    if one.get("files"):
        raise BadRow(f"{place}.files", "the message came with files, which are not in the export")
    content = text(required(one, "content", of=f"{place}."), f"{place}.content")
    return Message(role, ASIDE.sub("", content) if role == Role.ASSISTANT else content)


def system_prompt(chat: Mapping[str, Any], place: str) -> str | None:
    """What the chat's own settings put before everything, if anything."""
    params = chat.get("params")
    for holder, where in ((params, f"{place}.params.system"), (chat, f"{place}.system")):
        if isinstance(holder, dict) and holder.get("system"):
            return text(holder["system"], where)
    return None

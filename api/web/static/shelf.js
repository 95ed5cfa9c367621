// Conversations, kept in this browser's storage: one key each, so that two tabs do not write over each other.

const PREFIX = "honed.chat.";
const BEFORE = "honed.conversation.1";
const SHOWN = "honed.shown";
const TITLE = 60;

/**
 * A conversation is {id, title, named, at, turns}. A turn is {role: "user", text} or
 * {role: "assistant", answers, shown}; an answer {id, receipt, model, text, thumb, state, ...}, where `state` is
 * "running", "done", "stopped" or "failed", `edited` what its reader made of it, `over` the ids it was preferred over.
 */
const known = new Map();

function sound(turn) {
  if (turn?.role === "user") return typeof turn.text === "string";
  return turn?.role === "assistant" && Array.isArray(turn.answers) && turn.answers.length > 0
    && turn.answers.every((answer) => typeof answer?.text === "string");
}

/** What was stored, if it still makes sense. What was being written when the page went away was stopped by that. */
function read(key) {
  let kept;
  try {
    kept = JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
  if (!kept || typeof kept.id !== "string" || !Array.isArray(kept.turns) || !kept.turns.every(sound)) return null;
  for (const turn of kept.turns) {
    if (turn.role !== "assistant") continue;
    turn.shown = Math.min(Math.max(Number(turn.shown) || 0, 0), turn.answers.length - 1);
    for (const answer of turn.answers) if (answer.state === "running") answer.state = "stopped";
  }
  return kept;
}

export function fresh() {
  return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), title: "", named: false, at: Date.now(), turns: [] };
}

/** Newest first. */
export function all() {
  return [...known.values()].sort((one, other) => other.at - one.at);
}

export function find(id) {
  return known.get(id) ?? null;
}

/** Keep it; false where the browser has no room for it or forbids storage. */
export function keep(conversation) {
  const first = conversation.turns.find((turn) => turn.role === "user");
  if (!conversation.named && first) conversation.title = first.text.trim().split("\n")[0].slice(0, TITLE);
  known.set(conversation.id, conversation);
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export function drop(id) {
  known.delete(id);
  try { localStorage.removeItem(PREFIX + id); } catch { /* forbidden storage holds nothing */ }
}

/** Which conversation this tab shows, over a reload; a new tab shows the newest. */
export function shown() {
  try {
    const id = sessionStorage.getItem(SHOWN);
    return id === null ? all()[0] ?? null : find(id);
  } catch {
    return null;
  }
}

export function show(id) {
  try { sessionStorage.setItem(SHOWN, id); } catch { /* the newest is shown after a reload instead */ }
}

/** `changed(id)` when another tab kept or dropped one. `busy(id)`: one that this tab is writing to is left alone. */
export function watch(busy, changed) {
  addEventListener("storage", ({ key }) => {
    if (!key?.startsWith(PREFIX)) return;
    const id = key.slice(PREFIX.length);
    if (busy(id)) return;
    const kept = read(key);
    if (kept) known.set(id, kept); else known.delete(id);
    changed(id);
  });
}

/** Until version 0.1 there was one conversation, in a key of its own. */
function migrate() {
  const kept = localStorage.getItem(BEFORE);
  if (kept === null) return;
  let turns = [];
  try { turns = JSON.parse(kept); } catch { /* not readable, so nothing to carry over */ }
  if (Array.isArray(turns) && turns.length && turns.every(sound)) {
    for (const turn of turns) for (const answer of turn.answers ?? []) answer.state = answer.trouble ? "failed" : "done";
    if (!keep({ ...fresh(), turns })) return;
  }
  localStorage.removeItem(BEFORE);
}

try {
  for (const key of Object.keys(localStorage).filter((one) => one.startsWith(PREFIX))) {
    const kept = read(key);
    if (kept) known.set(kept.id, kept);
  }
  migrate();
} catch {
  // A browser that forbids storage shows one conversation, until it is closed.
}

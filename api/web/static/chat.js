// The chat page: asks, shows answers as they come, and lets the other modules do what is theirs.

import { assistantTurn, userTurn } from "./answer.js";
import { say } from "./dom.js";
import { gestures, shownOf, textOf, viewOf } from "./gestures.js";
import { patch, render } from "./markdown.js";
import * as shelf from "./shelf.js";
import * as side from "./side.js";
import { ask } from "./stream.js";

const SAVE_MS = 2000;
const SPOKEN = 1500;
const log = document.getElementById("log");
const form = document.getElementById("ask");
const text = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const empty = document.getElementById("empty");
const full = document.getElementById("full");

let conversation = shelf.shown() ?? shelf.fresh();
/** Conversation id -> {turn, answer, abort} of the answer being written there. */
const runs = new Map();
const boxes = new Map();
let leaving = false;

function keep(one = conversation) {
  full.hidden = shelf.keep(one);
}

// Drawing

function nameOf(control) {
  return control.getAttribute("aria-label") ?? control.textContent;
}

/** Into a panel that has just opened, and back to what opened it; else to the same control. True: a panel was entered. */
function settleFocus(turn, box, focused) {
  const view = viewOf(turn);
  const controls = [...box.querySelectorAll("button, textarea, select, input")];
  const named = (name) => controls.find((one) => nameOf(one) === name);
  const first = view.fresh ? box.querySelector(".panel textarea, .panel input, .panel button:not([aria-disabled])") : null;
  view.fresh = false;
  if (first) {
    view.opener = focused && nameOf(focused);
    first.focus({ preventScroll: true });
    const panel = first.closest(".panel");
    panel.scrollIntoView({ block: panel.offsetHeight > log.clientHeight ? "start" : "nearest" });
  } else if (focused) {
    const same = controls.find((one) => nameOf(one) === nameOf(focused) && one.type === focused.type && one.value === focused.value);
    (same ?? named(view.opener) ?? controls[0])?.focus({ preventScroll: true });
  }
  return Boolean(first);
}

/** Votes are asked for when their answer comes into view, once: a long conversation is not a hundred requests. */
const asked = new WeakSet();
function restore(turn) {
  const answer = shownOf(turn);
  if (asked.has(answer) || answer.state === "running") return;
  asked.add(answer);
  act.restore(turn);
}

const inView = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    const turn = isIntersecting && [...boxes].find(([, box]) => box === target)?.[0];
    if (turn) restore(turn);
  }
}, { root: log });

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

/** Draw one turn again; the keyboard's place is kept. */
function redraw(turn) {
  const old = boxes.get(turn);
  if (!old && !conversation.turns.includes(turn)) return;
  const run = runs.get(conversation.id);
  const state = { running: run?.turn === turn, last: turn === conversation.turns.at(-1), busy: Boolean(run) };
  const box = turn.role === "user" ? userTurn(turn) : assistantTurn(turn, act, state);
  const focused = old?.contains(document.activeElement) ? document.activeElement : null;
  const [near, scroll] = [atEnd(), log.scrollTop];
  if (old) { inView.unobserve(old); old.replaceWith(box); } else log.append(box);
  boxes.set(turn, box);
  if (turn.role === "assistant" && !asked.has(shownOf(turn))) inView.observe(box);
  const opened = settleFocus(turn, box, focused);
  if (old && !opened) log.scrollTop = near ? log.scrollHeight : scroll;
}

function drawSide() {
  side.draw(shelf.all(), conversation, listed);
}

function drawForm() {
  const running = runs.has(conversation.id);
  send.hidden = running;
  stop.hidden = !running;
}

function drawAll() {
  inView.disconnect();
  for (const box of boxes.values()) box.remove();
  boxes.clear();
  empty.hidden = conversation.turns.length > 0;
  conversation.turns.forEach(redraw);
  document.title = conversation.title ? `${conversation.title} · honed` : "honed";
  log.scrollTop = log.scrollHeight;
  drawForm();
  drawSide();
}

function show(one) {
  conversation = one;
  shelf.show(one.id);
  drawAll();
}

// Answering

/** What the model is told: the turns before one, each with the answer that is shown. */
function before(turns, until) {
  return turns.slice(0, turns.indexOf(until)).flatMap((turn) => {
    if (turn.role === "user") return [{ role: "user", content: turn.text }];
    const content = textOf(shownOf(turn));
    return content ? [{ role: "assistant", content }] : [];
  });
}

/** Draw what has come, once a frame; follow the end only for who is looking at it. */
function growing(turn, answer) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      const words = boxes.get(turn)?.querySelector(".words");
      if (!words || runs.get(conversation.id)?.answer !== answer) return;
      const near = atEnd();
      patch(words, render(answer.text));
      words.classList.toggle("waiting", !answer.text);
      if (near) log.scrollTop = log.scrollHeight;
    });
  };
}

function ended(answer, error) {
  if (!error) { answer.state = "done"; return; }
  if (error.name === "AbortError" || leaving) { answer.state = "stopped"; return; }
  Object.assign(answer, { state: "failed", trouble: error.message });
  if (error.wait) answer.retryAt = Date.now() + 1000 * error.wait;
}

function speak(turn, answer) {
  if (answer.trouble) { say(answer.trouble); return; }
  const said = boxes.get(turn)?.querySelector(".words")?.innerText ?? "";
  say(`${answer.state === "stopped" ? "Stopped" : "Answer"}: ${said.slice(0, SPOKEN)}`);
}

/** Have the model write another answer in a turn of the conversation that is shown; resolves when it has ended. */
async function write(turn) {
  const home = conversation;
  const answer = { id: null, receipt: null, model: null, text: "", thumb: null, state: "running" };
  const run = { turn, answer, abort: new AbortController() };
  turn.answers.push(answer);
  asked.add(answer);
  turn.shown = turn.answers.length - 1;
  Object.assign(viewOf(turn), { panel: null, note: null, trouble: null });
  runs.set(home.id, run);
  home.at = Date.now();
  keep(home);
  drawAll();
  say("Answering.");
  const grow = growing(turn, answer);
  let saved = 0;
  let failure = null;
  try {
    answer.finish = await ask(before(home.turns, turn), {
      signal: run.abort.signal,
      onStart: ({ receipt, adapter }) => Object.assign(answer, { receipt, model: adapter }),
      onText: (id, model, more) => {
        Object.assign(answer, { id, model });
        answer.text += more;
        grow();
        if (Date.now() - saved < SAVE_MS) return;
        saved = Date.now();
        keep(home);
      },
    });
  } catch (error) {
    failure = error;
  }
  ended(answer, failure);
  runs.delete(home.id);
  if (shelf.find(home.id)) keep(home);
  if (conversation === home) {
    home.turns.filter((one) => one.role === "assistant").forEach(redraw);
    drawForm();
    speak(turn, answer);
  }
  return answer;
}

async function again(turn) {
  if (runs.has(conversation.id)) return;
  const old = shownOf(turn);
  await act.replaced(turn, old, await write(turn));
}

/** After a failure. An answer that never began leaves no trace; one that broke off stays beside the new one. */
function retry(turn) {
  if (runs.has(conversation.id)) return undefined;
  const old = shownOf(turn);
  if (old.text) return again(turn);
  turn.answers.splice(turn.shown, 1);
  return write(turn);
}

const act = {
  ...gestures((turn) => { redraw(turn); keepOf(turn); }),
  again,
  retry,
  redraw,
  show(turn, at) {
    turn.shown = at;
    act.close(turn);
    restore(turn);
  },
};

/** Acknowledgements may come when another conversation is shown. */
function keepOf(turn) {
  const home = conversation.turns.includes(turn) ? conversation : shelf.all().find((one) => one.turns.includes(turn));
  if (home) keep(home);
}

const listed = {
  show: (id) => { show(shelf.find(id) ?? shelf.fresh()); text.focus(); },
  redraw: drawSide,
  rename(one, name) {
    Object.assign(one, { title: name, named: true });
    keep(one);
    drawSide();
  },
  remove(one) {
    runs.get(one.id)?.abort.abort();
    shelf.drop(one.id);
    if (one.id === conversation.id) show(shelf.all()[0] ?? shelf.fresh()); else drawSide();
    text.focus();
  },
};

// The form and the keyboard

function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words || runs.has(conversation.id)) return;
  text.value = "";
  fit();
  const turn = { role: "assistant", answers: [], shown: 0 };
  conversation.turns.push({ role: "user", text: words }, turn);
  shelf.show(conversation.id);
  write(turn);
  // The button hides; the keyboard's place must not go with it.
  text.focus({ preventScroll: true });
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

text.addEventListener("input", fit);
const halt = () => { runs.get(conversation.id)?.abort.abort(); text.focus({ preventScroll: true }); };
stop.addEventListener("click", halt);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !event.isComposing && runs.has(conversation.id)) halt();
});

document.getElementById("new").addEventListener("click", () => {
  show(shelf.fresh());
  text.focus();
});

// Code is drawn anew while it grows, so its buttons are listened to here.
log.addEventListener("click", ({ target }) => {
  const button = target.closest(".copycode");
  const turn = button && [...boxes].find(([, box]) => box.contains(button))?.[0];
  if (!turn || runs.get(conversation.id)?.turn === turn) return;
  act.copy(turn, shownOf(turn), button.closest(".code").querySelector("code").textContent);
});

// Leaving cuts answers off, which is the reader's doing and no failure. Who stays after all has a second to wait.
addEventListener("beforeunload", () => {
  leaving = true;
  setTimeout(() => { leaving = false; }, 1000);
});

addEventListener("pagehide", () => {
  for (const [id, { answer }] of runs) {
    answer.state = "stopped";
    if (shelf.find(id)) keep(shelf.find(id));
  }
});

shelf.watch((id) => runs.has(id), (id) => {
  if (id === conversation.id) show(shelf.find(id) ?? shelf.fresh()); else drawSide();
});

show(conversation);

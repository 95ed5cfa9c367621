// The chat page. The conversation lives in localStorage; votes live on the server and are asked for again.
// Answers are shown with textContent only: whatever a model writes stays text.

import { ask, tell, thumbOf } from "./stream.js";

const KEY = "honed.conversation.1";
const log = document.getElementById("log");
const form = document.getElementById("ask");
const text = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const empty = document.getElementById("empty");

/** Turns: {role: "user", text} or {role: "assistant", answers: [{id, receipt, model, text, thumb}], shown}. */
let turns = load();
let running = null;

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

function save() {
  try {
    localStorage.setItem(KEY, JSON.stringify(turns));
  } catch {
    // A full or forbidden storage costs the history after a reload, nothing else.
  }
}

function element(name, { className, label, words, press } = {}) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (label) { made.setAttribute("aria-label", label); made.title = label; }
  if (words !== undefined) made.textContent = words;
  if (press) { made.type = "button"; made.addEventListener("click", press); }
  return made;
}

const SHAPES = {
  up: "M7 9v10H4V9zm0 0 4-6c1.5 0 2.4 1 2 2.6L12.4 8H18c1.2 0 2 1 1.7 2.2l-1.6 7c-.2 1-1 1.8-2 1.8H7",
  down: "M17 13V3h3v10zm0 0-4 6c-1.500 0-2.400-1-2-2.600L11.600 14H6c-1.200 0-2-1-1.700-2.200l1.600-7c.2-1 1-1.800 2-1.800H17",
  copy: "M8 8V4h11v11h-4M4 8h11v11H4z",
  again: "M19 5v5h-5M19 10a7.500 7.500 0 1 0 .5 4",
};

function icon(shape) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 23 23");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[shape]);
  svg.append(path);
  return svg;
}

function tool(shape, label, press) {
  const made = element("button", { label, press });
  made.append(icon(shape));
  return made;
}

const shownOf = (turn) => turn.answers[turn.shown];

function view(turn) {
  const box = element("article", { className: `turn ${turn.role}` });
  const answer = turn.role === "assistant" ? shownOf(turn) : turn;
  const words = element("p", { className: "words", words: answer.text });
  box.append(words);
  if (turn.role === "assistant") {
    if (answer === running?.answer && !answer.text) words.classList.add("waiting");
    if (answer.trouble) box.append(element("p", { className: "trouble", words: answer.trouble }));
    if (answer !== running?.answer) box.append(bar(turn, answer));
  }
  return box;
}

function bar(turn, answer) {
  const made = element("div", { className: "bar" });
  if (answer.id) {
    for (const [shape, value, label] of [["up", true, "Good answer"], ["down", false, "Bad answer"]]) {
      const button = tool(shape, label, () => vote(turn, answer, answer.thumb === value ? null : value));
      button.setAttribute("aria-pressed", String(answer.thumb === value));
      made.append(button);
    }
    made.append(tool("copy", "Copy", () => copy(turn, answer)));
  }
  const again = tool("again", "Answer again", () => regenerate(turn));
  again.disabled = Boolean(running) || turn !== turns.at(-1);
  made.append(again);
  if (turn.answers.length > 1) {
    const show = (at) => { turn.shown = at; save(); refresh(turn); restore(shownOf(turn), turn); };
    const earlier = element("button", { className: "text", label: "Earlier answer", words: "‹", press: () => show(turn.shown - 1) });
    const later = element("button", { className: "text", label: "Later answer", words: "›", press: () => show(turn.shown + 1) });
    earlier.disabled = turn.shown === 0;
    later.disabled = turn.shown === turn.answers.length - 1;
    made.append(earlier, element("span", { words: `${turn.shown + 1}/${turn.answers.length}` }), later);
  }
  made.append(element("span", { className: "version", words: answer.model ?? "", label: "Which version answered" }));
  return made;
}

const boxes = new Map();

function refresh(turn) {
  const box = view(turn);
  const old = boxes.get(turn);
  // Replacing a box would drop the keyboard's place; put it back on the same button.
  const focused = old?.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  if (old) old.replaceWith(box); else log.append(box);
  boxes.set(turn, box);
  if (focused) [...box.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === focused)?.focus();
}

function render() {
  for (const box of boxes.values()) box.remove();
  boxes.clear();
  empty.hidden = turns.length > 0;
  turns.forEach(refresh);
  log.scrollTop = log.scrollHeight;
}

function trouble(turn, answer, error) {
  answer.trouble = error.message;
  refresh(turn);
}

async function vote(turn, answer, value) {
  const before = answer.thumb;
  answer.thumb = value;
  delete answer.trouble;
  refresh(turn);
  try {
    await tell(answer, "thumb", value);
    save();
  } catch (error) {
    answer.thumb = before;
    trouble(turn, answer, error);
  }
}

async function copy(turn, answer) {
  try {
    await navigator.clipboard.writeText(answer.text);
    await tell(answer, "click", "copy");
  } catch (error) {
    trouble(turn, answer, error);
  }
}

async function restore(answer, turn) {
  if (!answer.id) return;
  const thumb = await thumbOf(answer);
  if (thumb === undefined || thumb === answer.thumb) return;
  answer.thumb = thumb;
  save();
  refresh(turn);
}

function prompt(until) {
  return turns.slice(0, turns.indexOf(until)).flatMap((turn) =>
    turn.role === "user" ? [{ role: "user", content: turn.text }]
      : shownOf(turn).text ? [{ role: "assistant", content: shownOf(turn).text }] : []);
}

async function answer(turn) {
  const made = { id: null, receipt: null, model: null, text: "", thumb: null };
  turn.answers.push(made);
  turn.shown = turn.answers.length - 1;
  running = { answer: made, abort: new AbortController() };
  send.hidden = true;
  stop.hidden = false;
  save();
  render();
  try {
    await ask(prompt(turn), {
      signal: running.abort.signal,
      onStart: ({ receipt, adapter }) => { made.receipt = receipt; made.model = adapter; },
      onText: (id, model, more) => {
        const first = made.id === null;
        Object.assign(made, { id, model });
        grow(turn, made, more);
        if (first) save();
      },
    });
  } catch (error) {
    if (error.name !== "AbortError") made.trouble = error.message;
  } finally {
    running = null;
    send.hidden = false;
    stop.hidden = true;
    save();
    turns.filter((one) => one.role === "assistant").forEach(refresh);
  }
  return made;
}

function grow(turn, made, more) {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  made.text += more;
  const words = boxes.get(turn).querySelector(".words");
  words.textContent = made.text;
  words.classList.toggle("waiting", !made.text);
  if (near) log.scrollTop = log.scrollHeight;
}

async function regenerate(turn) {
  if (running) return;
  const old = shownOf(turn);
  const made = await answer(turn);
  // Both ids must exist before one can be said to have replaced the other.
  if (old.id && made.id) await tell(old, "regenerate", made.id).catch((error) => trouble(turn, made, error));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim();
  if (!words || running) return;
  text.value = "";
  text.style.height = "";
  const turn = { role: "assistant", answers: [], shown: 0 };
  turns.push({ role: "user", text: words }, turn);
  answer(turn);
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

text.addEventListener("input", () => {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
});

stop.addEventListener("click", () => running?.abort.abort());

document.getElementById("new").addEventListener("click", () => {
  running?.abort.abort();
  turns = [];
  save();
  render();
  text.focus();
});

render();
for (const turn of turns) if (turn.role === "assistant" && turn.answers.length) restore(shownOf(turn), turn);

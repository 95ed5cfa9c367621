// One turn of a conversation as the page shows it.

import { element, hold, tool } from "./dom.js";
import { shownOf, textOf, viewOf } from "./gestures.js";
import { render } from "./markdown.js";
import { comparison, correction, reasons } from "./panels.js";

function thumb(turn, answer, act, value) {
  const made = tool(value ? "up" : "down", value ? "Good answer" : "Bad answer",
    () => act.vote(turn, answer, answer.thumb === value ? null : value));
  made.setAttribute("aria-pressed", String(answer.thumb === value));
  return hold(made, viewOf(turn).busy);
}

function siblings(turn, act) {
  const step = (by, label, words) => {
    const made = element("button", { className: "tool text", label, words, press: () => act.show(turn, turn.shown + by) });
    made.disabled = turn.shown + by < 0 || turn.shown + by >= turn.answers.length;
    return made;
  };
  return [
    step(-1, "Earlier answer", "‹"), element("span", { words: `${turn.shown + 1}/${turn.answers.length}` }), step(1, "Later answer", "›"),
  ];
}

/** The answer to hold the shown one against: the one before it, else the one after. */
function pairOf(turn) {
  const right = Math.max(turn.shown, 1);
  return { left: right - 1, right };
}

function bar(turn, answer, act, { last, busy }) {
  const made = element("div", { className: "bar", role: "group", "aria-label": "What to do with this answer" });
  if (answer.id && answer.text) {
    made.append(
      thumb(turn, answer, act, true), thumb(turn, answer, act, false),
      tool("copy", "Copy", () => act.copy(turn, answer)),
      tool("edit", "Correct this answer", () => act.open(turn, "edit", { draft: textOf(answer) })),
    );
  }
  if (last && answer.state !== "failed") made.append(hold(tool("again", "Answer again", () => act.again(turn)), busy));
  if (turn.answers.length > 1) {
    made.append(...siblings(turn, act));
    if (turn.answers.filter((one) => one.id && one.text).length > 1 && turn.answers.every((one) => one.id)) {
      made.append(element("button", { className: "tool text", words: "Compare", press: () => act.open(turn, "compare", pairOf(turn)) }));
    }
  }
  if (answer.model) {
    made.append(element("span", { className: "version", words: answer.model, title: "The version that answered" }));
  }
  return made;
}

function notes(answer, view) {
  const said = [
    answer.state === "stopped" && "Stopped.",
    answer.finish === "length" && "Cut off at the longest an answer may be.",
    answer.edited !== undefined && "Corrected by you.",
    answer.over?.length > 0 && "Your choice.",
    view.note,
  ].filter(Boolean);
  return said.length ? [element("p", { className: "hint", words: said.join(" ") })] : [];
}

/** A button that counts down in place until the server may be asked again. */
function retryButton(turn, answer, act, busy) {
  const made = element("button", { press: () => act.retry(turn) });
  const count = () => {
    const left = Math.ceil(((answer.retryAt ?? 0) - Date.now()) / 1000);
    made.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    hold(made, left > 0 || busy);
    if (left > 0) setTimeout(() => { if (made.isConnected) count(); }, 250);
  };
  count();
  return made;
}

function trouble(turn, answer, act, { last, busy }) {
  const made = element("div", { className: "trouble" }, element("p", { words: answer.trouble }));
  if (last) made.append(retryButton(turn, answer, act, busy));
  return made;
}

const PANELS = { reasons, edit: correction, compare: comparison };

/** `act`: what buttons do; `state.running` whether this answer is being written, `last` whether it is the last turn. */
export function assistantTurn(turn, act, state) {
  const answer = shownOf(turn);
  const view = viewOf(turn);
  const made = element("article", { className: "turn assistant", "aria-label": "Answer" });
  const words = element("div", { className: "words" }, ...render(textOf(answer)));
  words.classList.toggle("waiting", state.running && !answer.text);
  if (view.panel !== "compare" && view.panel !== "edit") made.append(words);
  if (state.running) return made;
  if (view.panel !== "compare") made.append(...notes(answer, view));
  if (answer.trouble) made.append(trouble(turn, answer, act, state));
  if (view.panel !== "compare" && view.panel !== "edit") made.append(bar(turn, answer, act, state));
  if (view.trouble) made.append(element("p", { className: "trouble", words: view.trouble }));
  if (view.panel) made.append(PANELS[view.panel](turn, act));
  return made;
}

export function userTurn(turn) {
  const words = element("p", { className: "words", words: turn.text });
  return element("article", { className: "turn user", "aria-label": "You" }, words);
}

// What opens under an answer: reasons for a thumb down, a correction, two answers side by side.

import { element, hold } from "./dom.js";
import { REASONS, shownOf, textOf, viewOf } from "./gestures.js";
import { render } from "./markdown.js";

const MOST = 2000;
let forms = 0;

/** Escape leaves a panel; the key goes no further, so it stops no answer. */
function panel(turn, act, name, attributes, ...children) {
  const made = element(name, { className: "panel", ...attributes }, ...children);
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    event.preventDefault();
    act.close(turn);
  });
  return made;
}

function actions(turn, act, { main, cancel, ready }) {
  const submit = hold(element("button", { className: "main", words: main, type: "submit" }), !ready || viewOf(turn).busy);
  return element("div", { className: "actions" }, submit, element("button", { words: cancel, press: () => act.close(turn) }));
}

function whenSubmitted(form, work) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.querySelector("[type=submit]").ariaDisabled !== "true") work();
  });
  return form;
}

export function reasons(turn, act) {
  const view = viewOf(turn);
  const answer = shownOf(turn);
  forms += 1;
  const ready = () => Boolean(view.reason || view.comment?.trim());
  const choices = REASONS.map((reason) => {
    const input = element("input", { type: "radio", name: `reason-${forms}`, value: reason });
    input.checked = view.reason === reason;
    input.addEventListener("change", () => { view.reason = reason; hold(buttons.firstChild, !ready()); });
    return element("label", { className: "chip" }, input, element("span", { words: reason }));
  });
  const comment = element("textarea", {
    label: "Comment", rows: 2, maxlength: MOST, placeholder: "What should it have said? (may be left out)",
  });
  comment.value = view.comment ?? "";
  comment.addEventListener("input", () => { view.comment = comment.value; hold(buttons.firstChild, !ready()); });
  const buttons = actions(turn, act, { main: "Send", cancel: "Not now", ready: ready() });
  const legend = element("legend", { words: "What was wrong with it?" });
  const field = element("fieldset", {}, legend, element("div", { className: "chips" }, ...choices));
  return whenSubmitted(panel(turn, act, "form", {}, field, comment, buttons), () => act.explain(turn, answer));
}

export function correction(turn, act) {
  const view = viewOf(turn);
  const answer = shownOf(turn);
  const ready = () => Boolean(view.draft.trim()) && view.draft !== textOf(answer);
  const text = element("textarea", {
    label: "Corrected answer", className: "tall", rows: Math.min(Math.max(view.draft.split("\n").length + 1, 4), 20),
  });
  text.value = view.draft;
  text.addEventListener("input", () => { view.draft = text.value; hold(buttons.firstChild, !ready()); });
  const buttons = actions(turn, act, { main: "Save correction", cancel: "Cancel", ready: ready() });
  const what = element("p", { className: "hint", words: "Write the answer as it should have been. The model learns from the difference." });
  return whenSubmitted(panel(turn, act, "form", {}, what, text, buttons), () => act.edit(turn, answer));
}

function choice(turn, act, side, other) {
  const view = viewOf(turn);
  const select = element("select", { label: side === "left" ? "Left answer" : "Right answer" },
    ...turn.answers.map((_, index) => element("option", { value: index, words: `Answer ${index + 1}` })));
  select.value = view[side];
  select.addEventListener("change", () => {
    const chosen = Number(select.value);
    if (chosen === view[other]) view[other] = view[side];
    act.open(turn, "compare", { [side]: chosen, fresh: false });
  });
  return select;
}

/** Versions are not shown here: which is better should be said of the words alone. */
export function comparison(turn, act) {
  const view = viewOf(turn);
  const [left, right] = [turn.answers[view.left], turn.answers[view.right]];
  const settled = [[left, right], [right, left]].some(([one, other]) => one.over?.includes(other.id));
  const sides = [["left", "right", left, right], ["right", "left", right, left]].map(([side, opposite, own, other]) => {
    const name = `Answer ${view[side] + 1}`;
    const title = turn.answers.length > 2 ? choice(turn, act, side, opposite) : element("h3", { words: name });
    const better = element("button", { words: `${name} is better`, className: "main", press: () => act.pick(turn, own, other) });
    hold(better, settled || view.busy);
    const words = element("div", { className: "words" }, ...render(own.text));
    return element("section", { "aria-label": name }, title, words, better);
  });
  const told = settled ? "You have chosen between these two." : "Which is the better answer?";
  return panel(turn, act, "div", { className: "panel compare", role: "group", "aria-label": "Compare answers" },
    element("p", { className: "hint", words: told }), element("div", { className: "sides" }, ...sides),
    element("div", { className: "actions" }, element("button", { words: "Close", press: () => act.close(turn) })));
}

// The list of conversations: show one, rename it, delete it.

import { element, icon, tool } from "./dom.js";

const list = document.getElementById("conversations");
const side = document.getElementById("side");
const menu = document.getElementById("menu");

menu.append(icon("menu"));

/** On a narrow page the list lies over the conversation until something is chosen. */
function unfold(open) {
  side.classList.toggle("open", open);
  menu.setAttribute("aria-expanded", String(open));
  if (open) list.querySelector("button")?.focus(); else if (side.contains(document.activeElement)) menu.focus();
}

menu.addEventListener("click", () => unfold(!side.classList.contains("open")));

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || !side.classList.contains("open")) return;
  event.preventDefault();
  unfold(false);
}, true);

document.addEventListener("click", ({ target }) => {
  if (side.classList.contains("open") && target.isConnected && !side.contains(target) && !menu.contains(target)) unfold(false);
});

const titleOf = (conversation) => conversation.title || "New chat";

function renaming(conversation, act) {
  const input = element("input", { label: "New name", maxlength: 80 });
  input.value = titleOf(conversation);
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    const name = input.value.trim();
    if (keep && name) act.rename(conversation, name); else act.redraw();
  };
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    end(event.key === "Enter");
    list.querySelector("[aria-current]")?.focus();
  });
  input.addEventListener("blur", () => end(true));
  return input;
}

function entry(conversation, current, act) {
  const title = titleOf(conversation);
  const row = element("li", {});
  const show = element("button", { className: "title", words: title, title, press: () => { unfold(false); act.show(conversation.id); } });
  if (current) show.setAttribute("aria-current", "true");
  const rename = tool("edit", `Rename ${title}`, () => {
    const input = renaming(conversation, act);
    row.replaceChildren(input);
    input.focus();
    input.select();
  });
  const remove = tool("drop", `Delete ${title}`, () => {
    if (confirm(`Delete "${title}" from this browser? The service keeps what it has logged.`)) act.remove(conversation);
  });
  row.append(show, rename, remove);
  return row;
}

/** `act`: show(id), rename(conversation, name), remove(conversation), redraw(). */
export function draw(conversations, current, act) {
  list.replaceChildren(...conversations.map((one) => entry(one, one.id === current.id, act)));
}

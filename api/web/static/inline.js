// Markdown within a line, as nodes: code, emphasis, links. What is not Markdown, markup above all, stays text.
// A marker that finds no partner once is not searched for again, so long answers take time in proportion.

const DEEPEST = 6;
const LONGEST_LABEL = 1000;
const TAGS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };
const PLAIN = /[^\\`*_~[!<h\n]+/y;
const BARE = /https?:\/\/[^\s<>"'`]{1,2000}/y;
const ANGLE = /<((?:https?:\/\/|mailto:)[^\s<>]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>/y;
const TARGET = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()]|\([^\s()]*\))*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;

function make(name, children) {
  const made = document.createElement(name);
  for (const child of children) made.append(child);
  return made;
}

/** The address as the browser reads it, where a click on it can do nothing but go there; else null. */
export function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(address, children) {
  const made = make("a", children);
  made.href = address;
  made.rel = "noopener noreferrer nofollow";
  made.target = "_blank";
  // Where it leads, whatever its label says; and no link within a link.
  made.title = address;
  for (const inner of made.querySelectorAll("a")) inner.replaceWith(...inner.childNodes);
  return made;
}

function at(pattern, text, from) {
  pattern.lastIndex = from;
  return pattern.exec(text);
}

function runOf(text, from) {
  let end = from;
  while (text[end] === text[from]) end += 1;
  return end - from;
}

/** Where a code span that opens at `from` ends, or -1. */
function codeEnd(text, from, dead) {
  const size = runOf(text, from);
  const key = `\`${size}`;
  if (dead.has(key)) return -1;
  for (let place = text.indexOf("`", from + size); place >= 0; place = text.indexOf("`", place)) {
    const found = runOf(text, place);
    if (found === size) return place + size;
    place += found;
  }
  dead.add(key);
  return -1;
}

const isWord = (char) => char !== undefined && /[\p{L}\p{N}]/u.test(char);
const isSpace = (char) => char === undefined || /\s/.test(char);

/** Where the partner of a marker begins, looking from `from`, or -1. */
function closing(text, marker, from, dead) {
  for (let place = from; place < text.length; place += 1) {
    if (text[place] === "\\") { place += 1; continue; }
    if (text[place] === "`") {
      const end = codeEnd(text, place, dead);
      place = (end < 0 ? place + runOf(text, place) : end) - 1;
      continue;
    }
    if (text[place] !== marker[0]) continue;
    const run = runOf(text, place);
    // Of three, one or two belong to what was opened inside.
    const begins = run === 3 ? place + 3 - marker.length : place;
    const fits = (run === marker.length || run === 3) && place > from && !isSpace(text[place - 1]);
    if (fits && !(marker[0] === "_" && isWord(text[place + run]))) return begins;
    place += run - 1;
  }
  return -1;
}

/** `[label](address)` at `from`: {label, address, end}, or null. */
function link(text, from) {
  let open = 0;
  const last = Math.min(text.length, from + LONGEST_LABEL);
  for (let place = from; place < last; place += 1) {
    if (text[place] === "\\") place += 1;
    else if (text[place] === "[") open += 1;
    else if (text[place] === "]") {
      open -= 1;
      if (open > 0) continue;
      const target = text[place + 1] === "(" ? at(TARGET, text, place + 1) : null;
      if (!target) return null;
      return { label: text.slice(from + 1, place), address: target[1] ?? target[2], end: TARGET.lastIndex };
    }
  }
  return null;
}

/** An address in the open, without the punctuation of the sentence around it. */
function bare(text, from) {
  let found = at(BARE, text, from)?.[0];
  if (!found || isWord(text[from - 1])) return null;
  found = found.replace(/[.,:;!?*_~\]]+$/, "");
  while (found.endsWith(")") && found.split(")").length > found.split("(").length) found = found.slice(0, -1);
  return found;
}

/** One construct at `from`: [nodes, where it ends], or null where the character is only itself. */
function construct(text, from, depth, dead) {
  const char = text[from];
  if (char === "\n") return [[document.createElement("br")], from + 1];
  if (char === "\\") return /[!-/:-@[-`{-~]/.test(text[from + 1] ?? "") ? [[text[from + 1]], from + 2] : null;
  if (char === "`") {
    const end = codeEnd(text, from, dead);
    const size = runOf(text, from);
    if (end < 0) return [[text.slice(from, from + size)], from + size];
    const inside = text.slice(from + size, end - size).replaceAll("\n", " ");
    const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "";
    return [[make("code", [padded ? inside.slice(1, -1) : inside])], end];
  }
  if (char === "<") {
    const found = at(ANGLE, text, from);
    const address = found && safe(found[1].includes(":") ? found[1] : `mailto:${found[1]}`);
    return address ? [[anchor(address, [found[1]])], from + found[0].length] : null;
  }
  if (char === "h") {
    const found = bare(text, from);
    const address = found && safe(found);
    return address ? [[anchor(address, [found])], from + found.length] : null;
  }
  if (char === "[" || (char === "!" && text[from + 1] === "[")) {
    const found = link(text, from + (char === "!" ? 1 : 0));
    const address = found && safe(found.address);
    if (!found) return null;
    // Written out where it leads nowhere safe. Pictures are links too: none is fetched for a model's sake.
    if (!address) return [[text.slice(from, found.end)], found.end];
    return [[anchor(address, found.label ? inline(found.label, depth + 1) : [found.address])], found.end];
  }
  return emphasis(text, from, depth, dead);
}

function emphasis(text, from, depth, dead) {
  const run = runOf(text, from);
  const mark = text[from].repeat(run);
  const inside = from + run;
  const refused = [[mark], inside];
  const opens = !isSpace(text[inside]) && !(text[from] === "_" && isWord(text[from - 1]));
  if (!opens || dead.has(mark) || !(TAGS[mark] || mark === "***")) return refused;
  const end = closing(text, mark, inside, dead);
  if (end < 0) { dead.add(mark); return refused; }
  const children = inline(text.slice(inside, end), depth + 1);
  return [[mark === "***" ? make("em", [make("strong", children)]) : make(TAGS[mark], children)], end + run];
}

/** Text as an array of nodes and strings. */
export function inline(text, depth = 0) {
  if (depth > DEEPEST) return [text];
  const out = [];
  const dead = new Set();
  let plain = "";
  for (let place = 0; place < text.length;) {
    const words = at(PLAIN, text, place)?.[0];
    if (words) { plain += words; place += words.length; continue; }
    const found = "\\`*_~[!<h\n".includes(text[place]) ? construct(text, place, depth, dead) : null;
    if (!found) { plain += text[place]; place += 1; continue; }
    const [nodes, end] = found;
    for (const node of nodes) {
      if (typeof node === "string") { plain += node; continue; }
      if (plain) out.push(plain);
      plain = "";
      out.push(node);
    }
    place = end;
  }
  if (plain) out.push(plain);
  return out;
}

// Markdown as nodes, built one by one: no text of a model ever passes through a parser of HTML.
// Fenced code, headings, lists, quotations, tables, rules and paragraphs; a newline within a paragraph is kept.

import { inline } from "./inline.js";

const DEEPEST = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const DIVIDER = /^ *(?:\| *)?:?-+:? *(?:\| *:?-+:? *)*(?:\| *)?$/;
const SIDES = { "true,true": "middle", "false,true": "right" };

function make(name, children = [], className = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  for (const child of children) made.append(child);
  return made;
}

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

function isTable(lines, at) {
  const next = lines[at + 1];
  return lines[at].includes("|") && next !== undefined && next.includes("-") && DIVIDER.test(next)
    && cells(lines[at]).length === cells(next).length;
}

function begins(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) || isTable(lines, at);
}

/** A row's cells; a bar that is escaped or within code divides nothing. */
function cells(line) {
  const found = line.trim().replace(/^\|/, "").match(/(?:\\.|`[^`]*`|[^|\\]|\\$)+|\|/g) ?? [];
  const made = [""];
  for (const part of found) if (part === "|") made.push(""); else made[made.length - 1] += part;
  if (found.at(-1) === "|") made.pop();
  return made.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function fenced(lines, at) {
  const [, fence, info] = FENCE.exec(lines[at]);
  const own = indentOf(lines[at]);
  const closes = (line) => {
    const found = FENCE.exec(line);
    return found && found[1][0] === fence[0] && found[1].length >= fence.length && isBlank(found[2]);
  };
  let end = at + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((line) => line.slice(Math.min(own, indentOf(line)))).join("\n");
  const language = info.trim().split(/\s+/)[0];
  const copy = make("button", ["Copy"], "copycode");
  copy.type = "button";
  copy.setAttribute("aria-label", `Copy this ${language || "code"}`);
  const pre = make("pre", [make("code", [text])]);
  // What scrolls sideways must be reached by keys too.
  pre.tabIndex = 0;
  return [make("div", [make("div", [make("span", [language]), copy], "codehead"), pre], "code"), end + 1];
}

function table(lines, at) {
  const sides = cells(lines[at + 1]).map((cell) => SIDES[[cell.startsWith(":"), cell.endsWith(":")]] ?? "");
  const row = (line, name) => {
    const found = cells(line);
    return make("tr", sides.map((side, index) => make(name, inline(found[index] ?? ""), side)));
  };
  let end = at + 2;
  while (end < lines.length && !isBlank(lines[end]) && lines[end].includes("|")) end += 1;
  const body = lines.slice(at + 2, end).map((line) => row(line, "td"));
  const made = make("div", [make("table", [make("thead", [row(lines[at], "th")]), make("tbody", body)])], "wide");
  made.tabIndex = 0;
  made.setAttribute("role", "region");
  made.setAttribute("aria-label", "Table");
  return [made, end];
}

function quotation(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [make("blockquote", blocks(inside, depth + 1)), end];
}

const isNumbered = (marker) => /\d/.test(marker);

/** The lines of one item, its indent taken away, and where the next begins. */
function item(lines, at) {
  const [, indent, marker, gap, rest] = ITEM.exec(lines[at]);
  const inner = indent.length + marker.length + Math.min(gap?.length ?? 1, 4);
  const inside = [rest ?? ""];
  let end = at + 1;
  let open = "";
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const deeper = indentOf(line) >= Math.min(inner, indent.length + 2);
    if (isBlank(line)) {
      let next = end + 1;
      while (next < lines.length && isBlank(lines[next])) next += 1;
      if (next === lines.length || indentOf(lines[next]) < Math.min(inner, indent.length + 2)) break;
      for (; end < next; end += 1) inside.push("");
      end -= 1;
      continue;
    }
    if (!deeper && (open || begins(lines, end) || isBlank(lines[end - 1]))) {
      break;
    }
    const fence = FENCE.exec(line)?.[1][0];
    if (fence) open = open === fence ? "" : open || fence;
    inside.push(line.slice(Math.min(inner, indentOf(line))));
  }
  return [inside, end];
}

function list(lines, at, depth) {
  const [, indent, first] = ITEM.exec(lines[at]);
  const numbered = isNumbered(first);
  const items = [];
  let end = at;
  let loose = false;
  for (;;) {
    const [inside, next] = item(lines, end);
    items.push(inside);
    let after = next;
    while (after < lines.length && isBlank(lines[after])) after += 1;
    const found = after < lines.length && !RULE.test(lines[after]) ? ITEM.exec(lines[after]) : null;
    end = next;
    if (!found || isNumbered(found[2]) !== numbered || found[1].length < indent.length) break;
    loose ||= after > next;
    end = after;
  }
  const made = make(numbered ? "ol" : "ul", items.map((inside) => {
    const nodes = blocks(inside, depth + 1);
    return make("li", loose ? nodes : nodes.flatMap((node) => (node.tagName === "P" ? [...node.childNodes] : [node])));
  }));
  const start = Number.parseInt(first, 10);
  if (numbered && start !== 1) made.setAttribute("start", start);
  return [made, end];
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !begins(lines, end)) end += 1;
  return [make("p", inline(lines.slice(at, end).map((line) => line.trim()).join("\n"))), end];
}

function block(lines, at, depth) {
  const line = lines[at];
  if (depth > DEEPEST) return [make("p", [lines.slice(at).join("\n")]), lines.length];
  if (FENCE.test(line)) return fenced(lines, at);
  const heading = HEADING.exec(line);
  // The page itself has the first two levels.
  if (heading) return [make(`h${Math.min(heading[1].length + 2, 6)}`, inline(heading[2].trim().replace(/\s#+$/, ""))), at + 1];
  if (RULE.test(line)) return [make("hr"), at + 1];
  if (QUOTE.test(line)) return quotation(lines, at, depth);
  if (ITEM.test(line)) return list(lines, at, depth);
  return isTable(lines, at) ? table(lines, at) : paragraph(lines, at);
}

function blocks(lines, depth) {
  const made = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) { at += 1; continue; }
    const [node, end] = block(lines, at, depth);
    made.push(node);
    at = end;
  }
  return made;
}

/** Markdown text as an array of elements. */
export function render(text) {
  return blocks(text.replace(/\r\n?/g, "\n").replaceAll("\t", "    ").split("\n"), 0);
}

/** Show nodes in a box, keeping those that say the same already: what is selected there stays selected. */
export function patch(box, nodes) {
  const old = [...box.children];
  let same = 0;
  while (same < nodes.length && old[same]?.isEqualNode(nodes[same])) same += 1;
  for (const node of old.slice(same)) node.remove();
  for (const node of nodes.slice(same)) box.append(node);
}

// Making elements: text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

const SHAPES = {
  up: "M7 10v10H4V10zm0 0 4-7c1.5 0 2.3 1 2 2.5L12.3 9H18a2 2 0 0 1 2 2.4l-1.4 7A2 2 0 0 1 16.6 20H7",
  copy: "M9 9V4h11v11h-5M4 9h11v11H4z",
  again: "M19 5v5h-5M19 10a7.5 7.5 0 1 0 .5 4",
  edit: "M4 20l1-5L16 4l4 4L9 19zM13 7l4 4",
  drop: "M6 6l12 12M18 6 6 18",
  menu: "M4 7h16M4 12h16M4 17h16",
};

/** `press` makes it a button; `label` is its accessible name and its tooltip. */
export function element(name, { className, label, words, press, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (label) { made.setAttribute("aria-label", label); made.title = label; }
  if (words !== undefined) made.textContent = words;
  if (press) {
    made.type = "button";
    made.addEventListener("click", (event) => { if (made.ariaDisabled !== "true") press(event); });
  }
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** One of the drawings above; "down" is "up" upside down. */
export function icon(shape) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[shape === "down" ? "up" : shape]);
  if (shape === "down") path.setAttribute("transform", "rotate(180 12 12)");
  svg.append(path);
  return svg;
}

/** A button that is only a drawing. */
export function tool(shape, label, press) {
  const made = element("button", { label, press, className: "tool" });
  made.append(icon(shape));
  return made;
}

/** Not `disabled`: the button keeps the keyboard's place, and only stops answering. */
export function hold(button, held) {
  button.ariaDisabled = held ? "true" : null;
  return button;
}

const told = document.getElementById("told");

/** Say something to those who listen to the page rather than look at it. */
export function say(words) {
  if (told) told.textContent = words;
}

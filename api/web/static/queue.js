// Labelling: two answers side by side, and a label for what the operator says of them.

// An operator who logged in proves with it that a write comes from a page of ours.
const token = document.querySelector('meta[name="honed-csrf"]')?.content ?? "";
const told = document.getElementById("compared");
const pair = document.getElementById("pair");
let waiting = [];
let given = 0;

async function json(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `The server answered ${response.status}.`);
  return body;
}

function show(item) {
  pair.hidden = !item;
  if (!item) return;
  document.getElementById("asked").textContent = item.prompt.map((turn) => `${turn.role}: ${turn.content}`).join("\n");
  document.getElementById("left").textContent = item.left.text;
  document.getElementById("right").textContent = item.right.text;
}

async function next() {
  if (waiting.length === 0) {
    const queue = await json(await fetch("/v1/operator/queue?limit=10"));
    waiting = queue.data;
    if (waiting.length === 0) told.textContent = `${given ? `${given} given. ` : ""}Nothing to compare: ${queue.reason}.`;
  }
  show(waiting[0]);
}

async function answer(side) {
  const [{ left, right }] = waiting;
  const [one, other] = side === "right" ? [right, left] : [left, right];
  await json(await fetch("/v1/operator/label", {
    method: "POST",
    headers: { "content-type": "application/json", "x-honed-csrf": token },
    body: JSON.stringify({
      completion_id: one.completion_id, choice_index: one.choice_index,
      over: other.completion_id, over_index: other.choice_index,
      same: side === "same" || null, reason: "from the queue",
    }),
  }));
  given += 1;
  told.textContent = `${given} given.`;
  waiting.shift();
  await next();
}

// One at a time: a second click must not answer for a pair that is not shown yet.
const buttons = [...pair.querySelectorAll("button"), document.getElementById("compare")];

async function locked(work) {
  for (const button of buttons) button.disabled = true;
  try { await work(); } catch (error) { told.textContent = error.message; }
  for (const button of buttons) button.disabled = false;
}

document.getElementById("compare").addEventListener("click", () => locked(next));
for (const button of pair.querySelectorAll("button")) {
  button.addEventListener("click", () => locked(() => answer(button.dataset.answer)));
}

// The buttons of the operations page: each writes an intent, then waits for what the loop made of it.

const outcome = document.getElementById("outcome");

function say(words, bad = false) {
  outcome.textContent = words;
  outcome.classList.toggle("bad", bad);
}

async function json(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `The server answered ${response.status}.`);
  return body;
}

async function settled(id) {
  for (let tries = 0; tries < 30; tries += 1) {
    const intent = await json(await fetch(`/v1/operator/intents/${encodeURIComponent(id)}`));
    if (intent.status !== "pending") return intent;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  return { status: "pending" };
}

async function act({ kind, version, all, reason: needed }) {
  const quarantine = kind === "rollback" && document.getElementById("quarantine").checked;
  const what = [kind, version, quarantine ? "with quarantine" : ""].filter(Boolean).join(" ");
  const reason = window.prompt(`Why ${what}?${needed ? "" : " (may be empty)"}`, "");
  if (reason === null) return;
  if (needed && !reason.trim()) { say("A reason is required.", true); return; }
  say("Asked…");
  const body = {
    reason: reason.trim() || null, version: version ?? null, quarantine: quarantine || null, all: all ? true : null,
  };
  const asked = await json(await fetch(`/v1/operator/${kind}`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  }));
  const intent = await settled(asked.id);
  const bad = ["refused", "failed"].includes(intent.status);
  say(`${kind}: ${intent.status} ${intent.outcome?.message ?? intent.outcome?.reason ?? ""}`, bad);
  if (intent.status === "done" || intent.status === "running") setTimeout(() => location.reload(), 1200);
}

for (const button of document.querySelectorAll("button[data-kind]")) {
  button.addEventListener("click", () => act(button.dataset).catch((error) => say(error.message, true)));
}

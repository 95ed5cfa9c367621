// Reading a streamed chat answer: server-sent events over fetch, since EventSource cannot POST.

/** Yields the data of each event; comments (keep-alives) are skipped. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (data.length) yield data.join("\n");
    }
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `The server answered ${response.status}.`);
}

/**
 * Ask for an answer. `onStart({receipt, adapter})` when it begins, `onText(id, model, text)` as it comes.
 * Throws what went wrong; an AbortError when `signal` stopped it.
 */
export async function ask(messages, { signal, onStart, onText }) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "honed", messages, stream: true }),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  onStart({ receipt: response.headers.get("x-honed-receipt"), adapter: response.headers.get("x-honed-adapter") });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    onText(chunk.id, chunk.model, chunk.choices[0]?.delta?.content ?? "");
  }
  throw new Error("The answer broke off.");
}

function headersFor(receipt) {
  return receipt ? { "content-type": "application/json", "x-honed-receipt": receipt } : { "content-type": "application/json" };
}

/** Record feedback. Repeated safely: the event's id is made here, once. */
export async function tell(answer, kind, value) {
  const id = `web-${Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("")}`;
  const response = await fetch("/v1/feedback", {
    method: "POST",
    headers: headersFor(answer.receipt),
    body: JSON.stringify({ id, completion_id: answer.id, kind, value }),
    keepalive: true,
  });
  if (!response.ok) throw await refusal(response);
}

/** The thumb the server holds for an answer: true, false or null; undefined when it cannot be asked. */
export async function thumbOf(answer) {
  const response = await fetch(`/v1/completions/${encodeURIComponent(answer.id)}/feedback`, { headers: headersFor(answer.receipt) })
    .catch(() => null);
  if (!response?.ok) return undefined;
  const { data } = await response.json();
  return data.find((event) => event.kind === "thumb")?.value ?? null;
}

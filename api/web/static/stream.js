// Asking for a chat answer and reading it as it comes: server-sent events over fetch, since EventSource cannot POST.

const PLAINLY = {
  401: "The server does not know who is asking",
  403: "The server does not allow this",
  429: "The server is busy",
  503: "The model is not available just now",
};

/** What a server or a network refused. `wait` is in seconds, after which trying again makes sense. */
export class Refusal extends Error {
  constructor(message, { status = 0, wait = 0 } = {}) {
    super(message);
    this.name = "Refusal";
    this.status = status;
    this.wait = wait;
  }
}

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
  const said = body?.error?.message ?? `it answered ${response.status}`;
  const plain = PLAINLY[response.status] ?? "The server refused";
  const wait = Number(response.headers.get("retry-after"));
  return new Refusal(`${plain}: ${said}.`.replace("..", "."), {
    status: response.status, wait: Number.isFinite(wait) ? Math.min(Math.max(wait, 0), 600) : 0,
  });
}

/** As `fetch`, but whatever is not an answer is thrown as a Refusal; an AbortError stays one. */
export async function request(url, options = {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(error.name === "TimeoutError" ? "The server did not answer in time." : "The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/**
 * Ask for an answer. `onStart({receipt, adapter})` when it begins, `onText(id, model, text)` as it comes. Returns why it
 * ended ("stop", "length"). Throws a Refusal, or an AbortError when `signal` stopped it.
 */
export async function ask(messages, { signal, onStart, onText }) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "honed", messages, stream: true }),
    signal,
  });
  onStart({ receipt: response.headers.get("x-honed-receipt"), adapter: response.headers.get("x-honed-adapter") });
  let finish = null;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return finish;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(`The answer broke off: ${chunk.error.message}.`);
      const [choice] = chunk.choices;
      finish = choice?.finish_reason ?? finish;
      onText(chunk.id, chunk.model, choice?.delta?.content ?? "");
    }
  } catch (error) {
    if (error.name === "AbortError" || error.name === "Refusal") throw error;
    throw new Refusal("The answer broke off: the connection was lost.");
  }
  throw new Refusal("The answer broke off.");
}

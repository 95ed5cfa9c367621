// What people think of an answer, sent to the service. Whatever resolves here is on the service's disk.

import { request } from "./stream.js";

const PATIENCE_MS = 20_000;

/** Ids of events whose acknowledgement has not been seen: sent again, they are stored once. */
const unsure = new Map();

/** What was said before of the same, and never seen acknowledged, is overtaken: said again it is a new event. */
function settle({ completion_id, kind }) {
  for (const text of unsure.keys()) {
    const event = JSON.parse(text);
    if (event.completion_id === completion_id && event.kind === kind) unsure.delete(text);
  }
}

function newId() {
  return `web-${Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function headersFor({ receipt }) {
  return { "content-type": "application/json", ...(receipt ? { "x-honed-receipt": receipt } : {}) };
}

/** Record feedback of a kind; `more` may hold `reason` and `comment`. Throws a Refusal when it was not taken. */
export async function tell(answer, kind, value, more = {}) {
  const event = { completion_id: answer.id, kind, value, ...more };
  const same = JSON.stringify(event);
  if (!unsure.has(same)) unsure.set(same, newId());
  await request("/v1/feedback", {
    method: "POST",
    headers: headersFor(answer),
    body: JSON.stringify({ id: unsure.get(same), ...event }),
    signal: AbortSignal.timeout(PATIENCE_MS),
    keepalive: same.length < 30_000,
  });
  settle(event);
}

/** The thumb the service holds for an answer: true, false or null; undefined when it cannot be asked. */
export async function thumbOf(answer) {
  try {
    const url = `/v1/completions/${encodeURIComponent(answer.id)}/feedback`;
    const response = await request(url, { headers: headersFor(answer), signal: AbortSignal.timeout(PATIENCE_MS) });
    const { data } = await response.json();
    return data.find((event) => event.kind === "thumb")?.value ?? null;
  } catch {
    return undefined;
  }
}

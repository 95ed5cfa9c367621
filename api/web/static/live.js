// Pages that follow what happens. Everything is rendered by the server: on news, the parts marked `data-live` are taken
// from a fresh copy of the page. Progress alone is put in directly, because it comes every second.

const parts = () => document.querySelectorAll("[data-live]");

/** Whether somebody is reading or typing in there: it is left alone then. */
function held(part) {
  const chosen = document.getSelection();
  return part.contains(document.activeElement) || (chosen && !chosen.isCollapsed && part.contains(chosen.anchorNode));
}

function keepOpen(old, fresh) {
  const open = [...old.querySelectorAll("details")].map((one) => one.open);
  fresh.querySelectorAll("details").forEach((one, at) => { one.open = open[at] ?? false; });
}

let asked = false;

async function refresh() {
  if (asked || document.hidden) return;
  asked = true;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    if (response.redirected) { location.assign(response.url); return; }
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of parts()) {
      const next = part.id && fresh.getElementById(part.id);
      if (next && !held(part) && next.outerHTML !== part.outerHTML) {
        keepOpen(part, next);
        part.replaceWith(document.adoptNode(next));
      }
    }
    plan();
  } catch {
    // The service is away for a moment; the next news tries again.
  } finally {
    asked = false;
  }
}

function lasting(seconds) {
  const whole = Math.round(seconds);
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  if (whole >= 60) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${whole} s`;
}

function show(told) {
  for (const box of document.querySelectorAll(`[data-progress="${told.iteration}"]`)) {
    const counted = told.total > 1;
    const left = told.seconds_left === null ? "" : `, about ${lasting(told.seconds_left)} left`;
    box.hidden = false;
    box.querySelector("[data-words]").textContent = told.phase + (counted ? `: ${told.done} of ${told.total}${left}` : "");
    const bar = box.querySelector("progress");
    bar.max = told.total || 1;
    // One step that is not done yet has no share to show.
    if (counted) bar.value = told.done; else bar.removeAttribute("value");
  }
}

let soon = 0;
function news() {
  clearTimeout(soon);
  soon = setTimeout(refresh, 250);
}

/** Some parts change without an event: how many requests wait, what became of an intent. */
let timer = 0;
function plan() {
  const every = [...parts()].map((part) => Number(part.dataset.every)).filter((seconds) => seconds > 0);
  clearInterval(timer);
  if (every.length) timer = setInterval(refresh, 1000 * Math.min(...every));
}

let source = null;

function listen() {
  if (source || document.hidden) return;
  source = new EventSource("/v1/events");
  source.addEventListener("audit", news);
  source.addEventListener("iteration", news);
  source.addEventListener("progress", (event) => {
    const told = JSON.parse(event.data);
    if (!document.querySelector(`[data-progress="${told.iteration}"]`)) news();
    show(told);
  });
}

// A browser holds few connections to one host: tabs that nobody sees hold none.
function stop() {
  source?.close();
  source = null;
}

function again() {
  if (document.hidden) { stop(); return; }
  listen();
  refresh();
}

if (parts().length) {
  listen();
  plan();
  document.addEventListener("visibilitychange", again);
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", (event) => { if (event.persisted) again(); });
}

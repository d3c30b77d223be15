// Begins the page: fills it from what it brings along (a file), or from the server, which tells what is new.

import { act } from "./acts.js";
import { batchesPage, batchPage } from "./batches.js";
import { el, show } from "./dom.js";
import { sessionPage } from "./session.js";
import { sessionsPage } from "./sessions.js";

const PAGES = { sessions: sessionsPage, session: sessionPage, batches: batchesPage, batch: batchPage };

function begin() {
  const settings = document.documentElement.dataset;
  const main = document.querySelector("main");
  const state = document.getElementById("state");
  const page = PAGES[settings.page](main, settings.act === "yes");

  function take(name, data) {
    page[name](data);
    document.title = settings.where === "alone" ? document.title : `${page.title} · cms`;
  }

  const brought = document.getElementById("data");
  if (brought) {
    for (const [name, data] of JSON.parse(brought.textContent)) take(name, data);
    return;
  }
  follow(settings, main, state, (name, data) => take(name, { ...data, got: performance.now() }));
  // What is told in seconds goes on between two words from the server.
  setInterval(() => document.hidden || !page.again || page.again(), 1000);
  if (settings.act === "yes") act(main, settings);
}

function follow(settings, main, state, take) {
  let source = null;
  const names = ["sessions", "session", "moments", "cost", "diff", "batches", "batch", "tasks"];

  function open() {
    source = new EventSource(settings.feed);
    source.addEventListener("open", () => show(state, "live"));
    // It tries again by itself, and is told all from the beginning then.
    source.addEventListener("error", () => {
      show(state, source.readyState === EventSource.CLOSED ? "not connected: is cms view still running?" : "connecting…");
    });
    source.addEventListener("back", () => show(state, "live"));
    for (const name of names) source.addEventListener(name, (event) => take(name, JSON.parse(event.data)));
    source.addEventListener("gone", (event) => {
      const { message, hint, final } = JSON.parse(event.data);
      if (final) {
        source.close();
        show(state, "");
        show(main, el("h1", {}, message), hint ? el("p", {}, hint) : null);
      } else {
        show(state, [message, hint].filter(Boolean).join(": "));
      }
    });
  }

  open();
  // A browser has few connections for one server: a page that nobody looks at gives its own back.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close();
    else if (source.readyState === EventSource.CLOSED) open();
  });
  window.addEventListener("pagehide", () => source.close());
  window.addEventListener("pageshow", () => source.readyState !== EventSource.CLOSED || open());
}

begin();

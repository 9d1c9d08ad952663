// The targets as the controller tells them: a map that follows its stream of changes.

import { marks } from "./words.js";

const RETRY_MS = 2000;
// The controller says at least a comment every 15 s; after three of them the line is dead.
const SILENCE_MS = 45000;
const PHASES = ["Closing", "Draining", "LameDuck", "Serving", "Drained"];

export class Unauthorized extends Error {}

const token = () => sessionStorage.getItem("ebbtide-token");

// Asks the controller; EventSource could not send a token, so that everything goes this way.
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.authorization = "Bearer " + token();
  // Without credentials of its own the browser leaves it to us to ask for the token.
  const reply = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers });
  if (reply.status === 401) throw new Unauthorized(await reply.text());
  return reply;
}

// A target as the page needs it: instants instead of ages, and what is compared often.
function entry(view, now, before) {
  const name = (view.report.namespace ? view.report.namespace + "/" : "") + view.report.podName;
  let deadlineAt = typeof view.deadlineInSeconds === "number" ? now + view.deadlineInSeconds * 1000 : null;
  // Each report tells it anew and a little late: a countdown must not stutter.
  if (before && deadlineAt !== null && Math.abs(before.deadlineAt - deadlineAt) < 1500) deadlineAt = before.deadlineAt;
  const { nodeName, podIP, phase } = view.report;
  const bad = marks(view).filter(([, how]) => how === "bad").length;
  const warm = marks(view).filter(([, how]) => how === "warm").length;
  return {
    id: view.id, view, name, deadlineAt,
    service: (view.report.namespace ? view.report.namespace + "/" : "") + view.service,
    heardAt: now - view.ageSeconds * 1000,
    leaving: phase !== "Serving" && phase !== "Drained",
    drained: phase === "Drained",
    attention: bad + warm > 0,
    rank: (bad ? 0 : warm ? 10 : 20) + PHASES.indexOf(phase),
    search: [view.id, name, view.service, nodeName, podIP, phase].join(" ").toLowerCase()
  };
}

export class Fleet {
  targets = new Map();
  // Whether everything has been told once.
  complete = false;
  #pending = new Map();
  #unseen = null;
  #last = null;
  #scheduled = false;

  // `changed([[before, after], …])` is called once a frame at most, `linked(true | false, error)` when the line
  // comes or goes, `authorize()` resolves when there is another token.
  constructor({ changed, linked, authorize }) {
    Object.assign(this, { changed, linked, authorize });
  }

  async follow() {
    for (;;) {
      try {
        await this.#stream();
        this.linked(false);
      } catch (error) {
        if (error instanceof Unauthorized) {
          await this.authorize(error.message);
          continue;
        }
        this.linked(false, error);
      }
      await new Promise(done => setTimeout(done, RETRY_MS));
    }
  }

  async #stream() {
    const headers = { accept: "text/event-stream" };
    if (this.#last !== null) headers["last-event-id"] = this.#last;
    const stop = new AbortController();
    let timer = setTimeout(() => stop.abort(), SILENCE_MS);
    const reply = await ask("/v1/events", { headers, signal: stop.signal });
    if (!reply.ok) throw new Error(reply.status + " " + await reply.text());
    this.linked(true);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => stop.abort(), SILENCE_MS);
        text += value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) this.#take(event);
        if (events.length) this.#schedule();
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #take(text) {
    const fields = {};
    for (const line of text.split("\n")) {
      const colon = line.indexOf(": ");
      if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
    }
    if (fields.id) this.#last = fields.id;
    switch (fields.event) {
      case "reset":
        // What is not told again by the time that everything was told is gone.
        this.#unseen = new Set([...this.targets.keys(), ...this.#pending.keys()]);
        break;
      case "target": {
        const view = JSON.parse(fields.data);
        this.#pending.set(view.id, view);
        this.#unseen?.delete(view.id);
        break;
      }
      case "gone":
        this.#pending.set(JSON.parse(fields.data), null);
        break;
      case "current":
        for (const id of this.#unseen ?? []) this.#pending.set(id, null);
        this.#unseen = null;
        this.#pending.set(null, null);
        break;
    }
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#apply();
    });
  }

  #apply() {
    const now = Date.now(), changes = [];
    const complete = this.#pending.delete(null);
    for (const [id, view] of this.#pending) {
      const before = this.targets.get(id);
      const after = view && entry(view, now, before);
      if (after) this.targets.set(id, after); else this.targets.delete(id);
      changes.push([before, after]);
    }
    this.#pending.clear();
    const known = this.complete;
    this.complete ||= complete;
    this.changed(changes, known);
  }
}

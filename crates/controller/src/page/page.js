// Brings the parts together: what is shown, what is new, and whether the controller still answers.

import { Fleet } from "./fleet.js";
import * as list from "./list.js";
import * as target from "./target.js";
import { at, count, make, say, time } from "./words.js";

const MAX_NEWS = 30;
// More than so many of a kind at once are told as one.
const MAX_ALIKE = 3;

let open = null, gone = null, seen = null, slowest = 0;

const fleet = new Fleet({
  changed(changes, known) {
    const began = performance.now();
    if (known) tell(changes);
    draw();
    const took = performance.now() - began;
    slowest = Math.max(slowest, took);
    say(at("cost"), "Last update: " + count(changes.length) + (changes.length === 1 ? " target" : " targets") +
      " in " + took.toFixed(1) + " ms; the slowest so far " + slowest.toFixed(1) + " ms.");
    document.documentElement.dataset.complete = fleet.complete;
  },
  linked(isThere, error) {
    if (isThere) {
      gone = null;
      seen = Date.now();
      at("gone").hidden = true;
      say(at("link"), "live");
    } else if (gone === null) {
      gone = Date.now();
      say(at("gone"), "The controller does not answer since " + new Date(gone).toLocaleTimeString() +
        (error?.message ? " (" + error.message.trim() + ")" : "") +
        (seen === null ? "." : ". This is what it last told."));
      at("gone").hidden = false;
    }
    for (const id of ["fleet", "target"]) at(id).classList.toggle("still", !isThere);
  },
  authorize(complaint) {
    if (sessionStorage.getItem("ebbtide-token")) say(at("token-why"), "That token is not accepted: " + complaint.trim());
    at("token-text").value = "";
    at("token").showModal();
    return new Promise(done => at("token").addEventListener("close", () => {
      const text = at("token-text").value.trim();
      if (text) sessionStorage.setItem("ebbtide-token", text);
      done();
    }, { once: true }));
  }
});

// What happened to a target, in words, with the kind of it.
function happened(before, after) {
  if (!before || !after) return [];
  const then = before.view, now = after.view, all = [];
  const phase = [then.report.phase, now.report.phase];
  if (phase[0] === "Serving" && phase[1] !== "Serving") all.push(["began to drain", after]);
  if (phase[0] !== "Drained" && phase[1] === "Drained") all.push(["is drained", after]);
  if (phase[0] !== "Serving" && phase[1] === "Serving") all.push(["serves again", after]);
  if (!then.lost && now.lost) all.push(["is lost: it reports no more", after]);
  if (then.lost && !now.lost) all.push(["reports again", after]);
  if (!then.trouble && now.trouble) all.push(["has trouble at the balancer: " + now.trouble.kind.replaceAll("_", " "), after]);
  if (then.trouble && !now.trouble) all.push(["is well at the balancer again", after]);
  if (now.report.forcedCloses > then.report.forcedCloses) all.push(["had connections force-closed", after]);
  return all;
}

function tell(changes) {
  const kinds = new Map();
  for (const [before, after] of changes) {
    for (const [what, entry] of happened(before, after)) {
      if (!kinds.has(what)) kinds.set(what, []);
      kinds.get(what).push(entry);
    }
  }
  for (const [what, entries] of kinds) {
    const alike = entries.length > MAX_ALIKE
      ? [count(entries.length) + " targets: each " + what] : entries.map(entry => entry.name + " " + what);
    for (const text of alike) news(text);
  }
}

function news(text) {
  const li = make("li"), when = make("time", new Date().toLocaleTimeString());
  li.append(when, make("span", text));
  at("news").prepend(li);
  while (at("news").children.length > MAX_NEWS) at("news").lastChild.remove();
  at("no-news").hidden = true;
}

function draw() {
  if (open === null) {
    list.show(fleet.targets);
    const remaining = at("sum-remaining").textContent;
    document.title = count(fleet.targets.size) + " targets, " + remaining + " remaining – Ebbtide controller";
  } else {
    target.show(open, fleet.targets.get(open));
  }
}

function route() {
  const path = location.hash.match(/^#\/targets\/(.+)$/);
  const before = open;
  try {
    open = path ? decodeURIComponent(path[1]) : null;
  } catch {
    open = null;
  }
  at("fleet").hidden = open !== null;
  at("target").hidden = open === null;
  target.turn_to();
  draw();
  if (open !== null) at("t-name").focus();
  else if (before !== null) at("table").focus();
}

// The clock alone: countdowns and ages.
setInterval(() => {
  if (gone !== null) {
    say(at("link"), seen === null ? "" : "last told " + time((Date.now() - gone) / 1000) + " ago");
    return;
  }
  if (open === null) list.render();
  else target.show(open, fleet.targets.get(open));
}, 500);
addEventListener("hashchange", route);
route();
fleet.follow();

// One target with everything that is known of it, and the two things that one may ask of it.

import { ask } from "./fleet.js";
import {
  DOORS, PHASES, Picture, TRIGGERS, at, count, countdown, dress, make, marks, own, say, state, time
} from "./words.js";

const picture = new Picture();
at("t-fall").append(picture.svg);
let shown = null;

function rows(id, list) {
  const body = at(id);
  while (body.children.length > list.length) body.lastChild.remove();
  while (body.children.length < list.length) {
    const tr = make("tr"), th = tr.appendChild(make("th"));
    th.scope = "row";
    tr.append(make("td"));
    body.append(tr);
  }
  list.forEach(([name, value, classes], i) => {
    const [th, td] = body.children[i].children;
    say(th, name);
    say(td, value);
    dress(td, classes ?? "");
  });
}

function life(phase) {
  const names = Object.keys(PHASES), now = names.indexOf(phase);
  at("t-life").replaceChildren(...names.map((name, i) => {
    const li = make("li", name, i < now ? "past" : "");
    if (i === now) li.setAttribute("aria-current", "step");
    return li;
  }));
}

// Why a button can't be pressed, or nothing.
function why_not(act, { report, directive }) {
  if (directive === act) return "It has been asked, and hears it with its next report.";
  if (act === "drain") return report.phase === "Serving" ? "" : "It drains already.";
  if (report.phase === "Serving") return "It serves.";
  return report.reason === "Signal" ? "A signal told it to leave: it can't serve again." : "";
}

function show_acts(view) {
  const notes = new Set();
  for (const act of ["drain", "undrain"]) {
    const note = why_not(act, view);
    at(act).disabled = Boolean(note);
    if (note && !(act === "undrain" && view.report.phase === "Serving")) notes.add(note);
  }
  say(at("t-acts"), [...notes].join(" "));
}

function show_balancer(view) {
  const { trouble } = view;
  const list = [
    ["applied", view.balancer === "pending" ? "nothing that is known" : state(view.balancer)],
    ["wanted", view.goal === "hold"
      ? "left as it is: it is silent, and nobody can tell that it is gone" : state(view.goal)]
  ];
  if (view.order) list.push(["being told", view.order.replaceAll("_", " ")]);
  if (view.directive) list.push(["the proxy is to", view.directive]);
  if (view.sessions !== undefined) list.push(["sessions it had", count(view.sessions)]);
  if (view.report.formerWeight !== undefined) list.push(["weight before", count(view.report.formerWeight)]);
  if (trouble) {
    list.push(["trouble", trouble.kind.replaceAll("_", " ") + " at " + trouble.action.replaceAll("_", " ") +
      ", " + count(trouble.failures) + (trouble.failures === 1 ? " time" : " times in a row"), "bad"]);
    list.push(["it said", trouble.message, "bad"]);
  } else {
    list.push(["trouble", "none", "soft"]);
  }
  rows("t-balancer", list);
}

function show_rest(view) {
  const { report } = view;
  const open = Object.entries(report.byClass);
  rows("t-classes", open.length ? open.map(([name, n]) => [name, count(n)]) : [["none", ""]]);
  rows("t-counts", [
    ["force-closed", count(report.forcedCloses), report.forcedCloses ? "bad" : ""],
    ["rejected, as far as seen", count(report.rejected)],
    ["requests in flight", count(report.activeRequests)],
    ["open HTTP/2 streams", count(report.activeStreams)],
    ["oldest connection", report.activeConnections ? time(report.oldestConnectionSeconds) : "–"]
  ]);
  rows("t-listeners", report.listeners.map(({ address, port, state }) => [
    (address.includes(":") ? "[" + address + "]" : address) + ":" + port,
    "a new connection " + own(DOORS, state)
  ]));
}

function show_who(entry, now) {
  const { view } = entry, { report } = view;
  rows("t-who", [
    ["service", entry.service], ["node", report.nodeName || "–"], ["address", report.podIP || "–"],
    ["UID", report.podUID || "–"], ["started", report.startTime],
    ["last report", "number " + report.sequence + ", " + time((now - entry.heardAt) / 1000) + " ago",
      view.lost ? "bad" : ""]
  ]);
}

// Shows what is known now; `entry` is undefined when the controller knows no such target.
export function show(id, entry) {
  const now = Date.now();
  say(at("t-name"), entry ? entry.name : id);
  at("t-all").classList.toggle("still", !entry);
  if (!entry) {
    say(at("t-acts"), "The controller knows no such target: it ended and is forgotten, or never reported here.");
    at("drain").disabled = at("undrain").disabled = true;
    return;
  }
  say(at("t-deadline"), countdown(entry, now) || "none");
  show_who(entry, now);
  if (shown === entry) return;
  shown = entry;
  const { view } = entry, { report } = view;
  document.title = report.phase + ", " + count(report.drainBlockingConnections) + " remaining – " + report.podName;
  at("t-marks").replaceChildren(...marks(view).map(([text, how]) => make("span", text, "mark " + how)));
  if (at("t-phase").textContent !== report.phase) life(report.phase);
  say(at("t-phase"), report.phase);
  say(at("t-meaning"), own(PHASES, report.phase) +
    (report.reason ? " Begun by " + own(TRIGGERS, report.reason) + "." : "") +
    (view.waiting ? " It waits: enough others of its service drain." : ""));
  say(at("t-remaining"), count(report.drainBlockingConnections));
  say(at("t-open"), count(report.activeConnections) + " open; what remains is what a drain waits for");
  say(at("t-budget"), entry.deadlineAt === null ? "a drain has " + time(report.drainTimeoutSeconds)
    : "then what is left is force-closed");
  picture.draw(view.fall);
  say(at("t-fall-note"), view.fall.length ? picture.svg.getAttribute("aria-label") : "No drain is under way.");
  show_acts(view);
  show_balancer(view);
  show_rest(view);
}

// Another target is shown from now on.
export function turn_to() {
  shown = null;
  say(at("t-said"), "");
}

function sure(act, entry) {
  const n = entry.view.report.drainBlockingConnections;
  say(at("sure-what"), (act === "drain" ? "Drain " : "Let serve again: ") + entry.name);
  say(at("sure-why"), act === "drain"
    ? "It will take no new connections once the balancer sends none. Its " + count(n) +
      " open connections go on for " + time(entry.view.report.drainTimeoutSeconds) +
      " at most, then they are force-closed. The pod itself goes on, and this can be undone."
    : "It will take new connections again, and the balancer gives it its former weight.");
  say(at("sure-yes"), act === "drain" ? "Drain it" : "Serve again");
  at("sure").returnValue = "no";
  at("sure").showModal();
  return new Promise(done =>
    at("sure").addEventListener("close", () => done(at("sure").returnValue === "yes"), { once: true }));
}

async function act(name) {
  const entry = shown;
  if (!entry || !await sure(name, entry)) return;
  let text, good = false;
  try {
    // The controller takes the name as it stands; a colon is the one of its signs that would be changed.
    const id = encodeURIComponent(entry.id).replaceAll("%3A", ":");
    const reply = await ask("/v1/targets/" + id + "/" + name, { method: "POST" });
    good = reply.ok;
    text = good ? "Asked. The proxy hears it with its next report." : (await reply.text()).trim();
  } catch (error) {
    text = "The controller was not reached: " + error.message;
  }
  if (shown?.id !== entry.id) return;
  dress(at("t-said"), good ? "" : "bad");
  say(at("t-said"), text);
}

for (const name of ["drain", "undrain"]) at(name).addEventListener("click", () => act(name));

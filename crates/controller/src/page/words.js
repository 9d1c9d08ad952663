// What the page says, and how it puts it on the page: always as text, for it comes from outside.

export const PHASES = {
  Serving: "No drain is under way.",
  LameDuck: "A drain has begun. New connections are still served, because the balancer may still send them.",
  Draining: "New connections are rejected. Those that are open go on.",
  Closing: "The deadline is near: those that are left are asked to leave.",
  Drained: "Nothing that blocks the drain is left."
};
export const DOORS = {
  Waiting: "waits: the application does not listen yet",
  Accepting: "is served",
  Dropping: "drops handshakes",
  Refusing: "is refused by the kernel",
  Rejecting: "is turned away"
};
export const TRIGGERS = { Signal: "a signal", Endpoint: "POST /drain", Controller: "the controller" };
const STATES = {
  pending: "pending", registered: "registered", weightZero: "weight zero",
  deregistered: "deregistered", hold: "left as it is", awaitsApplication: "when its application is there"
};

export const at = id => document.getElementById(id);
export const own = (table, word) => Object.hasOwn(table, word) ? table[word] : word;

// Only what differs is written: an assignment alone makes the browser lay out again.
export function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}
export function dress(node, classes) {
  if (node.className !== classes) node.className = classes;
}
export function make(tag, text, classes) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (classes) node.className = classes;
  return node;
}

export const count = n => n.toLocaleString("en");

export function time(seconds) {
  const s = Math.max(0, Math.floor(seconds)), two = n => String(n).padStart(2, "0");
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + ":" + two(s % 60);
  if (s < 86400) return Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
  return Math.floor(s / 86400) + " d " + Math.floor(s / 3600) % 24 + " h";
}

export function countdown(entry, now) {
  if (entry.deadlineAt === null) return "";
  const left = (entry.deadlineAt - now) / 1000;
  return left > 0 ? time(Math.ceil(left)) : "passed";
}

export const state = name => own(STATES, name);

// What the balancer has applied, and what it should.
export function balancer(view) {
  const { balancer: has, goal } = view;
  if (goal === has || (goal === "registered" && has === "pending")) return state(goal);
  return state(has) + " → " + state(goal);
}

export function classes(view) {
  return Object.entries(view.report.byClass).filter(([, open]) => open > 0)
    .sort((a, b) => b[1] - a[1]).map(([name, open]) => count(open) + " " + name).join(", ");
}

// What a person should look at: [words, how bad].
export function marks(view) {
  const all = [];
  if (view.lost) all.push(["lost", "bad"]);
  if (view.trouble) all.push([view.trouble.kind.replaceAll("_", " "), "bad"]);
  if (view.report.forcedCloses > 0) all.push([count(view.report.forcedCloses) + " force-closed", "bad"]);
  if (view.goal === "hold") all.push(["hold", "warm"]);
  if (view.goal === "awaitsApplication") all.push(["application", "warm"]);
  if (view.waiting) all.push(["waiting", "warm"]);
  if (view.directive === "drain") all.push(["drain asked", ""]);
  if (view.directive === "undrain") all.push(["undrain asked", ""]);
  return all;
}

// How what remains became fewer, as a small picture.
export class Picture {
  constructor() {
    const make = name => document.createElementNS("http://www.w3.org/2000/svg", name);
    this.svg = make("svg");
    this.svg.setAttribute("class", "fall");
    this.svg.setAttribute("viewBox", "0 0 120 24");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.area = make("path");
    this.area.setAttribute("class", "area");
    this.edge = make("path");
    this.edge.setAttribute("class", "edge");
    this.svg.append(this.area, this.edge);
    this.drawn = null;
  }

  draw(points) {
    if (this.drawn === points) return;
    this.drawn = points;
    this.svg.toggleAttribute("hidden", points.length === 0);
    if (points.length === 0) return;
    const top = Math.max(1, ...points), last = Math.max(points.length - 1, 1);
    const steps = points.map((n, i) =>
      (i * 120 / last).toFixed(1) + "," + (23 - n * 22 / top).toFixed(1));
    if (points.length === 1) steps.push("120," + steps[0].split(",")[1]);
    this.edge.setAttribute("d", "M" + steps.join("L"));
    this.area.setAttribute("d", "M0,24L" + steps.join("L") + "L120,24Z");
    this.svg.setAttribute("aria-label",
      "from " + count(points[0]) + " to " + count(points[points.length - 1]) + ", at most " + count(top));
  }
}

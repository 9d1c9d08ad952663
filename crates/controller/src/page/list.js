// The fleet in one table. Only the rows in sight exist; when something changes, only their cells do.

import { Picture, at, balancer, classes, count, countdown, dress, make, marks, say, time } from "./words.js";

const ABOVE = 4;
const MAX_SERVICES = 200;
const BY = {
  name: e => e.name, service: e => e.service, balancer: e => balancer(e.view),
  phase: e => e.rank % 10, attention: e => e.rank,
  remaining: e => -e.view.report.drainBlockingConnections,
  oldest: e => -e.view.report.oldestConnectionSeconds,
  deadline: e => e.deadlineAt ?? Infinity
};
const KINDS = {
  all: () => true, serving: e => !e.leaving && !e.drained,
  leaving: e => e.leaving, drained: e => e.drained, attention: e => e.attention
};

const scroller = at("table"), body = at("rows");
const space = () => {
  const tr = make("tr", undefined, "space");
  tr.append(make("td"));
  tr.setAttribute("aria-hidden", "true");
  return tr;
};
const above = space(), below = space();
body.append(above, below);

let targets = new Map(), list = [], slots = [];
let kind = "all", words = [], sort = "attention", turn = 1;
let wanted = null;

function row() {
  const tr = make("tr", undefined, "row");
  const cell = classes => tr.appendChild(make("td", "", classes));
  const name = cell("name");
  const slot = {
    tr, link: name.appendChild(make("a")), service: cell("soft extra"), phase: cell().appendChild(make("span")),
    remaining: cell(), picture: new Picture(), id: null
  };
  cell("wide").append(slot.picture.svg);
  Object.assign(slot, {
    classes: cell("soft wide"), oldest: cell("n wide"), deadline: cell("n"), balancer: cell("mid"), marks: cell()
  });
  return slot;
}

function fill(slot, entry, now) {
  const { view } = entry, { report } = view;
  if (slot.id !== entry.id) {
    slot.id = entry.id;
    slot.link.href = "#/targets/" + encodeURIComponent(entry.id);
  }
  say(slot.deadline, countdown(entry, now));
  if (slot.entry === entry) return;
  slot.entry = entry;
  say(slot.link, entry.name);
  slot.link.title = entry.name;
  say(slot.service, view.service);
  say(slot.phase, report.phase);
  dress(slot.phase, "phase " + report.phase);
  say(slot.remaining, count(report.drainBlockingConnections));
  dress(slot.remaining, entry.leaving ? "n big-n" : "n soft");
  slot.picture.draw(view.fall);
  const open = classes(view);
  say(slot.classes, open);
  slot.classes.title = open;
  say(slot.oldest, report.activeConnections ? time(report.oldestConnectionSeconds) : "");
  dress(slot.deadline, entry.leaving && report.phase === "Closing" ? "n warm" : "n");
  say(slot.balancer, balancer(view));
  dress(slot.balancer, view.order ? "mid" : "soft mid");
  slot.balancer.title = view.order ? "being told: " + view.order : "";
  slot.marks.replaceChildren(...marks(view).map(([text, how]) => make("span", text, "mark " + how)));
  slot.marks.title = view.trouble ? view.trouble.message : "";
}

// The rows in sight, as they are now.
export function render() {
  if (at("fleet").hidden) return;
  const now = Date.now();
  const height = parseFloat(getComputedStyle(document.documentElement).fontSize) * 2.25;
  const room = Math.ceil(scroller.clientHeight / height) + 2 * ABOVE;
  const first = Math.max(0, Math.min(Math.floor(scroller.scrollTop / height) - ABOVE, list.length - room));
  const seen = list.slice(first, first + room);
  const focused = slots.find(slot => slot.link === document.activeElement)?.id ?? wanted;
  while (slots.length < seen.length) {
    const slot = row();
    slots.push(slot);
    below.before(slot.tr);
  }
  while (slots.length > seen.length) slots.pop().tr.remove();
  seen.forEach((entry, i) => {
    fill(slots[i], entry, now);
    slots[i].tr.setAttribute("aria-rowindex", first + i + 2);
  });
  above.firstChild.style.height = first * height + "px";
  below.firstChild.style.height = (list.length - first - seen.length) * height + "px";
  // A target keeps the focus when it moves to another row.
  if (focused !== null) {
    const slot = slots.find(slot => slot.id === focused);
    if (slot && document.activeElement !== slot.link) slot.link.focus({ preventScroll: true });
  }
  wanted = null;
}

function select() {
  const fits = KINDS[kind], by = BY[sort];
  list = [];
  for (const entry of targets.values()) {
    if (fits(entry) && words.every(word => entry.search.includes(word))) list.push(entry);
  }
  const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  list.sort((a, b) => turn * compare(by(a), by(b)) || compare(a.name, b.name));
  at("targets").setAttribute("aria-rowcount", list.length + 1);
  say(at("shown"), list.length === targets.size ? "" : count(list.length) + " of " + count(targets.size) + " shown");
}

const sums = () => ({ all: 0, serving: 0, leaving: 0, drained: 0, attention: 0, remaining: 0, forced: 0, lost: 0, trouble: 0 });

function summarise() {
  const total = sums(), services = new Map();
  for (const entry of targets.values()) {
    let service = services.get(entry.service);
    if (!service) services.set(entry.service, service = sums());
    const { view } = entry;
    for (const sum of [total, service]) {
      for (const name in KINDS) if (KINDS[name](entry)) sum[name] += 1;
      if (entry.leaving) sum.remaining += view.report.drainBlockingConnections;
      sum.forced += view.report.forcedCloses;
      sum.lost += view.lost;
      sum.trouble += Boolean(view.trouble);
    }
  }
  for (const [id, n, isBad] of [["targets", total.all], ["leaving", total.leaving], ["remaining", total.remaining],
    ["forced", total.forced, true], ["lost", total.lost, true], ["trouble", total.trouble, true]]) {
    say(at("sum-" + id), count(n));
    dress(at("sum-" + id), isBad && n > 0 ? "bad" : "");
  }
  for (const button of at("kinds").children) {
    say(button.lastElementChild, count(total[button.dataset.kind]));
    button.classList.toggle("some", button.dataset.kind === "attention" && total.attention > 0);
  }
  const rows = [...services].sort(([a, one], [b, other]) =>
    other.attention - one.attention || other.leaving - one.leaving || (a < b ? -1 : 1));
  list_services(rows.slice(0, MAX_SERVICES));
  say(at("more-services"), rows.length > MAX_SERVICES
    ? "and " + count(rows.length - MAX_SERVICES) + " more in which less happens; search finds them" : "");
}

function list_services(rows) {
  const body = at("services");
  while (body.children.length > rows.length) body.lastChild.remove();
  while (body.children.length < rows.length) {
    const tr = make("tr"), name = tr.appendChild(make("td", undefined, "name"));
    name.append(make("a"));
    for (let i = 0; i < 4; i++) tr.append(make("td", "", "n"));
    body.append(tr);
  }
  rows.forEach(([name, sum], i) => {
    const [link, ...cells] = [body.children[i].firstChild.firstChild, ...[...body.children[i].children].slice(1)];
    say(link, name);
    if (link.title !== name) {
      link.title = "Show the targets of " + name;
      link.href = "#/";
      link.dataset.service = name;
    }
    [sum.all, sum.leaving, sum.remaining, sum.attention].forEach((n, at) => say(cells[at], count(n)));
    dress(cells[3], sum.attention > 0 ? "n bad" : "n soft");
  });
}

export function show(all) {
  targets = all;
  summarise();
  select();
  render();
}

function again() {
  select();
  scroller.scrollTop = 0;
  render();
}

export function seek(text) {
  at("search").value = text;
  words = text.toLowerCase().split(/\s+/).filter(Boolean);
  again();
}

at("search").addEventListener("input", event => seek(event.target.value));
at("services").addEventListener("click", event => {
  const name = event.target.dataset?.service;
  if (name) seek(name);
});
at("kinds").addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  kind = button.dataset.kind;
  for (const each of at("kinds").children) each.setAttribute("aria-pressed", each === button);
  again();
});
function mark_sort() {
  for (const button of document.querySelectorAll("[data-sort]")) {
    const th = button.closest("th");
    if (button.dataset.sort === sort) th.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  }
}
at("targets").tHead.addEventListener("click", event => {
  const by = event.target.closest("button")?.dataset.sort;
  if (!by) return;
  turn = by === sort ? -turn : 1;
  sort = by;
  mark_sort();
  again();
});
body.addEventListener("keydown", event => {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
  const id = slots.find(slot => slot.link === document.activeElement)?.id;
  if (!step || !id) return;
  event.preventDefault();
  const from = list.findIndex(entry => entry.id === id);
  const to = Math.max(0, Math.min(list.length - 1, from + step));
  wanted = list[to].id;
  document.activeElement.blur();
  const height = parseFloat(getComputedStyle(document.documentElement).fontSize) * 2.25;
  const top = to * height, bottom = top + 2 * height + at("targets").tHead.offsetHeight;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (bottom > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = bottom - scroller.clientHeight;
  render();
});
let framed = false;
const soon = () => {
  if (framed) return;
  framed = true;
  requestAnimationFrame(() => { framed = false; render(); });
};
scroller.addEventListener("scroll", soon, { passive: true });
addEventListener("resize", soon);
mark_sort();

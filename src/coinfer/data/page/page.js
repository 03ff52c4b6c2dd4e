"use strict";
// One stream comes in, a whole state first and then what changes; it is drawn at most once a frame.

const STALE_MS = 3000, DENSE = 12;
const byId = (id) => document.getElementById(id);
let latest = null, heardAt = 0, drawing = false;

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;  // never as HTML: names come from nodes
  return made;
}

function card(node) {
  const made = element("article", node.there ? "card" : "card gone");
  made.dataset.name = node.name;
  made.append(element("span", "state", node.there ? "there" : "gone"), element("div", "name", node.name));
  made.append(element("div", "dim where", `${node.address} · ${node.models.join(", ")}`));
  const full = node.queued + node.room;
  const meter = element("div", "meter"), level = element("span");
  level.style.width = full ? `${Math.round(100 * node.queued / full)}%` : "0";
  meter.append(level);
  made.append(meter);
  made.append(element("div", "dim", node.there ? `${node.queued} wait, ${node.backlog_ms.toFixed(0)} ms` : `silent for ${duration(node.silent_s)}`));
  if (node.there) made.append(element("div", "dim answered", `${node.success} answered, ${node.failed} not`));
  if (node.there && node.policies.length) made.append(element("div", "dim policy", `policy ${node.policies.map((v) => `v${v}`).join(", ")}`));
  return made;
}

function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

function row(left, right, gone) {
  const made = element("div", gone ? "row gone" : "row");
  made.append(element("span", "", left), element("span", "dim", right));
  return made;
}

function happened(event, isBad) {
  const made = element("div", isBad ? "row gone" : "row");
  made.append(element("span", "", event.text), element("time", "", new Date(1000 * event.at_s).toLocaleTimeString()));
  return made;
}

function bars(id, counts, nameOf = (name) => name) {
  const entries = Object.entries(counts), most = Math.max(1, ...entries.map((entry) => entry[1]));
  byId(id).replaceChildren(...(entries.length ? entries.map(([name, count]) => {
    const made = element("div", "bar"), fill = element("i");
    fill.style.width = `${100 * count / most}%`;
    made.append(fill, element("span", "", nameOf(name)), element("span", "", String(count)));
    return made;
  }) : [element("p", "dim", "no decisions yet")]));
}

function chart(id, lines) {
  const svg = byId(id), space = "http://www.w3.org/2000/svg";
  const most = Math.max(1e-9, ...lines.flatMap((line) => line.values));
  const drawn = lines.map((line) => {
    const made = document.createElementNS(space, "polyline");
    made.setAttribute("class", line.name);
    const step = 300 / 119, first = 120 - line.values.length;
    made.setAttribute("points", line.values.map((v, i) => `${((first + i) * step).toFixed(1)},${(86 - 80 * v / most).toFixed(1)}`).join(" "));
    return made;
  });
  const base = document.createElementNS(space, "line");
  for (const [key, value] of Object.entries({ x1: 0, x2: 300, y1: 86, y2: 86 })) base.setAttribute(key, value);
  svg.replaceChildren(base, ...drawn);
  return most;
}

function step(name, reached, now, ended) {
  return element("span", ["step", reached ? "reached" : "", now ? "now" : "", ended ? "ended" : ""].filter(Boolean).join(" "), name);
}

// How far a version came: judged, in shadow, on one server, on all.
function version(one, policy) {
  const made = element("article", "version"), stages = ["waiting", "shadow", "canary", "running"];
  made.dataset.standing = one.standing;
  const isOver = ["refused", "rolled back", "superseded"].includes(one.standing), ran = ["rolled back", "accepted"].includes(one.standing);
  const at = ran ? 3 : stages.indexOf(one.standing);
  const steps = element("div", "steps");
  ["judged", "shadow", one.number === policy.candidate && policy.canary ? `canary: ${policy.canary}` : "canary", "all servers"]
    .forEach((name, i) => steps.append(step(name, ran || i < at || one.standing === "running", i === at && !ran && !isOver, false)));
  if (isOver) steps.append(step(one.standing, false, false, true));
  made.append(element("div", "name", `version ${one.number}`), element("div", "dim", `${one.scheme}, pushed by ${one.by}`), steps);
  if (one.reason) made.append(element("div", "dim", one.reason));
  return made;
}

function rollout(policy) {
  const versions = policy ? policy.versions : [];
  byId("rollout-now").textContent = !versions.length ? "none was pushed; servers decide as they were started"
    : `${policy.running ? `version ${policy.running}` : "sequential greedy"} decides on all servers${policy.pinned ? ", pinned by an operator" : ""}`;
  byId("rollout").replaceChildren(...versions.slice(0, 6).map((one) => version(one, policy)));
  const events = policy ? policy.history.slice(-8).reverse() : [];
  byId("rollout-events").replaceChildren(...events.map((event) =>
happened(event, /refused|rolled back/.test(event.text))));
}

function draw() {
  drawing = false;
  const state = latest, began = performance.now();
  const edges = state.nodes.filter((node) => node.role === "edge"), devices = state.nodes.filter((node) => node.role === "device");
  const there = (nodes) => nodes.filter((node) => node.there).length;
  const isDense = edges.length > DENSE;
  byId("edges").className = isDense ? "cards dense" : "cards";
  if (isDense) edges.sort((a, b) => a.there - b.there);  // among many, those that are gone first
  byId("edges").replaceChildren(...(edges.length ? edges.map(card) : [element("p", "dim", "no edge server has joined yet")]));
  const series = state.series, last = series[series.length - 1] || { success: 0, failed: 0, latency_ms: 0 };
  const most = chart("rate", [{ name: "success", values: series.map((p) => p.success) }, { name: "failed", values: series.map((p) => p.failed) }]);
  byId("rate-now").textContent = `${last.success.toFixed(1)} answered, ${last.failed.toFixed(1)} not; at most ${most.toFixed(1)} in two minutes`;
  const slowest = chart("latency", [{ name: "latency", values: series.map((p) => p.latency_ms) }]);
  byId("latency-now").textContent = `${last.latency_ms.toFixed(1)} now; at most ${slowest.toFixed(1)} in two minutes`;
  const names = new Map(state.nodes.filter((node) => node.address).map((node) => [node.address, node.name]));
  const nameOf = (address) => names.get(address) || address;
  bars("servers", state.servers, nameOf); bars("cuts", state.cuts); bars("policies", state.policies);
  rollout(state.policy);
  byId("devices").replaceChildren(...(devices.length ? devices.map((node) =>
    row(node.name, node.there ? `${node.success} answered, ${node.spooled} to tell` : `gone for ${duration(node.silent_s)}`, !node.there)) : [element("p", "dim", "no device has joined yet")]));
  const links = state.links.map((link) =>
    row(`${link.from} → ${nameOf(link.to)}`, `${(link.rate_bps / 1e6).toPrecision(3)} Mbit/s, ${(1e3 * link.round_trip_s).toPrecision(2)} ms`));
  byId("links-title").textContent = state.link_count > links.length ? `The ${links.length} slowest of ${state.link_count} links` : "Links";
  byId("links").replaceChildren(...(links.length ? links : [element("p", "dim", "no link was measured yet")]));
  byId("events").replaceChildren(...state.events.slice().reverse().map((event) => happened(event, false)));
  const summary = byId("summary");
  summary.className = state.store_problem ? "bad" : "";
  summary.textContent = state.store_problem ? `experience cannot be stored: ${state.store_problem}`
    : `${there(edges)} of ${edges.length} edge servers, ${there(devices)} of ${devices.length} devices; ${state.stored} decisions kept`;
  document.body.dataset.frameMs = (performance.now() - began).toFixed(1);
}

const source = new EventSource("events");
const marks = { nodes: "name", series: "number", events: "number" }, kept = { series: 120, events: 50 };

function merge(state, changed) {
  for (const [key, value] of Object.entries(changed)) {
    const mark = marks[key];
    if (!mark) { state[key] = value; continue; }
    const items = new Map(state[key].map((one) => [one[mark], one]));
    for (const one of value) items.set(one[mark], one);
    if (key === "nodes") for (const name of changed.forgotten || []) items.delete(name);
    state[key] = [...items.values()].sort((a, b) => a[mark] < b[mark] ? -1 : 1).slice(-(kept[key] || Infinity));
  }
}

function hear(message) {
  const heard = JSON.parse(message.data);
  if (message.type === "whole") latest = heard; else merge(latest, heard);
  heardAt = Date.now();
  if (!drawing) { drawing = true; requestAnimationFrame(draw); }
}

source.addEventListener("whole", hear);
source.onmessage = hear;
setInterval(() => {
  if (Date.now() - heardAt > STALE_MS) {
    byId("summary").className = "bad";
    byId("summary").textContent = heardAt ? "the controller does not answer; what is shown is old" : "connecting …";
  }
}, 500);

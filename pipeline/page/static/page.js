// The page: a stream of events in, tiles and charts out. It keeps nothing: each event says all there is.
import { chart } from "./charts.js";
import { duration, make, moment, number, percent, shown, signed, steps, whole, words, write } from "./text.js";

const SILENT_MS = 5000; // a heartbeat comes every second
const SEARCH_MS = 120;
const LIST_MS = 3000;
const COLOURS = ["ours", "b", "c", "d", "e", "f", "g", "h", "a"];
const at = (id) => document.getElementById(id);
const seconds = (ms) => ms.map((t) => t / 1000);

const asked = new URLSearchParams(location.hash.slice(1));
const picked = { series: asked.get("series"), lead: Math.max(1, Number(asked.get("lead")) || 1) };
let stream = null, heard = 0, now = null, series = null, decisions = [], history = null;

// Charts

const fan = chart("fan", "Actual, and what is forecast next", { height: 300 });
const earlier = chart("earlier", "What had been forecast of it", { height: 280 });
const ownSkill = chart("own-skill", "Skill of this series", { height: 150, format: signed });
const ownHeld = chart("own-held", "How often the band of this series held", { height: 150, format: percent });
const skill = chart("skill", "Skill over time", { height: 220, format: signed });
const held = chart("held", "Coverage over time", { height: 220, format: percent });
const weights = chart("weights", "Mixture weights by lead", { height: 220, format: percent, time: false });
const weightsTime = chart("weights-time", "Mixture weights of late", { height: 220, format: percent });
const rate = chart("rate", "Observations a second", { height: 150 });
const lag = chart("lag", "Lag", { height: 150, format: whole });

// Central bands from levels, the widest first: [[0.9, k of the low, k of the high], ...]
function bandsOf(levels) {
  const found = [];
  for (let k = 0; k < levels.length / 2; k += 1) {
    const other = levels.findIndex((level) => Math.abs(level + levels[k] - 1) < 1e-9);
    if (other > k) found.push([levels[other] - levels[k], k, other]);
  }
  return found;
}

const bandName = (share) => `${Math.round(share * 100)} % band`;

function paintSeries() {
  const one = series;
  write(at("series-name"), one ? shown(one.id) : "No series yet");
  if (!one) return;
  const slider = at("lead");
  if (one.leads && Number(slider.max) !== one.leads) slider.max = one.leads;
  if (document.activeElement !== slider && one.leads) slider.value = Math.min(picked.lead, one.leads);
  const lead = one.lead;
  write(at("lead-shown"), one.step ? `${steps(lead)} (${duration(lead * one.step)})` : steps(lead));
  slider.setAttribute("aria-valuetext", `${steps(lead)} earlier`);
  about(one);
  const waiting = one.leads ? "" : "Waiting for its next forecast …";
  paintFan(one, waiting);
  paintEarlier(one, waiting);
  const scored = one.times.length ? seconds(one.times) : [];
  const some = (column) => (column && column.some((v) => v !== null) ? scored : []);
  ownSkill.draw({ x: some(one.skill), lines: [{ name: "skill, over 96 steps", y: one.skill, kind: "ours" }], level: 0, robust: true, empty: "Not scored yet" });
  ownHeld.draw({ x: some(one.coverage), lines: [{ name: `${bandName(one.band)} held, over 96 steps`, y: one.coverage, kind: "ours" }], level: one.band, empty: "Not scored yet" });
}

function about(one) {
  const chips = at("series-skill");
  const groups = one.groups.map((name, k) => [name, one.skill_by_group[k], one.coverage_by_group[k]]).filter(([, s]) => s !== null);
  while (chips.children.length > groups.length) chips.lastChild.remove();
  while (chips.children.length < groups.length) { const chip = make("li"); chip.append(make("b"), make("span")); chips.append(chip); }
  groups.forEach(([name, s, c], k) => {
    const [figure, text] = chips.children[k].children;
    write(figure, signed(s));
    figure.classList.toggle("poor", s < -0.005);
    write(text, `${leadsOf(name)}, band held ${percent(c)}`);
  });
  const served = (one.served || []).map((run) => `${run.from_lead}${run.to_lead > run.from_lead ? `-${run.to_lead}` : ""} by ${words(run.by)}${run.reason ? ` (${words(run.reason)})` : ""}`).join(", ");
  write(at("series-about"), `${served ? `Leads served now: ${served}.` : ""}${one.cold ? " Still cold: it has not shown a whole season yet." : ""}`);
}

const leadsOf = (group) => (group === "1" ? "lead 1" : `leads ${group}`);

function paintFan(one, waiting) {
  const ahead = one.fan;
  if (!ahead || !one.times.length) { fan.draw({ x: [], lines: [], empty: waiting || undefined }); return; }
  const keep = Math.max(3 * one.leads, 72);
  const past = one.times.map((t, k) => [t, one.actual[k]]).filter(([t]) => t <= ahead.issued_at).slice(-keep);
  const future = ahead.times.length;
  const x = seconds([...past.map(([t]) => t), ...ahead.times]);
  const blank = new Array(Math.max(past.length - 1, 0)).fill(null);
  const last = past.length ? past[past.length - 1][1] : null;
  const grown = (values) => [...blank, ...(past.length ? [last] : []), ...values];
  fan.draw({
    x, now: ahead.issued_at / 1000,
    lines: [
      { name: "actual", y: [...past.map(([, v]) => v), ...new Array(future).fill(null)], kind: "ink" },
      { name: "forecast", y: grown(ahead.point), kind: "ours", width: 2.4 },
    ],
    bands: bandsOf(one.levels).map(([share, low, high]) => ({ name: bandName(share), low: grown(ahead.quantiles[low]), high: grown(ahead.quantiles[high]) })),
    says: `Made at ${moment(ahead.issued_at)}: next ${number(ahead.point[0])}; last actual value ${number(last)}.`,
  });
}

function paintEarlier(one, waiting) {
  if (!one.times.length || !one.point) { earlier.draw({ x: [], lines: [], empty: waiting || undefined }); return; }
  const first = Math.max(one.times.length - 240, 0), cut = (column) => column.slice(first);
  const bands = bandsOf(one.levels), [widest] = bands;
  const actual = cut(one.actual);
  const [low, high] = widest ? [cut(one.quantiles[widest[1]]), cut(one.quantiles[widest[2]])] : [[], []];
  const outside = actual.map((v, k) => (v !== null && low[k] !== undefined && low[k] !== null && (v < low[k] || v > high[k]) ? v : null));
  const both = actual.filter((v, k) => v !== null && low[k] !== null && low[k] !== undefined).length, missed = outside.filter((v) => v !== null).length;
  write(at("earlier-about"), widest && both ? `${bandName(widest[0])}: held ${whole(both - missed)} of the ${whole(both)} values shown (${percent((both - missed) / both)}).` : "");
  const came = actual.findLastIndex((v) => v !== null);
  earlier.draw({
    x: seconds(cut(one.times)), ...(came >= 0 && came < actual.length - 1 ? { now: cut(one.times)[came] / 1000 } : {}),
    lines: [
      { name: "actual", y: actual, kind: "ink" },
      { name: `forecast, made ${steps(one.lead)} earlier`, y: cut(one.point), kind: "ours", width: 2.2 },
      ...(widest ? [{ name: "outside the band", y: outside, kind: "mark", dots: true }] : []),
    ],
    bands: bands.slice(0, 1).map(([share]) => ({ name: bandName(share), low, high })),
  });
}

function paintHistory() {
  const { groups, times, run } = history, x = seconds(times);
  const band = now ? now.band : 0.9;
  const used = groups.map((name, k) => [name, k]).filter(([, k]) => history.coverage[k].some((v) => v !== null));
  const lines = (of) => used.map(([name, k]) => ({ name: leadsOf(name), y: of[k], kind: COLOURS[k] }));
  const bin = history.bin ? ` A point is ${duration(history.bin)} of event time.` : "";
  write(at("held-about"), `How often the ${bandName(band)} held what came. Dotted: what it promises.${bin}`);
  skill.draw({ x: used.length ? x : [], lines: lines(history.skill), level: 0, robust: true, empty: "Nothing scored yet" });
  held.draw({ x: used.length ? x : [], lines: lines(history.coverage), level: band, robust: true, empty: "Nothing scored yet" });
  const t = seconds(run.times);
  rate.draw({ x: t, lines: [{ name: "observations a second", y: run.rate, kind: "ours" }], floor: 0, empty: "No heartbeat yet" });
  lag.draw({ x: t, lines: [{ name: "records behind", y: run.lag, kind: "ours" }], floor: 0, empty: "No heartbeat yet" });
  const { leads, experts, times: beats, by } = history.weights;
  if (!leads.length || !by.length) {
    weightsTime.draw({ x: [], lines: [], empty: "This model serves one expert at a time: there is no mixture." });
    write(at("weights-about"), "");
    return;
  }
  const near = leads.reduce((best, lead, k) => (Math.abs(lead - picked.lead) < Math.abs(leads[best] - picked.lead) ? k : best), 0);
  write(at("weights-about"), `At lead ${leads[near]}, by the clock.`);
  weightsTime.draw({ x: seconds(beats), lines: experts.map((name, k) => ({ ...look(name, k), y: by[k][near] })), floor: 0 });
}

const look = (name, k) => ({ name: words(name), kind: COLOURS[k % COLOURS.length], ...(k < COLOURS.length ? {} : { dash: [5, 3] }) });

function paintWeights(by) {
  const names = Object.keys(by || {});
  if (!names.length) { weights.draw({ x: [], lines: [], empty: "This model serves one expert at a time: there is no mixture." }); return; }
  const n = Math.min(...names.map((name) => by[name].length)), x = Array.from({ length: n }, (_, k) => k + 1);
  weights.draw({ x, lines: names.map((name, k) => ({ ...look(name, k), y: by[name].slice(0, n) })), floor: 0 });
}

// Tiles and state

function tiles(all) {
  const status = all.status || {};
  const leads = Object.keys(status.skill || {}).map(Number);
  const far = leads.length ? Math.max(...leads) : null;
  const band = String(all.band), share = (status.coverage || {})[band];
  const { p50, p99 } = status.latency_ms || {};
  const rows = [
    ["skill one step ahead", signed((status.skill || {})["1"]), far > 1 ? `${signed(status.skill[far])} at ${far}` : ""],
    [`of values in the ${bandName(all.band)}`, percent(share), "since its start"],
    ["observations a second", whole(status.rate), status.ledger ? `${whole(status.ledger.consumed)} in all` : ""],
    ["records behind", whole(status.lag), status.held ? `${whole(status.held)} held for other partitions` : ""],
    ["ms to forecast, median", whole(p50), p99 ? `${whole(p99)} ms p99` : ""],
    ["commits", whole(status.commits), status.updates ? `learnt ${whole(status.updates)} times` : ""],
    ["late or rejected", status.ledger ? whole((status.ledger.late ?? 0) + (status.ledger.rejected ?? 0)) : "–", status.filtered ? `${whole(status.filtered)} filtered` : ""],
    ["series", whole(status.series ?? all.known), `${whole(all.known)} seen here`],
  ];
  const list = at("tiles");
  while (list.children.length < rows.length) { const item = make("li"); item.append(make("b"), make("span"), make("small")); list.append(item); }
  rows.forEach(([text, figure, more], k) => {
    const [one, two, three] = list.children[k].children;
    write(one, figure); write(two, text); write(three, more);
  });
}

function ledger(all) {
  const said = all.status && all.status.ledger;
  if (!said || said.consumed === undefined) { write(at("ledger"), ""); return; }
  const parts = ["used", "duplicate", "late", "rejected"].map((name) => [name, said[name] ?? 0]);
  const sum = parts.reduce((total, [, n]) => total + n, 0);
  const verdict = sum === said.consumed ? "it adds up" : `which is ${whole(sum)}: the ledger does not add up`;
  write(at("ledger"), `Ledger: ${whole(said.consumed)} consumed = ${parts.map(([name, n]) => `${whole(n)} ${name}`).join(" + ")}; ${verdict}.`);
}

// What the lamp says, and in trouble what it means: [state, short, sentence]
function standing(all) {
  const { link, status } = all, since = `since ${moment(link.since).slice(11)} UTC`;
  if (link.state === "connecting") return ["connecting", "Connecting", ""];
  if (link.state === "away") return ["away", "Broker away", `The Kafka broker does not answer ${since}: what is shown is from before. This page tries again by itself. (${link.why})`];
  if (link.state === "refused") return ["away", "Refused", `The Kafka broker refuses this page: ${link.why}`];
  if (link.state === "missing") return ["away", "Topics missing", `There is no topic ${link.why}: are kafka.bootstrap and output.prefix right? \`tidecast topics apply\` makes them.`];
  if (!status) {
    const others = all.others.length ? ` The topics tell of ${all.others.map(shown).join(", ")}: start this page with --application.` : "";
    return ["silent", "No heartbeat", `No heartbeat of application ${shown(all.application)} yet: does \`tidecast run\` run?${others}`];
  }
  const quiet = all.clock - all.heard;
  if (status.state === "stopped") return ["stopped", "Stopped", `Tidecast was stopped at ${moment(all.heard)} UTC: what is shown is from before.`];
  if (quiet > SILENT_MS) return ["silent", "No heartbeat", `No heartbeat for ${duration(Math.round(quiet / 1000) * 1000)}: Tidecast hangs or has died. What is shown is from before.`];
  return ["live", "Live", ""];
}

function tell(state, short, sentence) {
  at("state").dataset.state = state;
  write(at("state-text"), short);
  write(at("trouble"), sentence);
  at("trouble").hidden = !sentence;
  document.body.classList.toggle("stale", state !== "live" && state !== "connecting");
  document.title = `${state === "live" ? "" : `${short}: `}Tidecast`;
}

function paintNow() {
  write(at("application"), shown(now.application));
  tell(...standing(now));
  tiles(now);
  ledger(now);
  paintWeights((now.status || {}).weights);
  const notes = [`Times are UTC. tidecast ${now.version}.`];
  if (now.behind > 2000) notes.push(`This page is ${whole(now.behind)} records behind.`);
  if (now.skipped) notes.push(`It left out ${whole(now.skipped)} records to keep up.`);
  if (now.turned_away) notes.push("There are more series than it lists.");
  if (now.unreadable) notes.push(`${whole(now.unreadable)} records were none of Tidecast's.`);
  write(at("footer"), notes.join(" "));
}

// Decisions

let chosen = null;
const colourless = (one) => `${one.kind} at ${moment(one.at)}: ${one.cause}`;

function paintDecisions() {
  const place = at("timeline");
  if (!decisions.length) { place.replaceChildren(make("p", { class: "dim" }, "None yet.")); at("decision-table").hidden = true; return; }
  at("decision-table").hidden = false;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  const kinds = [...new Set(decisions.map((d) => d.kind))].sort();
  const first = Math.min(...decisions.map((d) => d.at)), last = Math.max(...decisions.map((d) => d.at));
  const rows = new Map(kinds.map((kind) => [kind, make("div", { class: "row" })]));
  rows.forEach((row, kind) => row.append(make("span", {}, words(kind))));
  const current = decisions.find((d) => d.id === chosen) || decisions[decisions.length - 1];
  decisions.forEach((one) => {
    const dot = make("button", { type: "button", "aria-label": colourless(one), "aria-pressed": String(one.id === chosen), tabindex: one === current ? "0" : "-1" });
    dot.dataset.id = one.id;
    dot.title = colourless(one);
    dot.style.left = `${last > first ? (100 * (one.at - first)) / (last - first) : 50}%`;
    rows.get(one.kind).append(dot);
  });
  const ends = make("div", { class: "ends" });
  ends.append(make("span", {}, moment(first)), make("span", {}, last > first ? moment(last) : ""));
  place.replaceChildren(...rows.values(), ends);
  if (focused) [...place.querySelectorAll("button")].find((dot) => dot.dataset.id === focused)?.focus();
  fillDecisions();
}

function choose(id) {
  chosen = id;
  at("timeline").querySelectorAll("button").forEach((dot) => {
    dot.setAttribute("aria-pressed", String(dot.dataset.id === id));
    dot.setAttribute("tabindex", dot.dataset.id === id ? "0" : "-1");
  });
  const one = decisions.find((d) => d.id === id);
  if (!one) return;
  const list = make("dl");
  const leads = one.from_lead === null ? null : one.to_lead === one.from_lead ? `${one.from_lead}` : `${one.from_lead} to ${one.to_lead}`;
  const rows = [["what", words(one.kind)], ["when", `${moment(one.at)} (event time)`], ["cause", one.cause], ["series", one.series === null ? null : shown(one.series)], ["leads", leads], ["from version", one.from_version], ["version", one.version], ...Object.entries(one.numbers).map(([name, value]) => [words(name), spelt(value)])];
  rows.filter(([, value]) => value !== null && value !== "").forEach(([name, value]) => list.append(make("dt", {}, name), make("dd", {}, value)));
  at("decision").replaceChildren(list);
}

const spelt = (value) => (typeof value === "number" ? number(value) : Array.isArray(value) ? value.map(spelt).join(", ") : value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

function fillDecisions() {
  if (!at("decision-table").open) return;
  const table = make("table"), head = make("thead"), top = make("tr"), body = make("tbody");
  ["when (UTC)", "what", "cause", "numbers"].forEach((text) => top.append(make("th", { scope: "col", class: "text" }, text)));
  head.append(top);
  decisions.slice(-60).reverse().forEach((one) => {
    const row = make("tr");
    row.append(make("th", { scope: "row" }, moment(one.at)));
    [words(one.kind), one.cause, Object.entries(one.numbers).map(([k, v]) => `${words(k)} ${spelt(v)}`).join("; ")].forEach((text) => row.append(make("td", { class: "text" }, text)));
    body.append(row);
  });
  table.append(head, body);
  at("decision-table").querySelector(".scroll").replaceChildren(table);
}

at("decision-table").addEventListener("toggle", fillDecisions);
at("timeline").addEventListener("click", (event) => { const dot = event.target.closest("button"); if (dot) choose(dot.dataset.id); });
at("timeline").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  const here = decisions.findIndex((d) => d.id === document.activeElement.dataset.id);
  if (!step || here < 0) return;
  event.preventDefault();
  const next = decisions[Math.max(0, Math.min(decisions.length - 1, here + step))];
  choose(next.id);
  [...at("timeline").querySelectorAll("button")].find((dot) => dot.dataset.id === next.id).focus();
});

// The picker

let search = null;

async function list() {
  const query = at("query").value;
  const answer = await fetch(`api/series?${new URLSearchParams({ q: query, order: at("order").value })}`).catch(() => null);
  if (!answer || !answer.ok || query !== at("query").value) return;
  const found = await answer.json();
  const more = found.found > found.series.length ? `; the first ${whole(found.series.length)} are listed` : "";
  write(at("found"), query ? `${whole(found.found)} of ${whole(found.total)} match${more}` : `${whole(found.total)} in all${more}`);
  const place = at("list");
  while (place.children.length > found.series.length) place.lastChild.remove();
  while (place.children.length < found.series.length) {
    const item = make("li"), button = make("button", { type: "button" });
    button.append(make("bdi"), make("span"), make("small"));
    item.append(button);
    place.append(item);
  }
  found.series.forEach((one, k) => {
    const button = place.children[k].firstChild, [name, figure, more] = button.children;
    button.series = one.id;
    write(name, shown(one.id));
    write(figure, one.skill === null ? "" : signed(one.skill));
    figure.classList.toggle("poor", one.skill !== null && one.skill < -0.005);
    write(more, one.skill === null ? "no skill known yet" : `skill; band held ${percent(one.coverage)}`);
    button.setAttribute("aria-current", String(one.id === picked.series));
  });
  if (picked.series === null && found.series.length) {
    const names = found.series.map((one) => one.id).sort();
    pick(names[0]);
  }
}

function pick(name) {
  picked.series = name;
  at("list").querySelectorAll("button").forEach((button) => button.setAttribute("aria-current", String(button.series === name)));
  series = null;
  write(at("series-name"), shown(name));
  write(at("series-about"), "");
  at("series-skill").replaceChildren();
  [fan, earlier, ownSkill, ownHeld].forEach((one) => one.draw({ x: [], lines: [], empty: "Reading …" }));
  open();
}

const settled = () => !at("list").matches(":hover") && !at("list").contains(document.activeElement); // nothing moves under a hand
at("list").addEventListener("click", (event) => { const button = event.target.closest("button"); if (button) pick(button.series); });
at("query").addEventListener("input", () => { clearTimeout(search); search = setTimeout(list, SEARCH_MS); });
at("order").addEventListener("change", list);
setInterval(() => { if (!document.hidden && (settled() || !at("list").children.length)) list(); }, LIST_MS);
at("lead").addEventListener("input", () => {
  picked.lead = Number(at("lead").value);
  write(at("lead-shown"), steps(picked.lead));
  clearTimeout(search);
  search = setTimeout(open, SEARCH_MS);
});

// The stream

function open() {
  if (stream) stream.close();
  const query = new URLSearchParams({ lead: picked.lead });
  if (picked.series !== null) query.set("series", picked.series);
  window.history.replaceState(null, "", picked.series === null ? location.pathname : `#${new URLSearchParams({ series: picked.series, lead: picked.lead })}`);
  const mine = (stream = new EventSource(`events?${query}`));
  const on = (kind, act) => mine.addEventListener(kind, (event) => { if (mine === stream) { heard = Date.now(); act(JSON.parse(event.data)); } });
  on("now", (said) => { now = said; paintNow(); });
  on("series", (said) => { series = said; paintSeries(); });
  on("decisions", (said) => { decisions = said; paintDecisions(); });
  on("history", (said) => { history = said; paintHistory(); });
}

// The browser opens a lost stream again by itself, but not one that was refused; and of one that hangs it says nothing.
setInterval(() => {
  if (Date.now() - heard <= SILENT_MS) return;
  tell("away", "Page not connected", "The program that serves this page (`tidecast watch`) does not answer: what is shown is from before. The page tries again by itself.");
  if (stream && (stream.readyState === EventSource.CLOSED || Date.now() - heard > 4 * SILENT_MS)) { heard = Date.now() - SILENT_MS; open(); }
}, 1000);

heard = Date.now();
await list();
if (!stream) open();

// Charts by uPlot: a legend in words, a line that says what is under the cursor, keys that move it, and a table of the same numbers.
/* global uPlot */
import { make, moment, number, write } from "./text.js";

const NS = "http://www.w3.org/2000/svg";
const ROWS = 60; // of a table: what a reader goes through
const charts = new Set();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const swatch = ({ kind, dash, band, dots, layers = 1 }) => {
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("viewBox", "0 0 26 10");
  svg.setAttribute("aria-hidden", "true");
  if (dots) {
    const dot = document.createElementNS(NS, "circle");
    Object.entries({ cx: 13, cy: 5, r: 4, class: "k-dot" }).forEach(([k, v]) => dot.setAttribute(k, v));
    svg.append(dot);
    return svg;
  }
  const line = document.createElementNS(NS, "line");
  Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, class: band ? "k-band" : `path k-${kind}`, ...(dash ? { "stroke-dasharray": dash.join(" ") } : {}) }).forEach(([k, v]) => line.setAttribute(k, v));
  for (let k = 0; k < layers; k += 1) svg.append(line.cloneNode());
  return svg;
};

// `draw(model)` says what to draw: {x (s, or any number with `time: false`), lines: [{name, y, kind, dash, dots, width}],
// bands: [{name, low, high}], level, floor, now, robust, says, empty}. All y have the length of x; null: nothing there.
export function chart(id, title, { height = 260, format = number, time = true } = {}) {
  const place = document.getElementById(id);
  const legend = make("ul", { class: "legend" });
  const plot = make("div", { class: "plot", tabindex: "0", role: "img" });
  const nothing = make("p", { class: "nothing" });
  const readout = make("p", { class: "readout" });
  const details = make("details");
  const holder = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}: table` });
  details.append(make("summary", {}, "Table"), holder);
  plot.style.height = `${height}px`;
  place.append(legend, plot, readout, details);
  let model = null, drawn = null, built = "", named = "";

  const spell = (v) => (time ? moment(v * 1000) : `lead ${v}`);

  function limits(self, low, high) {
    let [from, to] = [Infinity, -Infinity];
    for (const column of self.data.slice(1)) for (const v of column) { if (v !== null && v !== undefined) { from = Math.min(from, v); to = Math.max(to, v); } }
    for (const v of [model.level, model.floor]) if (v !== undefined) { from = Math.min(from, v); to = Math.max(to, v); }
    if (from > to) return [0, 1];
    if (model.robust) { // a few wild points at the start must not flatten all that follows
      const all = self.data.slice(1).flat().filter((v) => v !== null && v !== undefined).sort((a, b) => a - b);
      from = Math.min(all[Math.floor(0.02 * all.length)], model.level ?? Infinity);
      to = Math.max(all[Math.ceil(0.98 * all.length) - 1], model.level ?? -Infinity);
    }
    const room = (to - from || Math.abs(to) || 1) * 0.06;
    return [from === model.floor ? from : from - room, to + (model.now === undefined ? room : 2.5 * room)]; // the word at the top needs room
  }

  function marks(self) {
    const { ctx } = self, { left, top, width, height: tall } = self.bbox, ratio = devicePixelRatio;
    ctx.save();
    ctx.lineWidth = ratio;
    ctx.strokeStyle = ctx.fillStyle = colour("dim");
    ctx.setLineDash([3 * ratio, 3 * ratio]);
    const line = (a, b, c, d) => { ctx.beginPath(); ctx.moveTo(a, b); ctx.lineTo(c, d); ctx.stroke(); };
    if (model.level !== undefined) { const y = self.valToPos(model.level, "y", true); if (y >= top && y <= top + tall) line(left, y, left + width, y); }
    if (model.now !== undefined) {
      const x = self.valToPos(model.now, "x", true);
      if (x >= left && x <= left + width) {
        line(x, top, x, top + tall);
        ctx.font = `${12 * ratio}px system-ui, sans-serif`;
        ctx.textAlign = "right";
        ctx.fillText("newest", x - 5 * ratio, top + 12 * ratio);
      }
    }
    ctx.restore();
  }

  function options(width) {
    const ink = colour("dim"), grid = { stroke: colour("line"), width: 1 };
    const series = [{}];
    const bands = [];
    for (const band of model.bands || []) {
      series.push({ label: `${band.name}, low`, points: { show: false }, width: 0 }, { label: `${band.name}, high`, points: { show: false }, width: 0 });
      bands.push({ series: [series.length - 1, series.length - 2], fill: colour("fan") });
    }
    for (const line of model.lines) {
      series.push({
        label: line.name, stroke: colour(line.kind), width: line.dots ? 0 : line.width || 1.7, dash: line.dash, spanGaps: false,
        paths: line.dots ? () => null : undefined,
        points: line.dots ? { show: true, size: 7, fill: colour(line.kind), stroke: colour(line.kind) } : { show: false },
      });
    }
    const font = "12px system-ui, sans-serif";
    return {
      width, height, series, bands,
      legend: { show: false }, padding: [8, 26, 0, 0],
      cursor: { y: false, drag: { x: true, y: false }, points: { size: 6 } },
      tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "Etc/UTC"),
      scales: { x: { time }, y: { range: limits } },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: { stroke: grid.stroke, width: 1, size: 4 }, font, space: 62, size: time ? 46 : 30, ...(time ? { values: TIMES } : { incrs: [1, 2, 3, 6, 12, 24, 48, 96, 240] }) },
        { stroke: ink, grid, ticks: { show: false }, font, size: sized, values: (_, ticks) => ticks.map((v) => format(v)), space: 34 },
      ],
      hooks: { draw: [marks], setCursor: [(self) => say(self.cursor.idx)] },
    };
  }

  function sized(self, values) {
    const longest = Math.max(...(values || []).map((text) => text.length), 2);
    return Math.min(16 + 7 * longest, 90);
  }

  function data() {
    return [model.x, ...(model.bands || []).flatMap((b) => [b.low, b.high]), ...model.lines.map((l) => l.y)];
  }

  const values = (k) => [
    ...model.lines.filter((l) => !l.dots && l.y[k] !== null && l.y[k] !== undefined).map((l) => `${l.name} ${format(l.y[k])}`),
    ...(model.bands || []).filter((b) => b.low[k] !== null).map((b) => `${b.name} ${format(b.low[k])} to ${format(b.high[k])}`),
  ];

  function say(k) {
    const text = k === null || k === undefined || !model.x.length ? "" : `${spell(model.x[k])}: ${values(k).join(", ") || "nothing"}`;
    write(readout, text);
  }

  function words() {
    const entries = [...model.lines.map((l) => ({ ...l })), ...(model.bands || []).map((b, k) => ({ name: b.name, band: true, layers: k + 1 }))];
    const key = JSON.stringify(entries.map(({ name, kind, dash }) => [name, kind, dash]));
    if (key === named) return;
    named = key;
    legend.replaceChildren(...entries.map((entry) => {
      const item = make("li");
      item.append(swatch(entry), document.createTextNode(entry.name));
      return item;
    }));
  }

  function fill() {
    if (!details.open || !model) return;
    const first = Math.max(model.x.length - ROWS, 0);
    const heads = [time ? "time (UTC)" : "lead", ...model.lines.filter((l) => !l.dots).map((l) => l.name), ...(model.bands || []).flatMap((b) => [`${b.name}, low`, `${b.name}, high`])];
    const table = make("table"), top = make("tr"), head = make("thead"), body = make("tbody");
    table.append(make("caption", {}, first ? `the last ${ROWS}` : "all that is shown"));
    heads.forEach((text) => top.append(make("th", { scope: "col" }, text)));
    head.append(top);
    for (let k = model.x.length - 1; k >= first; k -= 1) {
      const row = make("tr");
      row.append(make("th", { scope: "row" }, time ? moment(model.x[k] * 1000) : String(model.x[k])));
      model.lines.filter((l) => !l.dots).forEach((l) => row.append(make("td", {}, format(l.y[k]))));
      (model.bands || []).forEach((b) => row.append(make("td", {}, format(b.low[k])), make("td", {}, format(b.high[k]))));
      body.append(row);
    }
    table.append(head, body);
    holder.replaceChildren(table);
  }

  function draw(next) {
    if (next) model = next;
    if (!model) return;
    const empty = !model.x.length;
    write(nothing, empty ? model.empty || "Nothing to show yet" : "");
    if (empty) {
      if (drawn) { drawn.destroy(); drawn = null; built = ""; }
      plot.replaceChildren(nothing);
      plot.setAttribute("aria-label", `${title}. ${nothing.textContent}`);
      legend.replaceChildren();
      named = "";
      write(readout, "");
      return;
    }
    words();
    const width = Math.max(plot.clientWidth, 200);
    const shape = JSON.stringify([width, colour("ink"), model.lines.map((l) => [l.name, l.kind, l.dots]), (model.bands || []).map((b) => b.name)]);
    if (shape !== built) {
      built = shape;
      if (drawn) drawn.destroy();
      nothing.remove();
      drawn = new uPlot(options(width), data(), plot);
    } else {
      drawn.setData(data());
    }
    const last = model.x.length - 1;
    plot.setAttribute("aria-label", `${title}. ${model.says || `Newest: ${spell(model.x[last])}: ${values(last).join(", ")}.`} Arrow keys move along it; a table follows.`);
    fill();
  }

  plot.addEventListener("keydown", (event) => {
    if (!drawn) return;
    const last = model.x.length - 1, at = drawn.cursor.idx ?? last, step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: at - step, ArrowRight: at + step, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    readout.setAttribute("aria-live", "polite"); // only who moves by keys is told
    const k = Math.max(0, Math.min(last, to));
    drawn.setCursor({ left: drawn.valToPos(model.x[k], "x"), top: 10 });
    say(k);
  });
  plot.addEventListener("blur", () => readout.removeAttribute("aria-live"));
  details.addEventListener("toggle", fill);
  new ResizeObserver(() => draw()).observe(plot);
  const one = { draw };
  charts.add(one);
  return one;
}

// UTC, the date where it changes, on a second line.
function TIMES(self, ticks) {
  let before = "", last = "";
  return ticks.map((s) => {
    const date = new Date(s * 1000), text = date.toISOString(), year = text.slice(0, 4);
    const day = date.toLocaleDateString("en", { timeZone: "UTC", month: "short", day: "numeric" });
    const step = ticks.length > 1 ? ticks[1] - ticks[0] : 86400;
    const clock = step < 60 ? text.slice(11, 19) : text.slice(11, 16);
    const below = step >= 86400 ? (year === last ? "" : year) : day === before ? "" : day;
    [before, last] = [day, year];
    return `${step >= 86400 ? day : clock}${below && `\n${below}`}`;
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((one) => one.draw()));

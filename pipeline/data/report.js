// Draws the report's charts from the numbers in the page. It asks nobody for anything and writes text only as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("numbers").textContent);
  const NS = document.querySelector("svg").namespaceURI;
  const COLOURS = ["a", "b", "c", "d", "e", "f", "g", "h"];
  const HOUR = 3600000, DAY = 24 * HOUR;
  const STEPS = [HOUR / 60, HOUR / 12, HOUR / 4, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY];
  const MONTHS = [1, 2, 3, 6, 12, 24, 60, 120, 240];

  const make = (name, attributes = {}, text) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const draw = (name, attributes = {}, text) => {
    const node = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const number = (x) => {
    if (x === null || x === undefined) return "–";
    const size = Math.abs(x);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return x.toExponential(2);
    return Number(x.toPrecision(size >= 1000 ? 6 : 4)).toLocaleString("en", { maximumFractionDigits: 6 });
  };
  const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);
  const moment = (ms) => {
    const text = new Date(ms).toISOString();
    return text.endsWith("T00:00:00.000Z") ? text.slice(0, 10) : text.slice(0, 16).replace("T", " ");
  };

  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) || 10 * power;
    const out = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
    return out;
  }

  function timeTicks(low, high, most) {
    const rough = (high - low) / most;
    const step = STEPS.find((s) => s >= rough);
    const out = [];
    if (step) {
      for (let v = Math.ceil(low / step) * step; v <= high; v += step) out.push(v);
      return out.map((v) => [v, step < DAY ? (v % DAY ? new Date(v).toISOString().slice(11, 16) : new Date(v).toISOString().slice(5, 10)) : new Date(v).toISOString().slice(0, 10)]);
    }
    const months = MONTHS.find((m) => m * 30 * DAY >= rough) || MONTHS[MONTHS.length - 1];
    const first = new Date(low);
    let month = first.getUTCFullYear() * 12 + first.getUTCMonth();
    for (month = Math.ceil(month / months) * months; ; month += months) {
      const v = Date.UTC(Math.floor(month / 12), month % 12, 1);
      if (v > high) return out;
      if (v >= low) out.push([v, new Date(v).toISOString().slice(0, months < 12 ? 7 : 4)]);
    }
  }

  // A chart of lines over x. `model()` says what to draw now: {x, time, lines: [{name, y, kind}], bands: [{name, low, high}], events, y, level, rows}
  function chart(place, title, model, { format = number, table = true, first = null } = {}) {
    const legend = make("ul", { class: "legend" });
    const svg = draw("svg", { tabindex: "0", role: "img" });
    const readout = make("p", { class: "readout", "aria-live": "polite" });
    const controls = make("div", { class: "controls" });
    const whole = make("button", { type: "button", hidden: "" }, "Show all");
    const details = make("details");
    controls.append(whole);
    place.append(legend, svg, readout, controls);
    if (table) {
      const holder = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}: table` });
      details.append(make("summary", {}, "Table"), holder);
      place.append(details);
      details.addEventListener("toggle", () => fill());
    }
    let view = first, cursor = null, start = null, now = null, frame = null;

    function shownRange() {
      const x = now.x;
      if (!view) return [0, x.length - 1];
      let from = x.findIndex((v) => v >= view[0]);
      let to = x.length - 1;
      while (to > 0 && x[to] > view[1]) to -= 1;
      if (from < 0) from = x.length - 1;
      return [Math.min(from, to), Math.max(from, to)];
    }

    function limits(from, to) {
      if (now.limits) return now.limits;
      let low = Infinity, high = -Infinity;
      const take = (y) => {
        for (let k = from; k <= to; k += 1) if (y[k] !== null) { low = Math.min(low, y[k]); high = Math.max(high, y[k]); }
      };
      for (const line of now.lines) take(line.y);
      for (const band of now.bands || []) { take(band.low); take(band.high); }
      if (now.level !== undefined) { low = Math.min(low, now.level); high = Math.max(high, now.level); }
      if (now.floor !== undefined) low = Math.min(low, now.floor);
      if (low > high) return [0, 1];
      const room = (high - low || Math.abs(high) || 1) * 0.05;
      return [low === now.floor ? low : low - room, high + room];
    }

    function redraw() {
      now = model();
      const width = Math.max(240, svg.clientWidth || 600), height = svg.clientHeight || 260;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.replaceChildren();
      svg.setAttribute("aria-label", `${title}. ${now.says || ""} Arrow keys move along it, plus and minus zoom, 0 shows all; a table follows.`);
      paintLegend();
      whole.hidden = !view;
      if (!now.x.length) { svg.append(draw("text", { x: 12, y: 30 }, "nothing to show")); frame = null; return; }
      const [from, to] = shownRange();
      let [left, right] = view || [now.x[0], now.x[now.x.length - 1]];
      if (left === right) { left -= 1; right += 1; }
      const [low, high] = limits(from, to);
      const names = now.names;
      const yTicks = names ? names.map((name, k) => [k, name]) : ticks(low, high, height < 180 ? 3 : 5).map((v) => [v, format(v)]);
      const margin = Math.min(width * 0.32, 14 + 7 * Math.max(...yTicks.map(([, t]) => t.length)));
      const box = { left: margin, right: width - 10, top: 10, bottom: height - 26 };
      const X = (v) => box.left + ((v - left) / (right - left)) * (box.right - box.left);
      const Y = (v) => box.bottom - ((v - low) / (high - low)) * (box.bottom - box.top);
      for (const [v, text] of yTicks) {
        svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: Y(v), y2: Y(v) }));
        svg.append(draw("text", { x: box.left - 6, y: Y(v) + 4, "text-anchor": "end" }, text.length > 18 ? `${text.slice(0, 17)}…` : text));
      }
      const many = Math.max(2, Math.floor((box.right - box.left) / 95));
      const xTicks = now.time ? timeTicks(left, right, many) : ticks(left, right, many).filter((v) => Number.isInteger(v)).map((v) => [v, String(v)]);
      for (const [v, text] of xTicks) {
        const at = X(v), edge = 5 * text.length / 2 + 8;
        const anchor = at > box.right - edge ? "end" : "middle";
        svg.append(draw("line", { class: "grid", x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 }));
        svg.append(draw("text", { x: at, y: height - 8, "text-anchor": anchor }, text));
      }
      if (now.level !== undefined) svg.append(draw("line", { class: "zero", x1: box.left, x2: box.right, y1: Y(now.level), y2: Y(now.level) }));
      const events = (now.events || []).filter((at) => at >= left && at <= right);
      const top = events.length > 40 ? box.bottom - 9 : box.top;
      for (const at of events) svg.append(draw("line", { class: "event", x1: X(at), x2: X(at), y1: top, y2: box.bottom }));
      for (const band of now.bands || []) svg.append(draw("path", { class: "band", d: area(band, from, to, X, Y) }));
      for (const line of now.lines) {
        if (line.dots) for (let k = from; k <= to; k += 1) { if (line.y[k] !== null) svg.append(draw("circle", { class: "dot k-dot", cx: X(now.x[k]), cy: Y(line.y[k]), r: 3.5 })); }
        else svg.append(draw("path", { class: `path k-${line.kind}`, d: path(line.y, from, to, X, Y), ...(line.dash ? { "stroke-dasharray": line.dash } : {}) }));
      }
      frame = { box, left, right, X };
      paintCursor();
      fill();
    }

    function path(y, from, to, X, Y) {
      let d = "", pen = false;
      for (let k = from; k <= to; k += 1) {
        if (y[k] === null) { pen = false; continue; }
        d += `${pen ? "L" : "M"}${X(now.x[k]).toFixed(1)} ${Y(y[k]).toFixed(1)}`;
        if (!pen && (k === to || y[k + 1] === null)) d += "h0.01";
        pen = true;
      }
      return d;
    }

    function area({ low, high }, from, to, X, Y) {
      let d = "", run = [];
      const close = () => {
        if (run.length > 1) {
          d += "M" + run.map((k) => `${X(now.x[k]).toFixed(1)} ${Y(high[k]).toFixed(1)}`).join("L");
          d += "L" + run.reverse().map((k) => `${X(now.x[k]).toFixed(1)} ${Y(low[k]).toFixed(1)}`).join("L") + "Z";
        }
        run = [];
      };
      for (let k = from; k <= to; k += 1) { if (low[k] === null || high[k] === null) close(); else run.push(k); }
      close();
      return d;
    }

    function paintLegend() {
      legend.replaceChildren();
      const entries = [...now.lines.filter((l) => !l.dots).map((l) => [l.name, `path k-${l.kind}`, l.dash]), ...(now.bands || []).map((b) => [b.name, "k-band"])];
      if (now.events && now.events.length) entries.push(["decision", "event"]);
      for (const [name, kind, dash] of entries) {
        const item = make("li");
        const swatch = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
        swatch.append(draw("line", { class: kind, x1: 0, x2: 26, y1: 5, y2: 5, ...(dash ? { "stroke-dasharray": dash } : {}) }));
        item.append(swatch, document.createTextNode(name));
        legend.append(item);
      }
    }

    const spell = (v) => (now.time ? moment(v) : `lead ${v}`);
    const values = (k) => [...now.lines.map((l) => (l.dots ? l.says[k] : `${l.name} ${format(l.y[k])}`)), ...(now.bands || []).map((b) => `${b.name} ${format(b.low[k])} to ${format(b.high[k])}`)];

    function paintCursor() {
      svg.querySelectorAll(".cursor").forEach((node) => node.remove());
      if (cursor === null || !frame || now.x[cursor] < frame.left || now.x[cursor] > frame.right) { readout.textContent = ""; return; }
      const at = frame.X(now.x[cursor]);
      svg.append(draw("line", { class: "cursor", x1: at, x2: at, y1: frame.box.top, y2: frame.box.bottom }));
      readout.textContent = `${spell(now.x[cursor])}: ${values(cursor).join(", ")}`;
    }

    function fill() {
      if (!table || !details.open || !now || !now.x.length) return;
      const [from, to] = shownRange();
      const stride = Math.ceil((to - from + 1) / 200);
      const head = [now.time ? "time (UTC)" : "lead", ...now.lines.map((l) => l.name), ...(now.bands || []).flatMap((b) => [`${b.name}, low`, `${b.name}, high`])];
      const grid = make("table");
      grid.append(make("caption", {}, stride > 1 ? `every ${stride}th of what is shown` : "all that is shown"));
      const top = make("tr");
      head.forEach((text) => top.append(make("th", { scope: "col" }, text)));
      const thead = make("thead"), body = make("tbody");
      thead.append(top);
      for (let k = from; k <= to; k += stride) {
        const row = make("tr");
        row.append(make("th", { scope: "row" }, now.time ? moment(now.x[k]) : String(now.x[k])));
        now.lines.forEach((l) => row.append(make("td", l.dots ? { class: "text" } : {}, l.dots ? l.says[k] : format(l.y[k]))));
        (now.bands || []).forEach((b) => row.append(make("td", {}, format(b.low[k])), make("td", {}, format(b.high[k]))));
        body.append(row);
      }
      grid.append(thead, body);
      details.querySelector(".scroll").replaceChildren(grid);
    }

    function nearest(event) {
      const at = svg.getBoundingClientRect();
      const x = frame.left + ((event.clientX - at.left - frame.box.left) / (frame.box.right - frame.box.left)) * (frame.right - frame.left);
      let low = 0, high = now.x.length - 1;
      while (high - low > 1) { const mid = (low + high) >> 1; if (now.x[mid] < x) low = mid; else high = mid; }
      return [x, Math.abs(now.x[low] - x) < Math.abs(now.x[high] - x) ? low : high];
    }

    function zoom(left, right) {
      const ends = [now.x[0], now.x[now.x.length - 1]];
      const inside = [Math.max(left, ends[0]), Math.min(right, ends[1])];
      const kept = now.x.filter((v) => v >= inside[0] && v <= inside[1]).length;
      view = inside[0] <= ends[0] && inside[1] >= ends[1] ? null : kept > 1 ? inside : view;
      redraw();
    }

    svg.addEventListener("pointerdown", (event) => { if (frame && event.button === 0) { start = nearest(event)[0]; svg.setPointerCapture(event.pointerId); } });
    svg.addEventListener("pointermove", (event) => {
      if (!frame) return;
      const [x, k] = nearest(event);
      cursor = k;
      paintCursor();
      svg.querySelectorAll(".drag").forEach((node) => node.remove());
      if (start !== null) {
        const [a, b] = [frame.X(start), frame.X(x)].sort((p, q) => p - q);
        svg.append(draw("rect", { class: "drag", x: a, width: b - a, y: frame.box.top, height: frame.box.bottom - frame.box.top }));
      }
    });
    svg.addEventListener("pointerup", (event) => {
      if (start === null || !frame) return;
      const x = nearest(event)[0], from = start;
      start = null;
      if (Math.abs(frame.X(x) - frame.X(from)) > 6) zoom(Math.min(x, from), Math.max(x, from));
      else redraw();
    });
    svg.addEventListener("pointercancel", () => { start = null; if (frame) redraw(); });
    svg.addEventListener("pointerleave", () => { if (start === null) { cursor = null; paintCursor(); } });
    svg.addEventListener("dblclick", () => { view = null; redraw(); });
    whole.addEventListener("click", () => { view = null; redraw(); svg.focus(); });
    svg.addEventListener("keydown", (event) => {
      if (!frame) return;
      const [from, to] = shownRange();
      const at = cursor === null ? from : cursor, step = event.shiftKey ? 24 : 1;
      const half = (frame.right - frame.left) / 2;
      const centre = now.x[cursor === null ? Math.round((from + to) / 2) : at];
      const acts = {
        ArrowLeft: () => { cursor = Math.max(from, at - step); paintCursor(); },
        ArrowRight: () => { cursor = Math.min(to, cursor === null ? from : at + step); paintCursor(); },
        Home: () => { cursor = from; paintCursor(); },
        End: () => { cursor = to; paintCursor(); },
        "+": () => zoom(centre - half / 2, centre + half / 2),
        "-": () => zoom(centre - half * 2, centre + half * 2),
        0: () => { view = null; redraw(); },
      };
      const act = acts[event.key === "=" ? "+" : event.key];
      if (act) { event.preventDefault(); act(); }
    });
    new ResizeObserver(() => redraw()).observe(svg);
    redraw();
    return { redraw, reset: () => { view = null; cursor = null; redraw(); } };
  }

  function choose(place, label, options) {
    const holder = make("label", {}, `${label} `);
    const select = make("select");
    options.forEach((text, k) => select.append(make("option", { value: k }, text)));
    holder.append(select);
    const controls = place.querySelector(".controls") || place.appendChild(make("div", { class: "controls" }));
    controls.append(holder);
    return select;
  }

  const place = (id) => document.getElementById(id);
  const leads = data.leads.map((lead) => `${lead}`);
  const others = Object.keys(data.errors).filter((name) => name !== data.ours);
  // one colour for a name, in every chart
  const known = [...new Set(["last value", "seasonal naive", ...others, ...Object.keys(data.weights ? data.weights.by : {})])];
  const look = (name) => {
    const k = known.indexOf(name);
    return { name, kind: COLOURS[k % COLOURS.length], dash: ["", "6 3", "2 3"][Math.floor(k / COLOURS.length) % 3] };
  };
  const lines = (of) => [
    ...others.map((name) => ({ ...look(name), y: of(name) })),
    { name: data.ours, y: of(data.ours), kind: "ours" },
  ].filter((line) => line.y);
  const each = data.errors[data.ours].mae.map((_, k) => k + 1);

  // by lead
  const kinds = ["mae", "mse"];
  const which = choose(place("errors"), "error", ["mean absolute", "mean squared"]);
  const errors = chart(place("errors"), "Error by lead", () => ({ x: each, lines: lines((name) => data.errors[name][kinds[which.selectedIndex]]), floor: 0 }));
  which.addEventListener("change", errors.redraw);
  chart(place("skill"), "Skill by lead", () => ({ x: each, lines: [{ name: "skill", y: data.by_lead.skill, kind: "ours" }], level: 0 }));
  chart(place("coverage"), "Coverage by lead", () => ({ x: each, lines: [{ name: "90 % band held", y: data.by_lead.coverage, kind: "ours" }], level: 0.9 }), { format: percent });
  chart(place("widths"), "Width by lead", () => ({ x: each, lines: Object.keys(data.widths).map((name) => ({ name, y: data.widths[name], kind: name === "seasonal naive" ? "b" : "ours" })), floor: 0 }));

  // actual and forecast
  if (data.traces.length) {
    const series = choose(place("trace"), "series", data.traces.map((t) => t.name));
    const lead = choose(place("trace"), "lead", leads);
    const newest = data.times.length > 800 ? [data.times[data.times.length - 400], data.times[data.times.length - 1]] : null;
    const trace = chart(place("trace"), "Actual and forecast", () => {
      const t = data.traces[series.selectedIndex], said = t.said[lead.selectedIndex];
      return {
        x: data.times, time: true, says: `Series ${t.name}, lead ${leads[lead.selectedIndex]}.`,
        lines: [{ name: "actual", y: t.actual, kind: "ink" }, { name: "forecast", y: said.point, kind: "ours" }],
        bands: [{ name: "90 % band", low: said.low, high: said.high }],
      };
    }, { first: newest });
    series.addEventListener("change", trace.redraw);
    lead.addEventListener("change", trace.redraw);
  }

  // over time
  const overTime = (id, title, model, options) => {
    const lead = choose(place(id), "lead", leads);
    const drawn = chart(place(id), title, () => model(lead.selectedIndex), options);
    lead.addEventListener("change", drawn.redraw);
  };
  const moments = data.decisions.map((d) => d.at);
  overTime("drift", "Error over time", (k) => ({
    x: data.bins, time: true, floor: 0, events: moments,
    lines: [
      { name: "last value", y: data.over_time.last_value[k], kind: "a" },
      ...(data.over_time.seasonal_naive ? [{ name: "seasonal naive", y: data.over_time.seasonal_naive[k], kind: "b" }] : []),
      { name: data.ours, y: data.over_time.ours[k], kind: "ours" },
    ],
  }));
  overTime("held", "Coverage over time", (k) => ({ x: data.bins, time: true, level: 0.9, lines: [{ name: "90 % band held", y: data.over_time.coverage[k], kind: "ours" }] }), { format: percent });
  if (data.weights) {
    overTime("weights", "Mixture weights over time", (k) => ({
      x: data.weights.times, time: true, floor: 0,
      lines: Object.keys(data.weights.by).map((name) => ({ ...look(name), y: data.weights.by[name][k] })),
    }));
  }
  if (data.decisions.length) {
    const names = [...new Set(data.decisions.map((d) => d.kind))].sort();
    chart(place("decisions"), "Decisions over time", () => ({
      x: moments, time: true, names, limits: [-0.5, names.length - 0.5],
      lines: [{ name: "decision", dots: true, y: data.decisions.map((d) => names.indexOf(d.kind)), says: data.decisions.map((d) => `${d.kind}: ${d.cause}${d.numbers ? ` (${d.numbers})` : ""}`) }],
    }));
  }
})();

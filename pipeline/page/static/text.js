// Numbers, times and names as a page writes them. Names are text whatever is in them: they only ever go into textContent.

export const number = (x) => {
  if (x === null || x === undefined) return "–";
  const size = Math.abs(x);
  if (size >= 1e7 || (size > 0 && size < 1e-3)) return x.toExponential(2);
  return Number(x.toPrecision(size >= 1000 ? 6 : 4)).toLocaleString("en", { maximumFractionDigits: 6 });
};
export const whole = (x) => (x === null || x === undefined ? "–" : Math.round(x).toLocaleString("en"));
export const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);
export const signed = (x) => (x === null || x === undefined ? "–" : `${x < -0.005 ? "−" : x < 0.005 ? "" : "+"}${Math.abs(x).toFixed(2)}`);
export const steps = (n) => `${n} step${n === 1 ? "" : "s"}`;

export const moment = (ms) => {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return "–";
  const text = at.toISOString();
  return text.slice(17, 19) === "00" ? text.slice(0, 16).replace("T", " ") : text.slice(0, 19).replace("T", " ");
};

const UNITS = [[86400000, "day"], [3600000, "hour"], [60000, "minute"], [1000, "second"]];

// A length of time for people: the largest unit that it is whole in, else rounded to its largest.
export const duration = (ms) => {
  const [size, unit] = UNITS.find(([one]) => ms >= one && ms % one === 0) || UNITS.find(([one]) => ms >= one) || [1, "ms"];
  const count = Math.round((ms / size) * 10) / 10;
  return unit === "ms" ? `${count} ms` : `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
};

// Control and direction characters shown as signs: a name on one line, that changes nothing around it.
export const shown = (name) => {
  if (name === "") return "(no name)";
  return name.replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))).replace(/[\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
};

export const words = (name) => name.replaceAll("_", " ");

export const make = (name, attributes = {}, text) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};

// Change a text only where it is another one: a screen reader is told of every change.
export const write = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

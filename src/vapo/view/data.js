"use strict";
// Steps: decoded when they are first shown. Every text from a run reaches the page through textContent, never as markup.

const byId = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

const LOG_MORE = "not logged: set callbacks.rollout_log.ratio_and_entropy=true";
const NO_CRITIC = "not logged: only algorithms with a critic have values";
const PLAIN = (x) => x;
// What tokens are coloured by. `array`: of the step; `fall`: positive numbers are bad news, and get the colour of negative ones.
const MODES = [
  {key: "value", name: "V", title: "critic's value before the token", array: "value", missing: NO_CRITIC, least: 1},
  {key: "drop", name: "drop in V", title: "V before the token minus V after it; at the last, minus the reward", array: "drop",
    missing: NO_CRITIC, fall: true},
  {key: "advantage", name: "advantage", title: "advantage that the step trained on", array: "advantage", missing: "not logged"},
  {key: "ratio", name: "ratio", title: "probability after the step's updates / before them, on a logarithmic scale",
    array: "log_ratio", missing: LOG_MORE, unless: "value pretraining leaves the policy as it is", show: Math.exp},
  {key: "entropy", name: "entropy", title: "of the policy after the step's updates, nats", array: "entropy", missing: LOG_MORE,
    sequential: true},
  {key: "gap", name: "log-prob gap", title: "trainer's log-probability minus the engine's, nats", array: "gap",
    missing: LOG_MORE, unless: "none here: the engine's log-probabilities stand for the trainer's"},
];
const modeOf = (key) => MODES.find((mode) => mode.key === key);

const HALF = (() => { // the float16 of every bit pattern
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 31 ? (fraction ? NaN : Infinity)
      : exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 32768 ? -size : size;
  }
  return table;
})();
const TYPES = {uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float16: Uint16Array};

const slips = (row) => (row.steps || []).filter(([, kind]) => kind); // [token index, 1; or 2 if it was repaired]

class Step {
  constructor(buffer) {
    const start = 4 + new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, start - 4)));
    Object.assign(this, {tokens: header.tokens, prompts: header.prompts, raw: {}, numbers: {}, limits: {}, texts: []});
    let offset = start;
    for (const [name, type, entries] of header.arrays) {
      const array = new TYPES[type](buffer, offset, entries);
      offset += Math.ceil(array.byteLength / 4) * 4;
      if (type === "float16") this.raw[name] = array; else this.index = array;
    }
    const names = Object.keys(header.rows);
    let end = 0;
    this.rows = header.rows.length.map((length, number) => {
      const row = Object.fromEntries(names.map((name) => [name, header.rows[name][number]]));
      row.number = number;
      row.start = end;
      row.end = end += length;
      row.kind = row.status === "timeout" || row.status === "error" ? "fault"
        : !row.finished && row.status !== "correct" ? "truncated" : row.status === "no_answer" ? "no answer" : row.status;
      const slip = slips(row).find(([, kind]) => kind === 1);
      row.slip = slip ? slip[0] : null; // token index of the first slip that was not repaired
      return row;
    });
    this.shared = template(this.prompts);
    this.longest = header.rows.length.reduce((most, length) => Math.max(most, length), 1);
    const counted = new Map();
    for (const row of this.rows) {
      row.sample = counted.get(row.group) || 0;
      counted.set(row.group, row.sample + 1);
    }
    this.sizes = counted;
  }

  has(mode) { return (mode.array === "drop" ? "value" : mode.array) in this.raw; }

  lacks(mode) { return mode.unless && this.has(modeOf("entropy")) ? mode.unless : mode.missing; } // why it has none

  array(name) { // Float32Array over all tokens of the step, or undefined
    if (!(name in this.numbers)) this.numbers[name] = name === "drop" ? this.drops() : this.decode(this.raw[name]);
    return this.numbers[name];
  }

  decode(raw) {
    if (!raw) return undefined;
    const numbers = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; i++) numbers[i] = HALF[raw[i]];
    return numbers;
  }

  drops() {
    const values = this.array("value");
    if (!values) return undefined;
    const drops = new Float32Array(values.length);
    for (const row of this.rows) {
      for (let i = row.start; i < row.end; i++) drops[i] = values[i] - (i + 1 < row.end ? values[i + 1] : row.reward);
    }
    return drops;
  }

  limit(mode) { // the number that gets the full colour: 99 of 100 tokens are below it
    if (!(mode.key in this.limits)) {
      const numbers = this.array(mode.array), sizes = [], stride = Math.ceil(numbers.length / 20000);
      for (let i = 0; i < numbers.length; i += stride) if (numbers[i] === numbers[i]) sizes.push(Math.abs(numbers[i]));
      sizes.sort((a, b) => a - b);
      this.limits[mode.key] = Math.max(mode.least || 0, sizes[Math.floor(0.99 * (sizes.length - 1))] || 0) || 1e-6;
    }
    return this.limits[mode.key];
  }

  token(i) { return this.tokens[this.index[i]]; }

  text(row) { // of the whole response
    if (this.texts[row.number] === undefined) {
      const parts = [];
      for (let i = row.start; i < row.end; i++) parts.push(this.token(i));
      this.texts[row.number] = parts.join("");
    }
    return this.texts[row.number];
  }
}

function template(texts) { // the number of characters with which all begin, up to the end of a word; 0 where that says nothing
  const [first, ...others] = texts;
  let end = others.length ? first.length : 0;
  for (const text of others) while (!text.startsWith(first.slice(0, end))) end--;
  while (end > 0 && !/\s/.test(first[end - 1])) end--;
  return end;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const CACHED = 6; // steps kept decoded
const cache = new Map();

function load(run, step, written) { // -> Promise of a Step
  const key = `${run}-${step}-${written}`;
  const kept = cache.get(key) || fetchStep(run, step);
  cache.delete(key);
  cache.set(key, kept);
  kept.catch(() => cache.delete(key));
  if (cache.size > CACHED) cache.delete(cache.keys().next().value);
  return kept;
}

async function fetchStep(run, step) {
  const element = byId(`step-${run}-${step}`);
  if (element) {
    const text = atob(element.textContent), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new Step(await inflate(bytes));
  }
  const reply = await fetch(`step/${run}/${step}`);
  if (!reply.ok) throw new Error(await reply.text());
  return new Step(await inflate(await reply.arrayBuffer()));
}

// --- numbers and colours ----------------------------------------------------------------------------------------------------

function digits(x) {
  if (x === undefined || x === null || x !== x) return "–";
  const size = Math.abs(x);
  if (size === 0) return "0";
  const text = size < 0.001 || size >= 10000 ? x.toExponential(1) : x.toFixed(size < 0.1 ? 3 : 2);
  return text.replace("-", "−");
}

// -1 to 1: the colour's sign and strength. Blue is above zero and orange below it; where a fall is bad news, the other way round.
function strength(mode, x, limit) {
  if (!(x === x) || x === undefined) return 0;
  return Math.max(-1, Math.min(1, (mode.fall ? -x : x) / limit));
}
const paint = (t) => (Math.abs(t) < 0.02 ? "" : `rgb(var(--${t < 0 ? "low" : "high"}) / ${(Math.abs(t) * 0.85).toFixed(2)})`);

function palette() { // the theme's colours, for canvases
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const solid = (name) => `rgb(${read(name)})`;
  return {low: read("--low"), high: read("--high"), ink: solid("--ink"), faint: solid("--faint"), line: solid("--line"),
    slip: solid("--slip"),
    of: (t) => `rgb(${read(t < 0 ? "--low" : "--high")} / ${(Math.abs(t) * 0.85).toFixed(2)})`};
}

function prepare(canvas, width, height) { // -> a context whose unit is a CSS pixel
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}

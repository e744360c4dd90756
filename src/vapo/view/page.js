// The state of the page, and everything that changes it.

const listed = JSON.parse(byId("index").textContent);
const state = {runs: listed.runs, at: 0, mode: null, step: null, row: null, other: null, shift: 0, ticket: 0};
Object.assign(state, {shown: 0, failed: false}); // the step of the list, and whether another could not be read
const two = state.runs.length > 1;
const panes = state.runs.map((run) => new Pane(two ? run.name : null, null));
if (two) panes[1].move = (by) => { state.shift += by; showOther(); };
const list = new List((row) => choose(row));
const failed = (row) => row.kind !== "correct";

const KEYS = [["j k", "next, previous response"], ["n p", "next, previous problem"], ["f F", "next, previous response that failed"],
  ["[ ]", "earlier, later step"], ["← →", "move along the tokens"], ["s", "to the first slip, or where V falls most"],
  ["1 … 6", "colours"], ["/", "search"], ["Esc", "clear filters"], ["?", "this list"]];

function limit(mode) { // two runs share a scale
  return Math.max(...[state.step, state.other].filter((step) => step && step.has(mode)).map((step) => step.limit(mode)));
}

function place(at) { // the slider and its label
  const steps = state.runs[0].steps;
  state.at = at;
  byId("step").max = steps.length - 1;
  byId("step").value = at;
  byId("at").textContent = `${steps[at][0]}${steps.length > 1 ? ` (${at + 1} of ${steps.length})` : ""}`;
}

async function go(at) { // to the at-th step of the first run
  const steps = state.runs[0].steps, ticket = ++state.ticket;
  place(Math.max(0, Math.min(steps.length - 1, at)));
  const [number, written] = steps[state.at];
  const same = two && state.runs[1].steps.find(([other]) => other === number);
  try {
    const loaded = await Promise.all([load(0, number, written), same ? load(1, number, same[1]) : null]);
    if (ticket !== state.ticket) return; // another step was asked for meanwhile
    [state.step, state.other] = loaded;
  } catch (error) {
    if (ticket !== state.ticket) return;
    if (state.step) place(Math.min(state.shown, steps.length - 1)); // the list is still that step's
    state.failed = true;
    state.row = null;
    list.show(null);
    panes[0].say(`step ${number} cannot be read: ${error.message}`);
    return;
  }
  Object.assign(state, {shown: state.at, failed: false});
  summarize();
  if (!state.mode || !state.step.has(state.mode)) state.mode = MODES.find((mode) => state.step.has(mode)) || MODES[0];
  state.row = null;
  buildModes();
  refresh();
  document.body.dataset.shown = number; // for tests
}

function summarize() {
  const counted = state.step.rows.filter((row) => row.kind !== "fault"), right = counted.filter((row) => !failed(row)).length;
  const mean = state.step.index.length / state.step.rows.length;
  byId("summary").textContent = `${state.step.rows.length} responses to ${state.step.sizes.size} problems logged · `
    + `${Math.round(100 * right / Math.max(1, counted.length))} % correct · mean length ${Math.round(mean)}`;
}

function refresh() { // after a change of step or filter
  if (!state.step) return;
  buildFilters(state.step, refresh);
  list.fill(state.step, state.mode, state.row);
  if (list.rows.includes(state.row)) return;
  choose(list.rows.find((row) => row.slip !== null && failed(row)) || list.rows.find(failed) || list.rows[0]);
}

function choose(row) {
  state.row = row || null;
  if (!row) panes[0].say("No response passes the filters.");
  else panes[0].show(state.step, row, state.mode, limit(state.mode));
  list.show(state.row);
  state.shift = 0;
  if (two) showOther();
}

function showOther() { // the other run's response to the same problem, of the same number if there is one
  const number = state.runs[0].steps[state.at][0], pane = panes[1];
  if (!state.other) return pane.say(`This run logged no step ${number}.`);
  if (!state.row) return pane.say("");
  const prompt = state.step.prompts[state.row.prompt];
  const rows = state.other.rows.filter((row) => state.other.prompts[row.prompt] === prompt);
  if (!rows.length) return pane.say("This run logged no response to this problem at this step.");
  const at = ((state.row.sample + state.shift) % rows.length + rows.length) % rows.length;
  pane.show(state.other, rows[at], state.mode, limit(state.mode));
}

function move(by, wanted = () => true) { // to the next row of the list for which `wanted` holds
  for (let at = list.rows.indexOf(state.row) + by; at >= 0 && at < list.rows.length; at += by) {
    if (wanted(list.rows[at])) return choose(list.rows[at]);
  }
}

// --- colours -----------------------------------------------------------------------------------------------------------------

function buildModes() {
  byId("modes").replaceChildren(...MODES.map((mode, number) => {
    const button = make("button", "", mode.name);
    const there = state.step.has(mode);
    button.disabled = !there;
    button.title = there ? `${mode.title}  [${number + 1}]` : state.step.lacks(mode);
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", mode === state.mode);
    button.dataset.mode = mode.key;
    button.addEventListener("click", () => setMode(mode));
    return button;
  }));
  const lacking = new Map();
  for (const mode of MODES.filter((mode) => !state.step.has(mode))) {
    const reason = state.step.lacks(mode);
    lacking.set(reason, [...(lacking.get(reason) || []), mode.name]);
  }
  byId("note").textContent = [...lacking].map(([reason, names]) => `${names.join(", ")}: ${reason}`).join(" · ");
  legend();
}

function legend() {
  if (!state.step.has(state.mode)) return byId("legend").replaceChildren();
  const {mode} = state, most = limit(mode), show = (t) => digits((mode.show || PLAIN)(t * most * (mode.fall ? -1 : 1)));
  const bar = make("span", "bar");
  for (let t = mode.sequential ? 0 : -1; t <= 1.001; t += 0.125) bar.append(make("i"));
  [...bar.children].forEach((cell, number, all) => {
    cell.style.background = paint(mode.sequential ? number / (all.length - 1) : 2 * number / (all.length - 1) - 1);
  });
  const ends = mode.sequential ? ["0", show(1)] : [show(-1), show(0), show(1)];
  const scale = make("span", "scale"), numbers = make("span", "ends");
  numbers.append(...ends.map((text) => make("span", "", text)));
  scale.append(bar, numbers);
  const marks = state.step.rows.some((row) => row.steps) ? [["slip", "slip"], ["repaired", "repaired slip"]] : [];
  const keys = marks.map(([kind, name]) => make("span", `key ${kind}`, name));
  byId("legend").replaceChildren(make("span", "", mode.name), scale, ...keys);
}

function setMode(mode) {
  if (!mode || !state.step.has(mode)) return;
  state.mode = mode;
  buildModes();
  list.mode = mode;
  list.draw();
  panes[0].recolour(mode, limit(mode));
  if (two) panes[1].recolour(mode, limit(mode));
}

// --- controls ----------------------------------------------------------------------------------------------------------------

const later = (wait, action) => { // runs `action` once, when it was not called for so many milliseconds
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(action, wait); };
};
const bound = (id) => (byId(id).value === "" ? null : +byId(id).value);
const filterAgain = later(120, () => {
  Object.assign(filter, {text: byId("search").value.toLowerCase(), shortest: bound("shortest"), longest: bound("longest")});
  refresh();
});
for (const id of ["search", "shortest", "longest"]) byId(id).addEventListener("input", filterAgain);
byId("step").addEventListener("input", () => go(+byId("step").value));
byId("earlier").addEventListener("click", () => go(state.at - 1));
byId("later").addEventListener("click", () => go(state.at + 1));
byId("help").addEventListener("click", () => { byId("keys").hidden = !byId("keys").hidden; });
byId("keys").append(...KEYS.flatMap(([keys, what]) => [make("kbd", "", keys), make("span", "", what)]));

const ACTIONS = {
  j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
  n: () => state.row && move(1, (row) => row.group !== state.row.group),
  p: () => state.row && move(-1, (row) => row.group !== state.row.group),
  f: () => move(1, failed), F: () => move(-1, failed),
  "[": () => go(state.at - 1), "]": () => go(state.at + 1),
  ArrowRight: () => panes[0].pin(panes[0].cursor + 1, true), ArrowLeft: () => panes[0].pin(panes[0].cursor - 1, true),
  s: () => state.row && panes[0].pin(panes[0].find().at, true),
  "/": () => byId("search").focus(),
  "?": () => byId("help").click(),
  Escape: () => {
    for (const id of ["search", "shortest", "longest"]) byId(id).value = "";
    Object.assign(filter, {kinds: new Set(), slip: false, text: "", shortest: null, longest: null});
    byId("keys").hidden = true;
    refresh();
  },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.step) return;
  const writing = event.target.matches("input:not([type=range]):not([type=checkbox])");
  if (writing && event.key !== "Escape") return;
  if (writing) event.target.blur();
  const action = ACTIONS[event.key] || (MODES[+event.key - 1] && (() => setMode(MODES[+event.key - 1])));
  if (!action) return;
  event.preventDefault();
  action();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  list.draw();
  panes.forEach((pane) => pane.chart.draw());
});

async function look() { // what a live run has written meanwhile
  const reply = await fetch("index").catch(() => null);
  if (!reply || !reply.ok) return;
  const {runs} = await reply.json();
  const shown = (all) => JSON.stringify(all.map((run) => run.steps.find(([step]) => step === now)));
  const now = state.runs[0].steps[state.at][0], before = shown(state.runs);
  const last = state.failed || state.at === state.runs[0].steps.length - 1;
  state.runs = runs;
  if (byId("follow").checked && last && runs[0].steps.length - 1 !== state.at) return go(runs[0].steps.length - 1);
  if (shown(runs) !== before) return go(state.at);
  byId("step").max = runs[0].steps.length - 1;
}
if (listed.live) {
  byId("following").hidden = false;
  setInterval(look, 2000);
}

byId("title").textContent = state.runs.map((run) => run.name).join("  ·  ");
document.title = `${state.runs.map((run) => run.name).join(" · ")}: rollouts`;
byId("panes").append(...panes.map((pane) => pane.element));
byId("stepper").hidden = state.runs[0].steps.length === 1 && !listed.live;
go(state.runs[0].steps.length - 1);

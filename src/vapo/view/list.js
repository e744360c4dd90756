// The list: problems and their responses, filtered; only rows in sight are in the document.

const KINDS = [["correct", "✓"], ["wrong", "✗"], ["truncated", "…"], ["no answer", "∅"], ["fault", "!"]];
const GLYPH = Object.fromEntries(KINDS);
const ROW = 24, STRIP = 168; // pixels

const filter = {kinds: new Set(), slip: false, text: "", shortest: null, longest: null};

function passes(step, row) {
  return (filter.kinds.size === 0 || filter.kinds.has(row.kind))
    && (!filter.slip || row.slip !== null)
    && (filter.shortest === null || row.length >= filter.shortest)
    && (filter.longest === null || row.length <= filter.longest)
    && (filter.text === "" || (step.prompts[row.prompt] + "\n" + step.text(row)).toLowerCase().includes(filter.text));
}

class List {
  constructor(choose) {
    this.choose = choose; // called with a row
    this.items = []; // rows, and before each problem's first {group}
    this.box = byId("list");
    this.inner = byId("rows");
    this.box.addEventListener("scroll", () => this.draw());
    this.inner.addEventListener("click", (event) => {
      const at = event.target.closest("[data-item]");
      if (at) this.choose(this.items[at.dataset.item].row);
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  fill(step, mode, chosen) {
    Object.assign(this, {step, mode, chosen, items: []});
    this.rows = step.rows.filter((row) => passes(step, row));
    let group = null;
    for (const row of this.rows) {
      if (row.group !== group) this.items.push({group: row.group, row});
      group = row.group;
      this.items.push({row});
    }
    this.right = new Map();
    for (const row of step.rows) this.right.set(row.group, (this.right.get(row.group) || 0) + (row.kind === "correct"));
    this.inner.style.height = `${this.items.length * ROW}px`;
    byId("count").textContent = this.rows.length === step.rows.length ? `${step.rows.length} responses logged`
      : `${this.rows.length} of ${step.rows.length} responses`;
    this.draw();
  }

  show(chosen) { // marks a row, and scrolls to it
    this.chosen = chosen;
    const at = this.items.findIndex((item) => item.row === chosen && item.group === undefined);
    if (at >= 0) {
      const top = at * ROW, room = this.box.clientHeight;
      if (top - ROW < this.box.scrollTop) this.box.scrollTop = top - ROW;
      else if (top + ROW > this.box.scrollTop + room) this.box.scrollTop = top + 2 * ROW - room;
    }
    this.draw();
  }

  draw() {
    if (!this.step) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 4);
    const last = Math.min(this.items.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 4);
    const colours = palette(), drawn = [];
    for (let at = first; at < last; at++) {
      const item = this.items[at], element = item.group === undefined ? this.response(item.row, colours) : this.problem(item);
      element.style.top = `${at * ROW}px`;
      element.dataset.item = at;
      drawn.push(element);
    }
    this.inner.replaceChildren(...drawn);
  }

  problem({group, row}) {
    const element = make("div", "problem");
    const text = this.step.prompts[row.prompt].slice(this.step.shared).trim().replace(/\s+/g, " ");
    const right = `${this.right.get(group)}/${this.step.sizes.get(group)}`;
    element.append(make("b", "", right), make("span", "clip", text.slice(0, 300)));
    element.title = text.slice(0, 1000);
    return element;
  }

  response(row, colours) {
    const element = make("div", `row ${row.kind.replace(" ", "-")}${row === this.chosen ? " chosen" : ""}`);
    const strip = make("canvas");
    this.strip(strip, row, colours);
    element.append(make("i", "glyph", GLYPH[row.kind]), strip, make("span", "length", row.length),
      make("span", "clip answer", row.answer === null ? "" : row.answer));
    element.title = `${row.kind}, ${row.length} tokens` + (row.answer === null ? "" : `, answer ${row.answer}`);
    return element;
  }

  strip(canvas, row, colours) { // the response as a bar, as long as it is, in the colours of its tokens
    const width = Math.max(4, Math.round(STRIP * row.length / this.step.longest)), context = prepare(canvas, STRIP, 14);
    const numbers = this.step.array(this.mode.array), limit = numbers && this.step.limit(this.mode);
    context.fillStyle = colours.line;
    context.fillRect(0, 13, width, 1);
    for (let x = 0; numbers && x < width; x++) {
      const from = row.start + Math.floor(row.length * x / width);
      const to = Math.max(from + 1, row.start + Math.floor(row.length * (x + 1) / width));
      let most = 0; // the strongest of several tokens: a mean would hide the one that matters
      for (let i = from; i < to; i++) if (Math.abs(numbers[i]) > Math.abs(most)) most = numbers[i];
      const t = strength(this.mode, most, limit);
      if (t === 0) continue;
      context.fillStyle = colours.of(t);
      context.fillRect(x, 1, 1, 12);
    }
    if (row.slip !== null) {
      context.fillStyle = colours.slip;
      context.fillRect(Math.floor(width * (row.slip + 0.5) / row.length) - 1, 0, 2, 14);
    }
  }
}

function buildFilters(step, changed) {
  const counts = Object.fromEntries(KINDS.map(([kind]) => [kind, step.rows.filter((row) => row.kind === kind).length]));
  const chips = KINDS.map(([kind, glyph]) => {
    const name = `${glyph} ${kind === "fault" ? "verifier fault" : kind}`;
    return chip(name, counts[kind], filter.kinds.has(kind), () => {
      if (!filter.kinds.delete(kind)) filter.kinds.add(kind);
      changed();
    });
  });
  const slips = step.rows.filter((row) => row.slip !== null).length;
  const chipOfSlips = chip("first slip", slips, filter.slip, () => { filter.slip = !filter.slip; changed(); });
  chipOfSlips.title = "responses with a slip that was not repaired: known on running sums only";
  byId("verdicts").replaceChildren(...chips, chipOfSlips);
}

function chip(name, count, on, toggle) {
  const element = make("button", "chip", name);
  element.append(make("small", "", count));
  element.setAttribute("aria-pressed", on);
  element.disabled = count === 0 && !on;
  element.addEventListener("click", toggle);
  return element;
}

// One response: outcome, tokens in colour, the numbers of one token, and V and advantage over position.

const CHUNK = [300, 700]; // tokens: a chunk ends at the first line break between them

const tokens = (count) => `${count} token${count === 1 ? "" : "s"}`;

class Pane {
  constructor(name, move) { // name and move are null where there is one run; else move(-1 or 1) chooses among its responses
    this.element = make("article", "pane");
    this.outcome = make("div", "outcome");
    this.finding = make("div", "finding");
    this.prompt = make("div", "prompt");
    this.tokens = make("div", "tokens");
    this.readout = make("div", "readout");
    this.chart = new Chart((i) => this.point(i), () => this.point(this.cursor), (i) => this.pin(i, true));
    this.body = make("div", "body");
    this.body.append(this.outcome, this.finding, this.prompt, this.tokens, this.readout, this.chart.element);
    this.message = make("div", "message");
    if (name !== null) this.element.append(make("h2", "", name));
    this.element.append(this.message, this.body);
    this.move = move;
    this.tokens.addEventListener("mouseover", (event) => event.target.dataset.i && this.point(+event.target.dataset.i));
    this.tokens.addEventListener("mouseleave", () => this.point(this.cursor));
    this.tokens.addEventListener("click", (event) => event.target.dataset.i && this.pin(+event.target.dataset.i));
    this.observer = new IntersectionObserver((entries) => {
      for (const {target, isIntersecting} of entries) if (isIntersecting) this.open(target); else this.close(target);
    }, {root: this.tokens, rootMargin: "400px"});
  }

  say(text) { // instead of a response
    this.row = null;
    this.message.textContent = text;
    this.body.hidden = true;
  }

  show(step, row, mode, limit) {
    Object.assign(this, {step, row, mode, limit});
    this.message.textContent = "";
    this.body.hidden = false;
    const find = this.find();
    this.describe(find);
    this.prompt.textContent = step.prompts[row.prompt];
    this.prompt.scrollTop = this.prompt.scrollHeight; // a template's question stands last
    this.cursor = Math.min(row.length - 1, find.at);
    this.build();
    this.chart.show(step, row, this.horizon);
    this.pin(this.cursor, true);
  }

  number(name, i) { // of token i of the response
    const numbers = this.step.array(name);
    return numbers && numbers[this.row.start + i];
  }

  // --- what happened ------------------------------------------------------------------------------------------------------

  find() { // -> {at: the token to look at, slip, and where V falls most, null if it never falls}
    const {row} = this;
    let fall = null;
    if (this.step.raw.value && row.reward !== null) {
      fall = 0;
      for (let i = 1; i < row.length; i++) if (this.number("drop", i) > this.number("drop", fall)) fall = i;
      if (!(this.number("drop", fall) > 0)) fall = null;
    }
    return {slip: row.slip, fall, at: row.slip !== null && row.kind !== "correct" ? row.slip : fall === null ? 0 : fall};
  }

  describe({slip, fall}) {
    const {row} = this, what = row.kind === "fault" ? `verifier ${row.status}` : row.kind, known = row.actor_lambda !== null;
    const facts = [row.answer === null ? null : `answer ${row.answer}`, `expected ${row.reference}`,
      row.reward === null ? "no reward, not trained on" : `reward ${digits(row.reward)}`, tokens(row.length),
      row.finished ? null : "cut at the limit"];
    this.horizon = known ? 1 / (1 - row.actor_lambda) : null;
    const reach = Number.isFinite(this.horizon) ? tokens(Math.round(this.horizon)) : "all tokens";
    const lambda = known ? [make("span", "horizon", `λ ${row.actor_lambda.toFixed(3)}, window ${reach}`)] : [];
    const size = this.step.sizes.get(row.group);
    const place = make("span", "place", `problem ${row.group + 1}, response ${row.sample + 1} of ${size}`);
    if (this.move) {
      const [back, on] = [["‹", -1], ["›", 1]].map(([text, by]) => {
        const button = make("button", "", text);
        button.addEventListener("click", () => this.move(by));
        return button;
      });
      place.prepend(back);
      place.append(on);
    }
    const verdict = make("b", `verdict ${row.kind.replace(" ", "-")}`, `${GLYPH[row.kind]} ${what}`);
    const told = facts.filter((fact) => fact !== null).map((fact) => make("span", "", fact));
    this.outcome.replaceChildren(verdict, ...told, ...lambda, place);
    this.finding.replaceChildren(...this.truth(slip, fall), ...this.falls(slip, fall));
  }

  jump(i) {
    const button = make("button", "jump", `token ${i + 1}`);
    button.addEventListener("click", () => this.pin(i, true));
    return button;
  }

  after(i) { return i + 1 < this.row.length ? this.number("value", i + 1) : this.row.reward; }

  truth(slip, fall) { // of a running sum: where it goes wrong, and whether V falls most between there and the next result
    const {row} = this, repaired = slips(row).filter(([, kind]) => kind === 2).length;
    const also = repaired ? ` ${repaired} slip${repaired > 1 ? "s" : ""} repaired.` : "";
    if (row.steps === null) return [];
    if (slip === null) return [row.steps.length ? "No slip is left in its steps." : "It guesses: no step is written.", also];
    const said = [make("b", "", "First slip"), " at ", this.jump(slip)];
    if (!this.step.raw.value || row.reward === null) return [...said, `.${also}`];
    const results = row.steps.map(([at]) => at), drop = this.number("drop", slip);
    const rank = 1 + results.filter((at) => this.number("drop", at) > drop).length;
    // after the last token the reward takes V's place
    const seen = fall !== null && fall >= slip && fall < (results.find((at) => at > slip) || row.length - 1);
    const when = fall === slip ? "" : ` ${tokens(fall - slip)} later`;
    const verdict = make("b", seen ? "seen" : "unseen", seen ? `The critic saw it${when}.` : "The critic did not single it out.");
    const change = `V ${digits(this.number("value", slip))} → ${digits(this.after(slip))}`;
    const place = rank === 1 ? `the largest fall at any of its ${results.length} results` :
      `number ${rank} among the falls at its ${results.length} results`;
    return [...said, `: ${change}, ${drop > 0 ? place : "no fall"}. `, verdict, also];
  }

  falls(slip, fall) {
    if (fall === null || (fall === slip && this.row.kind !== "correct")) return [];
    const numbers = `${digits(this.number("value", fall))} → ${digits(this.after(fall))}`;
    if (fall < this.row.length - 1) return [" V falls most at ", this.jump(fall), `: ${numbers}.`];
    const unforeseen = this.number("value", fall) * this.row.reward < 0 ? ", which the critic did not expect" : "";
    return [" V falls most at the end, ", this.jump(fall), `: ${numbers}, the reward${unforeseen}.`];
  }

  // --- tokens -------------------------------------------------------------------------------------------------------------

  written(i) { return this.step.token(this.row.start + i).replace(/\n/g, "↵\n"); }

  build() { // plain text first; a chunk gets an element per token while it is near the part that is in sight
    this.observer.disconnect();
    this.opened = new Set();
    const chunks = [];
    for (let from = 0; from < this.row.length;) {
      let to = from, text = "";
      while (to < this.row.length && to - from < CHUNK[1]) {
        const token = this.written(to++);
        text += token;
        if (to - from >= CHUNK[0] && token.includes("\n")) break;
      }
      const chunk = make("div", "chunk", text);
      Object.assign(chunk, {from, to, plain: text});
      chunks.push(chunk);
      from = to;
    }
    this.chunks = chunks;
    this.tokens.replaceChildren(...chunks);
    this.tokens.scrollTop = 0;
    this.open(chunks[0]);
    for (const chunk of chunks) this.observer.observe(chunk);
  }

  open(chunk) {
    if (this.opened.has(chunk)) return;
    this.opened.add(chunk);
    const spans = [];
    for (let i = chunk.from; i < chunk.to; i++) {
      const span = make("span", "", this.written(i));
      span.dataset.i = i;
      spans.push(span);
    }
    const marks = slips(this.row).map(([at, kind]) => [at, kind === 1 ? "slip" : "repaired"]);
    for (const [at, mark] of [...marks, [this.row.reveal ?? -1, "reveal"]]) {
      if (at >= chunk.from && at < chunk.to) spans[at - chunk.from].classList.add(mark);
    }
    chunk.replaceChildren(...spans);
    this.colour(chunk);
    this.outline(this.pointed, true);
  }

  close(chunk) {
    if (this.opened.delete(chunk)) chunk.textContent = chunk.plain;
  }

  colour(chunk) {
    const numbers = this.step.array(this.mode.array);
    for (const span of chunk.children) {
      span.style.background = numbers ? paint(strength(this.mode, numbers[this.row.start + +span.dataset.i], this.limit)) : "";
    }
  }

  recolour(mode, limit) {
    Object.assign(this, {mode, limit});
    if (this.row) this.opened.forEach((chunk) => this.colour(chunk));
  }

  span(i) { return this.tokens.querySelector(`[data-i="${i}"]`); }

  outline(i, on) {
    const span = i === undefined ? null : this.span(i);
    if (span) span.classList.toggle("at", on);
  }

  point(i) { // shows the numbers of token i, and where it is
    if (!this.row) return;
    this.outline(this.pointed, false);
    this.pointed = i;
    this.outline(i, true);
    const number = (name) => digits(this.number(name, i)), ratio = this.number("log_ratio", i);
    const values = `${number("value")} → ${digits(this.step.raw.value && this.after(i))}`;
    const facts = [["token", `${i + 1} of ${this.row.length}`], ["V", values], ["drop", number("drop")],
      ["advantage", number("advantage")], ["ratio", digits(ratio === undefined ? ratio : Math.exp(ratio))],
      ["entropy", number("entropy")], ["gap", number("gap")], ["log-prob", number("logprob")]];
    const token = make("code", "", JSON.stringify(this.step.token(this.row.start + i)).slice(1, -1));
    const cells = facts.map(([name, text]) => {
      const cell = make("span", "", name);
      cell.append(make("b", "", text));
      return cell;
    });
    this.readout.replaceChildren(cells[0], token, ...cells.slice(1));
    this.chart.place(i);
  }

  pin(i, scroll = false) {
    if (!this.row) return;
    this.cursor = Math.max(0, Math.min(this.row.length - 1, i));
    const chunk = this.chunks.find(({to}) => this.cursor < to);
    if (scroll) this.open(chunk);
    this.point(this.cursor);
    if (!scroll) return;
    const span = this.span(this.cursor), box = this.tokens;
    const top = span.getBoundingClientRect().top - box.getBoundingClientRect().top;
    if (top < 0 || top > box.clientHeight - 30) box.scrollTop += top - box.clientHeight / 2;
  }
}

// V and advantage of one response over position.

const GUTTER = 58, EDGE = 12, AXIS = 18; // pixels
const PANELS = [ // height: share of the window's, least, most
  {name: "value", label: "V", height: [0.19, 90, 190]},
  {name: "advantage", label: "Â", height: [0.12, 60, 120]},
];

class Chart {
  constructor(point, leave, pin) { // called with the index of a token: pointed at, pinned; `leave` with nothing
    this.element = make("div", "chart");
    this.canvas = make("canvas");
    this.cursor = make("div", "cursor");
    this.window = make("div", "window");
    this.element.append(this.window, this.canvas, this.cursor);
    this.element.addEventListener("mousemove", (event) => point(this.tokenAt(event)));
    this.element.addEventListener("mouseleave", leave);
    this.element.addEventListener("click", (event) => pin(this.tokenAt(event)));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  show(step, row, horizon) { // horizon: λ's window in tokens, null if it is not known
    Object.assign(this, {step, row, horizon});
    this.draw();
  }

  get inner() { return Math.max(20, this.element.clientWidth - GUTTER - EDGE); }

  x(token) { return GUTTER + token * this.inner / this.row.length; }

  tokenAt(event) {
    const x = event.clientX - this.element.getBoundingClientRect().left - GUTTER;
    return Math.max(0, Math.min(this.row.length - 1, Math.floor(this.row.length * x / this.inner)));
  }

  place(token) { // the cursor, and from it on the tokens whose errors reach its advantage
    this.token = token;
    this.cursor.style.left = `${this.x(token + 0.5)}px`;
    this.window.style.left = `${this.x(token)}px`;
    this.window.style.width = `${this.x(Math.min(token + (this.horizon || 0), this.row.length)) - this.x(token)}px`;
  }

  draw() {
    if (!this.row || this.element.clientWidth === 0) return;
    const panels = PANELS.filter(({name}) => this.step.raw[name] && this.row.reward !== null);
    const tall = ([share, least, most]) => Math.round(Math.max(least, Math.min(most, share * window.innerHeight)));
    const heights = panels.map(({height}) => tall(height));
    const context = prepare(this.canvas, this.element.clientWidth, AXIS + heights.reduce((sum, height) => sum + height + 10, 0));
    const colours = palette();
    context.font = "11px system-ui, sans-serif";
    let top = 5;
    panels.forEach(({name, label}, number) => {
      this.panel(context, colours, name, label, top, heights[number]);
      top += heights[number] + 10;
    });
    this.element.style.setProperty("--bottom", `${AXIS + 4}px`);
    this.axis(context, colours, top);
    if (this.token < this.row.length) this.place(this.token);
  }

  panel(context, colours, name, label, top, height) {
    const {row, inner} = this, numbers = this.step.array(name).subarray(row.start, row.end), middle = top + height / 2;
    let most = name === "value" ? Math.max(1, Math.abs(row.reward)) : 1e-6;
    for (const number of numbers) most = Math.max(most, Math.abs(number));
    const y = (number) => middle - (number / most) * (height / 2 - 3);
    context.fillStyle = colours.faint;
    context.textAlign = "right";
    for (const number of [most, 0, -most]) context.fillText(digits(number), GUTTER - 7, y(number) + 4);
    context.textAlign = "left";
    context.fillStyle = colours.ink;
    context.fillText(label, 2, middle + 4);
    context.fillStyle = colours.line;
    context.fillRect(GUTTER, Math.round(middle), inner, 1);
    for (const [at, kind] of slips(row)) this.upright(context, colours.slip, at, top, height, kind === 2 ? [3, 3] : []);
    if (row.reveal !== null) this.upright(context, colours.faint, row.reveal, top, height, [1, 3]);
    const columns = Math.min(numbers.length, Math.floor(inner * 2)), unit = inner / columns;
    context.strokeStyle = colours.ink;
    context.lineWidth = 1.5;
    context.beginPath();
    for (let column = 0; column < columns; column++) { // of a column with several tokens, the smallest and the largest number
      let low = Infinity, high = -Infinity;
      const end = Math.floor(numbers.length * (column + 1) / columns);
      for (let i = Math.floor(numbers.length * column / columns); i < end; i++) {
        low = Math.min(low, numbers[i]);
        high = Math.max(high, numbers[i]);
      }
      const x = GUTTER + column * unit;
      if (name === "value") {
        context.lineTo(x, y(high));
        context.lineTo(x, y(low));
        context.lineTo(x + unit, y(low));
        continue;
      }
      for (const number of low < 0 && high > 0 ? [low, high] : [-low > high ? low : high]) {
        context.fillStyle = colours.of(number < 0 ? -1 : 1);
        context.fillRect(x, Math.min(middle, y(number)), Math.max(1, unit - (unit > 3 ? 1 : 0)), Math.abs(y(number) - middle));
      }
    }
    if (name !== "value") return;
    context.stroke();
    context.fillStyle = colours.of(row.reward < 0 ? -1 : 1); // the reward, where the values should end
    context.beginPath();
    context.arc(GUTTER + inner + 5, y(row.reward), 4, 0, 7);
    context.fill();
  }

  upright(context, colour, at, top, height, dash) {
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(this.x(at + 0.5), top);
    context.lineTo(this.x(at + 0.5), top + height);
    context.stroke();
    context.setLineDash([]);
  }

  axis(context, colours, top) {
    const {length} = this.row, rough = length / Math.max(2, this.inner / 90), power = 10 ** Math.floor(Math.log10(rough));
    const every = Math.max(1, [1, 2, 5, 10].find((factor) => factor * power >= rough) * power);
    context.fillStyle = colours.faint;
    context.textAlign = "center";
    for (let i = every; i <= length; i += every) context.fillText(i, Math.min(this.x(i - 0.5), GUTTER + this.inner - 10), top + 9);
    context.textAlign = "left";
    context.fillText("token", 2, top + 9);
  }
}

// Parallel coordinates: an axis for each parameter and result, a line for each call.

const AXIS_LEAST = 96; // minimum distance between axes in pixels
const BESIDE = { left: 64, right: 78, top: 44, bottom: 52 }; // around the axes, in pixels
const REACH = 12; // maximum distance in pixels between the mouse and the line that it selects
const GRIP = 16; // half of the width of an axis for the mouse

const PARALLEL_STYLE = `
 .whole { position: absolute; inset: 0; display: flex; flex-direction: column;
  font: 13px Helvetica, Arial, sans-serif; color: var(--flame-ink) }
 .scroll { flex: 1; min-height: 0; position: relative; overflow: auto hidden }
 .field { position: relative; height: 100% }
 canvas { position: absolute; inset: 0; width: 100%; height: 100% }
 .axis { position: absolute; top: 6px; transform: translateX(-50%) }
 button, input, select { font: inherit; color: inherit; background: var(--flame-card);
  border: 1px solid var(--flame-rule); border-radius: 4px; padding: 3px 7px }
 button { cursor: pointer; max-width: ${AXIS_LEAST - 6}px; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap }
 .axis.chosen button { border-color: #56B4E9; box-shadow: 0 0 0 1px #56B4E9 }
 :is(button, input):focus-visible { outline: 2px solid #56B4E9 }
 .said { min-height: 18px; padding: 2px 8px 4px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; color: var(--flame-quiet) }
 .range { position: absolute; z-index: 5; top: 36px; padding: 8px 12px; border-radius: 5px;
  background: var(--flame-card); border: 1px solid var(--flame-rule); max-height: calc(100% - 60px);
  overflow: auto; box-shadow: 0 3px 12px rgb(0 0 0 / 22%) }
 .range label { display: flex; align-items: center; gap: 6px; min-height: 26px }
 .range input[type=text] { width: 90px; margin-left: auto }
 [hidden] { display: none !important }`;

class Parallel {
  constructor(colors, { choose, point, open }) {
    this.colors = colors;
    // The order of the calls is told by the colors; those of single calls would hide it.
    this.ranked = Object.assign(Object.create(colors), { by: "rank" });
    this.choose = choose;
    this.point = point;
    this.last = null;
    this.axes = [];
    this.lines = [];
    this.brush = null; // {axis, from, to} while the mouse is down
    this.canvas = element("canvas", { role: "img" });
    this.heads = element("div");
    this.range = new AxisRange((column, range) => this.choosing(column, range));
    this.field = element("div", { className: "field" }, this.canvas, this.heads, this.range.root);
    this.scroll = element("div", { className: "scroll" }, this.field);
    this.said = element("div", { className: "said" });
    this.root = element(
      "div", { className: "whole", dataset: { flame: "parallel" } },
      element("style", {}, PARALLEL_STYLE), this.scroll, this.said,
    );
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "parallel coordinates");
    new ResizeObserver(() => this.paint()).observe(this.scroll);
    this.canvas.onpointermove = (event) => this.moved(event);
    this.canvas.onpointerleave = () => !this.brush && point(null);
    this.canvas.onpointerdown = (event) => this.pressed(event);
    this.canvas.onpointerup = () => this.released();
    this.canvas.onpointercancel = () => (this.brush = null);
    this.canvas.onclick = () => {
      if (this.last?.focus && !this.brushed) open(this.last.focus);
    };
  }
  draw(calls, rows, options, focus) {
    const hidden = new Set(options.hidden);
    const all = calls.latest().filter((a) => !hidden.has(a.key));
    this.last = { calls, rows, options, focus, all };
    const columns = parameterAxes(calls, options);
    this.axes = columns.map((column) => ({
      column, name: filterName(column, calls), scale: scaleOf(all.map((a) => column.value(a))),
    }));
    this.paint();
  }
  paint() {
    if (!this.last) return;
    const [room, height] = [this.scroll.clientWidth, this.scroll.clientHeight];
    const least = BESIDE.left + BESIDE.right + AXIS_LEAST * (this.axes.length - 1);
    const width = Math.max(room, least);
    this.field.style.width = `${width}px`;
    const missing = this.axes.some((axis) => this.missing(axis));
    const area = { ...BESIDE, bottom: BESIDE.bottom - (missing ? 0 : 30), width, height };
    this.area = area;
    const across = (width - area.left - area.right) / Math.max(1, this.axes.length - 1);
    this.axes.forEach((axis, i) => (axis.x = area.left + i * across));
    this.titles();
    const context = canvasFor(this.canvas, width, height);
    const inks = { ink: "", quiet: "", rule: "", bad: "", ground: "" };
    for (const name of Object.keys(inks)) inks[name] = flameTheme.color(name);
    this.drawLines(context, inks);
    for (const axis of this.axes) this.drawAxis(context, axis, inks);
    this.tell();
  }
  /** Whether some calls have no place on an axis. */
  missing({ column, scale }) {
    return this.last.all.some((a) => scale.place(column.value(a)) === null);
  }
  /** Vertical position of a share of an axis; calls without a value are below it. */
  up(share) {
    const { top, bottom, height } = this.area;
    return share === null ? height - bottom + 26 : height - bottom - share * (height - top - bottom);
  }
  drawLines(context, inks) {
    const { calls, rows, options, focus, all } = this.last;
    const place = new Map(rows.map((a, i) => [a, i]));
    const pinned = new Set(options.pinned);
    const measured = rows.filter((a) => isNumber(a.result(calls.metric).best)).length;
    const order = (a) => (a === focus ? 1e9 : pinned.has(a.key) ? 1e8 : -(place.get(a) ?? 1e7));
    this.lines = all
      .map((a) => ({ a, ys: this.axes.map(({ column, scale }) => this.up(scale.place(column.value(a)))) }))
      .sort((p, q) => order(p.a) - order(q.a));
    for (const { a, ys } of this.lines) {
      const chosen = place.has(a);
      const strong = chosen && (a === focus || pinned.has(a.key));
      const failed = BAD_STATES.has(a.state);
      context.globalAlpha = !chosen ? 0.35 : strong ? 1 : focus ? 0.35 : all.length > 100 ? 0.6 : 0.85;
      context.lineWidth = strong ? 3.4 : 1.6;
      context.setLineDash(failed && !strong ? [5, 3] : a.state === "waiting" ? [1.5, 3] : []);
      const color = !chosen ? inks.rule
        : strong ? this.colors.of(a, place.get(a), rows.length)
        : failed ? inks.bad
        : isNumber(a.result(calls.metric).best) ? this.ranked.of(a, place.get(a), measured)
        : inks.quiet;
      context.beginPath();
      this.axes.forEach(({ x }, i) => (i ? context.lineTo(x, ys[i]) : context.moveTo(x, ys[i])));
      if (strong) {
        context.strokeStyle = inks.ground;
        context.lineWidth = 8;
        context.stroke();
        context.lineWidth = 3.4;
      }
      context.strokeStyle = color;
      context.stroke();
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }
  drawAxis(context, axis, inks) {
    const { x, scale, column } = axis;
    const range = this.brush?.axis === axis ? rangeBetween(scale, this.brush.from, this.brush.to)
      : rangeIn(this.last.options.search, axis.name);
    context.lineWidth = 1.2;
    context.strokeStyle = inks.quiet;
    context.beginPath();
    context.moveTo(x, this.up(0));
    context.lineTo(x, this.up(1));
    context.stroke();
    for (const [from, to] of coveredBy(scale, range)) {
      const [low, high] = [this.up(from), this.up(to)];
      context.fillStyle = "rgb(86 180 233 / 35%)";
      context.strokeStyle = "#56B4E9";
      context.fillRect(x - 7, high, 14, Math.max(2, low - high));
      context.strokeRect(x - 7, high, 14, Math.max(2, low - high));
    }
    context.font = "12px Helvetica, Arial, sans-serif";
    context.textBaseline = "middle";
    const last = axis === this.axes[this.axes.length - 1] && this.axes.length > 1;
    context.textAlign = last ? "left" : "right";
    context.lineJoin = "round";
    const write = (text, y, color) => {
      const cut = cutTo(text, (last ? BESIDE.right : AXIS_LEAST - 26) - 14);
      context.lineWidth = 4;
      context.strokeStyle = inks.ground;
      context.strokeText(cut, x + (last ? 8 : -8), y);
      context.fillStyle = color;
      context.fillText(cut, x + (last ? 8 : -8), y);
    };
    context.fillStyle = inks.quiet;
    for (const [at, text] of scale.ticks) {
      context.fillRect(x - 3, this.up(at) - 0.5, 6, 1.2);
      write(text, this.up(at), inks.ink);
    }
    if (this.missing(axis)) {
      write(column.of ? "no result" : "none", this.up(null), inks.quiet);
    }
  }
  /** Names of the axes, as buttons that open their ranges. */
  titles() {
    const { options } = this.last;
    const text = JSON.stringify(this.axes.map(({ column }) => [column.id, column.better]));
    if (this.titled !== text) {
      this.titled = text;
      this.range.hide();
      this.heads.replaceChildren(...this.axes.map(({ column }, i) => {
        const arrow = column.of ? (column.better === "max" ? " ↑" : " ↓") : "";
        const title = `${column.of ? "best " : ""}${column.title}: choose a range`;
        const button = element("button", { type: "button", title }, column.title + arrow);
        button.onclick = () => this.range.toggle(this.axes[i], button, this.area.width, this.last.options);
        return element("div", { className: "axis" }, button);
      }));
    }
    this.axes.forEach(({ x, name }, i) => {
      const head = this.heads.children[i];
      head.style.left = `${x}px`;
      const { low, high, values } = rangeIn(options.search, name);
      head.classList.toggle("chosen", Boolean(values) || isNumber(low) || isNumber(high));
    });
  }
  tell() {
    const { calls, rows, all, focus } = this.last;
    const metric = calls.metric;
    const some = `${rows.filter((a) => all.includes(a)).length} of ${all.length} calls`;
    const best = rows[0];
    const known = best && isNumber(best.result(metric).best);
    const result = known ? `; best ${metric} ${shown(best.result(metric).best)}: ${best.name}` : "";
    const hint = ". Drag along an axis, or click its name, to choose calls.";
    const own = focus && `${focus.name} · ${metric} ${shown(focus.result(metric).best)} · ${stateText(focus)}`;
    write(this.said, own || some + result + hint);
    mark(this.canvas, "aria-label",
      `Parallel coordinates of ${some}${result}. The table has the same values.`);
  }
  choosing(column, range) {
    const axis = this.axes.find((own) => own.column.id === column.id);
    if (axis) this.choose({ search: withRange(this.last.options.search, axis.name, range) });
  }
  axisAt({ offsetX: x, offsetY: y }) {
    const { top, bottom, height } = this.area;
    if (y < top - 8 || y > height - bottom + 8) return null;
    return this.axes.find((axis) => Math.abs(axis.x - x) <= GRIP) ?? null;
  }
  shareAt({ offsetY: y }) {
    const { top, bottom, height } = this.area;
    return Math.max(0, Math.min(1, (height - bottom - y) / (height - top - bottom)));
  }
  pressed(event) {
    const axis = this.axisAt(event);
    this.brushed = false;
    if (!axis) return;
    const at = this.shareAt(event);
    this.brush = { axis, from: at, to: at };
    this.canvas.setPointerCapture(event.pointerId);
  }
  moved(event) {
    if (this.brush) {
      this.brush.to = this.shareAt(event);
      this.paint();
      return;
    }
    this.canvas.style.cursor = this.axisAt(event) ? "ns-resize" : "";
    const found = this.near(event);
    if (found !== this.last.focus) this.point(found);
  }
  released() {
    if (!this.brush) return;
    const { axis, from, to } = this.brush;
    this.brush = null;
    const { top, bottom, height } = this.area;
    const dragged = Math.abs(from - to) * (height - top - bottom) > 4;
    const before = rangeIn(this.last.options.search, axis.name);
    const there = before.values || isNumber(before.low) || isNumber(before.high);
    this.brushed = dragged || Boolean(there);
    // A click without dragging removes the range.
    if (dragged) this.choosing(axis.column, rangeBetween(axis.scale, from, to));
    else if (there) this.choosing(axis.column, null);
  }
  /** The chosen call whose line is closest to the mouse. */
  near({ offsetX: x, offsetY: y }) {
    const chosen = new Set(this.last.rows);
    const next = this.axes.findIndex((axis) => axis.x >= x);
    if (next < 0) return null;
    const [a, b] = [this.axes[Math.max(0, next - 1)], this.axes[next]];
    const share = b.x === a.x ? 0 : Math.max(0, (x - a.x) / (b.x - a.x));
    let [found, least] = [null, REACH];
    for (const { a: attempt, ys } of this.lines) {
      if (!chosen.has(attempt)) continue;
      const [from, to] = [ys[Math.max(0, next - 1)], ys[next]];
      const away = Math.abs(from + share * (to - from) - y);
      if (away <= least) [found, least] = [attempt, away];
    }
    return found;
  }
}

/** Choosing a range of an axis by keyboard: two numbers, or some of its categories. */
class AxisRange {
  constructor(choose) {
    this.choose = choose;
    this.root = element("div", { className: "range", hidden: true });
    this.root.setAttribute("role", "group");
    this.button = null;
    this.root.onkeydown = (event) => {
      if (event.key === "Escape") this.hide(true);
    };
    addEventListener("pointerdown", (event) => {
      if (!event.composedPath().includes(this.root)) this.hide();
    });
  }
  hide(back = false) {
    if (back) this.button?.focus();
    this.root.hidden = true;
    if (this.button) this.button.setAttribute("aria-expanded", "false");
    this.button = null;
  }
  toggle(axis, button, width, options) {
    const again = this.button === button;
    this.hide();
    if (again) return;
    this.button = button;
    button.setAttribute("aria-expanded", "true");
    const { column, scale, name } = axis;
    const range = rangeIn(options.search, name);
    this.root.setAttribute("aria-label", `range of ${column.title}`);
    const clear = element("button", { type: "button" }, "all");
    clear.onclick = () => {
      this.choose(column, null);
      this.hide(true);
    };
    const fields = scale.kind === "category" ? this.boxes(column, scale, range) : this.ends(column, range);
    this.root.replaceChildren(...fields, clear);
    this.root.hidden = false;
    const left = Math.min(axis.x - 20, width - this.root.offsetWidth - 6);
    this.root.style.left = `${Math.max(4, left)}px`;
    this.root.querySelector("input")?.focus();
  }
  ends(column, range) {
    const now = { low: range.low, high: range.high };
    return [["low", "from"], ["high", "to"]].map(([end, word]) => {
      const value = isNumber(now[end]) ? String(now[end]) : "";
      const input = element("input", { type: "text", value, inputMode: "decimal", name: end });
      input.onchange = () => {
        const number = typedNumber(input.value.trim());
        input.setAttribute("aria-invalid", String(Boolean(input.value.trim()) && Number.isNaN(number)));
        now[end] = Number.isNaN(number) ? null : number;
        this.choose(column, now);
      };
      return element("label", {}, word, input);
    });
  }
  boxes(column, scale, range) {
    const wanted = range.values?.map((text) => text.toLowerCase());
    const inputs = scale.names.map((name) => element("input", {
      type: "checkbox", value: name, checked: !wanted || wanted.includes(name.toLowerCase()),
    }));
    for (const input of inputs) {
      input.onchange = () => {
        const values = inputs.filter((i) => i.checked).map((i) => i.value);
        this.choose(column, values.length === inputs.length ? null : { values });
      };
    }
    return inputs.map((input) => element("label", {}, input, input.value));
  }
}

/** Columns of the axes: parameters that are shown in the table, then the results that are drawn. */
function parameterAxes(calls, options) {
  const columns = columnsOf(calls);
  const parameters = shownColumns(columns, options.columns).filter(({ group }) => group === "parameter");
  return [...parameters, ...calls.drawn.map((metric) => metricColumn(columns, metric)).filter(Boolean)];
}

/** The name of a column in the filter. */
const filterName = ({ of, name }, calls) => (of && calls.parameters.includes(name) ? `best.${name}` : name);

/** A cleared context of a canvas, as sharp as the screen. */
function canvasFor(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

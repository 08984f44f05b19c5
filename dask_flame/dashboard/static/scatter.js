// Results against parameters: a small chart for each parameter, a point for each call.

const PANEL = { left: 52, right: 10, top: 20, bottom: 44, least: 150, between: 14 }; // in pixels
const MEANS = 12; // maximum number of different values that get a mean

const SCATTER_STYLE = `
 .whole { position: absolute; inset: 0; overflow: auto hidden; font: 13px Helvetica, Arial, sans-serif }
 .field { position: relative; height: 100% }
 canvas { position: absolute; inset: 0; width: 100%; height: 100% }`;

class Scatter {
  constructor(colors, { choose, point, open }) {
    this.colors = colors;
    this.choose = choose;
    this.point = point;
    this.last = null;
    this.panels = [];
    this.brush = null; // {panel, from, to} while the mouse is down
    this.canvas = element("canvas", { role: "img" });
    this.field = element("div", { className: "field" }, this.canvas);
    this.root = element(
      "div", { className: "whole", tabIndex: 0, dataset: { flame: "scatter" } },
      element("style", {}, SCATTER_STYLE), this.field,
    );
    new ResizeObserver(() => this.paint()).observe(this.root);
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
    const all = calls.latest().filter((a) => !hidden.has(a.key) && a.state !== "waiting");
    const axes = parameterAxes(calls, options);
    const parameters = axes.filter(({ group }) => group === "parameter");
    const result = axes.find(({ of, name }) => of && name === calls.metric);
    this.last = { calls, rows, options, focus, all };
    this.result = result && { column: result, scale: scaleOf(all.map((a) => result.value(a))) };
    this.panels = parameters.map((column) => ({
      column, name: filterName(column, calls), scale: scaleOf(all.map((a) => column.value(a))),
    }));
    this.paint();
  }
  paint() {
    if (!this.last) return;
    const [room, height] = [this.root.clientWidth, this.root.clientHeight];
    const n = Math.max(1, this.panels.length);
    const each = Math.max(PANEL.least, (room - PANEL.left - PANEL.right) / n);
    const width = Math.max(room, PANEL.left + PANEL.right + each * n);
    this.field.style.width = `${width}px`;
    this.height = height;
    this.panels.forEach((panel, i) => {
      panel.left = PANEL.left + i * each;
      panel.right = panel.left + each - PANEL.between;
    });
    const context = canvasFor(this.canvas, width, height);
    const inks = { ink: "", quiet: "", rule: "", bad: "", ground: "", card: "" };
    for (const name of Object.keys(inks)) inks[name] = flameTheme.color(name);
    if (!this.result) return;
    const place = new Map(this.last.rows.map((a, i) => [a, i]));
    context.font = "12px Helvetica, Arial, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillStyle = inks.ink;
    const { better, title } = this.result.column;
    context.fillText(`best ${title} ${better === "max" ? "↑" : "↓"}`, PANEL.left, 9);
    for (const panel of this.panels) {
      this.frame(context, panel, inks, panel === this.panels[0]);
      this.means(context, panel, inks, place);
      this.points(context, panel, inks, place);
    }
    this.tell();
  }
  up(share) {
    const [top, bottom] = [PANEL.top + 10, this.height - PANEL.bottom - 24];
    return share === null ? this.height - PANEL.bottom - 6 : bottom - share * (bottom - top);
  }
  across({ left, right, scale }, value, spread = 0) {
    const share = scale.place(value);
    const [from, to] = [left + 18, right - 18];
    return share === null ? null : from + share * (to - from) + spread;
  }
  frame(context, panel, inks, first) {
    const { left, right, scale, column, name } = panel;
    const [top, bottom] = [PANEL.top, this.height - PANEL.bottom];
    context.fillStyle = inks.card;
    context.fillRect(left, top, right - left, bottom - top);
    const range = this.brush?.panel === panel ? rangeBetween(scale, this.brush.from, this.brush.to)
      : rangeIn(this.last.options.search, name);
    for (const [from, to] of coveredBy(scale, range)) {
      const x = (share) => left + 18 + share * (right - left - 36);
      context.fillStyle = "rgb(86 180 233 / 22%)";
      context.fillRect(x(from) - 4, top, x(to) - x(from) + 8, bottom - top);
    }
    context.strokeStyle = inks.rule;
    context.lineWidth = 1;
    context.strokeRect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
    context.font = "11px Helvetica, Arial, sans-serif";
    context.textBaseline = "middle";
    for (const [at, text] of this.result.scale.ticks) {
      context.fillStyle = inks.rule;
      context.fillRect(left, this.up(at), right - left, 1);
      if (!first) continue;
      context.fillStyle = inks.quiet;
      context.textAlign = "right";
      context.fillText(text, left - 6, this.up(at));
    }
    context.textAlign = "center";
    let end = left - 10;
    for (const [at, text] of scale.ticks) {
      const x = left + 18 + at * (right - left - 36);
      const half = textWidth(text) / 2;
      if (x - half < end + 6) continue;
      end = x + half;
      context.fillStyle = inks.quiet;
      context.fillText(text, x, bottom + 11);
    }
    context.fillStyle = inks.ink;
    context.font = "600 12px Helvetica, Arial, sans-serif";
    context.fillText(cutTo(column.title, right - left), (left + right) / 2, bottom + 30);
  }
  /** Means over the calls with the same value, and their standard deviations. */
  means(context, panel, inks, place) {
    const { column, scale } = panel;
    const result = this.result.column;
    const by = new Map();
    for (const a of this.last.all) {
      const value = column.value(a);
      if (!place.has(a) || scale.place(value) === null || !isNumber(result.value(a))) continue;
      if (!by.has(value)) by.set(value, []);
      by.get(value).push(result.value(a));
    }
    const groups = sortedBy([...by], ([value]) => scale.place(value), false);
    if (groups.length > MEANS || !groups.some(([, values]) => values.length > 1)) return;
    const drawn = groups.map(([value, values]) => ({ x: this.across(panel, value), ...statistics(values) }));
    const y = (value) => this.up(this.result.scale.place(value));
    context.strokeStyle = context.fillStyle = inks.quiet;
    context.lineWidth = 1.5;
    if (scale.kind !== "category") {
      context.beginPath();
      drawn.forEach(({ x, mean }, i) => (i ? context.lineTo(x, y(mean)) : context.moveTo(x, y(mean))));
      context.stroke();
    }
    for (const { x, mean, deviation, low, high } of drawn) {
      context.fillRect(x - 11, y(mean) - 1.5, 22, 3);
      if (!deviation) continue;
      const [from, to] = [y(Math.max(low, mean - deviation)), y(Math.min(high, mean + deviation))];
      context.fillRect(x - 0.75, to, 1.5, from - to);
    }
  }
  points(context, panel, inks, place) {
    const { all, focus, options, rows } = this.last;
    const pinned = new Set(options.pinned);
    const order = (a) => (a === focus ? 2 : pinned.has(a.key) ? 1 : place.has(a) ? 0 : -1);
    panel.points = [];
    for (const a of [...all].sort((p, q) => order(p) - order(q))) {
      const at = this.result.scale.place(this.result.column.value(a));
      // Apart from others with the same value, always at the same place.
      const x = this.across(panel, panel.column.value(a), ((a.place * 7) % 13) - 6);
      if (x === null) continue;
      const y = this.up(at);
      const chosen = place.has(a);
      const failed = BAD_STATES.has(a.state);
      const color = !chosen ? inks.rule : failed ? inks.bad : this.colors.of(a, place.get(a), rows.length);
      context.globalAlpha = !chosen ? 0.6 : a === focus ? 1 : focus ? 0.5 : 0.9;
      this.dot(context, x, y, color, failed, a === focus || pinned.has(a.key), inks);
      panel.points.push({ a, x, y, chosen });
    }
    context.globalAlpha = 1;
  }
  dot(context, x, y, color, cross, strong, inks) {
    const size = strong ? 6.5 : 4.2;
    context.beginPath();
    if (cross) {
      context.moveTo(x - size, y - size);
      context.lineTo(x + size, y + size);
      context.moveTo(x - size, y + size);
      context.lineTo(x + size, y - size);
      context.strokeStyle = color;
      context.lineWidth = strong ? 3 : 1.8;
      context.stroke();
      return;
    }
    context.arc(x, y, size, 0, 2 * Math.PI);
    context.fillStyle = color;
    context.fill();
    if (!strong) return;
    context.strokeStyle = inks.ink;
    context.lineWidth = 2;
    context.stroke();
  }
  tell() {
    const { calls, rows, all } = this.last;
    const names = this.panels.map(({ column }) => column.title).join(", ");
    const best = rows[0] && isNumber(rows[0].result(calls.metric).best) ? `; best: ${rows[0].name}` : "";
    mark(this.canvas, "aria-label",
      `${calls.metric} of ${all.length} calls against ${names}${best}. The table has the same values.`);
  }
  panelAt({ offsetX: x }) {
    return this.panels.find(({ left, right }) => between(x, left, right)) ?? null;
  }
  shareAt({ left, right }, { offsetX: x }) {
    return Math.max(0, Math.min(1, (x - left - 18) / (right - left - 36)));
  }
  pressed(event) {
    const panel = this.panelAt(event);
    this.brushed = false;
    if (!panel) return;
    const at = this.shareAt(panel, event);
    this.brush = { panel, from: at, to: at };
    this.canvas.setPointerCapture(event.pointerId);
  }
  moved(event) {
    if (this.brush) {
      this.brush.to = this.shareAt(this.brush.panel, event);
      this.paint();
      return;
    }
    let [found, least] = [null, 16];
    for (const { a, x, y, chosen } of this.panelAt(event)?.points ?? []) {
      const away = Math.hypot(x - event.offsetX, y - event.offsetY);
      if (chosen && away <= least) [found, least] = [a, away];
    }
    if (found !== this.last.focus) this.point(found);
  }
  released() {
    if (!this.brush) return;
    const { panel, from, to } = this.brush;
    this.brush = null;
    const { search } = this.last.options;
    const before = rangeIn(search, panel.name);
    const there = Boolean(before.values) || isNumber(before.low) || isNumber(before.high);
    const dragged = Math.abs(from - to) * (panel.right - panel.left - 36) > 5;
    this.brushed = dragged || (there && !this.last.focus);
    if (dragged) this.choose({ search: withRange(search, panel.name, rangeBetween(panel.scale, from, to)) });
    // A click beside the points removes the range.
    else if (this.brushed) this.choose({ search: withRange(search, panel.name, null) });
  }
}

/** The view of parameters: parallel coordinates above results against each parameter. */
class ParameterView {
  constructor(colors, callbacks) {
    this.parts = [new Parallel(colors, callbacks), new Scatter(colors, callbacks)];
    this.none = element("p", { hidden: true },
      "There is nothing to compare: no argument differs between these calls.");
    this.none.style.cssText = "margin: 24px; font: 14px Helvetica, Arial, sans-serif; color: var(--flame-quiet)";
    const places = this.parts.map((part, i) => {
      const place = element("div");
      place.style.cssText = `position: absolute; inset: ${i ? "56% 0 0" : "0 0 45%"}`;
      place.attachShadow({ mode: "open" }).append(part.root);
      return place;
    });
    this.places = places;
    this.root = element("div", {}, ...places, this.none);
    this.root.style.cssText = "position: absolute; inset: 0";
  }
  draw(calls, rows, options, focus) {
    const some = calls.parameters.length > 0;
    this.none.hidden = some;
    for (const place of this.places) place.hidden = !some;
    if (some) for (const part of this.parts) part.draw(calls, rows, options, focus);
  }
}

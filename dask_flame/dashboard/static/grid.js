// Small multiples: a chart for each call, or for each runner if they give the colors, all with the
// same axes, in one figure of pixels.

const MOST_CELLS = 144;
const GAP = 8;

const ruler = document.createElement("canvas").getContext("2d");

/** Width of a text in pixels. */
function textWidth(text, style = "") {
  ruler.font = `${style} 11px Helvetica, Arial, sans-serif`;
  return ruler.measureText(text).width;
}

/** A text, shortened to a width. */
function cutTo(text, room, style = "", end = false) {
  if (textWidth(text, style) <= room) return text;
  for (let n = text.length - 1; n > 0; n--) {
    const cut = end ? `…${text.slice(-n)}` : `${text.slice(0, n)}…`;
    if (textWidth(cut, style) <= room) return cut;
  }
  return "";
}

/** Length of the common prefix of names, up to a dash. */
function commonPrefix(names) {
  const [first = ""] = names;
  let n = first.length;
  for (const name of names) while (!name.startsWith(first.slice(0, n))) n--;
  return first.slice(0, n).lastIndexOf("-") + 1;
}

class Grid {
  /** The grid of a document, once the scheduler has made its figure; null before. */
  static find(document, colors) {
    const figure = document.get_model_by_name("flame-grid");
    return figure && new Grid(figure, document, colors);
  }
  constructor(figure, document, colors) {
    this.figure = figure;
    const names = ["cells", "titles", "numbers", "lines", "ends"];
    const sources = names.map((name) => [name, document.get_model_by_name(`flame-grid-${name}`)]);
    this.sources = Object.fromEntries(sources);
    this.colors = colors;
    this.layout = [];
    this.scene = ""; // what it was drawn from
    this.metric = "";
    this.cut = 0; // number of curves with outliers, which are drawn along the edge
  }
  draw({ metric, version }, rows, options, focus) {
    this.metric = metric;
    const [width, height] = [this.figure.inner_width || 800, this.figure.inner_height || 500];
    const look = [options.x, options.log, options.smoothing, options.whole, this.colors.by, flameTheme.dark];
    const scene = JSON.stringify([version, metric, width, height, look, rows.map(identity), focus && identity(focus)]);
    if (scene === this.scene) return;
    this.scene = scene;
    this.figure.x_range.setv({ start: 0, end: width });
    this.figure.y_range.setv({ start: height, end: 0 });
    const y = (a) => valuesOf(a.curve(metric), options);
    const drawn = rows.filter((a) => a.curve(metric).length);
    const place = new Map(rows.map((a, i) => [a, i]));
    const groups = this.colors.by === "runner" ? this.runners(drawn) : this.calls(drawn);
    this.prefix = commonPrefix(groups.map(([name]) => name));
    const shape = this.shape(groups.length, width, height);
    const thick = groups.length > FEW ? 1 : 1.8; // see Curves.lines()
    const [x0, x1] = finite(drawn.map((a) => endsOf(a.curve(metric), options)).filter(Boolean).flat()) ?? [0, 1];
    const curves = drawn.map((a) => a.curve(metric));
    const seen = span(curves, options);
    const [low, high] = seen.range ?? (options.log ? [-1, 0] : [0, 1]);
    this.cut = seen.cut ? curves.filter((curve) => beyond(curve, options, low, high)).length : 0;
    this.span = { x0, x1, low, high };
    const columns = {
      cells: { left: [], right: [], top: [], bottom: [], rule: [], card: [] },
      titles: { x: [], y: [], text: [], color: [], style: [] },
      numbers: { x: [], y: [], text: [], color: [] },
      lines: { xs: [], ys: [], color: [], alpha: [], width: [], key: [], runner: [] },
      ends: { x: [], y: [], color: [], marker: [] },
    };
    this.layout = groups.map(([name, own], n) => {
      const cell = this.cell(n, shape, name, own);
      this.frame(columns, cell, own[own.length - 1], focus && own.includes(focus));
      for (const a of own) {
        const line = this.line(cell, a, y(a), options);
        const current = a === own[own.length - 1];
        const color = this.colors.of(a, place.get(a), rows.length);
        const { lines, ends } = columns;
        lines.xs.push(line.xs);
        lines.ys.push(line.ys);
        lines.key.push(a.key);
        lines.runner.push(a.runner);
        lines.color.push(color);
        lines.alpha.push(a === focus || current ? 1 : 0.3);
        lines.width.push(a === focus ? 1.8 : current ? thick : 1);
        const bad = a.state === "failed" || a.state === "lost";
        if ((current || bad) && line.end) {
          ends.x.push(line.end[0]);
          ends.y.push(line.end[1]);
          ends.color.push(bad ? flameTheme.color("bad") : color);
          ends.marker.push(MARKS[a.state] ?? "circle");
        }
      }
      return cell;
    });
    for (const [name, values] of Object.entries(columns)) put(this.sources[name], values);
  }
  /** The common range of all charts, as text. */
  said(metric, options) {
    const { x0, x1, low, high } = this.span;
    const value = (v) => shown(options.log ? 10 ** v : v);
    const across = options.x === "steps" ? `step ${shown(x0)} to ${shown(x1)}` : `${duration(x1)}`;
    return `${metric} ${value(low)} to ${value(high)}, ${across}`;
  }
  /** Calls, each alone, in the order of their ranks. */
  calls(drawn) {
    return drawn.slice(0, MOST_CELLS).map((a) => [a.name, [a]]);
  }
  /** Runners with their calls, the latest call last. */
  runners(drawn) {
    const own = new Map();
    for (const a of drawn.slice().sort((a, b) => a.place - b.place)) {
      if (!own.has(a.runner)) own.set(a.runner, []);
      own.get(a.runner).push(a);
    }
    for (const calls of own.values()) {
      calls.sort((a, b) => Number(a.state === "running") - Number(b.state === "running"));
    }
    const order = (a, b) => a[0].localeCompare(b[0], undefined, { numeric: true });
    return [...own].sort(order).slice(0, MOST_CELLS);
  }
  /** The number of columns that gives the largest cells, slightly wider than high. */
  shape(n, width, height) {
    let shape = { columns: 1, w: width, h: height };
    let most = -1;
    for (let columns = 1; columns <= n; columns++) {
      const w = (width - (columns - 1) * GAP) / columns;
      const h = (height - (Math.ceil(n / columns) - 1) * GAP) / Math.ceil(n / columns);
      const size = Math.min(w / 1.6, h);
      if (size > most) [most, shape] = [size, { columns, w, h: Math.min(h, 1.1 * w) }];
    }
    return shape;
  }
  cell(n, { columns, w, h }, name, own) {
    const left = (n % columns) * (w + GAP);
    const top = Math.floor(n / columns) * (h + GAP);
    const head = h > 46 ? 18 : 0;
    const foot = h > 92 ? 15 : 0;
    const inner = { left: left + 6, right: left + w - 8, top: top + head + 5, bottom: top + h - foot - 6 };
    return { name, own, left, top, w, h, head, foot, inner };
  }
  frame(columns, cell, current, focused) {
    const { left, top, w, h, head, foot } = cell;
    const { cells, titles, numbers } = columns;
    cells.left.push(left + 0.5);
    cells.right.push(left + w - 0.5);
    cells.top.push(top + 0.5);
    cells.bottom.push(top + h - 0.5);
    cells.rule.push(flameTheme.color(focused ? "ink" : "rule"));
    cells.card.push(flameTheme.color("card"));
    if (!head) return;
    const number = shown(current.result(this.metric).last);
    const ink = flameTheme.color("ink");
    const say = (x, y, text, color, style) => {
      for (const [name, value] of Object.entries({ x, y, text, color, style })) {
        titles[name].push(value);
      }
    };
    const taken = textWidth(number) + 10;
    const wide = w - 14 - taken > 30;
    const room = w - 14 - (wide ? taken : 0);
    const fits = textWidth(cell.name, "bold") <= room;
    // Keep the end, because names differ there.
    const brief = withoutNames(cell.name);
    const name = fits ? cell.name
      : textWidth(brief, "bold") <= room ? brief
      : cutTo(cell.name.slice(this.prefix), room, "bold", true);
    say(left + 7, top + 13, name, ink, "bold");
    if (wide) {
      numbers.x.push(left + w - 7);
      numbers.y.push(top + 13);
      numbers.text.push(number);
      numbers.color.push(ink);
    }
    if (foot) {
      const more = cell.own.length > 1 ? `${cell.own.length} calls · ` : "";
      const quiet = flameTheme.color("quiet");
      const other = cell.name === current.name ? current.runner : current.name;
      say(left + 7, top + h - 8, cutTo(more + other, w - 14), quiet, "normal");
    }
  }
  line({ inner }, attempt, values, options) {
    const { x0, x1, low, high } = this.span;
    const curve = attempt.curve(this.metric);
    const x = curve[options.x].all;
    const kept = visible(x, values, x0, x1, curve.rising[options.x], inner.right - inner.left);
    const across = (v) => inner.left + ((v - x0) / (x1 - x0 || 1)) * (inner.right - inner.left);
    const up = (v) => {
      const share = (v - low) / (high - low || 1);
      // Values outside of the range are drawn along the edge.
      const seen = Math.max(-0.02, Math.min(1.02, share));
      return inner.bottom - seen * (inner.bottom - inner.top);
    };
    const last = lastDrawn(values);
    return {
      xs: Float64Array.from(kept, (i) => across(x[i])),
      ys: Float64Array.from(kept, (i) => up(values[i])),
      end: last < 0 ? null : [across(x[last]), up(values[last])],
    };
  }
  /** The call and the point that are closest to the mouse; null if it is in no cell. */
  near({ x, y }, options) {
    const inside = (c) => x >= c.left && x <= c.left + c.w && y >= c.top && y <= c.top + c.h;
    const cell = this.layout.find(inside);
    if (!cell) return null;
    let found = null;
    let least = Infinity;
    const { x0, x1, low, high } = this.span;
    const { inner } = cell;
    for (const a of cell.own) {
      const curve = a.curve(this.metric);
      const [xs, ys] = [curve[options.x].all, valuesOf(curve, options)];
      for (let i = 0; i < xs.length; i++) {
        const dx = inner.left + ((xs[i] - x0) / (x1 - x0 || 1)) * (inner.right - inner.left) - x;
        const share = (ys[i] - low) / (high - low || 1);
        const dy = inner.bottom - share * (inner.bottom - inner.top) - y;
        if (dx * dx + dy * dy < least) {
          least = dx * dx + dy * dy;
          found = { attempt: a, index: i, dx, dy, metric: this.metric };
        }
      }
    }
    return found;
  }
}

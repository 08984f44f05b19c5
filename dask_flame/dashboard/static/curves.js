// All curves in one figure; the best one and the one under the mouse are highlighted.

const FEW = 8; // maximum number of curves with thick lines
const DASHED = 24; // maximum number of curves with different dashes
const NEAR = 28; // maximum distance in pixels between the mouse and the curve that it selects
const MARKS = { running: "circle", done: "square", failed: "x", cancelled: "x", lost: "x" };

/** Colors of curves. */
class Colors {
  constructor({ colors, lighter, dashes }) {
    this.light = colors;
    this.dark = colors.map((color) => lighter[color] ?? color);
    this.dashes = dashes;
    this.by = "runner";
  }
  number(attempt) {
    return this.by === "call" ? attempt.place : attempt.color;
  }
  /** The color of the call at a place of n. */
  of(attempt, place, n) {
    const colors = flameTheme.dark ? this.dark : this.light;
    if (this.by !== "rank") return colors[this.number(attempt) % colors.length];
    const stops = flameTheme.dark
      ? [[255, 209, 102], [214, 120, 60], [84, 90, 102]]
      : [[16, 52, 128], [72, 146, 206], [198, 209, 222]];
    const at = n > 1 ? (2 * Math.max(0, place)) / (n - 1) : 0;
    const i = Math.min(1, Math.floor(at));
    const mixed = stops[i].map((low, k) => Math.round(low + (stops[i + 1][k] - low) * (at - i)));
    return `rgb(${mixed.join(",")})`;
  }
  dash(attempt, n) {
    if (this.by === "rank" || n > DASHED) return "solid";
    return this.dashes[Math.floor(this.number(attempt) / this.light.length) % this.dashes.length];
  }
}

/** Replace the data of a source in the browser only, without sending it to the scheduler. */
function put(source, columns) {
  Object.assign(source.data, columns);
  source.change.emit();
}

const LARGEST = 1e290; // larger values would overflow the axis

const finite = (values) => {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low && value > -LARGEST) low = value;
    if (value > high && value < LARGEST) high = value;
  }
  return low <= high ? [low, high] : null;
};

/**
 * The range to show: all values, or without a few outliers that would hide the differences between
 * the others.
 */
function span(series, whole) {
  const all = finite(series.map(finite).filter(Boolean).flat());
  if (!all || whole) return { range: all, cut: false };
  const total = series.reduce((n, values) => n + values.length, 0);
  const stride = Math.max(1, Math.ceil(total / 20000));
  const sample = [];
  for (const values of series) {
    for (let i = values.length - 1; i >= 0; i -= stride) {
      if (Number.isFinite(values[i])) sample.push(values[i]);
    }
  }
  sample.sort((a, b) => a - b);
  const at = (share) => sample[Math.round(share * (sample.length - 1))];
  const [low, high] = [at(0.05), at(0.95)];
  const room = 1.5 * (high - low);
  const range = [Math.max(all[0], low - room), Math.min(all[1], high + room)];
  // Hide outliers only if the others gain much room.
  const gain = (all[1] - all[0]) / (range[1] - range[0] || Infinity);
  return gain > 2 ? { range, cut: true } : { range: all, cut: false };
}

/** Position of the last finite value; -1 if there is none. */
function lastDrawn(y) {
  for (let i = y.length - 1; i >= 0; i--) if (Number.isFinite(y[i])) return i;
  return -1;
}

class Curves {
  /** `figures.linear` and `figures.log` have a figure and its sources: lines, strong, notes, ends. */
  constructor(figures, colors) {
    this.figures = figures;
    this.colors = colors;
    this.following = true;
    this.cut = 0; // number of curves with outliers that are not shown
    this.drawn = [];
    this.moving = false;
    /** @type {(() => void) | null} called when somebody has zoomed */
    this.zoomed = null;
    for (const { figure } of Object.values(figures)) {
      for (const range of [figure.x_range, figure.y_range]) {
        for (const end of ["start", "end"]) {
          range.properties[end].change.connect(() => {
            if (this.moving) return;
            // The user has zoomed: keep the view, and go on drawing.
            this.following = false;
            this.zoomed?.();
          });
        }
      }
    }
  }
  parts(log) {
    return log ? this.figures.log : this.figures.linear;
  }
  draw(calls, rows, options, focus) {
    const { figure, lines, strong, ends, notes } = this.parts(options.log);
    const y = (a) => this.values(a, options);
    const all = rows.filter((a) => a.steps.length);
    const before = calls.earlier(rows).filter((a) => a.steps.length);
    this.drawn = [...before, ...all.slice().reverse()];
    if (!this.following) this.cut = 0;
    else this.fit(figure, this.drawn, options, y);
    const place = new Map(rows.map((a, i) => [a.key, i]));
    const width = figure.inner_width || 800;
    const { start, end } = figure.x_range;
    const alpha = all.length <= FEW ? 0.9 : all.length <= 32 ? 0.65 : 0.45;
    const columns = {
      xs: [], ys: [], key: [], runner: [], state: [], color: [], dash: [], alpha: [], width: [],
    };
    const points = (a) => {
      const [x, values] = [a[options.x].all, y(a)];
      const kept = visible(x, values, start, end, a.rising[options.x], width);
      return [Float64Array.from(kept, (i) => x[i]), Float64Array.from(kept, (i) => values[i])];
    };
    for (const a of this.drawn) {
      const [xs, ys] = points(a);
      columns.xs.push(xs);
      columns.ys.push(ys);
      columns.key.push(a.key);
      columns.runner.push(a.runner);
      columns.state.push(a.state);
      columns.color.push(this.colors.of(a, place.get(a.key), rows.length));
      columns.dash.push(a.latest ? this.colors.dash(a, all.length) : "dotted");
      const dim = focus && focus !== a ? 0.28 : 1;
      columns.alpha.push((a.latest ? alpha : 0.55 * alpha) * dim);
      columns.width.push(a.latest ? (all.length <= FEW ? 2 : 1.5) : 1.2);
    }
    put(lines, columns);
    const best = all.length > 1 && isNumber(all[0].best) ? all[0] : null;
    const front = [best, focus].filter((a, i, both) => a && both.indexOf(a) === i);
    const shape = front.map(points);
    put(strong, {
      xs: shape.map(([x]) => x),
      ys: shape.map(([, v]) => v),
      color: front.map((a) => this.colors.of(a, place.get(a.key), rows.length)),
      dash: front.map((a) => (a.latest ? this.colors.dash(a, all.length) : "dotted")),
      ground: front.map(() => flameTheme.color("ground")),
    });
    this.mark(ends, columns, options, y, place, rows.length);
    this.note(notes, best, options, y);
  }
  /** The values to draw of an attempt; NaN where a value cannot be drawn. */
  values(attempt, options) {
    const values = attempt.smoothed(options.smoothing);
    const fits = options.log ? (v) => v > 0 && v < LARGEST : (v) => v < LARGEST && v > -LARGEST;
    return values.every(fits) ? values : values.map((v) => (fits(v) ? v : NaN));
  }
  mark(ends, columns, options, y, place, n) {
    const marks = { x: [], y: [], color: [], marker: [], fill: [], size: [] };
    this.lone(marks, columns);
    for (const a of this.drawn) {
      const values = y(a);
      const i = lastDrawn(values);
      if (i < 0 || (n > 150 && a.state === "done")) continue;
      const bad = a.state === "failed" || a.state === "lost";
      const color = this.colors.of(a, place.get(a.key), n);
      marks.x.push(a[options.x].all[i]);
      marks.y.push(values[i]);
      marks.color.push(bad ? flameTheme.color("bad") : color);
      marks.fill.push(color);
      marks.marker.push(MARKS[a.state] ?? "circle");
      marks.size.push(bad ? 10 : n <= 32 ? 7 : 5);
    }
    put(ends, marks);
  }
  note(notes, best, options, y) {
    const i = best ? best.values.all.indexOf(best.best) : -1;
    const value = i < 0 ? NaN : y(best)[i];
    const there = isNumber(value);
    put(notes, {
      x: there ? [best[options.x].all[i]] : [],
      y: there ? [value] : [],
      text: there ? [shown(best.best)] : [],
      align: there ? [this.side(best[options.x].all[i], options)] : [],
      ink: there ? [flameTheme.color("ink")] : [],
      ground: there ? [flameTheme.color("ground")] : [],
    });
  }
  /** The side of a point that has room for its label. */
  side(x, options) {
    const { start, end } = this.parts(options.log).figure.x_range;
    const at = (x - start) / (end - start);
    return at < 0.06 ? "left" : at > 0.94 ? "right" : "center";
  }
  /** Mark single points between gaps, which have no line. */
  lone(ends, { xs, ys, color }) {
    xs.forEach((x, k) => {
      const y = ys[k];
      const last = lastDrawn(y); // has a marker already
      for (let i = 0; i < last; i++) {
        const alone = !Number.isFinite(y[i - 1]) && !Number.isFinite(y[i + 1]);
        if (!alone || !Number.isFinite(y[i])) continue;
        for (const [name, value] of Object.entries({
          x: x[i], y: y[i], color: color[k], fill: color[k], marker: "circle", size: 4,
        })) {
          ends[name].push(value);
        }
      }
    });
  }
  /** Show all curves, with a margin. */
  fit(figure, attempts, options, y) {
    const xs = attempts.map((a) => finite(a[options.x].all)).filter(Boolean).flat();
    // A logarithmic axis needs no cut for outliers.
    const { range, cut } = span(attempts.map(y), options.whole || options.log);
    this.cut = cut ? attempts.filter((a) => y(a).some((v) => v < range[0] || v > range[1])).length : 0;
    let [x, v] = [finite(xs) ?? [0, 1], range ?? (options.log ? [0.1, 1] : [0, 1])];
    const room = (low, high, share) => share * (high - low || Math.abs(high) || 1);
    x = [x[0] - room(...x, 0.012), x[1] + room(...x, 0.02)];
    if (options.log) v = v.map(Math.log10);
    v = [v[0] - room(...v, 0.05), v[1] + room(...v, 0.05)];
    if (options.log) v = v.map((e) => 10 ** e);
    this.moving = true;
    figure.x_range.setv({ start: x[0], end: x[1] });
    figure.y_range.setv({ start: v[0], end: v[1] });
    this.moving = false;
  }
  /** The attempt and the point that are closest to the mouse; null if none is near. */
  near({ x, y }, options) {
    const { figure } = this.parts(options.log);
    const inside = (range, v) => v >= range.start && v <= range.end;
    if (!inside(figure.x_range, x) || !inside(figure.y_range, y)) return null;
    const level = options.log ? Math.log10 : (v) => v;
    const across = figure.inner_width / (figure.x_range.end - figure.x_range.start);
    const range = figure.y_range;
    const up = figure.inner_height / (level(range.end) - level(range.start));
    let found = null;
    let least = NEAR * NEAR;
    for (const a of this.drawn) {
      const [xs, ys] = [a[options.x].all, this.values(a, options)];
      let i = 0;
      if (a.rising[options.x]) {
        let high = xs.length;
        while (i < high) {
          const middle = (i + high) >> 1;
          if (xs[middle] < x - NEAR / across) i = middle + 1;
          else high = middle;
        }
      }
      for (; i < xs.length; i++) {
        const dx = (xs[i] - x) * across;
        if (dx > NEAR && a.rising[options.x]) break;
        const dy = (level(ys[i]) - level(y)) * up;
        if (!inside(figure.x_range, xs[i]) || !inside(figure.y_range, ys[i])) continue;
        if (dx * dx + dy * dy <= least) {
          least = dx * dx + dy * dy;
          found = { attempt: a, index: i, dx, dy: -dy };
        }
      }
    }
    return found;
  }
}

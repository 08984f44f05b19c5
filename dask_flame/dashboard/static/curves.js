// The curves of one metric in a figure; the best one, pinned ones and the one under the mouse are in
// front.

const FEW = 8; // maximum number of curves with thick lines
const DASHED = 48; // maximum number of curves with different dashes
const NEAR = 28; // maximum distance in pixels between the mouse and the curve that it selects
const MARKS = { running: "circle", done: "square", failed: "x", cancelled: "x", lost: "x" };

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

/** Room beyond the ends of a range, as a share of it. */
const roomFor = (low, high, share) => share * (high - low || Math.abs(high) || 1);

/** The values to draw of a curve; NaN where a value cannot be drawn. */
function valuesOf(curve, { smoothing, log }) {
  const values = curve.smoothed(smoothing);
  const known = curve.shown;
  const n = values.length;
  if (known?.log === log && known.smoothing === smoothing && known.from === values.buffer && known.n === n) {
    return known.values;
  }
  const fits = log ? (v) => v > 0 && v < LARGEST : (v) => v < LARGEST && v > -LARGEST;
  const drawn = values.every(fits) ? values : values.map((v) => (fits(v) ? v : NaN));
  curve.shown = { log, smoothing, from: values.buffer, n, values: drawn };
  return drawn;
}

/** The curves of one metric. */
class Curves {
  /** `figures.linear` and `figures.log` have a figure and its sources: lines, strong, notes, ends. */
  constructor(figures, colors) {
    this.both = figures;
    this.colors = colors;
    this.metric = "";
    this.cut = 0; // number of curves with outliers that are not shown
    this.drawn = [];
  }
  parts(log) {
    return log ? this.both.log : this.both.linear;
  }
  draw(calls, rows, options, focus) {
    const { figure, bands, lines, strong, ends, notes } = this.parts(options.log);
    const y = (a) => valuesOf(a.curve(this.metric), options);
    const there = (a) => a.curve(this.metric).length > 0;
    const all = rows.filter(there);
    this.drawn = [...calls.earlier(rows).filter(there), ...all.slice().reverse()];
    const place = new Map(rows.map((a, i) => [a.key, i]));
    const color = (a) => this.colors.of(a, place.get(a.key), rows.length);
    const dash = (a) => (a.latest ? this.colors.dash(a, all.length) : "dotted");
    const width = figure.inner_width || 800;
    const { start, end } = figure.x_range;
    const alpha = all.length <= FEW ? 0.9 : all.length <= 32 ? 0.65 : 0.45;
    const pinned = new Set(options.pinned);
    const columns = {
      xs: [], ys: [], key: [], runner: [], state: [], color: [], dash: [], alpha: [], width: [],
    };
    const points = (a) => {
      const curve = a.curve(this.metric);
      const [x, values] = [curve[options.x].all, y(a)];
      const kept = visible(x, values, start, end, curve.rising[options.x], width);
      return [Float64Array.from(kept, (i) => x[i]), Float64Array.from(kept, (i) => values[i])];
    };
    const shapes = new Map();
    for (const a of this.drawn) {
      const shape = points(a);
      shapes.set(a, shape);
      columns.xs.push(shape[0]);
      columns.ys.push(shape[1]);
      columns.key.push(a.key);
      columns.runner.push(a.runner);
      columns.state.push(a.state);
      columns.color.push(color(a));
      columns.dash.push(dash(a));
      const dim = (focus ? focus !== a : pinned.size && !pinned.has(a.key)) ? 0.28 : 1;
      columns.alpha.push((a.latest ? alpha : 0.55 * alpha) * dim);
      columns.width.push(a.latest ? (all.length <= FEW ? 2 : 1.5) : 1.2);
    }
    put(lines, columns);
    put(bands, this.bands(all, options, color, focus));
    const best = this.best(calls, all);
    const front = [best, ...all.filter((a) => pinned.has(a.key)), focus].filter(
      (a, i, every) => a && shapes.has(a) && every.indexOf(a) === i,
    );
    put(strong, {
      xs: front.map((a) => shapes.get(a)[0]),
      ys: front.map((a) => shapes.get(a)[1]),
      color: front.map(color),
      dash: front.map(dash),
      ground: front.map(() => flameTheme.color("ground")),
    });
    this.mark(ends, columns, options, y, color, rows.length);
    this.note(notes, best, options, y);
  }
  /** Areas of the spreads of groups. */
  bands(all, options, color, focus) {
    const columns = { xs: [], ys: [], color: [], alpha: [] };
    for (const group of all) {
      if (!(group instanceof Group)) continue;
      const { mean, low, high } = group.spread(this.metric, options.x);
      const x = mean[options.x].all;
      const [below, above] = [valuesOf(low, options), valuesOf(high, options)];
      const there = [...x.keys()].filter((i) => Number.isFinite(below[i]) && Number.isFinite(above[i]));
      columns.xs.push([...there.map((i) => x[i]), ...there.map((i) => x[i]).reverse()]);
      columns.ys.push([...there.map((i) => below[i]), ...there.map((i) => above[i]).reverse()]);
      columns.color.push(color(group));
      columns.alpha.push(focus && focus !== group ? 0.06 : 0.2);
    }
    return columns;
  }
  /** The call with the best value of this metric, of several. */
  best(calls, all) {
    const sign = calls.higher(this.metric) ? -1 : 1;
    let found = null;
    for (const a of all) {
      const { best } = a.result(this.metric);
      if (!isNumber(best)) continue;
      if (!found || sign * best < sign * found.result(this.metric).best) found = a;
    }
    return all.length > 1 ? found : null;
  }
  mark(ends, columns, options, y, color, n) {
    const marks = { x: [], y: [], color: [], marker: [], fill: [], size: [] };
    this.lone(marks, columns);
    for (const a of this.drawn) {
      const values = y(a);
      const i = lastDrawn(values);
      if (i < 0 || (n > 150 && a.state === "done")) continue;
      const bad = a.state === "failed" || a.state === "lost";
      marks.x.push(a.curve(this.metric)[options.x].all[i]);
      marks.y.push(values[i]);
      marks.color.push(bad ? flameTheme.color("bad") : color(a));
      marks.fill.push(color(a));
      marks.marker.push(MARKS[a.state] ?? "circle");
      marks.size.push(bad ? 10 : n <= 32 ? 7 : 5);
    }
    put(ends, marks);
  }
  note(notes, best, options, y) {
    const value = best?.result(this.metric).best;
    const curve = best?.curve(this.metric);
    const i = best ? curve.values.all.indexOf(value) : -1;
    const there = i >= 0 && isNumber(y(best)[i]);
    const x = there ? curve[options.x].all[i] : 0;
    put(notes, {
      x: there ? [x] : [],
      y: there ? [y(best)[i]] : [],
      text: there ? [shown(value)] : [],
      align: there ? [this.side(x, options)] : [],
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
        if (!Number.isFinite(y[i]) || Number.isFinite(y[i - 1]) || Number.isFinite(y[i + 1])) continue;
        ends.x.push(x[i]);
        ends.y.push(y[i]);
        ends.color.push(color[k]);
        ends.fill.push(color[k]);
        ends.marker.push("circle");
        ends.size.push(4);
      }
    });
  }
  /** The ends of the vertical axis that show the curves of these calls. */
  fit(attempts, options, higher) {
    const y = attempts.map((a) => valuesOf(a.curve(this.metric), options)).filter((v) => v.length);
    const seen = span(y, options.whole || options.log);
    const [low, high] = seen.range ?? (options.log ? [0.1, 1] : [0, 1]);
    const out = (v) => v < low || v > high;
    this.cut = seen.cut ? y.filter((values) => values.some(out)).length : 0;
    let v = options.log ? [Math.log10(low), Math.log10(high)] : [low, high];
    // The label of the best value needs room above it.
    v = [v[0] - roomFor(...v, 0.05), v[1] + roomFor(...v, higher ? 0.12 : 0.05)];
    return options.log ? v.map((e) => 10 ** e) : v;
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
      const curve = a.curve(this.metric);
      const [xs, ys] = [curve[options.x].all, valuesOf(curve, options)];
      const rising = curve.rising[options.x];
      let i = 0;
      if (rising) {
        let high = xs.length;
        while (i < high) {
          const middle = (i + high) >> 1;
          if (xs[middle] < x - NEAR / across) i = middle + 1;
          else high = middle;
        }
      }
      for (; i < xs.length; i++) {
        const dx = (xs[i] - x) * across;
        if (dx > NEAR && rising) break;
        const dy = (level(ys[i]) - level(y)) * up;
        if (!inside(figure.x_range, xs[i]) || !inside(figure.y_range, ys[i])) continue;
        if (dx * dx + dy * dy <= least) {
          least = dx * dx + dy * dy;
          found = { attempt: a, index: i, dx, dy: -dy, metric: this.metric };
        }
      }
    }
    return found;
  }
}

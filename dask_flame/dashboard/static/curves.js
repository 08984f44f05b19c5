// The curves of one metric in a figure; the best one, pinned ones and the one under the mouse are in
// front.

const FEW = 8; // maximum number of curves with thick lines
const DASHED = 48; // maximum number of curves with different dashes
const NEAR = 28; // maximum distance in pixels between the mouse and the curve that it selects
const DRAWN_COLUMNS = 8000; // approximate maximum number of columns of all lines of a figure
const FEWEST_COLUMNS = 100; // minimum number of columns of a line
const MARKS = { running: "circle", done: "square", failed: "x", cancelled: "x", lost: "x" };

/** Replace the data of a source in the browser only, without sending it to the scheduler. */
function put(source, columns) {
  Object.assign(source.data, columns);
  source.change.emit();
}

/** What tells an attempt, or a group and its members, from all others. */
const identity = (a) => (a instanceof Group ? [a.key, a.members.map(({ id }) => id)] : a.id);

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
 * The range to show of curves: all values, or without a few outliers that would hide the
 * differences between the others.
 */
function span(curves, options) {
  const shown = curves.map((curve) => shownOf(curve, options));
  const all = finite(shown.flatMap(({ range }) => range ?? []));
  if (!all || options.whole || options.log) return { range: all, cut: false };
  const series = shown.map(({ values }) => values);
  const total = series.reduce((n, values) => n + values.length, 0);
  const stride = Math.max(1, Math.ceil(total / 20000));
  // A typed array is sorted as numbers, several times as fast as a list with a function.
  const taken = new Float64Array(Math.ceil(total / stride) + series.length);
  let n = 0;
  for (const values of series) {
    for (let i = values.length - 1; i >= 0; i -= stride) {
      if (Number.isFinite(values[i])) taken[n++] = values[i];
    }
  }
  const sample = taken.subarray(0, n).sort();
  const at = (share) => sample[Math.round(share * (sample.length - 1))];
  const [low, high] = [at(0.05), at(0.95)];
  const room = 1.5 * (high - low);
  const range = [Math.max(all[0], low - room), Math.min(all[1], high + room)];
  // Hide outliers only if the others gain much room.
  const gain = (all[1] - all[0]) / (range[1] - range[0] || Infinity);
  return gain > 2 ? { range, cut: true } : { range: all, cut: false };
}

/** Number of columns of which a line shows the extremes: pixels, or more if there are many lines. */
function columnsDrawn(pixels, lines) {
  return Math.min(pixels, Math.max(FEWEST_COLUMNS, Math.floor(DRAWN_COLUMNS / Math.max(1, lines))));
}

/** Whether a curve has values outside of a range. */
function beyond(curve, options, low, high) {
  const { range } = shownOf(curve, options);
  return range !== null && (range[0] < low || range[1] > high);
}

/** Position of the last finite value; -1 if there is none. */
function lastDrawn(y) {
  for (let i = y.length - 1; i >= 0; i--) if (Number.isFinite(y[i])) return i;
  return -1;
}

/** Room beyond the ends of a range, as a share of it. */
const roomFor = (low, high, share) => share * (high - low || Math.abs(high) || 1);

/**
 * The values to draw of a curve, as exponents on a logarithmic axis; NaN where a value cannot be
 * drawn.
 */
function valuesOf(curve, options) {
  return shownOf(curve, options).values;
}

/** The values to draw, with their range and, once they were drawn, the points of the line. */
function shownOf(curve, { smoothing, log }) {
  const values = curve.smoothed(smoothing);
  const known = curve.shown;
  const n = values.length;
  if (known?.log === log && known.smoothing === smoothing && known.from === values.buffer && known.n === n) {
    return known;
  }
  const fits = (v) => v < LARGEST && v > -LARGEST;
  const drawn = log ? values.map((v) => (v > 0 && v < LARGEST ? Math.log10(v) : NaN))
    : values.every(fits) ? values
    : values.map((v) => (fits(v) ? v : NaN));
  curve.shown = { log, smoothing, from: values.buffer, n, values: drawn, range: finite(drawn), line: null };
  return curve.shown;
}

/** The points of the line of a curve in a part of the horizontal axis: [x, y]. */
function lineOf(curve, options, start, end, width) {
  const shown = shownOf(curve, options);
  const part = [options.x, start, end, width].join();
  if (shown.line?.part !== part) {
    const [x, y] = [curve[options.x].all, shown.values];
    const kept = visible(x, y, start, end, curve.rising[options.x], width);
    const points = [Float64Array.from(kept, (i) => x[i]), Float64Array.from(kept, (i) => y[i])];
    shown.line = { part, points };
  }
  return shown.line.points;
}

/** The curves of one metric. */
class Curves {
  /** `parts` are a figure and its sources, by the names that figures.py gives them. */
  constructor(parts, colors) {
    this.parts = parts;
    this.colors = colors;
    this.metric = "";
    this.cut = 0; // number of curves with outliers that are not shown
    this.all = []; // the curves of the latest attempts, best first, as drawn last
    this.drawn = []; // all curves, in the order in which they were drawn
    this.leader = null; // the best one, if there are several
    this.scene = ""; // what the lines were drawn from, and the ones in front
    this.front = "";
    this.waits = 0; // number of frames that have drawn other charts before this one
  }
  get figure() {
    return this.parts.figure;
  }
  /** Everything that the lines are drawn from, as a text; `levels` the ends of a zoomed axis. */
  sceneOf(calls, rows, options, levels) {
    const { start, end } = this.figure.x_range;
    const { x, log, smoothing, whole } = options;
    const look = [this.metric, x, log, smoothing, whole, options.pinned, this.colors.by, flameTheme.dark];
    const size = [start, end, this.figure.inner_width, levels];
    return JSON.stringify([calls.version, size, look, rows.map(identity)]);
  }
  /** Draw all lines, which takes the browser long, and those in front. */
  draw(calls, rows, options, focus, scene) {
    this.scene = scene;
    this.front = "";
    const there = (a) => a.curve(this.metric).length > 0;
    this.all = rows.filter(there);
    this.drawn = [...calls.earlier(rows).filter(there), ...this.all.slice().reverse()];
    this.leader = this.best(calls, this.all);
    const pens = this.pens(rows, options);
    this.lines(pens);
    this.bands(options, pens.color);
    this.mark(options, pens, rows.length);
    this.note(this.leader, options);
    this.follow(rows, options, focus, pens);
  }
  /** Points, color and dash of each curve. */
  pens(rows, options) {
    const place = new Map(rows.map((a, i) => [a.key, i]));
    const { start, end } = this.figure.x_range;
    const width = columnsDrawn(this.figure.inner_width || 800, this.drawn.length);
    return {
      color: (a) => this.colors.of(a, place.get(a.key), rows.length),
      dash: (a) => (a.latest ? this.colors.dash(a, this.all.length) : "dotted"),
      line: (a) => lineOf(a.curve(this.metric), options, start, end, width),
      pinned: new Set(options.pinned),
    };
  }
  /** Draw only what is in front, which the mouse changes often. */
  follow(rows, options, focus, pens = this.pens(rows, options)) {
    const chosen = [this.leader, ...this.all.filter((a) => pens.pinned.has(a.key)), focus];
    const front = chosen.filter((a, i, every) => a && this.drawn.includes(a) && every.indexOf(a) === i);
    this.lead(front, focus, pens);
  }
  lines({ line, color, dash, pinned }) {
    const columns = {
      xs: [], ys: [], key: [], runner: [], state: [], color: [], dash: [], alpha: [], width: [],
    };
    const few = this.all.length <= FEW;
    const alpha = few ? 0.9 : this.all.length <= 32 ? 0.65 : 0.45;
    for (const a of this.drawn) {
      const [xs, ys] = line(a);
      columns.xs.push(xs);
      columns.ys.push(ys);
      columns.key.push(a.key);
      columns.runner.push(a.runner);
      columns.state.push(a.state);
      columns.color.push(color(a));
      columns.dash.push(dash(a));
      const dim = pinned.size && !pinned.has(a.key) ? 0.28 : 1;
      columns.alpha.push((a.latest ? alpha : 0.55 * alpha) * dim);
      // Without a GPU, a browser draws lines of one pixel four times as fast as thicker ones.
      columns.width.push(few && a.latest ? 2 : 1);
    }
    put(this.parts.lines, columns);
  }
  /** Draw these in front, and cover the others while the mouse is at one. */
  lead(front, focus, { line, color, dash }) {
    const { strong, veil } = this.parts;
    const text = JSON.stringify(front.map(identity));
    if (text !== this.front) {
      this.front = text;
      put(strong, {
        key: front.map((a) => a.key),
        xs: front.map((a) => line(a)[0]),
        ys: front.map((a) => line(a)[1]),
        color: front.map(color),
        dash: front.map(dash),
        ground: front.map(() => flameTheme.color("ground")),
      });
    }
    const covers = front.includes(focus);
    if (!covers && !veil.data.left.length) return;
    const { x_range, y_range } = this.figure;
    const side = (value) => (covers ? [value] : []);
    put(veil, {
      left: side(x_range.start),
      right: side(x_range.end),
      top: side(y_range.end),
      bottom: side(y_range.start),
      ground: side(flameTheme.color("ground")),
    });
  }
  /** Areas of the spreads of groups. */
  bands(options, color) {
    const columns = { xs: [], ys: [], color: [], alpha: [] };
    for (const group of this.all) {
      if (!(group instanceof Group)) continue;
      const { mean, low, high } = group.spread(this.metric, options.x);
      const x = mean[options.x].all;
      const [below, above] = [valuesOf(low, options), valuesOf(high, options)];
      const there = [...x.keys()].filter((i) => Number.isFinite(below[i]) && Number.isFinite(above[i]));
      columns.xs.push([...there.map((i) => x[i]), ...there.map((i) => x[i]).reverse()]);
      columns.ys.push([...there.map((i) => below[i]), ...there.map((i) => above[i]).reverse()]);
      columns.color.push(color(group));
      columns.alpha.push(0.2);
    }
    put(this.parts.bands, columns);
  }
  /** The call with the best value of this metric, of several. */
  best(calls, all) {
    const sign = calls.higher(this.metric) ? -1 : 1;
    let found = null;
    for (const a of all) {
      const { best } = a.result(this.metric);
      if (!isNumber(best) || !hasRank(a)) continue;
      if (!found || sign * best < sign * found.result(this.metric).best) found = a;
    }
    return all.length > 1 ? found : null;
  }
  mark(options, { line, color }, n) {
    const marks = { x: [], y: [], color: [], marker: [], fill: [], size: [] };
    for (const a of this.drawn) {
      this.lone(marks, line(a), color(a));
      const values = valuesOf(a.curve(this.metric), options);
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
    put(this.parts.ends, marks);
  }
  note(best, options) {
    const value = best?.result(this.metric).best;
    const curve = best?.curve(this.metric);
    const i = best ? curve.values.all.indexOf(value) : -1;
    const y = i >= 0 ? valuesOf(curve, options)[i] : NaN;
    const there = isNumber(y);
    const x = there ? curve[options.x].all[i] : 0;
    put(this.parts.notes, {
      x: there ? [x] : [],
      y: there ? [y] : [],
      text: there ? [shown(value)] : [],
      align: there ? [this.side(x)] : [],
      ink: there ? [flameTheme.color("ink")] : [],
      ground: there ? [flameTheme.color("ground")] : [],
    });
  }
  /** The side of a point that has room for its label. */
  side(x) {
    const { start, end } = this.figure.x_range;
    const at = (x - start) / (end - start);
    return at < 0.06 ? "left" : at > 0.94 ? "right" : "center";
  }
  /** Mark single points between gaps, which have no line. */
  lone(ends, [x, y], color) {
    const last = lastDrawn(y); // has a marker already
    for (let i = 0; i < last; i++) {
      if (!Number.isFinite(y[i]) || Number.isFinite(y[i - 1]) || Number.isFinite(y[i + 1])) continue;
      ends.x.push(x[i]);
      ends.y.push(y[i]);
      ends.color.push(color);
      ends.fill.push(color);
      ends.marker.push("circle");
      ends.size.push(4);
    }
  }
  /** The ends of the vertical axis that show the curves of these calls. */
  fit(attempts, options, higher) {
    const curves = attempts.map((a) => a.curve(this.metric)).filter((curve) => curve.length);
    const seen = span(curves, options);
    const [low, high] = seen.range ?? (options.log ? [-1, 0] : [0, 1]);
    this.cut = seen.cut ? curves.filter((curve) => beyond(curve, options, low, high)).length : 0;
    // The label of the best value needs room above it.
    return [low - roomFor(low, high, 0.05), high + roomFor(low, high, higher ? 0.12 : 0.05)];
  }
  /** The attempt and the point that are closest to the mouse; null if none is near. */
  near({ x, y }, options) {
    const { figure } = this;
    const inside = (range, v) => v >= range.start && v <= range.end;
    if (!inside(figure.x_range, x) || !inside(figure.y_range, y)) return null;
    const across = figure.inner_width / (figure.x_range.end - figure.x_range.start);
    const range = figure.y_range;
    const up = figure.inner_height / (range.end - range.start);
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
        const dy = (ys[i] - y) * up;
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

// The charts of several metrics side by side, with one horizontal axis.

class Charts {
  /**
   * The scheduler adds figures to the document when somebody wants more metrics. `added(figure)` is
   * called for each.
   */
  constructor(document, colors, added) {
    this.document = document;
    this.colors = colors;
    this.added = added;
    /** @type {Curves[]} */
    this.places = [];
    this.figures = [];
    this.log = false;
    /** @type {Curves[]} */
    this.shown = [];
    this.moving = false;
    /** @type {((zoom: number[]) => void) | null} called when somebody has zoomed */
    this.zoomed = null;
    this.grow();
    this.follow(this.figures[0].x_range);
  }
  /** Take the figures that are new. */
  grow() {
    for (;;) {
      const name = `flame${this.places.length ? this.places.length + 1 : ""}`;
      const [linear, log] = ["linear", "log"].map((kind) => this.parts(`${name}-${kind}`));
      if (!linear || !log) return;
      this.places.push(new Curves({ linear, log }, this.colors));
      for (const { figure } of [linear, log]) {
        this.figures.push(figure);
        this.follow(figure.y_range);
        this.added(figure);
      }
    }
  }
  /** A figure with its sources, by the names that figures.py gives them; null if it is not there. */
  parts(name) {
    const find = (part) => this.document.get_model_by_name(`${name}${part}`);
    if (!find("")) return null;
    const sources = ["lines", "bands", "strong", "ends", "notes"].map((part) => [part, find(`-${part}`)]);
    return { figure: find(""), ...Object.fromEntries(sources) };
  }
  follow(range) {
    for (const end of ["start", "end"]) {
      range.properties[end].change.connect(() => {
        // The user has zoomed: keep the view, and go on drawing.
        if (!this.moving) this.zoomed?.(this.zoom());
      });
    }
  }
  /** Number of curves with outliers that are not shown. */
  get cut() {
    return Math.max(0, ...this.shown.map((chart) => chart.cut));
  }
  /** Show a chart for each metric. */
  arrange(metrics, options) {
    this.log = options.log;
    this.grow();
    this.shown = this.places.slice(0, metrics.length);
    this.places.forEach((chart, i) => {
      for (const log of [false, true]) {
        const { figure } = chart.parts(log);
        figure.visible = i < metrics.length && log === options.log;
        if (!figure.visible) continue;
        chart.metric = metrics[i];
        const label = options.x === "steps" ? "step" : "time since each call began";
        const [below, left] = [figure.below[0], figure.left[0]];
        if (below.axis_label !== label) below.axis_label = label;
        if (left.axis_label !== metrics[i]) left.axis_label = metrics[i];
      }
    });
  }
  draw(calls, rows, options, focus) {
    const all = [...rows, ...calls.earlier(rows)];
    this.moving = true;
    const zoomed = options.zoom?.length === 2 + 2 * this.shown.length;
    this.show(zoomed ? options.zoom : this.fit(calls, all, options));
    if (zoomed) for (const chart of this.shown) chart.cut = 0;
    this.moving = false;
    for (const chart of this.shown) chart.draw(calls, rows, options, focus);
  }
  /** The ends of all axes that show everything. */
  fit(calls, attempts, options) {
    const ends = this.shown.flatMap(({ metric }) =>
      attempts.map((a) => endsOf(a.curve(metric), options)).filter(Boolean),
    );
    const [low, high] = finite(ends.flat()) ?? [0, 1];
    const x = [low - roomFor(low, high, 0.012), high + roomFor(low, high, 0.02)];
    return [...x, ...this.shown.flatMap((chart) => chart.fit(attempts, options, calls.higher(chart.metric)))];
  }
  show([start, end, ...levels]) {
    this.shown.forEach((chart, i) => {
      const { figure } = chart.parts(this.log);
      figure.x_range.setv({ start, end });
      figure.y_range.setv({ start: levels[2 * i], end: levels[2 * i + 1] });
    });
  }
  /** The ends of all axes as they are. */
  zoom() {
    const ends = ({ start, end }) => [start, end].map((v) => Number(v.toPrecision(7)));
    const figures = this.shown.map((chart) => chart.parts(this.log).figure);
    return figures.flatMap((figure, i) => [...(i ? [] : ends(figure.x_range)), ...ends(figure.y_range)]);
  }
  /** The attempt and the point that are closest to the mouse; null if none is near. */
  near(mouse, options) {
    const chart = this.shown.find((c) => c.parts(options.log).figure === mouse.origin);
    return chart ? chart.near(mouse, options) : null;
  }
}

/** The first and the last position of a curve on the horizontal axis; null without points. */
function endsOf(curve, options) {
  const x = curve[options.x].all;
  if (!x.length) return null;
  return curve.rising[options.x] ? [x[0], x[x.length - 1]] : finite(x);
}

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
    this.log = false;
    /** @type {Curves[]} */
    this.shown = [];
    this.moving = false;
    /** @type {((zoom: number[]) => void) | null} called when somebody has zoomed */
    this.zoomed = null;
    this.range = { scene: "", ends: [0, 1] }; // the ends of all axes, and what they are computed from
    this.grow();
    this.follow(this.places[0].figure.x_range);
  }
  get figures() {
    return this.places.map(({ figure }) => figure);
  }
  /** Take the figures that are new. */
  grow() {
    for (;;) {
      const name = `flame${this.places.length ? this.places.length + 1 : ""}`;
      const figure = this.document.get_model_by_name(name);
      if (!figure) return;
      const parts = ["veil", "lines", "bands", "strong", "ends", "notes"];
      const found = parts.map((part) => [part, this.document.get_model_by_name(`${name}-${part}`)]);
      this.places.push(new Curves({ figure, ...Object.fromEntries(found) }, this.colors));
      this.follow(figure.y_range);
      this.added(figure);
    }
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
      const { figure } = chart;
      figure.visible = i < metrics.length;
      if (!figure.visible) return;
      chart.metric = metrics[i];
      const label = options.x === "steps" ? "step" : "time since each call began";
      const [below, left] = [figure.below[0], figure.left[0]];
      if (below.axis_label !== label) below.axis_label = label;
      if (left.axis_label !== metrics[i]) left.axis_label = metrics[i];
      const [ticker, formatter] = options.log ? left.tags.slice(2) : left.tags;
      if (left.ticker !== ticker) left.setv({ ticker, formatter });
      const lines = figure.center.find(({ dimension }) => dimension === 1);
      if (lines.ticker !== ticker) lines.ticker = ticker;
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
    const metrics = this.shown.map(({ metric }) => metric);
    const look = [options.x, options.log, options.smoothing, options.whole];
    const scene = JSON.stringify([calls.version, metrics, look, attempts.map(identity)]);
    if (scene !== this.range.scene) this.range = { scene, ends: this.ends(calls, attempts, options) };
    return this.range.ends;
  }
  ends(calls, attempts, options) {
    const ends = this.shown.flatMap(({ metric }) =>
      attempts.map((a) => endsOf(a.curve(metric), options)).filter(Boolean),
    );
    const [low, high] = finite(ends.flat()) ?? [0, 1];
    const x = [low - roomFor(low, high, 0.012), high + roomFor(low, high, 0.02)];
    return [...x, ...this.shown.flatMap((chart) => chart.fit(attempts, options, calls.higher(chart.metric)))];
  }
  show([start, end, ...levels]) {
    this.shown.forEach(({ figure }, i) => {
      const [low, high] = levels.slice(2 * i);
      move(figure.x_range, start, end);
      move(figure.y_range, low, high);
      if (!this.log) return;
      const { major, minor } = logTicks(low, high);
      const { ticker } = figure.left[0];
      if (ticker.ticks.join() !== major.join()) ticker.setv({ ticks: major, minor_ticks: minor });
    });
  }
  /** The ends of all axes as they are. */
  zoom() {
    const ends = ({ start, end }) => [start, end].map((v) => Number(v.toPrecision(7)));
    return this.shown.flatMap(({ figure }, i) => [...(i ? [] : ends(figure.x_range)), ...ends(figure.y_range)]);
  }
  /** The attempt and the point that are closest to the mouse; null if none is near. */
  near(mouse, options) {
    const chart = this.shown.find(({ figure }) => figure === mouse.origin);
    return chart ? chart.near(mouse, options) : null;
  }
}

/** Change a range only if it differs, because a change has everything drawn again. */
function move(range, start, end) {
  if (range.start !== start || range.end !== end) range.setv({ start, end });
}

/** The first and the last position of a curve on the horizontal axis; null without points. */
function endsOf(curve, options) {
  const x = curve[options.x].all;
  if (!x.length) return null;
  return curve.rising[options.x] ? [x[0], x[x.length - 1]] : finite(x);
}

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
    /** @type {Curves[]} */
    this.shown = [];
    this.moving = false;
    /** @type {((zoom: number[]) => void) | null} called when somebody has zoomed */
    this.zoomed = null;
    this.across = { scene: "", ends: [0, 1] }; // of the horizontal axis, and what they are computed from
    this.late = false; // whether charts wait for their turn to be drawn
    /** @type {{calls: Calls, rows: any[], options: any, focus: any, all: any[]}} as of draw() */
    this.latest = { calls: new Calls(), rows: [], options: {}, focus: null, all: [] };
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
    });
  }
  /**
   * Draw the charts that have changed, but only one of them in a frame: to draw the lines of one
   * takes the browser longer than all else that a choice has to change. `late` tells whether more
   * have to be drawn in the next frames, by next().
   */
  draw(calls, rows, options, focus) {
    this.latest = { calls, rows, options, focus, all: [...rows, ...calls.earlier(rows)] };
    this.next();
  }
  /** Draw the chart that has waited longest for its turn, and what is in front in the others. */
  next() {
    const { calls, rows, options, focus, all } = this.latest;
    const zoomed = options.zoom?.length === 2 + 2 * this.shown.length ? options.zoom : null;
    const across = zoomed ?? this.span(calls, all, options);
    this.moving = true;
    for (const { figure } of this.shown) move(figure.x_range, across[0], across[1]);
    this.moving = false;
    const levels = (chart) => zoomed && zoomed.slice(2 + 2 * this.shown.indexOf(chart)).slice(0, 2);
    const scene = (chart) => chart.sceneOf(calls, rows, options, levels(chart));
    const changed = this.shown.filter((chart) => chart.scene !== scene(chart));
    for (const chart of changed) chart.waits++;
    const [turn] = changed.sort((a, b) => b.waits - a.waits);
    this.late = changed.length > 1;
    for (const chart of this.shown) {
      if (chart === turn) this.renew(chart, levels(chart), scene(chart));
      else if (!changed.includes(chart)) chart.follow(rows, options, focus);
    }
  }
  /** Draw a chart with its axes. */
  renew(chart, levels, scene) {
    const { calls, rows, options, focus, all } = this.latest;
    if (levels) chart.cut = 0;
    const [low, high] = levels ?? chart.fit(all, options, calls.higher(chart.metric));
    const { figure } = chart;
    this.moving = true;
    move(figure.y_range, low, high);
    this.moving = false;
    const [axis] = figure.left;
    const [ticker, formatter] = options.log ? axis.tags.slice(2) : axis.tags;
    if (options.log) {
      const { major, minor } = logTicks(low, high);
      if (ticker.ticks.join() !== major.join()) ticker.setv({ ticks: major, minor_ticks: minor });
    }
    if (axis.ticker !== ticker) axis.setv({ ticker, formatter });
    const lines = figure.center.find(({ dimension }) => dimension === 1);
    if (lines.ticker !== ticker) lines.ticker = ticker;
    chart.waits = 0;
    chart.draw(calls, rows, options, focus, scene);
  }
  /** The ends of the horizontal axis that show everything. */
  span(calls, attempts, options) {
    const metrics = this.shown.map(({ metric }) => metric);
    const scene = JSON.stringify([calls.version, metrics, options.x, attempts.map(identity)]);
    if (scene !== this.across.scene) {
      const ends = metrics.flatMap((metric) =>
        attempts.map((a) => endsOf(a.curve(metric), options)).filter(Boolean));
      const [low, high] = finite(ends.flat()) ?? [0, 1];
      const room = [low - roomFor(low, high, 0.012), high + roomFor(low, high, 0.02)];
      this.across = { scene, ends: room };
    }
    return this.across.ends;
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

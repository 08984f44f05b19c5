// Data of the calls and their curves, assembled from the scheduler's updates.

/** Growing typed array. */
class Numbers {
  constructor(Kind) {
    this.kept = new Kind(64);
    this.length = 0;
  }
  clear() {
    this.length = 0;
  }
  append(values) {
    const length = this.length + values.length;
    if (length > this.kept.length) {
      const larger = new this.kept.constructor(2 * length);
      larger.set(this.kept.subarray(0, this.length));
      this.kept = larger;
    }
    this.kept.set(values, this.length);
    this.length = length;
  }
  get all() {
    return this.kept.subarray(0, this.length);
  }
}

/** The points of one metric of an attempt. */
class Curve {
  constructor() {
    this.steps = new Numbers(Float64Array);
    this.values = new Numbers(Float64Array);
    this.seconds = new Numbers(Float32Array);
    this.smooth = null; // {weight, mean, norm, values}
    this.shown = null; // the values as they were drawn last; see valuesOf()
    this.rising = { steps: true, seconds: true };
  }
  get length() {
    return this.steps.length;
  }
  add(steps, values, seconds, replace) {
    if (replace) {
      this.steps.clear();
      this.values.clear();
      this.seconds.clear();
      this.smooth = this.shown = null;
      this.rising = { steps: true, seconds: true };
    }
    const before = this.steps.length;
    this.steps.append(steps);
    this.values.append(values);
    this.seconds.append(seconds);
    for (const [name, numbers] of [["steps", this.steps.all], ["seconds", this.seconds.all]]) {
      for (let i = Math.max(1, before); this.rising[name] && i < numbers.length; i++) {
        if (!(numbers[i] >= numbers[i - 1])) this.rising[name] = false;
      }
    }
  }
  /** The values to draw: an exponential moving average with this weight. */
  smoothed(weight) {
    if (!weight) return this.values.all;
    const values = this.values.all;
    if (this.smooth?.weight !== weight) {
      this.smooth = { weight, mean: 0, norm: 0, values: new Numbers(Float64Array) };
    }
    const state = this.smooth;
    const fresh = new Float64Array(values.length - state.values.length);
    for (let i = 0; i < fresh.length; i++) {
      const value = values[state.values.length + i];
      if (Number.isFinite(value)) {
        // The division corrects the bias of the first values towards zero.
        state.mean = weight * state.mean + (1 - weight) * value;
        state.norm = weight * state.norm + (1 - weight);
        fresh[i] = state.mean / state.norm;
      } else {
        fresh[i] = NaN;
      }
    }
    state.values.append(fresh);
    return state.values.all;
  }
}

const NO_POINTS = new Curve();
const NO_VALUE = Object.freeze({ best: null, at: null, last: null, points: 0, made: 0 });

/** One attempt of a call: the attributes of its row in the scheduler's updates, and its curves. */
class Attempt {
  constructor() {
    this.id = -1;
    this.place = 0;
    this.key = "";
    this.name = "";
    this.state = "waiting";
    this.latest = true;
    this.parameters = [];
    this.metrics = [];
    /** @type {Map<string, Curve>} */
    this.curves = new Map();
    /** @type {Map<string, typeof NO_VALUE>} */
    this.results = new Map();
    /** @type {Map<string, any>} */
    this.settings = new Map();
  }
  /** Take the attributes that the scheduler has sent. */
  take(row) {
    Object.assign(this, row);
    this.settings = new Map(row.parameters);
    this.results = new Map(
      row.metrics.map(([name, best, at, last, points, made]) =>
        [name, { best, at, last, points, made }]),
    );
  }
  /** The points of a metric, of which there are none unless it is drawn. */
  curve(metric) {
    return this.curves.get(metric) ?? NO_POINTS;
  }
  /** {best, at, last, points, made} of a metric. */
  result(metric) {
    return this.results.get(metric) ?? NO_VALUE;
  }
}

const GOES_ON = new Set(["waiting", "running", "lost"]);
const UNRANKED = new Set(["failed", "cancelled"]);

/** State of a call in the words for users; the same as in reports/series.py. */
const outcome = (a) =>
  a.state === "cancelled" && a.why?.startsWith("CallStopped(") ? "stopped" : a.state;

/** Whether a call, or a group, can be the best one. */
const hasRank = (a) => a instanceof Group || !UNRANKED.has(a.state);

/** All calls in the page. */
class Calls {
  constructor() {
    /** @type {Map<number, Attempt>} */
    this.byId = new Map();
    this.metrics = [];
    this.drawn = [];
    /** @type {Map<string, string>} "min" or "max" by metric */
    this.better = new Map();
    this.declared = new Set();
    this.parameters = [];
    this.runs = [];
    this.version = 0; // number of updates
    this.now = 0;
    this.told = 0; // by the browser's clock, in milliseconds
  }
  /** The metric that ranks the calls: the first of those that are drawn. */
  get metric() {
    return this.drawn[0] ?? "";
  }
  /** Whether large values of a metric are better. */
  higher(metric = this.metric) {
    return this.better.get(metric) === "max";
  }
  /** Apply an update from Feed.next() of feed.py. */
  apply(told) {
    if (told.anew) this.byId.clear();
    for (const name of ["metrics", "drawn", "parameters", "runs", "now"]) this[name] = told[name];
    this.better = new Map(told.better);
    this.declared = new Set(told.declared);
    this.told = performance.now();
    this.version++;
    for (const id of told.gone) this.byId.delete(id);
    for (const row of told.rows) {
      const attempt = this.byId.get(row.id) ?? new Attempt();
      attempt.take(row);
      this.byId.set(row.id, attempt);
    }
    for (const { curves } of this.byId.values()) {
      for (const metric of curves.keys()) if (!this.drawn.includes(metric)) curves.delete(metric);
    }
    // Copied, because Bokeh's array type has a different subarray().
    const [x, y] = [new Float64Array(told.x), new Float64Array(told.y)];
    const t = new Float32Array(told.t);
    let at = 0;
    for (const [id, metric, n, replace] of told.points) {
      const cut = (numbers) => numbers.subarray(at, at + n);
      const curves = this.byId.get(id)?.curves;
      if (curves && !curves.has(metric)) curves.set(metric, new Curve());
      curves?.get(metric).add(cut(x), cut(y), cut(t), replace);
      at += n;
    }
  }
  /** Latest attempts of all calls, in the order of their first appearance. */
  latest() {
    return [...this.byId.values()].filter((a) => a.latest).sort((a, b) => a.place - b.place);
  }
  /**
   * Latest attempts that a function accepts, best first. Those without a number are behind, and so
   * are those that have failed or were stopped, which have no result that the best value is of.
   */
  ranked(fits = (_attempt) => true) {
    const sign = this.higher() ? -1 : 1;
    const worth = (a) => {
      const { best } = a.result(this.metric);
      return isNumber(best) ? [hasRank(a) ? 0 : 1, sign * best] : [2, 0];
    };
    return [...this.byId.values()]
      .filter((a) => a.latest && fits(a))
      .map((attempt) => ({ attempt, worth: worth(attempt) }))
      .sort((a, b) =>
        a.worth[0] - b.worth[0] || a.worth[1] - b.worth[1] || a.attempt.place - b.attempt.place)
      .map(({ attempt }) => attempt);
  }
  /** Whether calls that are shown wait or run, so that ranks may change. */
  unfinished() {
    return [...this.byId.values()].some((a) => a.latest && GOES_ON.has(a.state));
  }
  /** Earlier attempts of these calls. */
  earlier(latest) {
    const keys = new Set(latest.map((a) => a.key));
    return [...this.byId.values()].filter((a) => !a.latest && keys.has(a.key));
  }
  /** The scheduler's time now, in seconds since 1970. */
  clock() {
    return this.now + (performance.now() - this.told) / 1000;
  }
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Positions of the points to draw on `pixels` columns: the extremes of each column. */
function visible(x, y, low, high, rising, pixels) {
  let first = 0;
  let last = x.length - 1;
  if (rising) {
    // Keep one point beyond each edge, so that the line reaches the edge.
    while (first < last && x[first + 1] < low) first++;
    while (last > first && x[last - 1] > high) last--;
  }
  const n = last - first + 1;
  const buckets = Math.max(1, Math.floor(pixels));
  if (n <= 3 * buckets) return Int32Array.from({ length: n }, (_, i) => first + i);
  const kept = [first];
  const keep = (i) => {
    if (i >= 0 && i > kept[kept.length - 1]) kept.push(i);
  };
  for (let b = 0; b < buckets; b++) {
    const end = first + Math.floor(((b + 1) * n) / buckets);
    let [least, most, gap] = [-1, -1, -1];
    for (let i = first + Math.floor((b * n) / buckets); i < end; i++) {
      if (!Number.isFinite(y[i])) {
        if (gap < 0) gap = i;
        continue;
      }
      if (least < 0 || y[i] < y[least]) least = i;
      if (most < 0 || y[i] > y[most]) most = i;
    }
    for (const i of [least, most, gap].sort((a, b) => a - b)) keep(i);
  }
  keep(last);
  return Int32Array.from(kept);
}

/** A name that consists of arguments without their names: "0.1, relu" for "rate=0.1, layer=relu". */
function withoutNames(name) {
  return name.replace(/(^|, )[^\s=,]+=/g, "$1");
}

/** The names that withoutNames() leaves out: "rate, layer". */
function argumentNames(name) {
  return [...name.matchAll(/(?:^|, )([^\s=,]+)=/g)].map(([, argument]) => argument).join(", ");
}

const FOUR_DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

/** A number in few characters. */
function shown(value) {
  if (!isNumber(value)) return value === undefined || value === null ? "–" : String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2).replace(/\.?0+e/, "e");
  return FOUR_DIGITS.format(value);
}

/** Seconds with units. */
function duration(seconds) {
  const s = Math.abs(seconds);
  const sign = seconds < 0 ? "-" : "";
  if (s < 60) return `${sign}${Number(s.toPrecision(3))} s`;
  const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  const rest = Math.round(s % 60);
  return h ? `${sign}${h} h ${m} min` : rest ? `${sign}${m} min ${rest} s` : `${sign}${m} min`;
}

/** Estimated seconds with a unit, as roughly as they are known. */
function roughly(seconds) {
  if (seconds < 10) return `${Math.max(1, Math.ceil(seconds))} s`;
  if (seconds < 90) return `${5 * Math.ceil(seconds / 5)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const [h, rest] = [Math.floor(minutes / 60), 10 * Math.round((minutes % 60) / 10)];
  return h < 24 && rest && rest < 60 ? `${h} h ${rest} min` : `${Math.round(minutes / 60)} h`;
}

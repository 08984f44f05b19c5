// Groups of calls with the same parameters: means and spreads of their results and curves; pure.

const GRID = 500; // maximum number of points of a mean curve
const OVER = "over:"; // a group "over:seed" is of calls that differ in the seed only

/** Names of the parameters that calls of one group have in common. */
function groupNames(group, parameters) {
  if (!group) return [];
  if (!group.startsWith(OVER)) return parameters.includes(group) ? [group] : [];
  const over = group.slice(OVER.length);
  return parameters.includes(over) ? parameters.filter((name) => name !== over) : [];
}

/** Calls with the same parameters, which are drawn and listed as one: a mean with its spread. */
class Group extends Attempt {
  constructor(key, name, place) {
    super();
    this.key = key;
    this.name = name;
    this.place = this.color = place;
    /** @type {any[]} */
    this.members = [];
    this.values = [];
    this.x = "steps"; // or "seconds": what its curves are means by
    this.spreads = new Map(); // by metric: {text, mean, low, high}
  }
  /** Take the current members and what they have in common. */
  hold(members, values) {
    this.members = members;
    this.values = this.parameters = values;
    this.settings = new Map(values);
    const states = new Set(members.map((a) => a.state));
    this.state = ["running", "waiting"].find((state) => states.has(state)) ?? members[0].state;
    const names = new Set(members.flatMap((a) => [...a.results.keys()]));
    this.results = new Map([...names].map((name) => [name, /** @type {any} */ (this.mean(name))]));
    this.metrics = [...this.results].map(([name, r]) => [name, r.best, r.at, r.last, r.points, r.made]);
  }
  mean(name) {
    const of = (field) => statistics(this.members.map((a) => a.result(name)[field]));
    return { best: of("best").mean, at: null, last: of("last").mean, points: 0, made: 0 };
  }
  /** Mean curves, and those of mean minus and plus a standard deviation, by `x`. */
  spread(metric, x) {
    const ordered = [...this.members].sort((a, b) => a.place - b.place);
    const curves = ordered.map((a) => a.curve(metric)).filter((curve) => curve.length);
    const end = ({ length, values }) => [length, values.all[length - 1]];
    const text = [x, ...curves.flatMap(end)].join();
    const kept = this.spreads.get(metric);
    if (kept?.text === text) return kept;
    const found = meanCurve(curves.map((curve) => ({ x: curve[x].all, y: curve.values.all })));
    const lines = { mean: found.mean, low: [], high: [] };
    found.mean.forEach((mean, i) => {
      const away = Number.isFinite(found.deviation[i]) ? found.deviation[i] : 0;
      lines.low.push(mean - away);
      lines.high.push(mean + away);
    });
    const made = { text, n: found.n };
    for (const [name, values] of Object.entries(lines)) {
      made[name] = new Curve();
      made[name].add(found.x, values, found.x, false);
    }
    this.spreads.set(metric, made);
    return made;
  }
  curve(metric) {
    return this.spread(metric, this.x).mean;
  }
  /** Lines of the tooltip for a point. */
  told(metric, index) {
    const { mean, high, n } = this.spread(metric, this.x);
    const at = mean[this.x].all[index];
    const away = high.values.all[index] - mean.values.all[index];
    const where = this.x === "seconds" ? `after ${duration(at)}` : `step ${COUNT.format(Math.round(at))}`;
    return [`mean of ${n[index]} of ${this.members.length} calls`, where,
      n[index] > 1 ? `standard deviation ${shown(away)}` : ""];
  }
}

/** Groups that exist in a page, by kind and key, so that each keeps its color and its curves. */
const groupsOfPage = new Map();

/** Groups of calls, in the order of their first members. */
function grouped(attempts, group, parameters, x = "steps") {
  const names = groupNames(group, parameters);
  const found = new Map();
  if (!names.length) return [];
  for (const attempt of attempts) {
    const values = names.map((name) => [name, parameterOf(attempt, name)]);
    // Undefined becomes null in JSON; the two differ.
    const key = JSON.stringify(values.map(([, v]) => (v === undefined ? [] : [typeof v, String(v)])));
    if (!found.has(key)) found.set(key, { values: values.filter(([, value]) => value !== undefined), members: [] });
    found.get(key).members.push(attempt);
  }
  if (!groupsOfPage.has(group)) groupsOfPage.set(group, new Map());
  const known = groupsOfPage.get(group);
  // Colors follow the order of the calls, not their ranks, which change.
  const first = ([, { members }]) => Math.min(...members.map((a) => a.place));
  for (const [key, { values }] of [...found].sort((p, q) => first(p) - first(q))) {
    if (known.has(key)) continue;
    const name = values.map(([word, value]) => `${word}=${parameterText(value)}`).join(", ");
    known.set(key, new Group(`${group} ${key}`, name || `no ${names.join(", ")}`, known.size));
  }
  return [...found].map(([key, { values, members }]) => {
    const one = known.get(key);
    one.x = x;
    one.hold(members, values);
    return one;
  });
}

/** Groups to draw in place of their calls: [groups that are not hidden, options, the one in focus]. */
function groupsToDraw(groups, options, focus) {
  const all = (keys) => ({ members }) => members.every((a) => keys.includes(a.key));
  const hidden = all(options.hidden);
  const pinned = groups.filter(all(options.pinned)).map(({ key }) => key);
  const own = groups.find((group) => group === focus || group.members.includes(focus)) ?? null;
  return [groups.filter((group) => !hidden(group)), { ...options, pinned }, own];
}

/** Number, mean, standard deviation (of a sample) and extremes of the finite values. */
function statistics(values) {
  let [n, mean, squares, low, high] = [0, 0, 0, Infinity, -Infinity];
  for (const value of values) {
    if (!isNumber(value)) continue;
    n++;
    const before = value - mean;
    mean += before / n;
    squares += before * (value - mean);
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!n) return { n, mean: null, deviation: null, low: null, high: null };
  return { n, mean, deviation: n > 1 ? Math.sqrt(squares / (n - 1)) : null, low, high };
}

/** A mean with its spread, in few characters. */
function spreadText({ n, mean, deviation }) {
  if (!n) return shown(null);
  return deviation === null ? shown(mean) : `${shown(mean)} ± ${Number(deviation.toPrecision(2))}`;
}

/**
 * The mean of several curves and its spread: {x, mean, deviation, low, high, n}, arrays by point.
 *
 * Calls report at different steps. The mean is taken on the union of all steps, thinned to every k-th
 * so that GRID points are left (the first and the last step always are). At each of these steps each
 * curve counts with its value there, interpolated between its own neighbors (of the points that the
 * page has, which may be fewer than were reported), and not at all before
 * its first step, after its last one, or next to a value that is no number. So the mean can jump where
 * a curve ends; `n` says how many curves each point is the mean of.
 */
function meanCurve(curves, most = GRID) {
  const ordered = curves.map(ascending).filter(({ x }) => x.length);
  const grid = evenly(union(ordered), most);
  const made = { x: grid, mean: [], deviation: [], low: [], high: [], n: [] };
  const places = ordered.map(() => 0);
  for (const at of grid) {
    const values = ordered.map(({ x, y }, k) => {
      while (places[k] < x.length - 1 && x[places[k] + 1] <= at) places[k]++;
      return valueAt(x, y, places[k], at);
    });
    const found = statistics(values);
    for (const name of ["mean", "deviation", "low", "high"]) made[name].push(found[name] ?? NaN);
    made.n.push(found.n);
  }
  return made;
}

/** A curve by ascending x, of equal ones the last point. */
function ascending({ x, y }) {
  let rising = true;
  for (let i = 0; rising && i < x.length; i++) rising = i ? x[i] > x[i - 1] : Number.isFinite(x[i]);
  if (rising) return { x, y };
  const by = new Map();
  for (let i = 0; i < x.length; i++) if (Number.isFinite(x[i])) by.set(x[i], y[i]);
  const xs = Float64Array.from(by.keys()).sort();
  return { x: xs, y: Float64Array.from(xs, (v) => by.get(v)) };
}

/** All different positions of curves, ascending. */
function union(curves) {
  const all = new Float64Array(curves.reduce((n, { x }) => n + x.length, 0));
  let at = 0;
  for (const { x } of curves) {
    all.set(x, at);
    at += x.length;
  }
  return all.sort().filter((value, i) => !i || value !== all[i - 1]);
}

/** The value of a curve, of which x[i] is the last one that is not beyond `at`. */
function valueAt(x, y, i, at) {
  if (x[i] === at) return y[i];
  if (at < x[i] || i + 1 >= x.length) return NaN;
  const share = (at - x[i]) / (x[i + 1] - x[i]);
  return y[i] + share * (y[i + 1] - y[i]);
}

function evenly(values, most) {
  if (values.length <= most) return [...values];
  const last = values.length - 1;
  return Array.from({ length: most }, (_, k) => values[Math.round((k * last) / (most - 1))]);
}

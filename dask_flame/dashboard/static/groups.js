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

/** Groups of calls, in the order of their first members: [{key, name, values, members}]. */
function grouped(attempts, group, parameters) {
  const names = groupNames(group, parameters);
  const found = new Map();
  if (!names.length) return [];
  for (const attempt of attempts) {
    const values = names.map((name) => [name, parameterOf(attempt, name)]);
    // Undefined becomes null in JSON; the two differ.
    const key = JSON.stringify(values.map(([, v]) => (v === undefined ? [] : [typeof v, String(v)])));
    if (!found.has(key)) {
      const own = values.filter(([, value]) => value !== undefined);
      const name = own.map(([word, value]) => `${word}=${parameterText(value)}`).join(", ");
      found.set(key, { key, name: name || `no ${names.join(", ")}`, values, members: [] });
    }
    found.get(key).members.push(attempt);
  }
  return [...found.values()];
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
 * curve counts with its value there, interpolated between its own neighbors, and not at all before
 * its first step, after its last one, or next to a value that is no number. So the mean can jump where
 * a curve ends; `n` says how many curves each point is the mean of.
 */
function meanCurve(curves, most = GRID) {
  const ordered = curves.map(ascending).filter(({ x }) => x.length);
  const all = Float64Array.from(new Set(ordered.flatMap(({ x }) => [...x]))).sort();
  const grid = evenly(all, most);
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
  const by = new Map();
  for (let i = 0; i < x.length; i++) if (Number.isFinite(x[i])) by.set(x[i], y[i]);
  const xs = Float64Array.from(by.keys()).sort();
  return { x: xs, y: Float64Array.from(xs, (v) => by.get(v)) };
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

// Axes of parameters and results: linear, logarithmic, or of categories; pure.

const DECADES = 2; // positive values that span more have a logarithmic axis
const EXACT = 8; // maximum number of different values that are all written on the axis
const TICKS = 5; // wanted number of ticks
const DECADES_SHOWN = 8; // maximum number of powers of ten that are all written on the axis
const APART = 0.045; // minimum distance of ticks, as a share of the axis

/**
 * A scale for values of calls.
 *
 * Numbers have a linear axis, or a logarithmic one; all other values, and numbers mixed with texts,
 * are categories. None among numbers, NaN, infinities and missing values have no place on the axis.
 *
 * `place(value)` is the position from 0 to 1, or null; `value(position)` the number there;
 * `ticks` are [position, text].
 */
function scaleOf(values) {
  const there = values.filter((value) => value !== undefined);
  const numbers = there.filter(isNumber);
  const texts = there.some((value) => typeof value === "string" || typeof value === "boolean");
  if (texts || (!numbers.length && there.some((value) => value === null))) return categories(there);
  const distinct = [...new Set(numbers)].sort((a, b) => a - b);
  const [low, high] = [distinct[0] ?? 0, distinct[distinct.length - 1] ?? 1];
  if (low > 0 && high / low > 10 ** DECADES) return logarithmic(low, high, distinct);
  return linear(low, high, distinct);
}

function categories(values) {
  const sorted = sortedBy([...new Set(values)], (value) => value, false);
  const names = [...new Set(sorted.map(parameterText))];
  const at = new Map(names.map((name, i) => [name, (i + 0.5) / names.length]));
  return {
    kind: "category", names,
    place: (value) => (value === undefined ? null : at.get(parameterText(value)) ?? null),
    value: () => NaN,
    ticks: spaced(names.map((name) => [at.get(name), name])),
  };
}

function linear(low, high, distinct) {
  // A single value is in the middle.
  const room = low === high ? Math.abs(low) || 1 : 0;
  const [from, span] = [low - room, high - low + 2 * room];
  const place = (value) => (isNumber(value) ? (value - from) / span : null);
  const step = niceStep(span / TICKS);
  const nice = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) nice.push(Number((k * step).toPrecision(12)));
  const written = distinct.length <= EXACT || !nice.length ? distinct : nice;
  return { kind: "linear", place, value: (at) => from + at * span, ticks: ticksAt(written, place) };
}

function logarithmic(low, high, distinct) {
  const [from, span] = [Math.log10(low), Math.log10(high) - Math.log10(low)];
  const place = (value) => (isNumber(value) && value > 0 ? (Math.log10(value) - from) / span : null);
  const powers = [];
  for (let k = Math.ceil(from - 1e-9); k <= from + span + 1e-9; k++) powers.push(Number(`1e${k}`));
  const written = distinct.length <= EXACT || powers.length < 2 ? distinct : powers;
  return { kind: "log", place, value: (at) => 10 ** (from + at * span), ticks: ticksAt(written, place) };
}

/** Ticks of a logarithmic axis between two exponents, as exponents. */
function logTicks(start, end) {
  const powers = [];
  for (let k = Math.floor(start); k <= end; k++) powers.push(k);
  const inside = (tick) => tick >= start && tick <= end;
  const whole = powers.filter(inside);
  const apart = Math.ceil((end - start) / DECADES_SHOWN);
  const digits = (factors) => powers.flatMap((k) => factors.map((f) => k + Math.log10(f)));
  const minor = apart > 1 ? whole : digits([2, 3, 4, 5, 6, 7, 8, 9]).filter(inside);
  if (whole.length > 1) return { major: whole.filter((k) => k % apart === 0), minor };
  const few = digits([1, 2, 5]).filter(inside);
  if (few.length > 2) return { major: few, minor };
  // Within less than a decade, a logarithmic axis is nearly linear.
  const [low, high] = [10 ** start, 10 ** end];
  const step = niceStep((high - low) / TICKS);
  const major = [];
  for (let k = Math.ceil(low / step); k * step <= high && major.length < 2 * TICKS; k++) {
    major.push(Math.log10(k * step));
  }
  return { major: major.filter(inside), minor: [] };
}

const ticksAt = (values, place) => spaced(values.map((value) => [place(value), shown(value)]));

/** Ticks without those that are too close to the one before. */
function spaced(ticks) {
  const kept = [];
  for (const tick of ticks) {
    if (!kept.length || tick[0] - kept[kept.length - 1][0] >= APART) kept.push(tick);
  }
  return kept;
}

/** The smallest of 1, 2, 5, 10, … times a power of ten that is not below a number. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((factor) => factor * power >= least) * power;
}

/** A number, rounded down or up to three significant digits, so that a range keeps its ends. */
function roundedOut(value, up) {
  if (!value) return value;
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 2);
  const whole = up ? Math.ceil(value / unit - 1e-9) : Math.floor(value / unit + 1e-9);
  return Number((whole * unit).toPrecision(3));
}

/** The range of the filter for a part of an axis: {low, high}, or {values} of categories. */
function rangeBetween(scale, from, to) {
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  if (scale.kind !== "category") {
    return { low: roundedOut(scale.value(low), false), high: roundedOut(scale.value(high), true) };
  }
  return { values: scale.names.filter((_, i) => between((i + 0.5) / scale.names.length, low, high)) };
}

const between = (value, low, high) => value >= low && value <= high;

/** Parts of an axis that a range of the filter covers: [[from, to], ...]. */
function coveredBy(scale, range) {
  if (range.values) {
    const size = 0.5 / Math.max(1, scale.names?.length ?? 50);
    const wanted = new Set(range.values.map((text) => text.toLowerCase()));
    const names = scale.names ?? range.values.map(Number);
    return names
      .filter((name) => scale.kind !== "category" || wanted.has(name.toLowerCase()))
      .map((name) => scale.place(name))
      .filter((at) => at !== null)
      .map((at) => [at - size, at + size]);
  }
  if (!isNumber(range.low) && !isNumber(range.high)) return [];
  const end = (value, other) => {
    if (!isNumber(value)) return other;
    return Math.max(0, Math.min(1, scale.place(value) ?? other));
  };
  return [[end(range.low, 0), end(range.high, 1)]];
}

// Ticks and times of the pages in words: `function_call` in this folder's Python has figures call
// these.

const two = (n) => String(n).padStart(2, "0");

/** The time of day, in milliseconds since 1970, to the second. */
function clock(value) {
  const date = new Date(value);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
}

/** A tick of an axis of times, as finely as its ticks are apart. */
function clockTick(tick, ticks) {
  const date = new Date(tick);
  const apart = ticks.length > 1 ? ticks[1] - ticks[0] : 60000;
  if (apart >= 86400000) {
    return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  }
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (apart >= 60000) return minutes;
  const seconds = `${minutes}:${two(date.getSeconds())}`;
  return apart >= 1000 ? seconds : `${seconds}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** A tick of an axis of seconds. */
function secondsTick(tick) {
  return `${Number(tick.toPrecision(6))} s`;
}

/** A tick of an axis of steps, which are numbers, or of seconds, which have units. */
function stepTick(tick, label) {
  if (label === "step") return Number(tick.toPrecision(9)).toLocaleString("en");
  const [h, m, s] = [Math.floor(tick / 3600), Math.floor(tick / 60) % 60, tick % 60];
  if (tick < 60) return secondsTick(tick);
  if (h) return m ? `${h} h ${m} min` : `${h} h`;
  return s ? `${m}:${two(Math.round(s))}` : `${m} min`;
}

/** A tick of a logarithmic axis: the number with this exponent. */
function exponentTick(tick) {
  const value = Number((10 ** tick).toPrecision(6));
  if (value >= 1e6 || value < 1e-4) return value.toExponential().replace("e+", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 6 });
}

/** Since when a bar is there, and for how long: until now, if it runs up to the cover or beyond. */
function since({ data }, cover, i) {
  const left = data.left[i];
  const s = Math.max(0, Math.min(data.right[i], cover.left) - left) / 1000;
  const lasted = s < 10 ? `${s.toFixed(2)} s`
    : s < 100 ? `${s.toFixed(1)} s`
    : s < 6000 ? `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`
    : `${(s / 3600).toFixed(1)} h`;
  return `${clock(left)}, for ${lasted}${data.right[i] > cover.left ? " so far" : ""}`;
}

/** Tell flame.js what the mouse does on a figure. */
function tellOfTheMouse({ event_name: kind, x, y }, origin) {
  dispatchEvent(new CustomEvent("flame-figure", { detail: { kind, x, y, origin } }));
}

// Columns of the calls, for the table, its CSV, the filter, and the charts of parameters; pure.

const METRICS_SHOWN = 4; // columns of more metrics are hidden until they are chosen
const PARAMETERS_SHOWN = 16;

const COUNT = new Intl.NumberFormat("en"); // faster than toLocaleString()

const lookups = new WeakMap();

/** Lists that begin with a name, by this name. They are lists because a name may be "__proto__". */
function byName(lists) {
  if (!lists) return new Map();
  let known = lookups.get(lists);
  if (!known) {
    known = new Map(lists.map((list) => [list[0], list]));
    lookups.set(lists, known);
  }
  return known;
}

/** The value of a parameter; undefined if the call does not have it. */
function parameterOf(attempt, name) {
  return byName(attempt.parameters).get(name)?.[1];
}

/** Summary of a metric: {best, at, last, points, made}; null if the call has not reported it. */
function metricOf(attempt, name) {
  const found = byName(attempt.metrics).get(name);
  if (!found) return null;
  const [, best, at, last, points, made] = found;
  return { best, at, last, points, made };
}

/** Seconds that a call has run; null if it has not begun. */
function elapsed(attempt, now) {
  if (isNumber(attempt.took)) return attempt.took;
  if (attempt.state !== "running" || !isNumber(attempt.started)) return null;
  return Math.max(0, now - attempt.started);
}

/** The value of a parameter as Python writes it. */
function parameterText(value) {
  if (value === undefined) return "";
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "number" ? shown(value) : String(value);
}

/** State of a call in words; of calls that failed or were stopped with the reason. */
function stateText(attempt) {
  if (attempt.state === "running") {
    const share = isNumber(attempt.progress) ? `${Math.floor(100 * attempt.progress)} %` : "running";
    return isNumber(attempt.left) ? `${share}, ${roughly(attempt.left)} left` : share;
  }
  const state = outcome(attempt);
  const stopped = state === "stopped" && STOPPED.exec(attempt.why);
  if (stopped) return stopped[1] ? `stopped: ${stopped[1]}` : "stopped";
  return attempt.why ? `${state}: ${reason(attempt.why)}` : state;
}

/** The error of a call that dask_flame.stop() has ended, with the reason if one was given. */
const STOPPED = /^CallStopped\(.* was stopped by dask_flame\.stop\(\)(?: before it began)?(?:: (.*?))?(?:["'],?\))?$/s;

/** The message of an exception, with its class if the message alone says little: KeyError: 'a'. */
function reason(why) {
  const [, kind, , message] = /^([\w.]+)\((["'])(.*)\2,?\)$/s.exec(why) ?? [];
  if (message === undefined) return why;
  return message.length > 20 ? message : `${kind}: ${message}`;
}

/** Names without the containers that they are in, "depth" for "variant.depth", where it is clear. */
function endings(names) {
  const last = (name) => name.slice(name.lastIndexOf(".") + 1) || name;
  const counted = new Map();
  for (const name of names) counted.set(last(name), (counted.get(last(name)) ?? 0) + 1);
  return new Map(names.map((name) => [name, counted.get(last(name)) === 1 ? last(name) : name]));
}

/**
 * All columns of the calls.
 *
 * Each has an `id`, which is part of the page's address; a `title`, and a `head` for the table if it
 * is shorter; a `group` of the menu; a `value` to sort, filter and export by; its `text`; `better` ("min" or "max") for metrics; `usual`, whether
 * it is shown without being chosen; and `name` and `of` for parameters and metrics.
 */
function columnsOf({ parameters, metrics, drawn = [], better, runs = [] }) {
  const number = (value) => (isNumber(value) ? COUNT.format(value) : "");
  const call = (id, more) => ({
    id, title: id, group: "call", usual: true, value: (a) => a[id], text: (a) => a[id] ?? "", ...more,
  });
  const state = call("state", { text: stateText });
  const heads = endings(parameters);
  const parameter = (name, i) => ({
    id: `p:${name}`, title: name, head: heads.get(name), group: "parameter", name, usual: i < PARAMETERS_SHOWN,
    value: (a) => parameterOf(a, name), text: (a) => parameterText(parameterOf(a, name)),
  });
  const metric = (of) => (name, i) => ({
    id: `${of}:${name}`, title: name, group: "metric", name, of, usual: i < METRICS_SHOWN,
    better: better.get(name) ?? "min",
    value: (a) => metricOf(a, name)?.[of],
    text: (a) => shown(metricOf(a, name)?.[of]),
  });
  const ordered = [...drawn, ...metrics.filter((name) => !drawn.includes(name))];
  const measured = ordered.flatMap((name, i) => [metric("best")(name, i), metric("last")(name, i)]);
  return [
    state,
    ...measured,
    ...parameters.map(parameter),
    call("step", { text: (a) => number(a.step) }),
    call("duration", {
      value: elapsed,
      text: (a, now) => {
        const seconds = elapsed(a, now);
        return seconds === null ? "" : duration(seconds < 60 ? Number(seconds.toFixed(1)) : seconds);
      },
    }),
    call("runner", {}),
    call("pool", { usual: false }),
    call("run", {
      usual: runs.length > 1,
      value: (a) => runs.find((run) => run.id === a.run)?.name ?? "",
      text: (a) => runs.find((run) => run.id === a.run)?.name ?? "",
    }),
    call("attempt", { usual: false, text: (a) => number(a.attempt) }),
  ];
}

/** Columns that are shown: the usual ones, without "-id" and with "+id" of the user's choices. */
function shownColumns(columns, choices = []) {
  const chosen = new Set(choices);
  return columns.filter(({ id, usual }) => (usual ? !chosen.has(`-${id}`) : chosen.has(`+${id}`)));
}

/** The choices after a column is shown or hidden. */
function toggledColumn(column, choices = []) {
  const [own, other] = [column.usual ? `-${column.id}` : `+${column.id}`, choices];
  return other.includes(own) ? other.filter((id) => id !== own) : [...other, own];
}

const natural = new Intl.Collator("en", { numeric: true });

/** Order of two values: numbers, then texts; `missing` values are not ordered here. */
function compareValues(a, b) {
  const [n, m] = [typeof a === "number", typeof b === "number"];
  if (n && m) return a - b;
  if (n !== m) return n ? -1 : 1;
  return natural.compare(String(a), String(b));
}

const isMissing = (value) =>
  value === undefined || value === null || value === "" || Number.isNaN(value);

/** Items by the value of each; equal ones in their order, and those without a value last. */
function sortedBy(items, value, descending) {
  const sign = descending ? -1 : 1;
  return items
    .map((item, at) => ({ item, at, value: value(item) }))
    .sort((a, b) => {
      const [none, other] = [isMissing(a.value), isMissing(b.value)];
      if (none || other) return Number(none) - Number(other) || a.at - b.at;
      return sign * compareValues(a.value, b.value) || a.at - b.at;
    })
    .map(({ item }) => item);
}

/** Beginnings of cells that spreadsheets read as formulas; the same as in reports/driver/export.py. */
const FORMULA = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

/** A field of a CSV file; text that a spreadsheet would run as a formula begins with an apostrophe. */
function csvField(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "number") {
    if (Number.isFinite(value)) return String(value);
    return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  }
  if (typeof value === "boolean") return value ? "True" : "False";
  const text = FORMULA.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The calls as CSV, with all columns, whether shown or not. */
function csvOf(attempts, columns, now) {
  const title = ({ of, title: name }) => (of ? `${of} ${name}` : name);
  const heads = ["call", "key", ...columns.map(title), "why"];
  const line = (a) => [a.name, a.key, ...columns.map((column) => column.value(a, now)), a.why];
  return [heads, ...attempts.map(line)].map((fields) => `${fields.map(csvField).join(",")}\r\n`).join("");
}

// Expressions that choose calls: words, and comparisons such as lr>0.01, state:failed, -seed=3; pure.

const QUOTED = `"(?:[^"\\\\]|\\\\.)*"`;
/** An optional minus, and a name, an operator and a value, or a word. */
const COMPARISON = new RegExp(
  `(-?)(${QUOTED}|[^\\s"<>=!:≤≥≠-][^\\s"<>=!:≤≥≠]*)\\s*(!=|<=|>=|==|=|<|>|:|≤|≥|≠)\\s*((?:${QUOTED}|[^\\s"])*)`,
  "y",
);
const WORD = new RegExp(`(-?)(${QUOTED}|[^\\s]+)`, "y");
const WHOLLY_QUOTED = new RegExp(`^${QUOTED}$`, "s");
const SPELLINGS = { "==": "=", "≤": "<=", "≥": ">=", "≠": "!=" };
const SECONDS = { s: 1, sec: 1, m: 60, min: 60, h: 3600 };
const CALL_FIELDS = ["state", "runner", "pool", "attempt", "duration", "step", "call", "key", "why", "run"];

const unquoted = (text) =>
  WHOLLY_QUOTED.test(text) ? text.slice(1, -1).replace(/\\(.)/gs, "$1") : text;

/** A text as one term of an expression. */
const quoted = (text) =>
  /^[^\s"\\<>=!:≤≥≠,-][^\s"\\<>=!:≤≥≠,]*$/.test(text) ? text : `"${text.replace(/[\\"]/g, "\\$&")}"`;

/** The alternatives of a value: `a,b` are two, `"a,b"` is one. */
function alternatives(text) {
  const parts = text.match(new RegExp(`${QUOTED}|[^,"]+`, "g")) ?? [];
  return parts.map(unquoted);
}

/**
 * @typedef {{text: string, not: boolean, word?: string, name?: string, operator?: string,
 *   values?: string[]}} Term A word, or else a comparison.
 */

/**
 * The terms of an expression. Any text has terms; `complaint` finds the wrong ones.
 *
 * @returns {Term[]}
 */
function terms(text) {
  const found = [];
  let at = 0;
  while (at < text.length) {
    if (/\s/.test(text[at])) {
      at++;
      continue;
    }
    COMPARISON.lastIndex = WORD.lastIndex = at;
    const comparison = COMPARISON.exec(text);
    if (comparison) {
      const [whole, minus, name, operator, value] = comparison;
      found.push({
        text: whole, not: minus === "-", name: unquoted(name),
        operator: SPELLINGS[operator] ?? operator, values: alternatives(value),
      });
      at += whole.length;
      continue;
    }
    const [whole, minus, word] = WORD.exec(text);
    // A lone minus, or a quotation mark without another, is a word.
    if (whole === "-") found.push({ text: whole, not: false, word: whole });
    else found.push({ text: whole, not: minus === "-", word: unquoted(word) });
    at += whole.length;
  }
  return found;
}

/** A number that a user has typed, with the unit of a duration; NaN if it is none. */
function typedNumber(text) {
  const [, number, unit] = /^([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]*)$/i.exec(text) ?? [];
  if (number !== undefined && (unit === "" || SECONDS[unit.toLowerCase()])) {
    return Number(number.replaceAll("_", "")) * (unit ? SECONDS[unit.toLowerCase()] : 1);
  }
  const infinite = /^([-+]?)inf(?:inity)?$/i.exec(text);
  return infinite ? (infinite[1] === "-" ? -Infinity : Infinity) : NaN;
}

/** The text of a call that words are searched in. */
function searched(a) {
  return `${a.key} ${a.name} ${a.arguments} ${a.runner} ${a.state} ${a.pool} ${a.why ?? ""}`.toLowerCase();
}

/**
 * The value of a name for a call.
 *
 * Parameters come before metrics, and metrics before what every call has; `best.loss` and
 * `last.loss` are always the metric.
 */
function valueNamed(name, attempt, now) {
  const parameter = parameterOf(attempt, name);
  if (parameter !== undefined) return parameter;
  const metric = metricOf(attempt, name);
  if (metric) return metric.best;
  const [, of, rest] = /^(best|last)\.(.*)$/s.exec(name) ?? [];
  const found = of && metricOf(attempt, rest);
  if (found) return found[of];
  const field = name.toLowerCase();
  if (!CALL_FIELDS.includes(field)) return undefined;
  if (field === "duration") return elapsed(attempt, now) ?? undefined;
  return attempt[field === "call" ? "name" : field];
}

function equals(value, text) {
  const number = typedNumber(text);
  // What the table shows can be typed, too.
  if (typeof value === "number") return value === number || shown(value) === text;
  return parameterText(value).toLowerCase() === text.toLowerCase();
}

const OPERATORS = {
  "=": equals,
  ":": (value, text) => parameterText(value).toLowerCase().includes(text.toLowerCase()),
  "<": (value, text) => value < typedNumber(text),
  "<=": (value, text) => value <= typedNumber(text),
  ">": (value, text) => value > typedNumber(text),
  ">=": (value, text) => value >= typedNumber(text),
};

/**
 * What is wrong with a term, in words; empty if nothing is.
 *
 * @param {Term} term
 */
function complaint(term, names) {
  const { text, name, operator, values, word } = term;
  if (word !== undefined) return "";
  if (!values.length) return `${text} compares with nothing: ${name}${operator}…`;
  const number = operator.startsWith("<") || operator.startsWith(">");
  if (number && values.length > 1) return `${text}: one number, please`;
  if (number && Number.isNaN(typedNumber(values[0]))) return `${values[0]} is no number`;
  // Without an operator for numbers it may be text that has a colon, such as an address.
  if (!names || operator === ":") return "";
  const bare = name.replace(/^(best|last)\./, "");
  const known = names.includes(name) || names.includes(bare) || CALL_FIELDS.includes(name.toLowerCase());
  return known ? "" : `nothing is called ${name}`;
}

/**
 * A function that says whether a call fits an expression.
 *
 * All terms must fit. Words are searched in names, arguments, runners and states. A comparison has a
 * name (a parameter, a metric, which stands for its best value, `last.loss`, or one of CALL_FIELDS), an
 * operator (= != < <= > >= and : for "contains"), and a value; `seed=1,2` has alternatives. A minus
 * excludes, and quotation marks keep words together.
 *
 * It never throws: terms that are wrong fit all calls, and the function's `wrong` says why. If
 * `names` are given, comparisons with other names are wrong.
 */
function parse(text, names = null, now = Date.now() / 1000) {
  const wrong = [];
  const tests = [];
  for (const term of terms(text)) {
    const problem = complaint(term, names);
    if (problem) wrong.push(problem);
    else tests.push(termTest(term, now));
  }
  const fits = (attempt) => tests.every((test) => test(attempt));
  return Object.assign(fits, { wrong: wrong.join("; ") });
}

/** @param {Term} term */
function termTest(term, now) {
  const { text, not, word, name, operator, values } = term;
  if (word !== undefined) {
    const lower = word.toLowerCase();
    return (a) => searched(a).includes(lower) !== not;
  }
  const negative = operator === "!=";
  const test = OPERATORS[negative ? "=" : operator];
  const raw = unquoted(text.replace(/^-/, "")).toLowerCase();
  return (a) => {
    const value = valueNamed(name, a, now);
    if (value === undefined) {
      // A key may look like a comparison.
      const like = (operator === "=" || operator === ":") && searched(a).includes(raw);
      return (like !== negative) !== not;
    }
    return (values.some((v) => test(value, v)) !== negative) !== not;
  };
}

/** The range that an expression gives a name: {low, high, values}; null for what is not given. */
function rangeIn(text, name) {
  const range = { low: null, high: null, values: null };
  for (const term of terms(text)) {
    if (term.name !== name || term.not) continue;
    const number = typedNumber(term.values[0] ?? "");
    if (term.operator === ">=" || term.operator === ">") range.low = number;
    else if (term.operator === "<=" || term.operator === "<") range.high = number;
    else if (term.operator === "=") range.values = term.values;
  }
  return range;
}

/** The expression with another range of a name; without one if `range` is null. */
function withRange(text, name, range) {
  const others = terms(text).filter((term) => term.name !== name || term.not || term.operator === ":");
  const added = [];
  const own = quoted(name);
  if (range?.values?.length) added.push(`${own}=${range.values.map(quoted).join(",")}`);
  if (isNumber(range?.low)) added.push(`${own}>=${range.low}`);
  if (isNumber(range?.high)) added.push(`${own}<=${range.high}`);
  return [...others.map((term) => term.text), ...added].join(" ");
}

/** All names that the filter may compare, apart from CALL_FIELDS. */
function namesOf(calls) {
  const parameters = calls.latest().flatMap((a) => a.parameters.map(([name]) => name));
  return [...new Set([...parameters, ...calls.metrics])];
}

// Parts of the table of calls: its style, icons and texts.

const ROW = 28; // height of a row in pixels
const LEAD = 80; // width of the first column, with the buttons and the rank

const TABLE_STYLE = `
 .whole { position: absolute; inset: 0; display: flex; flex-direction: column;
  font: 13px Helvetica, Arial, sans-serif; color: var(--flame-ink) }
 .scroll { flex: 1; min-height: 0; overflow: auto; position: relative }
 .more { position: absolute; z-index: 5; width: 22px; pointer-events: none; box-sizing: border-box;
  padding: 8px 2px; text-align: right; font-weight: bold; font-size: 17px; line-height: 16px;
  background: linear-gradient(to right, transparent, color-mix(in srgb, var(--flame-ink) 34%, transparent)) }
 table { width: 100%; border-collapse: separate; border-spacing: 0; table-layout: fixed }
 table:focus { outline: none }
 th, td { box-sizing: border-box; height: ${ROW}px; padding: 0 7px; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; text-align: right; font-weight: normal;
  font-variant-numeric: tabular-nums; background: var(--flame-ground);
  border-bottom: 1px solid color-mix(in srgb, var(--flame-rule) 55%, transparent) }
 thead th { position: sticky; top: 0; z-index: 3; padding: 0; color: var(--flame-quiet);
  border-bottom: 1px solid var(--flame-quiet) }
 thead button { all: unset; box-sizing: border-box; width: 100%; padding: 3px 7px; cursor: pointer;
  overflow: hidden; text-overflow: ellipsis; line-height: 15px }
 thead button:hover, th[aria-sort=ascending] button, th[aria-sort=descending] button {
  color: var(--flame-ink) }
 thead button:focus-visible { outline: 2px solid #56B4E9; outline-offset: -2px }
 thead small { display: block; font-size: 11px; line-height: 13px }
 thead small:empty::before { content: "\\00a0" }
 .text { text-align: left }
 .lead { position: sticky; left: 0; z-index: 1; padding: 0 4px 0 0 }
 .call { position: sticky; left: ${LEAD}px; z-index: 1; text-align: left;
  border-right: 1px solid var(--flame-rule) }
 thead .lead, thead .call { z-index: 4 }
 .narrow .lead { left: auto }
 .narrow .call { left: 0 }
 tr.pinned > * { position: sticky; top: var(--top); z-index: 2 }
 tr.pinned > .lead, tr.pinned > .call { z-index: 3 }
 tr.last > * { border-bottom: 1px solid var(--flame-quiet) }
 tbody tr { cursor: pointer }
 tbody tr:hover > *, tr.focus > * {
  background: color-mix(in srgb, #56B4E9 22%, var(--flame-ground)) }
 table:focus-visible tr.active > * { box-shadow: inset 0 2px #56B4E9, inset 0 -2px #56B4E9 }
 tr.hiding > * { color: var(--flame-quiet) }
 tr.group > * { background: color-mix(in srgb, var(--flame-rule) 35%, var(--flame-ground)) }
 tr.group .quiet { color: inherit }
 tr.space > td { height: var(--height); padding: 0; border: 0 }
 td.best { font-weight: 600 }
 .bad { color: var(--flame-bad) }
 .quiet { color: var(--flame-quiet) }
 tbody .lead button { all: unset; width: 24px; height: 24px; display: inline-flex; cursor: pointer;
  align-items: center; justify-content: center; vertical-align: middle; opacity: .4 }
 tbody .lead button:hover, tbody .lead button[aria-pressed=true] { opacity: 1 }
 .lead svg { width: 14px; height: 14px; fill: none; stroke: currentColor; stroke-width: 1.6;
  stroke-linejoin: round; stroke-linecap: round }
 .lead button[aria-pressed=true] .filled { fill: currentColor }
 .lead button:not([aria-pressed=true]) .off { display: none }
 .lead .rank { display: inline-block; min-width: 22px; text-align: right }
 .line { width: 20px; height: 8px; vertical-align: middle; margin-right: 5px }
 .bar { display: inline-block; width: 44px; height: 8px; margin-right: 6px; border-radius: 4px;
  background: var(--flame-rule); overflow: hidden }
 .bar > span { display: block; height: 100%; background: #56B4E9 }
 [hidden] { display: none !important }`;

const SIGNS = { waiting: "○", running: "●", done: "■", failed: "✕", cancelled: "✕", lost: "✕" };
const BAD_STATES = new Set(["failed", "lost", "cancelled"]);
const STROKES = { dashed: "5 3", dotted: "1.5 2.5", dotdash: "1.5 2.5 5 2.5", dashdot: "5 2.5 1.5 2.5" };
const EYE = "M1.5 8 C4 3.5 12 3.5 14.5 8 C12 12.5 4 12.5 1.5 8 Z M8 6 a2 2 0 1 0 .01 0 Z";
const PIN = "M5.5 1.8 h5 l-.8 4.4 2.3 2.6 h-8 l2.3 -2.6 Z M8 8.8 v5.4";

/** An element of SVG with attributes. */
function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

const icon = (...paths) =>
  drawing("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, ...paths);

/** Set an attribute only if it differs. */
function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** A list of keys with some added, or without them if it has them all. */
function toggledAll(list, keys) {
  const all = keys.every((key) => list.includes(key));
  const others = list.filter((key) => !keys.includes(key));
  return all ? others : [...others, ...keys];
}

/** Ids of columns whose values are not all numbers. */
function textColumns(columns, rows) {
  const text = (column) =>
    column.group === "call" ? ["state", "runner", "pool", "run"].includes(column.id)
    : column.group === "parameter" && rows.some((a) => typeof (column.value(a) ?? 0) !== "number");
  return new Set(columns.filter(text).map(({ id }) => id));
}

const longest = (texts) => texts.reduce((most, text) => (text.length > most.length ? text : most), "");

const metricColumn = (columns, metric) =>
  columns.find(({ of, name }) => of === "best" && name === metric);

function hintOf({ group, name, of, better }, calls) {
  if (!of) return group === "parameter" ? `parameter ${name}` : "";
  const way = better === "max" ? "higher is better" : "lower is better";
  const declared = calls.declared.has(name) ? "" : ", guessed by the name";
  return `${of} ${name} (${way}${declared})`;
}

/** Numbers of equal words, most frequent first. */
function counts(words) {
  const found = new Map();
  for (const word of words) found.set(word, (found.get(word) ?? 0) + 1);
  return [...found].sort((a, b) => b[1] - a[1]).map(([word, n]) => `${n} ${word}`).join(", ");
}

function extremes(group, column) {
  const { n, low, high } = statistics(group.members.map((a) => column.value(a)));
  return n ? `mean ± standard deviation of ${n}; from ${shown(low)} to ${shown(high)}` : "";
}

/** A text that is not wider than some pixels: its beginning and its end. */
function withoutMiddle(text, room) {
  if (wordWidth(text) <= room) return text;
  let [low, high] = [0, text.length - 1];
  const cut = (n) => `${text.slice(0, Math.ceil(n / 3))}…${text.slice(text.length - Math.floor((2 * n) / 3))}`;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (wordWidth(cut(middle)) <= room) low = middle;
    else high = middle - 1;
  }
  return cut(low);
}

const measurer = document.createElement("canvas").getContext("2d");

/** Width of a text of the table in pixels. */
function wordWidth(text, bold = false) {
  measurer.font = `${bold ? "600 " : ""}13px Helvetica, Arial, sans-serif`;
  return measurer.measureText(text).width;
}

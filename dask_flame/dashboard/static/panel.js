// Controls, summary line and tooltip of the page.

/** An element with properties and children; strings become text nodes. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { dataset, ...others } = properties;
  Object.assign(made, others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/** Set a text only if it differs, so that the element under the mouse is not replaced. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const MOST_CHARTS = 4; // side by side
const SEARCH_HELP = `Words of a call's name, arguments, runner, state or error, and comparisons:
  lr>0.01   loss<=0.3   last.loss<1   layers=2,4   state:failed   duration>2min
  -word excludes, "two words" stay together.`;

const CONTROLS_STYLE = `
 .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; padding: 4px 2px;
  font-size: 13px; color: var(--flame-ink); font-family: Helvetica, Arial, sans-serif }
 label { display: inline-flex; align-items: center; gap: 5px; white-space: nowrap }
 select, input[type=search], button, summary { font: inherit; color: inherit; padding: 3px 7px;
  background: var(--flame-card); border: 1px solid var(--flame-rule); border-radius: 4px }
 select { max-width: 220px }
 input[type=search] { width: 120px }
 input[type=range] { width: 84px }
 button, summary { cursor: pointer }
 summary { list-style: none; white-space: nowrap }
 summary::-webkit-details-marker { display: none }
 summary::after { content: " ▾"; color: var(--flame-quiet) }
 details { position: relative }
 .menu { position: absolute; z-index: 20; top: calc(100% + 3px); left: 0; min-width: 190px;
  max-width: min(340px, calc(100vw - 24px)); max-height: 50vh; overflow: auto; padding: 6px 10px;
  background: var(--flame-card); border: 1px solid var(--flame-rule); border-radius: 5px;
  box-shadow: 0 3px 12px rgb(0 0 0 / 22%) }
 .menu label { display: flex; padding: 3px 0; white-space: normal; overflow-wrap: anywhere }
 .menu small { color: var(--flame-quiet); margin-left: auto; padding-left: 10px; white-space: nowrap }
 button[aria-pressed=true] { background: var(--flame-ink); color: var(--flame-ground);
  border-color: var(--flame-ink) }
 button:focus-visible, select:focus-visible, input:focus-visible, summary:focus-visible { outline: 2px solid #56B4E9 }
 .both { display: inline-flex }
 .both button { border-radius: 0 }
 .both button + button { border-left: 0 }
 .both button:first-of-type { border-radius: 4px 0 0 4px }
 .both button:last-of-type { border-radius: 0 4px 4px 0 }
 .number { display: inline-block; min-width: 2.2em; color: var(--flame-quiet);
  font-variant-numeric: tabular-nums }
 .said { flex: 1 1 100%; display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 14px;
  min-height: 19px }
 .said > * { min-width: 0; overflow-wrap: anywhere }
 .quiet { color: var(--flame-quiet) }
 .flame-lost { color: var(--flame-bad) }
 button.flame-failed { background: none; border: 0; padding: 0; color: var(--flame-bad);
  text-decoration: underline; text-underline-offset: 2px }
 button.flame-failed[aria-pressed=true] { font-weight: bold }
 [hidden] { display: none !important }
 progress { width: 90px; height: 9px; vertical-align: baseline; margin-right: 8px;
  accent-color: #0072B2 }`;

class Controls {
  /** `choose(changed)` changes choices. */
  constructor(options, choose) {
    this.choose = choose;
    /** @type {((options: any) => void)[]} each shows a choice as it is */
    this.shows = [];
    this.metric = element("select", { name: "metric", title: "what is drawn, and ranks the calls" });
    this.metric.setAttribute("aria-label", "metric");
    this.metric.onchange = () => this.rank(this.metric.value);
    this.way = element("span", { className: "quiet" });
    this.also = new Menu("also", "more metrics", (chosen) =>
      choose({ metrics: [this.main, ...chosen].slice(0, MOST_CHARTS) }));
    this.runs = new Menu("runs", "runs", (chosen) => choose({ run: chosen }));
    const x = [["steps", "step", "by step"], ["seconds", "time", "by time since each began"]];
    const views = [
      ["curves", "curves", "all curves together, a chart for each metric"],
      ["grid", "each call", "a chart for each call, or for each runner if colored by runner"],
      ["parameters", "parameters", "how results depend on arguments"],
    ];
    const colors = [["call", "by call"], ["runner", "by runner"], ["rank", "by rank"]];
    this.again = element("button", { type: "button", name: "follow", hidden: true }, "show all");
    this.again.onclick = () => choose({ zoom: null, whole: true });
    const quiet = () => element("span", { className: "quiet" });
    this.below = quiet();
    this.span = quiet();
    this.found = quiet();
    this.thinned = quiet();
    this.cut = element("span", { className: "quiet", title: "values far from all others" });
    this.best = element("span", {});
    this.bar = element("progress", { max: 1, value: 0 });
    this.bar.setAttribute("aria-label", "calls that have ended");
    this.ended = element("span", {});
    this.others = element("span", {});
    this.failed = this.failures();
    this.done = element("span", {}, this.bar, this.ended, this.failed, this.others);
    this.pools = element("span", { className: "flame-pools" });
    this.lost = element("b", { className: "flame-lost" });
    this.lost.setAttribute("role", "status");
    this.drawing = [this.log(), this.smoothing(), this.either("x", x)];
    this.choices = [
      this.metric, this.way, this.also.root, this.runs.root,
      this.either("view", views), this.select("colors", "color", colors),
      ...this.drawing, this.search(), this.again,
    ];
    this.root = element(
      "div",
      { className: "bar" },
      element("style", {}, CONTROLS_STYLE),
      ...this.choices,
      element(
        "div", { className: "said" },
        this.done, this.best, this.found, this.span, this.cut, this.below, this.thinned,
      ),
    );
    const tabs = document.querySelector(".flame-tabs");
    if (tabs) tabs.lastElementChild.before(this.pools, this.lost);
    else this.root.lastElementChild.append(this.lost);
    this.show(options);
  }
  /** A button that is also the number of failed calls. */
  failures() {
    const failed = element("button", { type: "button", name: "failed", className: "flame-failed" });
    failed.onclick = () => {
      const pressed = failed.getAttribute("aria-pressed") === "true";
      this.choose({ search: pressed ? "" : FAILED });
    };
    return failed;
  }
  select(name, label, choices) {
    const chosen = element("select", { name });
    chosen.append(...choices.map(([value, text]) => element("option", { value }, text)));
    chosen.onchange = () => this.choose({ [name]: chosen.value });
    this.shows.push((options) => {
      if (chosen.value !== options[name]) chosen.value = options[name];
    });
    return element("label", {}, label, chosen);
  }
  either(name, choices) {
    const buttons = choices.map(([value, text, title]) =>
      element("button", { type: "button", name, value, title }, text),
    );
    for (const b of buttons) b.onclick = () => this.choose({ [name]: b.value });
    this.shows.push((options) => {
      for (const b of buttons) b.setAttribute("aria-pressed", String(b.value === options[name]));
    });
    return element("span", { className: "both" }, ...buttons);
  }
  log() {
    const log = element("input", { type: "checkbox", name: "log" });
    log.onchange = () => this.choose({ log: log.checked });
    this.shows.push((options) => (log.checked = options.log));
    return element("label", {}, log, "log");
  }
  smoothing() {
    const smoothing = element("input", {
      type: "range", name: "smoothing", min: "0", max: "0.99", step: "0.01", value: "0",
      title: "how much of each point comes from those before it",
    });
    const weight = element("span", { className: "number" }, "0");
    smoothing.oninput = () => this.choose({ smoothing: Number(smoothing.value) });
    this.shows.push((options) => {
      if (Number(smoothing.value) !== options.smoothing) smoothing.value = options.smoothing;
      write(weight, String(options.smoothing));
    });
    return element("label", {}, "smooth", smoothing, weight);
  }
  search() {
    const search = element("input", {
      type: "search", name: "search", placeholder: "filter calls",
      title: SEARCH_HELP,
    });
    search.setAttribute("aria-label", "filter calls");
    search.oninput = () => this.choose({ search: search.value });
    this.shows.push((options) => {
      if (search.value !== options.search) search.value = options.search;
    });
    this.wrong = element("span", { className: "bad" });
    this.wrong.setAttribute("role", "status");
    return element("span", {}, search, " ", this.wrong);
  }
  show(options) {
    for (const show of this.shows) show(options);
  }
  /** Rank by another metric, and draw it first. */
  rank(metric) {
    const also = this.also.chosen();
    // A metric that is drawn already changes places with the first one.
    const others = also.includes(metric) ? [this.main, ...also] : also;
    this.choose({ metrics: [metric, ...others.filter((name) => name !== metric)] });
  }
  draw(calls, rows, { cut, span, wrong }, options) {
    write(this.wrong, wrong);
    this.show(options);
    const known = calls.metrics;
    const several = options.view !== "parameters";
    for (const choice of this.choices) choice.hidden = !calls.byId.size;
    for (const choice of this.drawing) choice.hidden = !known.length || !several;
    this.metric.hidden = this.way.hidden = !known.length;
    this.again.hidden = !known.length || (!options.zoom && !cut);
    // As chosen, also before the data have arrived.
    const asked = options.metrics.filter((name) => known.includes(name));
    const [first, ...also] = asked.length ? asked : calls.drawn;
    this.main = first ?? "";
    const there = [...this.metric.options].map((option) => option.value);
    if (there.join("\0") !== known.join("\0")) {
      this.metric.replaceChildren(...known.map((m) => element("option", { value: m }, m)));
    }
    if (this.metric.value !== this.main) this.metric.value = this.main;
    write(this.way, calls.higher() ? "↑ higher is better" : "↓ lower is better");
    this.way.title = calls.declared.has(calls.metric)
      ? "declared by the calls"
      : "guessed by the name; dask_flame.report.better(…) declares it";
    const others = known.filter((name) => name !== this.main);
    this.also.draw(others.map((name) => [name, name, ""]), also, also.length ? `+ ${also.join(", ")}` : "+ metric");
    this.also.root.hidden = !others.length || options.view !== "curves";
    this.choice(calls, options);
    this.say(calls, rows, cut, span, options);
  }
  /** The choice of runs, the latest first. */
  choice(calls, options) {
    const time = (at) => new Date(1000 * at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const listed = calls.runs.map(({ id, name, begun, total }) =>
      [id, name, `${callCount(total)}, ${time(begun)}`]);
    const seen = calls.runs.filter((run) => run.shown);
    const names = seen.length === calls.runs.length ? "all runs" : seen.map(({ name }) => name).join(", ");
    const chosen = options.run.length || seen.length === calls.runs.length ? options.run : seen.map(({ id }) => id);
    this.runs.draw(listed.reverse(), chosen, names);
    this.runs.root.hidden = calls.runs.length < 2;
  }
  /** The line of words below the choices. */
  say(calls, rows, cut, span, options) {
    const state = overall(calls);
    this.done.hidden = !state.total;
    this.bar.value = state.total ? state.ended / state.total : 0;
    write(this.ended, state.done + (state.failed ? ", " : ""));
    write(this.failed, state.failed);
    write(this.others, state.others);
    this.failed.title = state.failed && `${reasons(calls)}\nshow only these, or all again`;
    mark(this.failed, "aria-pressed", String(options.search === FAILED));
    const reach = cut === 1 ? "1 curve goes" : `${cut} curves go`;
    write(this.cut, cut ? `${reach} out of sight` : "");
    const latest = calls.latest();
    const below = (a) => calls.drawn.some((m) => a.result(m).best <= 0 && a.result(m).made);
    const hidden = options.log ? latest.filter(below).length : 0;
    write(this.below, hidden ? `of ${hidden}, values of 0 or less have no logarithm` : "");
    const soFar = calls.unfinished() ? "so far " : "";
    this.tell(calls, rows[0], options.search ? `best of these ${soFar}` : `best ${soFar}`);
    write(this.found, options.search ? `${rows.length.toLocaleString("en")} of ${callCount(latest.length)} shown` : "");
    write(this.span, span ? `each chart: ${span}` : "");
    write(this.thinned, thinned(calls));
  }
  /** The best call in words. */
  tell(calls, first, words) {
    const { best, at } = first && hasRank(first) ? first.result(calls.metric) : NO_VALUE;
    write(this.best, isNumber(best) ? words : "");
    if (!isNumber(best)) return;
    const bold = (text) => element("b", {}, text);
    this.best.append(bold(shown(best)), ` at step ${at.toLocaleString("en")} by `, bold(first.name));
  }
  /** Show or hide the message that the scheduler cannot be reached. */
  gone(gone) {
    this.pools.hidden = gone;
    write(this.lost, gone ? "the scheduler is not reached any more: all this is as it was" : "");
  }
  /** Show the pools in a line: [{name, busy, idle, booting, demand, waiting}]. */
  counted(pools, link) {
    this.pools.replaceChildren();
    const part = (color, n, word) => {
      const square = element("i");
      square.style.background = `var(--flame-${color})`;
      return [square, `${n} ${word}`];
    };
    for (const pool of pools.slice(0, 3)) {
      this.pools.append(
        element("b", {}, ` ${pool.name}`),
        ...part("busy", pool.busy, "busy"),
        ...part("idle", pool.idle, "idle"),
        ...(pool.booting ? part("booting", pool.booting, "booting") : []),
        ...(pool.waiting ? [` · ${pool.waiting} waiting`] : []),
      );
    }
    if (pools.length > 3) this.pools.append(` and ${pools.length - 3} more`);
    if (pools.length && link) this.pools.append(" ", element("a", { href: link }, "pools"));
  }
}

/** A button with check boxes below it. */
class Menu {
  constructor(name, label, changed) {
    this.changed = changed;
    this.title = element("summary", {});
    this.title.setAttribute("aria-label", label);
    this.label = label;
    this.list = element("div", { className: "menu" });
    this.root = element("details", {}, this.title, this.list);
    this.root.dataset.flame = name;
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.root.open) return;
      this.root.open = false;
      this.title.focus();
    });
    addEventListener("pointerdown", (event) => {
      if (!event.composedPath().includes(this.root)) this.root.open = false;
    });
  }
  /** The values that are checked, in the order in which they were. */
  chosen() {
    return this.order ?? [];
  }
  /** Show choices: [value, text, remark]. */
  draw(choices, chosen, title) {
    write(this.title, title);
    this.title.setAttribute("aria-label", `${this.label}: ${title}`);
    this.order = [...chosen];
    const known = JSON.stringify(choices);
    if (this.known !== known) {
      this.known = known;
      this.list.replaceChildren(...choices.map(([value, text, remark]) => {
        const box = element("input", { type: "checkbox", value });
        box.onchange = () => {
          const others = this.chosen().filter((other) => other !== value);
          this.changed(box.checked ? [...others, value] : others);
        };
        return element("label", {}, box, text, element("small", {}, remark));
      }));
    }
    for (const box of this.list.querySelectorAll("input")) box.checked = chosen.includes(box.value);
  }
}

const callCount = (n) => `${n.toLocaleString("en")} call${n === 1 ? "" : "s"}`;

const STATES = ["failed", "stopped", "cancelled", "lost", "running", "waiting"];

const FAILED = "state:failed"; // the filter that shows the failed calls
const REASONS = 5; // maximum number of reasons in a tooltip

/** Names of failed calls, and why they failed. */
function reasons(calls) {
  const failed = calls.latest().filter((a) => a.state === "failed");
  const more = failed.length > REASONS ? [`and ${failed.length - REASONS} more`] : [];
  return [...failed.slice(0, REASONS).map((a) => `${a.name}: ${a.why}`), ...more].join("\n");
}

/** How far all calls that are chosen have come: {total, ended}, and in words. */
function overall(calls) {
  const runs = calls.runs.filter((run) => run.shown);
  const states = {};
  const add = (state, n) => (states[state] = (states[state] ?? 0) + n);
  const inRuns = new Set(runs.map(({ id }) => id));
  for (const run of runs) for (const state of ["done", ...STATES]) add(state, run[state] ?? 0);
  for (const a of calls.latest()) if (!inRuns.has(a.run)) add(outcome(a), 1);
  const total = Object.values(states).reduce((n, m) => n + m, 0);
  const count = (n) => n.toLocaleString("en");
  const [failed, ...words] = STATES.map((s) => (states[s] ? `, ${count(states[s])} ${s}` : ""));
  const unfinished = runs.filter((run) => run.waiting || run.running);
  const left = Math.max(0, ...unfinished.map((run) => run.left)) - (calls.clock() - calls.now);
  if (unfinished.length && unfinished.every((run) => isNumber(run.left))) {
    words.push(left > 1 ? `, about ${roughly(left)} left` : ", nearly ready");
  }
  const done = `${count(states.done ?? 0)} of ${count(total)} done`;
  const open = (states.running ?? 0) + (states.waiting ?? 0) + (states.lost ?? 0);
  return { total, ended: total - open, done, failed: failed.slice(2), others: words.join("") };
}

/** How many points are drawn of how many that were reported; empty if they are all. */
function thinned(calls) {
  let [points, made] = [0, 0];
  for (const a of calls.byId.values()) {
    for (const [metric, curve] of a.curves) {
      points += curve.length;
      made += Math.max(curve.length, a.result(metric).made);
    }
  }
  const count = (n) => n.toLocaleString("en");
  return points < made ? `${count(points)} of ${count(made)} points` : "";
}

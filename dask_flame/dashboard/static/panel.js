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

const CONTROLS_STYLE = `
 .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; padding: 4px 2px;
  font-size: 13px; color: var(--flame-ink); font-family: Helvetica, Arial, sans-serif }
 label { display: inline-flex; align-items: center; gap: 5px; white-space: nowrap }
 select, input[type=search], button { font: inherit; color: inherit; padding: 3px 7px;
  background: var(--flame-card); border: 1px solid var(--flame-rule); border-radius: 4px }
 select { max-width: 220px }
 input[type=search] { width: 120px }
 input[type=range] { width: 84px }
 button { cursor: pointer }
 button[aria-pressed=true] { background: var(--flame-ink); color: var(--flame-ground);
  border-color: var(--flame-ink) }
 button:focus-visible, select:focus-visible, input:focus-visible { outline: 2px solid #56B4E9 }
 .both { display: inline-flex }
 .both button:first-of-type { border-radius: 4px 0 0 4px }
 .both button:last-of-type { border-radius: 0 4px 4px 0; border-left: 0 }
 .number { display: inline-block; min-width: 2.2em; color: var(--flame-quiet);
  font-variant-numeric: tabular-nums }
 .said { flex: 1 1 100%; display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 14px;
  min-height: 19px }
 .said > * { min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
 .quiet { color: var(--flame-quiet) }
 .bad { color: var(--flame-bad) }
 [hidden] { display: none !important }
 .end { margin-left: auto }
 a { color: inherit }
 i { display: inline-block; width: 9px; height: 9px; margin: 0 3px 0 8px; border-radius: 2px }`;

class Controls {
  constructor(options, changed) {
    const select = (name, label, choices) => {
      const chosen = element("select", { name });
      chosen.append(...choices.map(([value, text]) => element("option", { value }, text)));
      chosen.value = options[name];
      chosen.onchange = () => changed({ [name]: chosen.value });
      return element("label", {}, label, chosen);
    };
    const either = (name, choices) => {
      const buttons = choices.map(([value, text, title]) =>
        element("button", { type: "button", name, value, title }, text),
      );
      const press = (value) => {
        for (const b of buttons) b.setAttribute("aria-pressed", String(b.value === value));
      };
      press(options[name]);
      for (const button of buttons) {
        button.onclick = () => {
          press(button.value);
          changed({ [name]: button.value });
        };
      }
      return element("span", { className: "both" }, ...buttons);
    };
    this.metric = element("select", { name: "metric", title: "what is drawn" });
    this.metric.onchange = () => changed({ metric: this.metric.value });
    const log = element("input", { type: "checkbox", name: "log" });
    log.onchange = () => changed({ log: log.checked });
    const smoothing = element("input", {
      type: "range", name: "smoothing", min: "0", max: "0.99", step: "0.01", value: "0",
      title: "how much of each point comes from those before it",
    });
    const weight = element("span", { className: "number" }, "0");
    smoothing.oninput = () => {
      weight.textContent = String(Number(smoothing.value));
      changed({ smoothing: Number(smoothing.value) });
    };
    const search = element("input", {
      type: "search", name: "search", placeholder: "filter calls",
      title: "words that a call's name, arguments, runner or state must have",
    });
    search.oninput = () => changed({ search: search.value });
    const theme = element(
      "button",
      { type: "button", name: "theme", title: "light or dark", className: "end" },
      "◐",
    );
    theme.onclick = () => flameTheme.toggle();
    this.again = element("button", { type: "button", name: "follow", hidden: true }, "show all");
    this.again.onclick = () => changed({ follow: true, whole: true });
    this.cut = element("span", { className: "quiet", title: "values far from all others" });
    this.below = element("span", { className: "quiet" });
    this.best = element("span", {});
    this.counts = element("span", { className: "quiet" });
    this.span = element("span", { className: "quiet" });
    this.pools = element("span", { className: "quiet end" });
    this.lost = element("b", { className: "bad end" });
    this.choices = [
      this.metric,
      either("x", [["steps", "step", "by step"], ["seconds", "time", "by time since each began"]]),
      element("label", {}, log, "log"),
      element("label", {}, "smooth", smoothing, weight),
      select("colors", "color", [["runner", "by runner"], ["call", "by call"], ["rank", "by rank"]]),
      either("view", [["curves", "together", "all curves in one chart"], ["grid", "each runner", "a chart for each runner"]]),
      search,
      this.again,
    ];
    this.root = element(
      "div",
      { className: "bar" },
      element("style", {}, CONTROLS_STYLE),
      ...this.choices,
      theme,
      element("div", { className: "said" }, this.best, this.counts, this.span, this.cut, this.below, this.pools, this.lost),
    );
  }
  draw(calls, rows, curves, span, options) {
    const known = calls.metrics;
    for (const choice of this.choices) choice.hidden = !known.length;
    this.again.hidden = !known.length || (curves.following && !curves.cut);
    const reach = curves.cut === 1 ? "1 curve goes" : `${curves.cut} curves go`;
    write(this.cut, curves.cut ? `${reach} out of sight` : "");
    const all = [...calls.byId.values()].filter((a) => a.latest);
    const hidden = options.log ? all.filter((a) => a.best <= 0 || a.last <= 0).length : 0;
    write(this.below, hidden ? `of ${hidden}, values of 0 or less have no logarithm` : "");
    const there = [...this.metric.options].map((option) => option.value);
    if (there.join("\0") !== known.join("\0")) {
      this.metric.replaceChildren(...known.map((m) => element("option", { value: m }, m)));
    }
    if (this.metric.value !== calls.metric) this.metric.value = calls.metric;
    const best = rows[0];
    write(this.best, best && isNumber(best.best) ? "best " : "");
    if (this.best.textContent) {
      const bold = (text) => element("b", {}, text);
      this.best.append(bold(shown(best.best)), ` at step ${best.at.toLocaleString("en")} by `);
      this.best.append(bold(best.name));
    }
    const states = {};
    for (const a of rows) states[a.state] = (states[a.state] ?? 0) + 1;
    const order = ["running", "done", "failed", "lost", "cancelled"];
    const words = order.filter((s) => states[s]).map((s) => `${states[s].toLocaleString("en")} ${s}`);
    const count = (n) => `${n.toLocaleString("en")} call${n === 1 ? "" : "s"}`;
    const some = `${rows.length.toLocaleString("en")} of ${count(all.length)}`;
    const found = options.search ? some : count(rows.length);
    write(this.counts, all.length ? [found, ...words].join(" · ") : "");
    write(this.span, span ? `each chart: ${span}` : "");
  }
  /** Show or hide the message that the scheduler cannot be reached. */
  gone(gone) {
    this.pools.hidden = gone;
    write(this.lost, gone ? "the scheduler is not reached any more: all this is as it was" : "");
  }
  /** Show the pools in a line: [{name, busy, idle, booting, demand, waiting}]. */
  say(pools, link) {
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

const TIP_STYLE = `
 position: fixed; z-index: 1000; pointer-events: none; max-width: 340px; padding: 7px 10px;
 font: 12.5px/1.45 Helvetica, Arial, sans-serif; border-radius: 5px; overflow-wrap: anywhere;
 background: var(--flame-card); color: var(--flame-ink); border: 1px solid var(--flame-rule);
 box-shadow: 0 3px 12px rgb(0 0 0 / 22%)`;

/** Tooltip of the point under the mouse. */
class Tip {
  constructor() {
    this.root = element("div", { hidden: true, dataset: { flame: "tip" } });
    this.root.style.cssText = TIP_STYLE;
    this.dot = element("div", { hidden: true });
    this.dot.style.cssText =
      "position: fixed; z-index: 999; pointer-events: none; width: 9px; height: 9px;" +
      "margin: -6px 0 0 -6px; border-radius: 50%; border: 2px solid var(--flame-ink)";
    this.mouse = { x: 0, y: 0 };
    addEventListener("pointermove", (e) => (this.mouse = { x: e.clientX, y: e.clientY }), true);
    document.body.append(this.root, this.dot);
  }
  hide() {
    this.root.hidden = this.dot.hidden = true;
  }
  show({ attempt: a, index, dx, dy }, calls, options) {
    const smooth = a.smoothed(options.smoothing)[index];
    const value = a.values.all[index];
    const said = options.smoothing ? `${shown(value)}, smoothed ${shown(smooth)}` : shown(value);
    const others = a.others.map(([name, last]) => `${name} ${shown(last)}`);
    const attempt = a.attempt > 1 || !a.latest ? `attempt ${a.attempt}` : "";
    const lines = [
      a.name === a.arguments ? "" : a.arguments,
      a.name === a.key ? "" : a.key,
      [a.runner, attempt, a.state].filter(Boolean).join(" · ") + (a.why ? `: ${a.why}` : ""),
      `step ${a.steps.all[index].toLocaleString("en")}, after ${duration(a.seconds.all[index])}`,
      isNumber(a.best) ? `best ${shown(a.best)} at step ${a.at.toLocaleString("en")}` : "",
      others.length ? `last: ${others.join(", ")}` : "",
    ];
    this.root.replaceChildren(
      element("b", {}, a.name),
      element("div", {}, `${calls.metric} `, element("b", {}, said)),
      ...lines.filter(Boolean).map((line) => element("div", {}, line)),
    );
    this.root.hidden = this.dot.hidden = false;
    const { x, y } = this.mouse;
    const box = this.root.getBoundingClientRect();
    const left = x + 16 + box.width < innerWidth ? x + 16 : x - 16 - box.width;
    this.root.style.left = `${Math.max(4, left)}px`;
    this.root.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - box.height - 6))}px`;
    this.dot.style.left = `${x + dx}px`;
    this.dot.style.top = `${y + dy}px`;
  }
}

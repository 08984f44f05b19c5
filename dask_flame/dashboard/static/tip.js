// Tooltip of the point under the mouse.

const OTHERS = 4; // maximum number of other metrics in the tooltip

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
  show({ attempt: a, index, dx, dy, metric }, options) {
    const curve = a.curve(metric);
    const smooth = curve.smoothed(options.smoothing)[index];
    const value = curve.values.all[index];
    const { best, at, made } = a.result(metric);
    const said = options.smoothing ? `${shown(value)}, smoothed ${shown(smooth)}` : shown(value);
    const others = a.metrics.filter(([name]) => name !== metric).slice(0, OTHERS);
    const last = others.map(([name, , , value]) => `${name} ${shown(value)}`);
    const count = (n) => n.toLocaleString("en");
    const attempt = a.attempt > 1 || !a.latest ? `attempt ${a.attempt}` : "";
    const lines = a instanceof Group ? a.told(metric, index) : [
      a.name === a.arguments ? "" : a.arguments,
      a.name === a.key ? "" : a.key,
      [a.runner, attempt, outcome(a)].filter(Boolean).join(" · ") + (a.why ? `: ${a.why}` : ""),
      `step ${count(curve.steps.all[index])}, after ${duration(curve.seconds.all[index])}`,
      isNumber(best) ? `best ${shown(best)} at step ${count(at)}` : "",
      last.length ? `last: ${last.join(", ")}` : "",
      curve.length < made ? `${count(curve.length)} of ${count(made)} points` : "",
    ];
    this.root.replaceChildren(
      element("b", {}, a.name),
      element("div", {}, `${metric} `, element("b", {}, said)),
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

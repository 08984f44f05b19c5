// The drawer of one call: its state, the reason of its failure, arguments, attempts and times.

const DRAWER_STYLE = `
 :host { position: fixed; z-index: 900; top: 0; right: 0; bottom: 0; width: min(440px, 100vw);
  box-sizing: border-box; overflow: auto; padding: 14px 18px; background: var(--flame-card);
  color: var(--flame-ink); border-left: 1px solid var(--flame-rule);
  box-shadow: -4px 0 18px rgb(0 0 0 / 18%); font: 14px/1.45 Helvetica, Arial, sans-serif }
 :host([hidden]) { display: none }
 header { display: flex; gap: 10px; align-items: start }
 h2 { flex: 1; margin: 2px 0 6px; font-size: 17px; overflow-wrap: anywhere }
 h3 { margin: 16px 0 4px; font-size: 13px; color: var(--flame-quiet); font-weight: 600 }
 button { font: inherit; color: inherit; padding: 3px 9px; cursor: pointer;
  background: var(--flame-ground); border: 1px solid var(--flame-rule); border-radius: 4px }
 button:focus-visible, pre:focus-visible { outline: 2px solid #56B4E9 }
 dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0 }
 dt { color: var(--flame-quiet) }
 dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
 pre { margin: 0; padding: 8px 10px; overflow: auto; max-height: 40vh; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 12.5px; background: var(--flame-ground);
  border: 1px solid var(--flame-rule); border-radius: 4px }
 .bad { color: var(--flame-bad) }
 [hidden] { display: none !important }`;

class Drawer {
  /**
   * `close()` is called when the user closes it. `stop(attempt)`, if there is one, ends a call; the
   * button is shown for running calls and asks before it acts.
   */
  constructor({ close, stop }) {
    this.closed = close;
    this.stop = stop;
    this.attempt = null;
    this.asked = new Set(); // keys of the calls that were asked to stop
    /** @type {any} */
    this.before = null; // had the focus before the drawer was opened
    this.root = element("div", { hidden: true, dataset: { flame: "drawer" } });
    this.root.setAttribute("role", "dialog");
    this.name = element("h2", {});
    const shut = element("button", { type: "button", name: "close", title: "close (Esc)" }, "✕");
    shut.setAttribute("aria-label", "close");
    shut.onclick = () => close();
    this.shut = shut;
    this.end = element("button", { type: "button", name: "stop", hidden: true }, "stop this call");
    this.end.onclick = () => {
      if (!confirm(`Stop ${this.attempt.name} at its next report?`)) return;
      this.asked.add(this.attempt.key);
      this.stop(this.attempt);
      this.offer();
    };
    this.facts = element("dl", {});
    this.why = element("pre", { tabIndex: 0, className: "bad" });
    this.parameters = element("dl", {});
    this.results = element("dl", {});
    this.attempts = element("dl", {});
    this.lines = element("pre", { tabIndex: 0 });
    const part = (title, body) => element("section", {}, element("h3", {}, title), body);
    this.parts = {
      why: part("why it failed", this.why),
      parameters: part("arguments", this.parameters),
      results: part("results", this.results),
      attempts: part("earlier attempts", this.attempts),
      lines: part("printed", this.lines),
    };
    const shadow = this.root.attachShadow({ mode: "open" });
    shadow.append(
      element("style", {}, DRAWER_STYLE),
      element("header", {}, this.name, this.end, shut),
      this.facts,
      ...Object.values(this.parts),
    );
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
    });
    document.body.append(this.root);
  }
  /** Show a call, with its traceback and its printed lines as far as they have arrived. */
  show(attempt, calls, { traceback = "", lines = [] } = {}) {
    const opened = this.root.hidden;
    if (opened) this.before = document.activeElement;
    this.attempt = attempt;
    this.root.hidden = false;
    this.root.setAttribute("aria-label", `call ${attempt.name}`);
    write(this.name, attempt.name);
    this.offer();
    const time = (seconds) => (isNumber(seconds) ? clockTime(seconds) : "");
    const run = calls.runs.find(({ id }) => id === attempt.run);
    this.list(this.facts, [
      ["state", outcome(attempt) + (attempt.attempt > 1 ? `, attempt ${attempt.attempt}` : "")],
      ["progress", isNumber(attempt.progress) ? `${Math.round(100 * attempt.progress)} %` : ""],
      ["time left", isNumber(attempt.left) ? `about ${roughly(attempt.left)}` : ""],
      ["function", attempt.function],
      ["run", run?.name ?? ""],
      ["runner", attempt.runner],
      ["pool", attempt.pool],
      ["submitted", time(attempt.submitted)],
      ["began", time(attempt.started)],
      ["ended", time(attempt.finished)],
      ["took", isNumber(attempt.took) ? duration(attempt.took) : ""],
      ["key", attempt.key],
    ]);
    const given = attempt.parameters.map(([name, value]) => [name, valueText(value)]);
    this.fill("parameters", given.length ? given : [["", attempt.arguments]]);
    this.fill("results", attempt.metrics.map(([name, best, at, last]) => [
      name,
      `last ${shown(last)}` +
        (isNumber(best) ? `, best ${shown(best)} at step ${at.toLocaleString("en")}` : ""),
    ]));
    const earlier = calls.earlier([attempt]);
    this.fill("attempts", earlier.map((a) => [
      String(a.attempt), [outcome(a), a.runner, a.why].filter(Boolean).join(" · "),
    ]));
    this.parts.why.hidden = !attempt.why;
    write(this.why, traceback ? `${attempt.why}\n\n${traceback}` : attempt.why);
    this.parts.lines.hidden = !lines.length;
    write(this.lines, lines.join("\n"));
    if (opened) this.shut.focus();
  }
  /** Show the button that stops the call, if it can be stopped. */
  offer() {
    const { key, state } = this.attempt;
    const asked = this.asked.has(key);
    this.end.hidden = !this.stop || state !== "running";
    this.end.disabled = asked;
    write(this.end, asked ? "stops at its next report" : "stop this call");
  }
  hide() {
    if (this.root.hidden) return;
    this.root.hidden = true;
    this.before?.focus?.();
  }
  fill(part, facts) {
    const said = this.list(this[part], facts);
    this.parts[part].hidden = !said;
  }
  /** Show names and texts; return whether there are any. */
  list(place, facts) {
    const said = facts.filter(([, text]) => text !== "");
    const words = JSON.stringify(said);
    if (place.dataset.words !== words) {
      place.dataset.words = words;
      place.replaceChildren(
        ...said.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]),
      );
    }
    return said.length > 0;
  }
}

/** The value of an argument. */
function valueText(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "number" ? shown(value) : String(value);
}

/** A date and time, in seconds since 1970. */
function clockTime(seconds) {
  return new Date(1000 * seconds).toLocaleString(undefined, {
    dateStyle: "medium", timeStyle: "medium",
  });
}

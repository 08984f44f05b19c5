// The table of calls.

const ROWS = 200; // maximum number of calls in the ranking

const TABLE_STYLE = `
 .scroll { position: absolute; inset: 0; overflow: auto; font-family: Helvetica, Arial, sans-serif }
 table { width: 100%; border-collapse: collapse; font-size: 13px; color: var(--flame-ink) }
 th { position: sticky; top: 0; background: var(--flame-ground); font-weight: normal;
  color: var(--flame-quiet); box-shadow: inset 0 -1px var(--flame-rule) }
 th, td { text-align: right; padding: 3px 6px; white-space: nowrap;
  font-variant-numeric: tabular-nums }
 td { border-bottom: 1px solid color-mix(in srgb, var(--flame-rule) 45%, transparent) }
 .text { text-align: left; max-width: 120px; overflow: hidden; text-overflow: ellipsis }
 .call { width: 100%; max-width: 0 } /* what the others leave */
 tbody tr { cursor: pointer }
 tbody tr:hover, tr.focus { background: color-mix(in srgb, #56B4E9 22%, transparent) }
 .first td { font-weight: 600 }
 .bad { color: var(--flame-bad) }
 .quiet { color: var(--flame-quiet) }
 p { margin: 8px 6px; font-size: 13px; color: var(--flame-quiet) }`;

const SIGNS = { running: "●", done: "■", failed: "✕", cancelled: "✕", lost: "✕" };

class Table {
  /** @param {any} colors @param {any} callbacks */
  constructor(colors, { point, open }) {
    this.colors = colors;
    this.pointed = point;
    this.open = open;
    this.rows = new Map();
    this.head = element("tr");
    this.body = element("tbody", { onmouseleave: () => point(null) });
    this.more = element("p", { hidden: true });
    const table = element("table", {}, element("thead", {}, this.head), this.body);
    this.root = element(
      "div",
      { className: "scroll" },
      element("style", {}, TABLE_STYLE),
      table,
      this.more,
    );
  }
  draw(calls, rows, _options, focus) {
    this.metric = calls.metric;
    const heads = ["#", "call", "runner", "step", `best ${calls.metric}`, "last"];
    if (this.heads !== heads.join("\0")) {
      this.heads = heads.join("\0");
      const text = (i) => (i === 1 || i === 2 ? "text" : "");
      this.head.replaceChildren(
        ...heads.map((word, i) => element("th", { className: text(i), title: word }, word)),
      );
    }
    const listed = rows.slice(0, ROWS);
    const kept = new Set(listed.map((a) => a.id));
    for (const [id, row] of this.rows) {
      if (!kept.has(id)) {
        row.tr.remove();
        this.rows.delete(id);
      }
    }
    listed.forEach((attempt, place) => {
      const row = this.row(attempt);
      this.fill(row, attempt, place, rows.length, focus);
      if (this.body.children[place] !== row.tr) {
        this.body.insertBefore(row.tr, this.body.children[place] ?? null);
      }
    });
    this.more.hidden = rows.length <= ROWS;
    write(this.more, `and ${(rows.length - ROWS).toLocaleString("en")} more`);
  }
  row(attempt) {
    let row = this.rows.get(attempt.id);
    if (!row) {
      const sign = element("span");
      const name = document.createTextNode("");
      const again = element("span", { className: "quiet" });
      const call = element("td", { className: "text call" }, sign, " ", name, again);
      const cells = Array.from({ length: 5 }, () => element("td"));
      cells[1].className = "text";
      const tr = element("tr", {}, cells[0], call, ...cells.slice(1));
      tr.onmouseenter = () => this.pointed(this.rows.get(attempt.id)?.attempt ?? null);
      tr.onclick = () => this.open(attempt);
      row = { tr, sign, name, again, call, cells };
      this.rows.set(attempt.id, row);
    }
    row.attempt = attempt;
    return row;
  }
  fill(row, a, place, n, focus) {
    const bad = a.state === "failed" || a.state === "lost" || a.state === "cancelled";
    write(row.sign, SIGNS[a.state] ?? "●");
    row.sign.style.color = bad ? "var(--flame-bad)" : this.colors.of(a, place, n);
    write(row.name, a.name);
    write(row.again, a.attempt > 1 ? ` attempt ${a.attempt}` : "");
    row.call.title = [a.key, a.arguments, a.state, a.why].filter(Boolean).join("\n");
    const { best, last: latest } = a.result(this.metric);
    const ranked = isNumber(best);
    const count = (value) => (isNumber(value) ? value.toLocaleString("en") : "–");
    const last = bad ? a.state : shown(latest);
    [ranked ? String(place + 1) : "", a.runner, count(a.step), shown(best), last].forEach(
      (text, i) => write(row.cells[i], text),
    );
    row.cells[4].className = bad ? "bad" : "";
    const classes = [place === 0 && ranked && "first", a === focus && "focus"];
    row.tr.className = classes.filter(Boolean).join(" ");
  }
}

// The table of calls: a row for each call or group of calls, a column for each value.

const BEYOND = 8; // number of rows that are rendered above and below the visible ones
const STICKY = 5; // maximum number of pinned rows that do not scroll

class Table {
  constructor(colors, { choose, point, open }) {
    this.colors = colors;
    this.choose = choose;
    this.point = point;
    this.open = open;
    this.rows = new Map(); // rendered rows by the id of their entry
    this.entries = [];
    this.opened = new Set(); // keys of groups whose calls are shown
    this.active = ""; // id of the entry that the keyboard acts on
    this.last = null; // arguments of the last draw()
    this.over = false; // whether the mouse is at the table
    this.choice = ""; // what the calls are sorted by, and the order of their keys
    this.order = [];
    this.tools = new TableTools({ choose, download: () => this.csv() });
    const groups = element("colgroup");
    this.head = element("tr");
    this.body = element("tbody");
    this.above = this.space();
    this.below = this.space();
    this.table = element(
      "table",
      { role: "grid", tabIndex: 0, ariaLabel: "calls" },
      groups, element("thead", {}, this.head), this.body,
    );
    this.scroll = element("div", { className: "scroll" }, this.table);
    this.more = element("div", { className: "more", hidden: true, ariaHidden: "true" }, "›");
    this.root = element(
      "div", { className: "whole" },
      element("style", {}, TABLE_STYLE), this.tools.root, this.scroll, this.more,
    );
    this.widths = new Widths(this.table, this.scroll, groups);
    this.scroll.onscroll = () => this.paint();
    new ResizeObserver(() => this.paint()).observe(this.scroll);
    this.table.onmouseenter = () => (this.over = true);
    this.table.onmouseleave = () => {
      this.over = false;
      point(null);
    };
    this.table.onkeydown = (event) => this.key(event);
    this.table.onfocus = () => {
      if (this.table.matches(":focus-visible")) this.move(0);
    };
    this.table.onblur = () => point(null);
  }
  space() {
    const tr = element("tr", { className: "space", ariaHidden: "true" }, element("td"));
    return tr;
  }
  draw(calls, rows, options, focus) {
    const columns = columnsOf(calls);
    const shownOnes = shownColumns(columns, options.columns);
    const names = groupNames(options.group, calls.parameters);
    this.last = { calls, rows, options, focus, columns, shownOnes, names, now: calls.clock() };
    this.texts = textColumns(shownOnes, rows);
    this.entries = this.listed();
    this.tools.draw(calls, rows, options, columns);
    this.paint();
  }
  /** Rows of the table in their order: {id, attempt} for calls, {id, group} for groups. */
  listed() {
    const { calls, rows, options, names, now, columns } = this.last;
    const pinned = new Set(options.pinned);
    const sort = columns.find((column) => column.id === options.sort);
    this.ranks = new Map(rows.map((a, i) => [a, i]));
    const value = options.sort === "call" ? (a) => a.name : sort && ((a) => sort.value(a, now));
    const ordered = this.held(value ? sortedBy(rows, value, options.descending) : rows);
    const top = ordered.filter((a) => pinned.has(a.key));
    const call = (attempt, inGroup) => ({ id: `${inGroup ? "member" : "call"}-${attempt.id}`, attempt, inGroup });
    const found = top.map((a) => ({ ...call(a, false), top: true }));
    if (!names.length) {
      return [...found, ...ordered.filter((a) => !pinned.has(a.key)).map((a) => call(a, false))];
    }
    const groups = grouped(ordered, options.group, calls.parameters, options.x);
    const result = metricColumn(columns, calls.metric);
    const by = sort ?? result;
    const descending = sort ? options.descending : by?.better === "max";
    const worth = (group) => this.groupValue(group, by, names);
    for (const group of by ? sortedBy(groups, worth, descending) : groups) {
      found.push({ id: `group-${group.place}`, group });
      if (this.opened.has(group.key)) found.push(...group.members.map((a) => call(a, true)));
    }
    return found;
  }
  /** Calls in their order; while the mouse is at the table, in that in which it has found them. */
  held(ordered) {
    const { calls, options } = this.last;
    const { sort, descending, group, search } = options;
    const choice = JSON.stringify([sort, descending, group, search, calls.metric]);
    if (this.over && choice === this.choice && calls.unfinished()) {
      const places = new Map(this.order.map((key, i) => [key, i]));
      const place = (a) => places.get(a.key) ?? Infinity;
      ordered = ordered.slice().sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
    }
    this.choice = choice;
    this.order = ordered.map((a) => a.key);
    return ordered;
  }
  /** The value that a group is sorted by: that of a parameter in common, or the mean. */
  groupValue(group, column, names) {
    if (names.includes(column.name) && !column.of) return column.value(group.members[0]);
    const values = group.members.map((a) => column.value(a, this.last.now));
    const { n, mean } = statistics(values);
    return n ? mean : values[0];
  }
  /** Render the rows that are visible. */
  paint() {
    if (!this.last) return;
    const { shownOnes, options } = this.last;
    const n = this.entries.length;
    const tops = this.entries.findIndex((entry) => !entry.top);
    const sticky = Math.min(STICKY, tops < 0 ? n : tops);
    const height = this.scroll.clientHeight || 400;
    const first = Math.max(sticky, Math.floor(this.scroll.scrollTop / ROW) - BEYOND);
    const end = Math.min(n, Math.ceil((this.scroll.scrollTop + height) / ROW) + BEYOND);
    const seen = [...this.entries.slice(0, sticky), ...this.entries.slice(first, end)];
    const texts = seen.map((entry) => shownOnes.map((column) => this.text(entry, column)));
    this.widths.measure(this.last, seen, texts);
    this.header(shownOnes, options);
    const headHeight = this.head.offsetHeight;
    const kept = new Set(seen.map((entry) => entry.id));
    for (const [id, row] of this.rows) {
      if (!kept.has(id)) {
        row.tr.remove();
        this.rows.delete(id);
      }
    }
    const before = (first - sticky) * ROW;
    const after = Math.max(0, n - Math.max(end, sticky)) * ROW;
    for (const [space, size] of [[this.above, before], [this.below, after]]) {
      space.style.setProperty("--height", `${size}px`);
      space.hidden = !size;
      space.firstElementChild.colSpan = shownOnes.length + 3;
    }
    const wanted = seen.map((entry, i) => {
      const at = i < sticky ? i : first + i - sticky;
      const row = this.row(entry);
      this.fill(row, entry, at, i < sticky ? headHeight + i * ROW : -1, i === sticky - 1);
      shownOnes.forEach((column, k) => this.cell(row.cells[k], column, entry, texts[i][k]));
      return row.tr;
    });
    wanted.splice(sticky, 0, this.above);
    wanted.push(this.below);
    wanted.forEach((tr, i) => {
      if (this.body.children[i] !== tr) this.body.insertBefore(tr, this.body.children[i] ?? null);
    });
    mark(this.table, "role", this.last.names.length ? "treegrid" : "grid");
    mark(this.table, "aria-rowcount", String(n + 1));
    mark(this.table, "aria-colcount", String(shownOnes.length + 2));
    if (this.rows.has(this.active)) mark(this.table, "aria-activedescendant", this.rows.get(this.active).tr.id);
    else this.table.removeAttribute("aria-activedescendant");
    this.edge();
  }
  /** Show at the right edge whether there are more columns. */
  edge() {
    const { scroll, more } = this;
    more.hidden = scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft < 2;
    more.style.top = `${scroll.offsetTop}px`;
    more.style.height = `${Math.min(scroll.clientHeight, this.table.offsetHeight)}px`;
    more.style.right = `${scroll.offsetWidth - scroll.clientWidth}px`;
  }
  header(shownOnes, options) {
    const unfinished = this.last.calls.unfinished();
    const heads = [
      unfinished ? { id: "", title: "#", caption: "so far", hint: "best first; calls still run" }
        : { id: "", title: "#", hint: "best first" },
      { id: "call", title: this.widths.title, hint: "name of the call" },
      ...shownOnes.map((column) => ({ ...column, title: column.head ?? column.title, hint: hintOf(column, this.last.calls) })),
    ];
    const text = JSON.stringify(heads.map(({ id, title, hint, caption }) => [id, title, hint, caption, this.texts.has(id)]));
    if (this.heads !== text) {
      this.heads = text;
      this.head.replaceChildren(...heads.map((column, i) => this.heading(column, i)), element("td"));
    }
    heads.forEach(({ id }, i) => {
      const th = this.head.children[i];
      const order = options.sort !== id ? "none" : options.descending ? "descending" : "ascending";
      mark(th, "aria-sort", order);
      write(th.querySelector(".sign"), order === "none" ? "" : order === "ascending" ? " ▴" : " ▾");
    });
  }
  heading({ id, title, of, better, hint, caption: own = "" }, i) {
    const caption = of ? `${of}${of === "best" ? (better === "max" ? " ↑" : " ↓") : ""}` : own;
    const button = element(
      "button", { type: "button", title: hint },
      element("small", {}, caption), title, element("span", { className: "sign" }),
    );
    button.onclick = () => this.sortBy(id, of && better === "max");
    const side = i === 0 ? "lead" : i === 1 ? "call" : this.texts.has(id) ? "text" : "";
    return element("th", { scope: "col", className: side }, button);
  }
  /** Sort by a column, in its first direction, then in the other one, then by rank again. */
  sortBy(id, largestFirst) {
    const { options } = this.last;
    const first = Boolean(largestFirst);
    if (!id || (options.sort === id && options.descending !== first)) {
      this.choose({ sort: "", descending: false });
    } else {
      this.choose({ sort: id, descending: options.sort === id ? !first : first });
    }
  }
  row(entry) {
    let row = this.rows.get(entry.id);
    if (row) return row;
    const toggle = (label, path, crossed) => {
      const button = element(
        "button", { type: "button", tabIndex: -1, title: label, ariaLabel: label },
        icon(drawing("path", { d: path, class: crossed ? "" : "filled" }),
          ...(crossed ? [drawing("path", { d: "M2.5 13.5 L13.5 2.5", class: "off" })] : [])),
      );
      return button;
    };
    const pin = toggle("pin", PIN, false);
    const eye = toggle("hide the curve", EYE, true);
    const rank = element("span", { className: "rank" });
    const lead = element("td", { className: "lead" }, pin, eye, rank);
    const line = drawing("line", { x1: 1, y1: 4, x2: 19, y2: 4, "stroke-width": 3 });
    const sample = drawing("svg", { class: "line", viewBox: "0 0 20 8", "aria-hidden": "true" }, line);
    const sign = element("span");
    const name = element("span");
    const more = element("span", { className: "quiet" });
    const call = element("th", { scope: "row", className: "call" }, sample, sign, " ", name, more);
    const tr = element("tr", { id: `flame-${entry.id}` }, lead, call);
    row = { tr, pin, eye, rank, lead, sample, line, sign, name, more, call, cells: [], entry };
    this.rows.set(entry.id, row);
    const own = row;
    tr.onmouseenter = () => this.point(own.entry.attempt ?? own.entry.group);
    tr.onclick = () => this.act("Enter", own.entry);
    pin.onclick = (event) => (event.stopPropagation(), this.act("p", own.entry));
    eye.onclick = (event) => (event.stopPropagation(), this.act("h", own.entry));
    return row;
  }
  fill(row, entry, at, top, last) {
    row.entry = entry;
    const { options, focus, shownOnes } = this.last;
    const { attempt: a, group } = entry;
    mark(row.tr, "aria-rowindex", String(at + 2));
    if (this.last.names.length) mark(row.tr, "aria-level", entry.inGroup ? "2" : "1");
    else row.tr.removeAttribute("aria-level");
    const key = a?.key;
    const hiding = group ? group.members.every((m) => options.hidden.includes(m.key)) : options.hidden.includes(key);
    const pinned = group ? group.members.every((m) => options.pinned.includes(m.key)) : options.pinned.includes(key);
    mark(row.pin, "aria-pressed", String(pinned));
    mark(row.eye, "aria-pressed", String(hiding));
    const classes = {
      group, hiding, pinned: top >= 0, last: top >= 0 && last,
      focus: (a ?? group) === focus, active: entry.id === this.active,
    };
    const names = Object.entries(classes).filter(([, on]) => on).map(([name]) => name).join(" ");
    if (row.tr.className !== names) row.tr.className = names;
    if (top >= 0) row.tr.style.setProperty("--top", `${top}px`);
    if (group) this.fillGroup(row, group);
    else this.fillCall(row, a);
    this.fit(row, shownOnes.length + 1);
  }
  /** Give a row as many cells as there are columns. */
  fit(row, n) {
    while (row.cells.length > n) row.cells.pop().remove();
    while (row.cells.length < n) {
      row.cells.push(element("td"));
      row.tr.append(row.cells[row.cells.length - 1]);
    }
  }
  fillCall(row, a) {
    const { rows, calls } = this.last;
    const place = this.ranks.get(a);
    const ranked = hasRank(a) && isNumber(metricOf(a, calls.metric)?.best);
    write(row.rank, ranked ? String(place + 1) : "");
    const color = this.colors.of(a, place, rows.length);
    mark(row.line, "stroke", color);
    const dash = STROKES[this.colors.dash(a, rows.length)];
    mark(row.line, "stroke-dasharray", dash ?? "none");
    // Calls of a group are drawn together, in its color.
    row.sample.style.visibility = a.state === "waiting" || row.entry.inGroup ? "hidden" : "";
    write(row.sign, SIGNS[a.state] ?? "●");
    row.sign.style.color = BAD_STATES.has(a.state) ? "var(--flame-bad)"
      : row.entry.inGroup ? "var(--flame-quiet)" : color;
    const again = a.attempt > 1 && !this.widths.narrow;
    this.name(row, a.name, again ? 70 : 0);
    write(row.more, again ? ` attempt ${a.attempt}` : "");
    const title = [
      a.name, a.key, a.arguments, stateText(a), a.attempt > 1 ? `attempt ${a.attempt}` : "",
    ].filter(Boolean);
    row.call.title = [...new Set(title)].join("\n");
  }
  fillGroup(row, group) {
    const open = this.opened.has(group.key);
    mark(row.tr, "aria-expanded", String(open));
    write(row.rank, "");
    const n = this.entries.filter((entry) => entry.group).length;
    mark(row.line, "stroke", this.colors.of(group, group.place, n));
    mark(row.line, "stroke-dasharray", STROKES[this.colors.dash(group, n)] ?? "none");
    write(row.sign, open ? "▾" : "▸");
    this.name(row, group.name, 28);
    write(row.more, ` (${group.members.length})`);
    row.call.title = `${group.name}: ${group.members.length} calls`;
  }
  text({ attempt, group }, column) {
    return group ? this.groupText(group, column) : column.text(attempt, this.last.now);
  }
  /** Write a name, without its middle if it is too long: names often differ at their ends. */
  name(row, name, taken) {
    const room = this.widths.get("call") - 62 - taken;
    write(row.name, withoutMiddle(this.widths.brief ? withoutNames(name) : name, room));
    mark(row.call, "aria-label", name);
  }
  cell(td, column, { attempt: a, group }, text) {
    const { rows } = this.last;
    const classes = [];
    if (this.texts.has(column.id)) classes.push("text");
    if (column.id === "state" && a && BAD_STATES.has(a.state)) classes.push("bad");
    if (a && column.of === "best" && hasRank(a) && column.value(a) === this.bestOf(column, rows)) classes.push("best");
    const names = classes.join(" ");
    if (td.className !== names) td.className = names;
    const share = column.id === "state" && a?.state === "running" ? a.progress : null;
    const bar = td.querySelector(".bar");
    if (!isNumber(share)) {
      if (bar) td.replaceChildren();
      write(td, text);
    } else if (bar) {
      bar.firstChild.style.width = `${100 * share}%`;
      write(bar.nextSibling, text);
    } else {
      const done = element("span");
      done.style.width = `${100 * share}%`;
      td.replaceChildren(element("span", { className: "bar" }, done), element("span", {}, text));
    }
    const title = group && column.of ? extremes(group, column) : text;
    if (td.title !== title) td.title = title;
  }
  /** The best value of a column, computed once for each list of rows. */
  bestOf(column, rows) {
    if (this.bestRows !== rows) {
      this.bestRows = rows;
      this.bests = new Map();
    }
    if (!this.bests.has(column.id)) {
      const { low, high } = statistics(rows.filter(hasRank).map((a) => column.value(a)));
      this.bests.set(column.id, column.better === "max" ? high : low);
    }
    return this.bests.get(column.id);
  }
  groupText(group, column) {
    const { members } = group;
    const { names, now } = this.last;
    if (column.of) return spreadText(statistics(members.map((a) => column.value(a))));
    if (column.id === "state") return counts(members.map(outcome));
    if (column.id === "duration") {
      const { n, mean } = statistics(members.map((a) => column.value(a, now)));
      return n ? column.text({ took: mean }, now) : "";
    }
    const texts = new Set(members.map((a) => column.text(a, now)));
    if (names.includes(column.name) || texts.size === 1) return column.text(members[0], now);
    return `${texts.size} values`;
  }
  /** Do as a key says, with the row that is active. */
  key(event) {
    if (event.target !== this.table || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 2);
    const moves = {
      ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity,
    };
    if (event.key in moves) this.move(moves[event.key]);
    else if (!this.act(event.key, this.entries.find((entry) => entry.id === this.active))) return;
    event.preventDefault();
  }
  move(by) {
    const n = this.entries.length;
    if (!n) return;
    const found = this.entries.findIndex((entry) => entry.id === this.active);
    const at = Math.max(0, Math.min(n - 1, (found < 0 ? (by > 0 ? -1 : 0) : found) + by));
    this.active = this.entries[at].id;
    this.reveal(at);
    this.paint();
    this.point(this.entries[at].attempt ?? this.entries[at].group);
  }
  /** Scroll so that a row can be seen between the pinned rows and the lower edge. */
  reveal(at) {
    const tops = this.entries.filter((entry) => entry.top).length;
    const covered = this.head.offsetHeight + Math.min(STICKY, tops) * ROW;
    const top = this.head.offsetHeight + at * ROW;
    if (at < Math.min(STICKY, tops)) return;
    const { scrollTop, clientHeight } = this.scroll;
    if (top - covered < scrollTop) this.scroll.scrollTop = top - covered;
    else if (top + ROW > scrollTop + clientHeight) this.scroll.scrollTop = top + ROW - clientHeight;
  }
  /** Do something with a row; return whether the key means something. */
  act(key, entry) {
    if (!entry) return false;
    const { options } = this.last;
    const { attempt, group } = entry;
    const keys = group ? group.members.map((a) => a.key) : [attempt.key];
    if (key === "p") this.choose({ pinned: toggledAll(options.pinned, keys) });
    else if (key === "h") this.choose({ hidden: toggledAll(options.hidden, keys) });
    else if (key === "Enter" && attempt) this.open(attempt);
    else if (group && (key === "Enter" || key === " ")) this.unfold(group, !this.opened.has(group.key));
    else if (group && key === "ArrowRight" && !this.opened.has(group.key)) this.unfold(group, true);
    else if (group && key === "ArrowLeft" && this.opened.has(group.key)) this.unfold(group, false);
    else return false;
    return true;
  }
  unfold(group, open) {
    if (open) this.opened.add(group.key);
    else this.opened.delete(group.key);
    this.entries = this.listed();
    this.paint();
  }
  /** The calls of the table as CSV, in the order of the rows. */
  csv() {
    const { columns, now, rows, options } = this.last;
    const sort = columns.find((column) => column.id === options.sort);
    const ordered = sort ? sortedBy(rows, (a) => sort.value(a, now), options.descending) : rows;
    return csvOf(ordered, columns, now);
  }
}

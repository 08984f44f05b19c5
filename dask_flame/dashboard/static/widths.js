// Widths of the columns of the table of calls.

const NAME = { least: 170, most: 320, share: 0.42 }; // width of the names, in pixels and of the table
const REASON = { least: 130, most: 235 }; // maximum width of the states, in pixels
const RESULT = 100; // width of a result in pixels
const NARROW = 420; // width of the table in pixels below which only the names do not scroll
const SIGN = "————"; // as wide as the signs before a name, and as a bar

class Widths {
  /** `groups` are the table's columns; `scroll` has the table's room. */
  constructor(table, scroll, groups) {
    this.table = table;
    this.scroll = scroll;
    this.groups = groups;
    this.kept = new Map();
    this.narrow = false;
    this.brief = false; // whether calls are written without the names of their arguments
    this.title = "call"; // of the column of names
    this.most = 0; // maximum width of the names
    this.running = false; // whether there are bars
    this.ids = ""; // of the columns that were measured
    this.sized = ""; // the widths that the table has
  }
  get(id) {
    return this.kept.get(id);
  }
  /** Widen columns that are too narrow; they never become narrower, so that nothing jumps. */
  measure({ shownOnes, calls, options }, seen, texts) {
    const ids = [options.group, ...shownOnes.map((column) => column.id)].join("\0");
    if (this.ids !== ids) this.kept.clear();
    this.ids = ids;
    // Nothing is left of the bars when no call runs any more.
    const running = seen.some(({ attempt }) => isNumber(attempt?.progress) && attempt.state === "running");
    if (running !== this.running) this.kept.delete("state");
    this.running = running;
    this.narrow = this.scroll.clientWidth < NARROW;
    this.table.classList.toggle("narrow", this.narrow);
    this.measureNames(seen);
    // The first result should be visible beside the reason of a failure.
    const rest = this.scroll.clientWidth - LEAD - this.get("call") - RESULT;
    shownOnes.forEach((column, k) => {
      const state = column.id === "state";
      const most = state ? Math.max(REASON.least, Math.min(REASON.most, rest)) : column.of ? 190 : 160;
      this.widen(column.id, `${column.head ?? column.title} ▾`, 44, most);
      // Digits have the same width: of the texts with most characters one is the widest or nearly so.
      const bar = state && running ? SIGN : "";
      this.widen(column.id, bar + longest(texts.map((own) => own[k])), 44, most, Boolean(column.of));
    });
    this.apply([LEAD, this.get("call"), ...shownOnes.map(({ id }) => this.get(id))], calls.metrics.length);
  }
  /**
   * Widen the column of the names. If one of them does not fit, all are written without the names of
   * their arguments, which are then the title of the column.
   */
  measureNames(seen) {
    // About a third of the table.
    const most = Math.round(Math.max(NAME.least, Math.min(NAME.most, NAME.share * this.scroll.clientWidth)));
    if (most !== this.most || !this.kept.has("call")) {
      this.kept.delete("call");
      this.brief = false;
      this.title = "call";
    }
    this.most = most;
    const full = ({ group, attempt: a }) => {
      if (group) return `${group.name} (${group.members.length})`;
      return a.attempt > 1 && !this.narrow ? `${a.name} attempt ${a.attempt}` : a.name;
    };
    const names = seen.map(full);
    if (!this.brief && wordWidth(SIGN + longest(names)) + 16 > most) {
      this.brief = true;
      this.title = argumentNames((seen[0].group ?? seen[0].attempt).name) || "call";
      this.kept.delete("call");
    }
    this.widen("call", `${this.title} ▾`, 90, most);
    this.widen("call", SIGN + longest(this.brief ? names.map(withoutNames) : names), 90, most);
  }
  widen(id, text, least, most, bold = false) {
    const width = Math.min(most, Math.ceil(wordWidth(text, bold)) + 16);
    if (width > (this.get(id) ?? least)) this.kept.set(id, width);
    else if (!this.kept.has(id)) this.kept.set(id, least);
  }
  /** Give the columns their widths; one more takes the room that is left. */
  apply(widths, metrics) {
    const text = `${widths.join()} ${metrics}`;
    if (this.sized === text) return;
    this.sized = text;
    this.table.style.minWidth = `${widths.reduce((sum, width) => sum + width, 0)}px`;
    this.groups.replaceChildren(...widths.map((width) => {
      const column = element("col");
      column.style.width = `${width}px`;
      return column;
    }), element("col"));
  }
}

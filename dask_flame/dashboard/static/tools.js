// Above the table of calls: which columns are shown, groups, pinned and hidden calls, CSV.

const TOOLS_STYLE = `
 .tools { display: flex; align-items: center; gap: 4px 10px; padding: 2px 2px 5px;
  position: relative }
 .tools button, .tools select { font: inherit; color: inherit; padding: 3px 7px; cursor: pointer;
  background: var(--flame-card); border: 1px solid var(--flame-rule); border-radius: 4px }
 .tools select { max-width: 150px; min-width: 0; flex: 0 1 auto }
 .tools button { white-space: nowrap }
 .tools :is(button, select, input):focus-visible { outline: 2px solid #56B4E9 }
 .tools .quiet { color: var(--flame-quiet); font-size: 12px }
 .tools .keys { flex: 1 1 0; min-width: 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; text-align: right }
 .menu { position: absolute; z-index: 10; top: 100%; left: 0; max-height: min(60vh, 420px);
  max-width: calc(100% - 4px); box-sizing: border-box; overflow: auto; padding: 4px 12px 10px;
  display: flex; flex-wrap: wrap; gap: 0 22px; border-radius: 5px; background: var(--flame-card);
  border: 1px solid var(--flame-rule); box-shadow: 0 3px 12px rgb(0 0 0 / 22%) }
 .menu fieldset { border: 0; margin: 0; padding: 6px 0 0; min-width: 0 }
 .menu legend { padding: 0; color: var(--flame-quiet); font-size: 12px }
 .menu label { display: flex; align-items: center; gap: 6px; min-height: 24px; cursor: pointer }`;

const MENU_GROUPS = [["parameter", "parameters"], ["metric", "metrics"], ["call", "call"]];
const KEYS = "↑ ↓ move · Enter opens · p pins · h hides";

class TableTools {
  constructor({ choose, download }) {
    this.choose = choose;
    this.menu = element("div", { className: "menu", hidden: true, id: "flame-columns" });
    this.button = element("button", { type: "button", name: "columns" }, "columns ▾");
    this.button.setAttribute("aria-expanded", "false");
    this.button.setAttribute("aria-controls", "flame-columns");
    this.button.onclick = () => this.show(this.menu.hidden);
    this.group = element("select", { name: "group", ariaLabel: "group calls" });
    this.group.onchange = () => choose({ group: this.group.value });
    const csv = element("button", { type: "button", name: "csv", title: "download the table" }, "CSV");
    csv.onclick = () => save(download(), "calls.csv");
    this.again = element("button", { type: "button", name: "unhide", hidden: true });
    this.again.onclick = () => choose({ hidden: [] });
    this.unpin = element("button", { type: "button", name: "unpin", hidden: true });
    this.unpin.onclick = () => choose({ pinned: [] });
    this.root = element(
      "div", { className: "tools" },
      element("style", {}, TOOLS_STYLE),
      this.button, this.group, this.unpin, this.again,
      element("span", { className: "quiet keys", title: KEYS }, KEYS), csv, this.menu,
    );
    this.root.onkeydown = (event) => {
      if (event.key !== "Escape" || this.menu.hidden) return;
      this.show(false);
      this.button.focus();
    };
    addEventListener("pointerdown", (event) => {
      if (!event.composedPath().includes(this.root)) this.show(false);
    });
  }
  show(shownNow) {
    this.menu.hidden = !shownNow;
    mark(this.button, "aria-expanded", String(shownNow));
    if (shownNow) this.menu.querySelector("input")?.focus();
  }
  draw(calls, rows, options, columns) {
    this.columns(columns, options.columns ?? []);
    this.groups(calls.parameters, options.group);
    const keys = new Set(rows.map((a) => a.key));
    const count = (list) => list.filter((key) => keys.has(key)).length;
    const [hidden, pinned] = [count(options.hidden), count(options.pinned)];
    this.again.hidden = !hidden;
    this.unpin.hidden = !pinned;
    write(this.again, `show ${hidden} hidden`);
    write(this.unpin, `unpin ${pinned}`);
  }
  columns(columns, choices) {
    const text = JSON.stringify([columns.map(({ id, usual }) => [id, usual]), choices]);
    if (this.listed === text) return;
    this.listed = text;
    const chosen = new Set(shownColumns(columns, choices).map(({ id }) => id));
    const focused = this.menu.contains(active(this.menu)) ? active(this.menu).value : null;
    const box = (column) => {
      const input = element("input", { type: "checkbox", value: column.id, checked: chosen.has(column.id) });
      input.onchange = () => this.choose({ columns: toggledColumn(column, choices) });
      return element("label", {}, input, column.of ? `${column.of} ${column.title}` : column.title);
    };
    this.menu.replaceChildren(...MENU_GROUPS.flatMap(([group, title]) => {
      const own = columns.filter((column) => column.group === group);
      return own.length ? [element("fieldset", {}, element("legend", {}, title), ...own.map(box))] : [];
    }));
    if (focused === null) return;
    [...this.menu.querySelectorAll("input")].find((input) => input.value === focused)?.focus();
  }
  groups(parameters, group) {
    const text = parameters.join("\0");
    if (this.parameters !== text) {
      this.parameters = text;
      const each = (label, prefix) => {
        const options = parameters.map((name) =>
          element("option", { value: prefix + name }, prefix ? `mean over ${name}` : `group by ${name}`));
        return element("optgroup", { label }, ...options);
      };
      const over = parameters.length > 1 ? [each("calls that differ in one parameter", OVER)] : [];
      this.group.replaceChildren(
        element("option", { value: "" }, "no groups"),
        ...(parameters.length ? [each("calls with one parameter in common", ""), ...over] : []),
      );
    }
    if (this.group.value !== group) this.group.value = group;
    this.group.hidden = !parameters.length;
  }
}

/** The element with the focus, inside of the shadow root of a node. */
const active = (node) => node.getRootNode().activeElement;

/** Let the browser save a text as a file. */
function save(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

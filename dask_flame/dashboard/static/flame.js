// The page /flame: connects the scheduler's updates, the user's choices and the drawing.

const DEFAULTS = {
  metrics: [], // as chosen by the user; calls.drawn are those that are drawn
  x: "steps", log: false, smoothing: 0, colors: "call", view: "curves", search: "",
  run: [], // ids of runs; empty for all
  sort: "", descending: false, group: "",
  pinned: [], hidden: [], // keys of calls
  columns: [], // "+id" and "-id" of columns that are shown or not, unlike the usual ones
  whole: false, // whether to show outliers
  zoom: null, // [x0, x1, then the two ends of each chart's vertical axis], or null
  open: "", // key of the call in the drawer
};

function main(args, { index }) {
  const { feed, bar, side, more, empty, bare, side_by_side, charts, look, pools } = args;
  const defaults = { ...DEFAULTS, ...look.options };
  const options = { ...defaults, ...readAddress(location.search) };
  const calls = new Calls();
  const colors = new Colors(look);
  const curves = new Charts(feed.document, colors, (figure) => resized(figure));
  /** @type {Grid | null} */
  let multiples = null;
  const tip = new Tip();
  const connection = new Connection(feed, look.scheduler, (gone) => controls.gone(gone));
  let focus = null;
  let details = {}; // of the open call: its traceback and its printed lines
  let planned = false;
  let shownView = "";

  /** Change choices, write the address, ask for other data if needed, and draw. */
  const choose = (changed) => {
    if (["x", "log", "view", "metrics", "run", "zoom"].some((name) => name in changed)) {
      options.zoom = null;
    }
    Object.assign(options, changed);
    colors.by = options.colors;
    if ("metrics" in changed || "run" in changed) {
      feed.wanted = { metrics: options.metrics, runs: options.run.length ? options.run : null };
    }
    if (feed.opened !== options.open) feed.opened = options.open;
    if (options.view === "grid") feed.grid = true;
    remember();
    plan();
  };
  const remember = () => {
    const query = addressOf(options, defaults, location.search);
    history.replaceState(null, "", `${location.pathname}${query && `?${query}`}${location.hash}`);
  };
  const point = (attempt) => {
    focus = attempt;
    tip.hide();
    plan();
  };
  const open = (attempt) => choose({ open: attempt ? attempt.key : "" });

  /** Draw again when a figure has another size. */
  function resized(figure) {
    for (const size of ["inner_width", "inner_height"]) {
      figure.properties[size].change.connect(() => plan());
    }
  }
  /** The small charts, whose figure comes when somebody first wants them. */
  const small = () => {
    multiples = Grid.find(feed.document, colors);
    if (multiples) resized(multiples.figure);
    return multiples;
  };
  charts.properties.children.change.connect(() => plan());

  const controls = new Controls(options, choose);
  const table = side && new Table(colors, { choose, point, open });
  const parameters = more && new ParameterView(colors, { choose, point, open });
  const stop = look.can_stop ? (attempt) => (feed.stop = attempt.key) : null;
  const drawer = side && new Drawer({ close: () => open(null), stop });

  /** Attach our elements to an element of Bokeh, which is emptied when Bokeh renders it again. */
  const mount = (model, root) => {
    const view = model && index.find_one(model);
    const place = view && (view.shadow_el ?? view.el.shadowRoot);
    if (place && root.parentNode !== place) place.append(root);
  };
  const views = () => [["curves", side_by_side], ["grid", multiples?.figure], ["parameters", more]];
  const arrange = (view) => {
    if (view !== shownView) {
      shownView = view;
      empty.visible = view === "empty";
      bare.visible = view === "bare";
      if (side) side.visible = view !== "empty";
    }
    // Bokeh arranges the whole page anew whenever it shows or hides a part of it. Therefore it shows
    // a view for good when somebody first wants it, and a style hides those that are not wanted.
    for (const [name, model] of views()) {
      if (!model) continue;
      if (name === view) model.visible = true;
      if (model.visible) index.find_one(model)?.el.classList.toggle("flame-behind", name !== view);
    }
  };

  const draw = () => {
    planned = false;
    mount(bar, controls.root);
    if (side) mount(side, table.root);
    if (more) mount(more, parameters.root);
    const fits = parse(options.search, namesOf(calls), calls.clock());
    const rows = calls.ranked(fits);
    const groups = grouped(rows, options.group, calls.parameters, options.x);
    const there = focus instanceof Group ? groups.includes(focus) : focus && calls.byId.get(focus.id) === focus;
    if (!there) focus = null;
    const view = !calls.byId.size ? "empty"
      : !calls.metrics.length && options.view !== "parameters" ? "bare"
      : options.view;
    if (view === "grid" && !multiples) small();
    arrange(view);
    if (view === "curves") curves.arrange(calls.drawn, options);
    const hidden = new Set(options.hidden);
    const drawn = hidden.size ? rows.filter((a) => !hidden.has(a.key)) : rows;
    if (view === "grid") multiples?.draw(calls, drawn, options, focus);
    else if (view === "curves" && groups.length) curves.draw(calls, ...groupsToDraw(groups, options, focus));
    else if (view === "curves") curves.draw(calls, drawn, options, focus);
    else if (view === "parameters" && more) parameters.draw(calls, rows, options, focus);
    if (side) table.draw(calls, rows, options, focus);
    if (drawer) {
      const opened = options.open && calls.latest().find((a) => a.key === options.open);
      if (opened) drawer.show(opened, calls, details.key === opened.key ? details : {});
      else drawer.hide();
    }
    const span = view === "grid" ? multiples?.said(calls.metric, options) ?? "" : "";
    const say = () => {
      const cut = view === "grid" ? multiples?.cut ?? 0 : curves.cut;
      controls.draw(calls, rows, { cut, span, wrong: fits.wrong }, options);
    };
    say();
    if (view === "curves" && curves.late) requestAnimationFrame(() => drawMore(say));
    else begun();
  };
  /** Draw one more of the charts that wait for it, unless a whole drawing is due, which does that. */
  const drawMore = (say) => {
    if (planned || shownView !== "curves") return;
    curves.next();
    if (curves.late) requestAnimationFrame(() => drawMore(say));
    else {
      say();
      begun();
    }
  };
  /** Remove what the scheduler has drawn for the time until now, when Bokeh has painted the same. */
  const begun = () => {
    const first = document.querySelector(".flame-first");
    if (first) requestAnimationFrame(() => requestAnimationFrame(() => first.remove()));
  };
  /** Draw once in the next frame, however many changes there are. */
  const plan = () => {
    if (!planned) {
      planned = true;
      requestAnimationFrame(draw);
    }
  };
  curves.zoomed = (zoom) => {
    options.zoom = zoom;
    remember();
    plan();
  };

  const take = () => {
    const told = feed.payload;
    if (told.calls) calls.apply(told.calls);
    if (told.opened) details = told.opened;
    if (told.pools) controls.counted(told.pools, pools);
    feed.seen = told.number; // requests the next update
    plan();
  };
  feed.properties.payload.change.connect(take);

  /** @param {any} event A CustomEvent that figures.py dispatches. */
  const mouse = ({ detail }) => {
    const inGrid = detail.origin === multiples?.figure;
    const found = detail.kind !== "mousemove" || inGrid !== (shownView === "grid") ? null
      : inGrid ? multiples.near(detail, options)
      : curves.near(detail, options);
    if ((found?.attempt ?? null) !== focus) {
      focus = found?.attempt ?? null;
      plan();
    }
    if (found) tip.show(found, options);
    else tip.hide();
    if (detail.kind === "reset") choose({ zoom: null });
    if (detail.kind === "tap" && focus && !(focus instanceof Group)) open(focus);
  };
  addEventListener("flame-figure", mouse);
  addEventListener("resize", plan);
  flameTheme.on(() => {
    plan();
    for (const figure of curves.figures) index.find_one(figure)?.invalidate_render?.();
  });
  // The time that is left goes down between the updates too.
  setInterval(plan, 1000);
  // For debugging and tests.
  window.daskFlame = { calls, options, curves, plan, choose, connection };
  choose({ zoom: options.zoom });
  take();
}

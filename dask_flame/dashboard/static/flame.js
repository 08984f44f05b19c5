// The page /flame: connects the scheduler's updates, the user's choices and the drawing.

function main(args, { index }) {
  const { feed, bar, side, empty, linear, log, grid, look, pools } = args;
  const options = {
    metric: "", x: "steps", log: false, smoothing: 0, colors: "runner", view: "curves", search: "",
    whole: false, // whether to show outliers
    ...look.options,
  };
  const calls = new Calls();
  const colors = new Colors(look);
  colors.by = options.colors;
  const curves = new Curves({ linear, log }, colors);
  const multiples = new Grid(grid, colors);
  const tip = new Tip();
  let focus = null;
  let planned = false;
  let shownView = "";

  const controls = new Controls(options, (changed) => {
    if (changed.follow) curves.following = true;
    delete changed.follow;
    if (changed.metric !== undefined) {
      curves.following = true;
      feed.wanted = changed.metric;
      return; // drawn when its points have arrived
    }
    if ("x" in changed || "log" in changed || "view" in changed) curves.following = true;
    Object.assign(options, changed);
    colors.by = options.colors;
    plan();
  });
  const table = new Table(colors, (attempt) => {
    focus = attempt;
    tip.hide();
    plan();
  });

  /** Attach our elements to an element of Bokeh, which is emptied when Bokeh renders it again. */
  const mount = (model, root) => {
    const view = model && index.find_one(model);
    const place = view && (view.shadow_el ?? view.el.shadowRoot);
    if (place && root.parentNode !== place) place.append(root);
  };

  const seen = () => {
    if (!calls.byId.size) return "empty";
    return options.view === "grid" ? "grid" : options.log ? "log" : "linear";
  };
  const arrange = (view) => {
    if (view === shownView) return;
    shownView = view;
    empty.visible = view === "empty";
    linear.figure.visible = view === "linear";
    log.figure.visible = view === "log";
    grid.figure.visible = view === "grid";
    if (side) side.visible = view !== "empty";
  };

  const draw = () => {
    planned = false;
    mount(bar, controls.root);
    if (side) mount(side, table.root);
    const rows = calls.ranked(options.search);
    if (focus && calls.byId.get(focus.id) !== focus) focus = null;
    const view = seen();
    arrange(view);
    for (const { figure } of [linear, log]) {
      const axis = figure.below[0];
      const label = options.x === "steps" ? "step" : "time since each call began";
      if (axis.axis_label !== label) axis.axis_label = label;
      if (figure.left[0].axis_label !== calls.metric) figure.left[0].axis_label = calls.metric;
    }
    if (view === "grid") multiples.draw(rows, options, focus, curves);
    else if (view !== "empty") curves.draw(calls, rows, options, focus);
    if (side) table.draw(calls, rows, focus);
    const span = view === "grid" ? multiples.said(calls.metric, options) : "";
    controls.draw(calls, rows, curves, span, options);
  };
  /** Draw once in the next frame, however many changes there are. */
  const plan = () => {
    if (!planned) {
      planned = true;
      requestAnimationFrame(draw);
    }
  };
  curves.zoomed = plan;

  const take = () => {
    const told = feed.payload;
    if (told.calls) calls.apply(told.calls);
    if (told.pools) controls.say(told.pools, pools);
    feed.seen = told.number; // requests the next update
    plan();
  };
  feed.properties.payload.change.connect(take);
  feed.document.on_event("client_reconnected", () => {
    controls.gone(false);
    feed.lost += 1; // updates sent meanwhile were lost
  });
  feed.document.on_event("connection_lost", () => controls.gone(true));

  /** @param {any} event A CustomEvent that figures.py dispatches. */
  const point = ({ detail }) => {
    const here = { linear: linear.figure, log: log.figure, grid: grid.figure };
    const drawn = here[shownView] === detail.origin;
    const found = !drawn || detail.kind !== "mousemove" ? null
      : shownView === "grid" ? multiples.near(detail, options, curves)
      : curves.near(detail, options);
    if ((found?.attempt ?? null) !== focus) {
      focus = found?.attempt ?? null;
      plan();
    }
    if (found) tip.show(found, calls, options);
    else tip.hide();
    if (detail.kind === "reset") {
      curves.following = true;
      plan();
    }
  };
  addEventListener("flame-figure", point);
  addEventListener("resize", plan);
  for (const figure of [linear.figure, log.figure, grid.figure]) {
    for (const size of ["inner_width", "inner_height"]) {
      figure.properties[size].change.connect(plan);
    }
  }
  flameTheme.on(() => {
    plan();
    for (const figure of [linear.figure, log.figure]) index.find_one(figure)?.invalidate_render?.();
  });
  // For debugging and tests.
  window.daskFlame = { calls, options, curves, plan };
  take();
}

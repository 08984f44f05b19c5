// The page /pools: applies the theme to canvases, and sends the clock's offset to the scheduler.

const main = (args) => {
  const { root, covers, palettes, dark, inks, labels, grounds, marks, bars, colors } = args;
  // Applies only to this browser.
  const set = (model, values) => model.setv(values, { sync: false });
  const paint = () => {
    const { dark: night, color } = flameTheme;
    const value = (name) => ({ value: color(name) });
    palettes.forEach((mapper, i) => {
      set(mapper, { palette: night ? dark[i] : [...mapper.factors] });
    });
    for (const cover of covers) set(cover, { fill_color: color("ground") });
    for (const glyph of inks) set(glyph, { line_color: value("demand") });
    for (const label of labels) set(label, { text_color: color("quiet") });
    for (const glyph of grounds) set(glyph, { fill_color: value("booting") });
    for (const glyph of marks) set(glyph, { line_color: value("bad") });
    for (const mapper of bars) {
      set(mapper, { palette: mapper.factors.map((light) => (night && colors[light]) || light) });
    }
    // For HTML with colors of its own.
    const levels = palettes[1].palette;
    levels.forEach((level, i) =>
      document.documentElement.style.setProperty(`--flame-level-${i}`, level));
  };
  paint();
  flameTheme.on(paint);
  root.tags = [-new Date().getTimezoneOffset()];
};

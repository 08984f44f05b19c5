// Light or dark theme: from ?theme=dark, or else as chosen here before, as JupyterLab around this
// page, or as the system.

const flameTheme = (() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const listeners = new Set();
  const asked = new URLSearchParams(location.search).get("theme");

  const kept = () => {
    try {
      return localStorage.getItem("dask-flame-theme");
    } catch {
      return null; // no storage in this frame
    }
  };
  const around = () => {
    try {
      const light = parent.document.body.dataset.jpThemeLight;
      return light === undefined ? null : light === "true" ? "light" : "dark";
    } catch {
      return null; // a page of another origin
    }
  };
  const wanted = () => {
    const said = asked?.toLowerCase().includes("dark") ? "dark" : asked ? "light" : kept();
    return said ?? around() ?? (system.matches ? "dark" : "light");
  };
  const colors = new Map(); // of the current theme, because the browser takes long to compute them
  const apply = (name) => {
    if (root.dataset.flameTheme === name) return;
    root.dataset.flameTheme = name;
    colors.clear();
    for (const listener of listeners) listener(name);
  };
  apply(wanted());
  system.addEventListener("change", () => apply(wanted()));

  return {
    get dark() {
      return root.dataset.flameTheme === "dark";
    },
    /** The current value of a theme variable, for code that cannot refer to it. */
    color(name) {
      if (!colors.get(name)) {
        colors.set(name, getComputedStyle(root).getPropertyValue(`--flame-${name}`).trim());
      }
      return colors.get(name);
    },
    /** Call a listener when the theme changes. */
    on: (listener) => listeners.add(listener),
    toggle() {
      const other = root.dataset.flameTheme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("dask-flame-theme", other);
      } catch {
        // The choice is lost when the page is reloaded.
      }
      apply(other);
    },
  };
})();

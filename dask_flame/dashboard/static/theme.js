// Light or dark: as ?theme=dark says, or as was chosen here before, or as JupyterLab is around this
// page, or as the system is.

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
  const apply = (name) => {
    if (root.dataset.flameTheme === name) return;
    root.dataset.flameTheme = name;
    for (const listener of listeners) listener(name);
  };
  apply(wanted());
  system.addEventListener("change", () => apply(wanted()));

  return {
    get dark() {
      return root.dataset.flameTheme === "dark";
    },
    /** What a variable of the theme is now, for what cannot refer to it. */
    colour: (name) => getComputedStyle(root).getPropertyValue(`--flame-${name}`).trim(),
    /** Be told when it changes. */
    on: (listener) => listeners.add(listener),
    toggle() {
      const other = root.dataset.flameTheme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("dask-flame-theme", other);
      } catch {
        // It holds until the page is loaded anew.
      }
      apply(other);
    },
  };
})();

// Dask's navigation bar around our pages: leaves room for it, and names its parts for readers.

(() => {
  /** @type {HTMLElement | null} */
  const bar = document.querySelector(".navbar");
  if (!bar) return; // a page without a frame
  const measure = () =>
    document.body.style.setProperty("--flame-top", `${Math.ceil(bar.offsetHeight)}px`);
  new ResizeObserver(measure).observe(bar);
  measure();
  const theme = Object.assign(document.createElement("button"), {
    type: "button", name: "theme", title: "light or dark", textContent: "◐",
  });
  theme.setAttribute("aria-label", "light or dark");
  theme.onclick = () => flameTheme.toggle();
  document.querySelector(".flame-tabs")?.append(theme);
  document.documentElement.lang ||= "en";
  // People must be able to zoom in.
  document.querySelector("meta[name=viewport]")
    ?.setAttribute("content", "width=device-width, initial-scale=1");
  bar.setAttribute("role", "navigation");
  bar.setAttribute("aria-label", "Dask");
  for (const [where, name] of [["#dask-logo img", "Dask"], ["#navbar-toggle-icon img", "menu"]]) {
    for (const image of bar.querySelectorAll(where)) image.setAttribute("alt", name);
  }
  // A list may contain only its items.
  bar.querySelector("ul > .dropdown")?.setAttribute("role", "listitem");
  bar.querySelector(".dropdown > li")?.setAttribute("role", "none");
})();

// Bokeh's scripts, loaded when the browser has shown what the scheduler has drawn for that time.

const flameStart = (() => {
  const waiting = [];
  const add = (src) =>
    new Promise((done) => {
      // In this order, as without this script.
      const element = Object.assign(document.createElement("script"), { src, async: false });
      element.onload = element.onerror = () => done(undefined);
      document.head.append(element);
    });
  const parsed = new Promise((done) => addEventListener("DOMContentLoaded", done));
  // A hidden page has no frames.
  const seen = () =>
    document.hidden ? Promise.resolve()
      : new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return {
    /** Load scripts, then do what waits for them. */
    load: async (sources) => {
      await parsed;
      await seen();
      await Promise.all(sources.map(add));
      for (const act of waiting) act();
    },
    /** Do something when all scripts are loaded. */
    then: (act) => waiting.push(act),
  };
})();

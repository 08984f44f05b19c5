// The page /inspect: shows what the scheduler sends, and keeps what the user has opened and chosen.

const LOST = "The scheduler does not answer; this page goes on when it does.";

/** Replace the content of an element, but not what the user has opened, focused and scrolled. */
const replace = (place, html, toggled) => {
  const box = place.querySelector(".flame-look");
  if (!box) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  for (const details of fresh.content.querySelectorAll("details")) {
    const open = toggled.get(details.dataset.key);
    if (open !== undefined) details.open = open;
  }
  const root = /** @type {Document | ShadowRoot} */ (place.getRootNode());
  const focusable = "a, summary, [tabindex]";
  const focused = [...box.querySelectorAll(focusable)].findIndex((one) => one === root.activeElement);
  const scrolled = [...box.children].map((one) => one.scrollTop);
  box.replaceChildren(...fresh.content.childNodes);
  [...box.children].forEach((one, i) => { if (scrolled[i]) one.scrollTop = scrolled[i]; });
  if (focused >= 0) {
    /** @type {HTMLElement | undefined} */ ([...box.querySelectorAll(focusable)][focused])
      ?.focus({ preventScroll: true });
  }
};

function main(args) {
  const { feed, scheduler } = args;
  const lost = document.querySelector(".inspect-lost");
  const places = { overview: null, found: null };
  const toggled = new Map();
  for (const name of Object.keys(places)) {
    const place = document.getElementById(`inspect-${name}`);
    if (!place) return;
    const show = () => {
      if (!feed[name]) return;
      replace(place, feed[name], toggled);
      place.removeAttribute("aria-busy");
    };
    feed.properties[name].change.connect(show);
    show();
  }
  // By the user, not by this script: `toggle` comes later, and also for elements that are new.
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target.closest("summary") : null;
    const details = target?.parentElement;
    if (details instanceof HTMLDetailsElement) toggled.set(details.dataset.key, !details.open);
  });
  const look = () => { feed.visible = document.visibilityState === "visible"; };
  document.addEventListener("visibilitychange", look);
  look();
  new Connection(feed, scheduler, (gone) => {
    if (lost) lost.textContent = gone ? LOST : "";
  });
}

// The choices of the page in its address, so that they survive a reload and a shared link.

/** Names in the address, and kinds, of the choices. */
const FIELDS = {
  metrics: ["metric", "list"],
  run: ["run", "list"],
  view: ["view", "text"],
  x: ["x", "text"],
  log: ["log", "flag"],
  smoothing: ["smooth", "number"],
  colors: ["color", "text"],
  search: ["filter", "text"],
  sort: ["sort", "text"],
  descending: ["descending", "flag"],
  group: ["group", "text"],
  pinned: ["pin", "list"],
  hidden: ["hide", "list"],
  columns: ["columns", "list"],
  whole: ["whole", "flag"],
  zoom: ["zoom", "numbers"],
  open: ["call", "text"],
};
/** Choices that have few values; others are ignored. */
const CHOICES = {
  view: ["curves", "grid", "parameters"],
  x: ["steps", "seconds"],
  colors: ["call", "runner", "rank"],
};

/** Read the choices from a query; choices that it does not have are missing. */
function readAddress(query) {
  const asked = new URLSearchParams(query);
  const found = {};
  for (const [field, [name, kind]] of Object.entries(FIELDS)) {
    if (!asked.has(name)) continue;
    const text = asked.get(name);
    if (kind === "list") found[field] = asked.getAll(name);
    else if (kind === "flag") found[field] = text !== "0";
    else if (kind === "numbers") found[field] = text.split(",").map(Number);
    else if (kind === "number") found[field] = Number(text);
    else if (!CHOICES[field] || CHOICES[field].includes(text)) found[field] = text;
  }
  if (!(found.smoothing >= 0 && found.smoothing <= 0.99)) delete found.smoothing;
  if (found.zoom && !found.zoom.every(Number.isFinite)) delete found.zoom;
  return found;
}

/** Return a query with the choices that differ from the defaults, and all other parameters. */
function addressOf(options, defaults, query) {
  const asked = new URLSearchParams(query);
  for (const [field, [name, kind]] of Object.entries(FIELDS)) {
    asked.delete(name);
    const value = options[field];
    if (String(value ?? "") === String(defaults[field] ?? "")) continue;
    if (kind === "list") for (const text of value) asked.append(name, text);
    else if (kind === "flag") asked.set(name, value ? "1" : "0");
    else asked.set(name, String(value));
  }
  return asked.toString();
}

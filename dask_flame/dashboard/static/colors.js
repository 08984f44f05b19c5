// Colors and dashes of curves.

/** The color and the dash of each call; `lines` has {light, dark, dash} by number. */
class Colors {
  constructor({ lines, runners }) {
    this.lines = { call: lines, runner: runners };
    this.by = "call";
  }
  line(attempt) {
    const lines = this.by === "runner" ? this.lines.runner : this.lines.call;
    return lines[(this.by === "runner" ? attempt.color : attempt.place) % lines.length];
  }
  /** The color of the call at a place of n. */
  of(attempt, place, n) {
    if (this.by !== "rank") return this.line(attempt)[flameTheme.dark ? "dark" : "light"];
    const stops = flameTheme.dark
      ? [[255, 209, 102], [214, 120, 60], [84, 90, 102]]
      : [[16, 52, 128], [72, 146, 206], [198, 209, 222]];
    const at = n > 1 ? (2 * Math.max(0, place ?? 0)) / (n - 1) : 0;
    const i = Math.min(1, Math.floor(at));
    const mixed = stops[i].map((low, k) => Math.round(low + (stops[i + 1][k] - low) * (at - i)));
    return `rgb(${mixed.join(",")})`;
  }
  /** The dash of the call, if n curves are drawn; too many dashes would hide the shapes. */
  dash(attempt, n) {
    return this.by === "rank" || n > DASHED ? "solid" : this.line(attempt).dash;
  }
}

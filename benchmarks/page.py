"""Measure the page of the curves while many calls report: frames, memory, the scheduler's CPU.

    python benchmarks/page.py [--runners 64] [--rate 100] [--minutes 10] [--view curves]

One call on each runner reports at a fixed rate, and Chromium shows the page ``/flame``. Every
`--every` seconds a line shows the heap of the tab after a garbage collection; the memory (RSS) of
its process and of the driver, which holds the scheduler; the durations of frames, and the longest
delay from a report to its drawing; and the share of a core used by driver and tab. At the end it
reports whether the memory of either grew from the second quarter of the time to the last: before
that, curves fill up to their limit. ``--view grid`` has a chart for each runner.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from typing import Any

import psutil
from distributed import Client

import dask_flame

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Record the duration of each frame, and the age of the newest point of each curve when drawn.
_WATCH = """() => {
  window.seen = { frames: [], ages: [] };
  let last = performance.now();
  const frame = (now) => {
    seen.frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  const { properties } = Bokeh.documents[0].get_model_by_name("flame-page").tags[0];
  properties.payload.change.connect(() => requestAnimationFrame(() => {
    const all = [...daskFlame.calls.byId.values()];
    const newest = all.map((call) => call.curve("at").values.all.at(-1) ?? 0);
    const age = Date.now() / 1000 - Math.max(...newest);
    if (age < 1e6) seen.ages.push(age); // else the times are not drawn yet
  }));
}"""
_TAKE = """() => {
  const { frames, ages } = seen;
  [seen.frames, seen.ages] = [[], []];
  return [frames, ages];
}"""


def call(rate: float, seconds: float) -> None:
    """Report at a fixed rate; one of the values is the time of the report."""
    begun = time.perf_counter()
    for step in range(int(rate * seconds)):
        wait = begun + step / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        now = time.time()
        dask_flame.report(step=step, at=now, loss=1 / (1 + step % 1000), accuracy=0.5)


class Tab:
    """The page in a browser, and its use of resources."""

    def __init__(self, playwright: Any, link: str, view: str, script: str = "") -> None:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        if path is None:
            raise SystemExit("no chromium on the path; name it: CHROMIUM=/usr/bin/chromium")
        self._chromium = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        self.page = self._chromium.new_page(viewport={"width": 1400, "height": 900})
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        if script:
            self.page.add_init_script(script)
        self.page.goto(link)
        self.page.wait_for_function("() => window.daskFlame?.calls.byId.size > 0", timeout=120_000)
        if view == "grid":
            self.page.click("button[name=view][value=grid]")
        self.page.evaluate(_WATCH)
        self._tools = self.page.context.new_cdp_session(self.page)
        self._tools.send("Performance.enable")
        browser = self._chromium.new_browser_cdp_session()
        processes = browser.send("SystemInfo.getProcessInfo")["processInfo"]
        # The browser may keep a spare renderer.
        renderers = [psutil.Process(p["id"]) for p in processes if p["type"] == "renderer"]
        self.process = max(renderers, key=lambda p: p.memory_info().rss)

    def heap(self) -> float:
        """Return the size of the heap without garbage, in MB."""
        self._tools.send("HeapProfiler.collectGarbage")
        metrics = self._tools.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize") / 1e6

    def seen(self) -> tuple[list[float], list[float]]:
        """Return, since the last call, frames in ms and the ages of drawn points in seconds."""
        frames, ages = self.page.evaluate(_TAKE)
        return frames, ages

    def wait(self, seconds: float) -> None:
        self.page.wait_for_timeout(1000 * seconds)

    def close(self) -> None:
        self._chromium.close()


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def rss(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def measure(options: argparse.Namespace) -> None:
    """Run the benchmark, and print the results."""
    from playwright.sync_api import sync_playwright

    seconds = 60 * options.minutes
    me, rows = psutil.Process(), []
    with (
        dask_flame.FlameCluster(max=options.runners, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        sync_playwright() as playwright,
    ):
        futures = client.map(
            call, [options.rate] * options.runners, seconds=seconds + 60, pure=False
        )
        tab = Tab(playwright, f"{cluster.flame_link}?metric=at", options.view)
        both = [me, tab.process]
        try:
            print(f"{options.runners} runners, {options.rate:g} reports a second each")
            head = "minute heap/MB tab/MB driver/MB frame p50 p95 p99 max/ms drawn after/ms"
            print(head, "driver/core tab/core")
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds:
                clock, used = time.perf_counter(), [cpu(p) for p in both]
                tab.wait(options.every)
                frames, ages = tab.seen()
                clock = time.perf_counter() - clock
                shares = [
                    (cpu(p) - u) / clock for p, u in zip((me, tab.process), used, strict=True)
                ]
                rows.append((tab.heap(), rss(tab.process), rss(me)))
                cuts = statistics.quantiles(frames, n=100)
                print(
                    f"{(time.perf_counter() - begun) / 60:6.1f}",
                    *(f"{value:8.1f}" for value in rows[-1]),
                    *(f"{value:6.0f}" for value in (cuts[49], cuts[94], cuts[98], max(frames))),
                    f"{1000 * statistics.median(ages):6.0f} {1000 * max(ages):6.0f}",
                    *(f"{share:7.2f}" for share in shares),
                    flush=True,
                )
        finally:
            tab.close()
        client.cancel(futures)
    quarter = max(1, len(rows) // 4)
    for name, values in zip(("heap", "tab", "driver"), zip(*rows, strict=True), strict=True):
        early = statistics.median(values[quarter : 2 * quarter] or values)
        late = statistics.median(values[-quarter:])
        print(f"{name}: {early:.1f} MB in the second quarter, {late:.1f} MB in the last")
    print("errors in the page:", tab.wrong or "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runners", type=int, default=64)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two lines")
    parser.add_argument("--view", choices=("curves", "grid"), default="curves")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()

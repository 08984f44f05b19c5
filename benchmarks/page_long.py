"""Measure the page of the curves with long series: 64 calls, 100,000 steps, 3 metrics.

    python benchmarks/page_long.py [--calls 64] [--steps 100000] [--tries 5]

The calls report without a pause on two runners. When they are done, Chromium opens ``/flame`` with
the three metrics side by side. A line for each try shows the time from the request of the page
until the state of the calls can be read, and until all curves are drawn; the time until the frame
after the mouse has moved to another curve, after a filter, a choice of color, a logarithmic axis
and another view, and back; the same until all charts are drawn, of which each has a frame of its
own; and the heap of the tab after a garbage collection. At the end it prints the medians, the
number of points that the page holds, the memory (RSS) of the tab and of the process with the
scheduler, and, for comparison, the time until Dask's own page ``/status`` is drawn.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time

import psutil
from distributed import Client
from page import Tab

import dask_flame

_METRICS = ("loss", "accuracy", "speed")
#: Record when all curves of all charts have been drawn for the first time.
_FIRST = """(() => {
  window.drawnAt = null;
  const look = () => {
    const shown = window.daskFlame?.curves.shown ?? [];
    const all = shown.length === METRICS && shown.every((chart) => chart.drawn.length === CALLS);
    if (all) window.drawnAt ??= performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})()"""
#: Do something, and return the milliseconds until the browser has drawn it.
_UNTIL_DRAWN = """async () => {
  const begun = performance.now();
  ACTION;
  await new Promise(requestAnimationFrame); // the page draws
  await new Promise(requestAnimationFrame); // Bokeh paints
  await new Promise((done) => setTimeout(done));
  return performance.now() - begun;
}"""
#: The same, until all charts have been drawn.
_UNTIL_ALL = """async () => {
  const begun = performance.now();
  ACTION;
  do await new Promise(requestAnimationFrame);
  while (daskFlame.curves.late);
  await new Promise(requestAnimationFrame);
  await new Promise((done) => setTimeout(done));
  return performance.now() - begun;
}"""
_ALL = ("filter", "color", "log")
_READ = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
_ACTIONS = {
    "hover": """{
      const { figure, drawn } = daskFlame.curves.shown[0];
      const curve = drawn[Math.floor(Math.random() * drawn.length)].curve("loss");
      const i = Math.floor(curve.length / 3);
      dispatchEvent(new CustomEvent("flame-figure", { detail: {
        kind: "mousemove", x: curve.steps.all[i], y: curve.values.all[i],
        origin: figure,
      } }));
    }""",
    "filter": "daskFlame.choose({ search: daskFlame.options.search ? '' : 'number<20' })",
    "color": "daskFlame.choose({ colors: daskFlame.options.colors === 'call' ? 'rank' : 'call' })",
    "log": "daskFlame.choose({ log: !daskFlame.options.log })",
    "view": "daskFlame.choose({ view: daskFlame.options.view === 'grid' ? 'curves' : 'grid' })",
}


def train(number: int, steps: int) -> float:
    """Report three values at each step, as fast as possible."""
    noise = random.Random(number)
    for step in range(steps):
        wobble = noise.gauss(0, 0.02)
        loss = 2 * math.exp(-4 * step / steps * (1 + number / 64)) + 0.1 + wobble
        dask_flame.report(step=step, loss=loss, accuracy=1 - loss / 3, speed=300 + 100 * wobble)
    return loss


def measure(options: argparse.Namespace) -> None:
    """Run the benchmark, and print the results."""
    from playwright.sync_api import sync_playwright

    with (
        dask_flame.FlameCluster(max=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        begun = time.perf_counter()
        client.gather(client.map(train, range(options.calls), steps=options.steps))
        made = options.calls * options.steps * len(_METRICS)
        print(f"{made:,} values reported in {time.perf_counter() - begun:.0f} s")
        link = f"{cluster.flame_link}?" + "&".join(f"metric={name}" for name in _METRICS)
        first = _FIRST.replace("METRICS", str(len(_METRICS))).replace("CALLS", str(options.calls))
        rows = []
        heads = [f"{name}/ms" for name in _ACTIONS] + [f"all-{name}/ms" for name in _ALL]
        print("read/ms drawn/ms", *heads, "heap/MB")
        with sync_playwright() as playwright:
            tab = Tab(playwright, link, "curves", first)
            for _ in range(options.tries):
                tab.page.goto(link)
                tab.page.wait_for_function("() => window.drawnAt !== null", timeout=120_000)
                row = [tab.page.evaluate(_READ), tab.page.evaluate("() => drawnAt")]
                scripts = [_UNTIL_DRAWN.replace("ACTION", action) for action in _ACTIONS.values()]
                scripts += [_UNTIL_ALL.replace("ACTION", _ACTIONS[name]) for name in _ALL]
                for script in scripts:
                    row.append(statistics.median(tab.page.evaluate(script) for _ in range(6)))
                row.append(tab.heap())
                rows.append(row)
                print(*(f"{value:8.1f}" for value in row), flush=True)
            held = tab.page.evaluate(
                "() => [...daskFlame.calls.byId.values()].flatMap((a) => [...a.curves.values()])"
                ".reduce((n, curve) => n + curve.length, 0)"
            )
            status = []
            for _ in range(options.tries):
                tab.page.goto(cluster.dashboard_link)
                tab.page.wait_for_function("() => window.Bokeh?.documents[0]?.is_idle")
                status.append(tab.page.evaluate("() => performance.now()"))
            memory = tab.process.memory_info().rss / 1e6
            wrong = tab.wrong
            tab.close()
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print("medians:", *(f"{value:.1f}" for value in medians))
        print(f"{held:,} points in the page; its process has {memory:.0f} MB")
        print(f"driver with the scheduler: {psutil.Process().memory_info().rss / 1e6:.0f} MB")
        print(f"Dask's /status: drawn after {statistics.median(status):.0f} ms")
        print("errors in the page:", wrong or "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--tries", type=int, default=5)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()

"""Measure the page of the curves with long series: 64 calls, 100,000 steps, 3 metrics.

    python benchmarks/page_long.py [--calls 64] [--steps 100000] [--tries 5]

The store of a scheduler is filled with reports, as if the calls had made them. Chromium then opens
``/flame`` with three metrics side by side. A line for each try shows the time from the request of
the page until all curves are drawn; the time until the next frame after the mouse has moved to
another curve, after a key in the filter, a choice of color, another metric and another view; and
the heap of the tab after a garbage collection. At the end it prints the medians, the number of
points that the page holds, and the memory (RSS) of the process with the scheduler.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import psutil
from distributed import Client, LocalCluster
from page import Tab

from dask_flame import Reports
from dask_flame.reports.wire import Batch

_METRICS = ("loss", "accuracy", "speed")
#: Reports of a call that arrive together.
_TOGETHER = 2000
#: Record when all curves of all charts have been drawn for the first time.
_FIRST = """
window.drawnAt = null;
const look = () => {
  const shown = window.daskFlame?.curves.shown ?? [];
  const all = shown.length === METRICS && shown.every((chart) => chart.drawn.length === CALLS);
  if (all && drawnAt === null) drawnAt = performance.now();
  else requestAnimationFrame(look);
};
look();
"""
#: Do something, and return the milliseconds until the frame after the next drawing has begun.
_UNTIL_DRAWN = """async () => {
  const begun = performance.now();
  %s;
  await new Promise(requestAnimationFrame); // draws
  await new Promise(requestAnimationFrame); // Bokeh paints
  await new Promise((done) => setTimeout(done));
  return performance.now() - begun;
}"""
_ACTIONS = {
    "hover": """{
      const { both, drawn } = daskFlame.curves.shown[0];
      const { x_range, y_range } = both.linear.figure;
      const curve = drawn[Math.floor(Math.random() * drawn.length)].curve("loss");
      const i = Math.floor(curve.length / 3);
      dispatchEvent(new CustomEvent("flame-figure", { detail: {
        kind: "mousemove", x: curve.steps.all[i], y: curve.values.all[i],
        origin: both.linear.figure,
      } }));
    }""",
    "filter": "daskFlame.choose({ search: daskFlame.options.search ? '' : 'call' })",
    "color": "daskFlame.choose({ colors: daskFlame.options.colors === 'call' ? 'rank' : 'call' })",
    "log": "daskFlame.choose({ log: !daskFlame.options.log })",
    "view": "daskFlame.choose({ view: daskFlame.options.view === 'grid' ? 'curves' : 'grid' })",
}


def fill(store: Any, calls: int, steps: int) -> None:
    """Put the reports of all calls into a store."""
    random = np.random.default_rng(0)
    for first in range(0, steps, _TOGETHER):
        at = np.arange(first, min(first + _TOGETHER, steps))
        for call in range(calls):
            noise = random.normal(0, 0.02, len(at))
            loss = 2 * np.exp(-at * (1 + call / calls) / steps * 4) + 0.1 + noise
            values = {"loss": loss, "accuracy": 1 - loss / 3, "speed": 300 + 100 * noise}
            store.add(
                Batch(
                    f"call {call}",
                    f"execution {call}",
                    f"runner-{call}",
                    False,
                    at.tolist(),
                    (at / 100).tolist(),
                    {name: value.tolist() for name, value in values.items()},
                )
            )


def measure(options: argparse.Namespace) -> None:
    """Run the benchmark, and print the results."""
    from playwright.sync_api import sync_playwright

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Reports())
        store = cluster.scheduler.plugins["flame-reports"].store
        begun = time.perf_counter()
        cluster.sync(_filled, store, options.calls, options.steps)
        made = options.calls * options.steps * len(_METRICS)
        print(f"{made:,} values in the store after {time.perf_counter() - begun:.1f} s")
        port = cluster.dashboard_link.rpartition(":")[2].partition("/")[0]
        link = f"http://127.0.0.1:{port}/flame?"
        link += "&".join(f"metric={name}" for name in _METRICS)
        rows = []
        print("drawn/ms", *(f"{name}/ms" for name in _ACTIONS), "heap/MB")
        with sync_playwright() as playwright:
            first = _FIRST.replace("METRICS", str(len(_METRICS)))
            first = first.replace("CALLS", str(options.calls))
            tab = Tab(playwright, link, "curves", first)
            for _ in range(options.tries):
                tab.page.goto(link)
                tab.page.wait_for_function("() => window.drawnAt !== null", timeout=120_000)
                row = [tab.page.evaluate("() => drawnAt")]
                for action in _ACTIONS.values():
                    times = [tab.page.evaluate(_UNTIL_DRAWN % action) for _ in range(6)]
                    row.append(statistics.median(times))
                row.append(tab.heap())
                rows.append(row)
                print(*(f"{value:8.1f}" for value in row), flush=True)
            held = tab.page.evaluate(
                "() => [...daskFlame.calls.byId.values()].flatMap((a) => [...a.curves.values()])"
                ".reduce((n, curve) => n + curve.length, 0)"
            )
            rss = tab.process.memory_info().rss / 1e6
            wrong = tab.wrong
            tab.close()
        print(
            "medians:", *(f"{statistics.median(column):.1f}" for column in zip(*rows, strict=True))
        )
        print(f"{held:,} points in the page; its process has {rss:.0f} MB")
        print(f"scheduler: {psutil.Process().memory_info().rss / 1e6:.0f} MB")
        print("errors in the page:", wrong or "none")


async def _filled(store: Any, calls: int, steps: int) -> None:
    fill(store, calls, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--tries", type=int, default=5)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()

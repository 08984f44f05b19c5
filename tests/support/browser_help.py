"""A dashboard in a real browser: what its tests have in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed import Client, LocalCluster

from dask_flame import Reports
from tests.support.waiting import wait_for

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def cluster_of(n: int = 1, port: int = 0, **options: Any) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=n,
            processes=False,
            threads_per_worker=2,
            dashboard_address=f"127.0.0.1:{port}",
            scheduler_kwargs=options,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def url(client: Client, path: str) -> str:
    server = client.cluster.scheduler.http_server
    (socket,) = server._sockets.values()
    return f"http://127.0.0.1:{socket.getsockname()[1]}{path}"


def get(client: Client, path: str) -> str:
    with urllib.request.urlopen(url(client, path), timeout=20) as response:
        text: str = response.read().decode()
        return text


class Browser:
    """Chromium, in a thread of its own: playwright's loop would hide that of the cluster."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ThreadPoolExecutor-chromium")
        self.do(self._start)

    def do(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._thread.submit(what, *args, **kwargs).result(timeout=150)

    def _start(self) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self.chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        # Starts all its processes now, so that no test is found to have left one behind.
        page = self.chromium.new_page()
        page.goto("data:text/html,<canvas></canvas>")
        page.evaluate("() => document.querySelector('canvas').getContext('webgl')")
        page.screenshot()
        page.close()

    def close(self) -> None:
        self.do(self.chromium.close)
        self.do(self._playwright.stop)
        self._thread.shutdown()


class Page:
    """One page in the browser, and everything that went wrong in it."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self._browser = browser
        self.wrong: list[str] = []
        browser.do(self._open, address, {"viewport": {"width": 1280, "height": 720}, **options})

    def _open(self, address: str, options: dict[str, Any]) -> None:
        self._page = self._browser.chromium.new_page(**options)
        self._page.set_default_timeout(120_000)
        self._page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self._page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self._page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self._page.goto(address)
        if address.startswith("http"):
            self._page.wait_for_function("() => window.Bokeh && Bokeh.documents.length > 0")

    def do(self, what: Callable[[Any], Any]) -> Any:
        """Do something with playwright's own page."""
        return self._browser.do(what, self._page)

    def reload(self) -> None:
        self._browser.do(self._page.reload)
        self.wait("() => window.Bokeh && Bokeh.documents.length > 0")

    def wait(self, javascript: str) -> None:
        self._browser.do(self._page.wait_for_function, javascript)

    def read(self, javascript: str) -> Any:
        return self._browser.do(self._page.evaluate, javascript)

    def point(self, javascript: str, argument: Any) -> None:
        """Move the mouse to the place that this gives."""

        def move() -> None:
            x, y = self._page.evaluate(javascript, argument)
            self._page.mouse.move(x - 20, y - 20)
            self._page.mouse.move(x, y, steps=4)

        self._browser.do(move)

    def text(self) -> str:
        """All that can be read on the page, in its shadow roots too."""
        return str(self.read(TEXT))

    def shows(self, *words: str) -> None:
        for word in words:
            wait_for(lambda word=word: word in self.text(), what=f"{word!r} on the page")

    def close(self) -> None:
        self._browser.do(self._page.close)


TEXT = """() => {
  const walk = (node) => {
    if (node.nodeType == Node.TEXT_NODE) return node.textContent;
    if (["SCRIPT", "STYLE"].includes(node.nodeName)) return "";
  if (node.classList?.contains("flame-first")) return ""; // until the page itself is there
    if (node.nodeType == Node.ELEMENT_NODE && getComputedStyle(node).display == "none") return "";
    const roots = node.shadowRoot ? [node.shadowRoot] : [];
    return [...roots, ...node.childNodes].map(walk).join("");
  };
  return walk(document.body).replace(/\\s+/g, " ");
}"""


def opened_browser() -> Iterator[Browser]:
    """What a fixture yields: a browser, which is closed in the end."""
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"no browser at {CHROMIUM}; name one: CHROMIUM=/path/to/chromium pytest")
    pytest.importorskip("playwright", reason="pip install playwright")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from opened_browser()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[str], Page]]:
    """Opens pages, closes them, and fails if anything went wrong in one."""
    pages: list[Page] = []

    def open_page(address: str, **options: Any) -> Page:
        pages.append(Page(browser, address, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()
    assert [page.wrong for page in pages] == [[] for _ in pages]


@pytest.fixture
def client(browser: Browser) -> Iterator[Client]:
    with cluster_of(2) as client:
        client.register_plugin(Reports())
        yield client

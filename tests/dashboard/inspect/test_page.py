"""The page /inspect shows what the processes of a cluster do, and costs nothing unseen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bokeh.document import Document
from distributed import Client, Event

from dask_flame import Reports
from dask_flame.dashboard.inspect import page
from dask_flame.dashboard.inspect.overview import Known, overview
from dask_flame.scheduler import looks
from tests.dashboard.test_javascript_check import CHECK, files
from tests.support.browser_help import Page, cluster_of, get, url
from tests.support.waiting import wait_for

EVIL = "<img src=x onerror=alert(1)>"


def loops(event: str) -> None:
    stop = Event(event)
    while not stop.is_set():
        for _ in range(10_000):
            pass


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "WITHIN", 60.0)


@pytest.mark.unit
def test_the_table_escapes_names_and_marks_the_chosen_process() -> None:
    text = overview([Known("scheduler"), Known(EVIL, EVIL, 0.5, 10**6)], EVIL, "memory")
    assert "<img" not in text
    assert text.count("aria-current=true") == 1
    assert "aria-current=page>Memory" in text
    assert "50 %" in text
    assert "1.0 MB" in text
    assert "?process=scheduler&amp;show=memory" in text


@pytest.mark.unit
def test_scripts_are_checked_as_the_page_puts_them_together() -> None:
    assert [f.stem for f in files(CHECK / "tsconfig.inspect.json")] == list(page._SCRIPTS)


@pytest.mark.process
def test_the_first_state_is_html_and_the_tabs_link_to_it() -> None:
    with cluster_of() as client:
        client.register_plugin(Reports())
        call = client.submit(loops, "stop", key="the loop")
        wait_for(lambda: "the loop" in get(client, "/inspect"))
        text = get(client, "/inspect?process=scheduler&show=versions")
        assert 'id="inspect-found" aria-busy="true"' in text
        assert "scheduler: versions …" in text
        assert 'href="inspect"' in get(client, "/flame")
        Event("stop", client=client).set()
        call.result()


@pytest.mark.browser
def test_a_call_is_shown_live_and_what_the_user_opens_stays_open(
    client: Client, visit: Any
) -> None:
    call = client.submit(loops, "stop", key="the loop")
    wait_for(lambda: "the loop" in get(client, "/inspect"))
    shown = visit(url(client, "/inspect"), viewport={"width": 320, "height": 600})
    shown.wait("() => document.querySelector('#inspect-found').textContent.includes('loops')")
    assert shown.read("document.documentElement.scrollWidth") <= 320
    main = '#inspect-found details[data-key="thread MainThread"]'
    assert shown.read(f"document.querySelector('{main}').open") is True
    shown.do(lambda page: page.click(f"{main} summary"))
    shown.wait(f"() => !document.querySelector('{main}').open")
    # After two more updates, whose times differ.
    told = "document.querySelector('#inspect-found p').textContent"
    for _ in range(2):
        before = shown.read(told)
        shown.wait(f"() => {told} !== {before!r}")
    assert shown.read(f"document.querySelector('{main}').open") is False
    _looks_only_while_it_is_seen(shown)
    shown.do(lambda page: page.click("nav.inspect-views >> text=Versions"))
    shown.wait("() => document.querySelector('#inspect-found').textContent.includes('psutil')")
    # A table that is wider than the window scrolls by itself.
    shown.do(lambda page: page.click("nav.inspect-views >> text=Processes"))
    found = "document.querySelector('#inspect-found')"
    shown.wait(f"() => {found}.textContent.includes('command')")
    assert shown.read(f"{found}.scrollWidth > {found}.clientWidth")
    assert shown.read("document.documentElement.scrollWidth") <= 320
    Event("stop", client=client).set()
    call.result()


def _looks_only_while_it_is_seen(shown: Page) -> None:
    """Hide the page, and look at what its board does."""
    feed = "Bokeh.documents[0].get_model_by_name('flame-feed')"
    see = "Object.defineProperty(document, 'visibilityState', {{value: '{}', configurable: true}})"
    event = "document.dispatchEvent(new Event('visibilitychange'))"
    shown.read(f"() => {{ {see.format('hidden')}; {event}; }}")
    assert shown.read(f"{feed}.visible") is False
    shown.read(f"() => {{ {see.format('visible')}; {event}; }}")
    assert shown.read(f"{feed}.visible") is True


@pytest.mark.process
def test_nothing_is_asked_while_nobody_sees_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    look_at = page.look_at

    async def noted(scheduler: Any, name: str, what: str) -> dict[str, Any]:
        asked.append(name)
        return await look_at(scheduler, name, what)

    monkeypatch.setattr(page, "look_at", noted)
    with cluster_of() as client:
        scheduler = client.cluster.scheduler
        document = Document()
        board = page.InspectBoard(scheduler, "scheduler", "versions")

        async def update(*, visible: bool) -> None:
            board.feed.visible = visible
            board.update(document)
            board.update(document)  # one look at a time
            if board._looking is not None:
                await board._looking
                await asyncio.sleep(0)

        client.sync(update, visible=False)
        assert not asked
        client.sync(update, visible=True)
        assert asked == ["scheduler"]
        # Versions do not change.
        client.sync(update, visible=True)
        assert asked == ["scheduler"]
        wait_for(lambda: board._looking is None)

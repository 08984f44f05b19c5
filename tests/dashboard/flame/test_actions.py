"""Who may stop calls from the page, and what the page shows of a call that is opened."""

from __future__ import annotations

import re
import time
import urllib.request
from socket import gethostname
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import dask
import pytest
from bokeh.protocol import Protocol
from bokeh.util.token import generate_jwt_token, generate_session_id, get_session_id
from distributed import Event
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

import dask_flame
from dask_flame.dashboard.flame.actions import details, find, may_stop
from dask_flame.reports.wire import NAME
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def asks(**headers: str) -> Any:
    return SimpleNamespace(headers={name.replace("_", "-"): v for name, v in headers.items()})


def test_only_a_page_of_this_machine_that_was_opened_by_itself_can_stop_calls(flame: Any) -> None:
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    scheduler = cluster.scheduler
    assert may_stop(scheduler, asks())
    assert may_stop(scheduler, asks(Sec_Fetch_Site="none"))
    own = {"Origin": "http://127.0.0.1:8787", "Host": "127.0.0.1:8787"}
    assert may_stop(scheduler, asks(Sec_Fetch_Site="same-origin", **own))
    # A page of another origin, or an application on another port of this machine.
    assert not may_stop(scheduler, asks(Sec_Fetch_Site="cross-site"))
    assert not may_stop(scheduler, asks(Sec_Fetch_Site="same-site"))
    assert not may_stop(scheduler, asks(Origin="http://evil", Host="localhost:8787"))
    with dask.config.set({"flame.reports.stop": False}):
        assert not may_stop(scheduler, asks())


def test_a_page_of_all_machines_cannot_unless_it_is_configured(flame: Any) -> None:
    cluster, _ = flame(max=1, dashboard_address="0.0.0.0:0")
    assert not may_stop(cluster.scheduler, asks())
    with dask.config.set({"flame.reports.stop": True}):
        assert may_stop(cluster.scheduler, asks())
        assert not may_stop(cluster.scheduler, asks(Sec_Fetch_Site="cross-site"))


def test_a_page_at_the_address_of_another_site_cannot_stop_calls(flame: Any) -> None:
    """Its name leads to this machine for a moment (DNS rebinding)."""
    evil = {"Host": "evil.example:8787", "Origin": "http://evil.example:8787"}
    rebound = asks(Sec_Fetch_Site="same-origin", **evil)
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    for stop in (None, True):
        with dask.config.set({"flame.reports.stop": stop}):
            assert not may_stop(cluster.scheduler, rebound)
            for host in ("localhost.evil.example", "127.0.0.1.evil.example:80", "[::1", "x@evil"):
                assert not may_stop(cluster.scheduler, asks(Host=host)), host
            own = ("127.0.0.1:1", "[::1]:8787", "localhost", "LOCALHOST:1", gethostname())
            for host in own:
                assert may_stop(cluster.scheduler, asks(Host=host)), host
    with dask.config.set({_LISTED: ["evil.example:8787"]}):
        assert may_stop(cluster.scheduler, rebound)
    # With a token, whoever has no cookie sees no page.
    with dask.config.set({"flame.dashboard.token": "auto"}):
        closed, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    assert may_stop(closed.scheduler, rebound)


async def can_stop(link: str, host: str) -> bool:
    """Open the page as a browser does to which a host leads here; whether it shows buttons."""
    page = HTTPRequest(link, headers={"Host": host, "Sec-Fetch-Site": "same-origin"})
    answer = await AsyncHTTPClient().fetch(page)
    server = urlsplit(link).netloc
    token = re.search(rb'"token":"([^"]+)"', answer.body)
    assert token
    headers = {"Host": host, "Origin": f"http://{host}"}
    opened = HTTPRequest(f"ws://{server}/flame/ws", headers=headers)
    socket = await websocket_connect(opened, subprotocols=["bokeh", token[1].decode()])
    asked = Protocol().create("PULL-DOC-REQ")
    for part in (asked.header_json, asked.metadata_json, asked.content_json):
        await socket.write_message(part)
    text = ""
    while "can_stop" not in text:
        text = await socket.read_message()
    socket.close()
    return '"can_stop",true' in text.replace(" ", "") or '"can_stop":true' in text.replace(" ", "")


def test_the_page_that_another_site_opens_has_no_buttons(flame: Any) -> None:
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    link = cluster.flame_link
    port = urlsplit(link).port
    assert cluster.sync(can_stop, link, f"127.0.0.1:{port}")
    assert not cluster.sync(can_stop, link, f"evil.example:{port}")


_OTHER = "portal.example"
_LISTED = "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin"


async def connect(port: int, token: str) -> Any:
    request = HTTPRequest(f"ws://127.0.0.1:{port}/flame/ws", headers={"Origin": f"http://{_OTHER}"})
    socket = await websocket_connect(request, subprotocols=["bokeh", token])
    assert "ACK" in await socket.read_message()
    return socket


def test_a_session_that_another_page_has_made_up_cannot_stop_calls(flame: Any) -> None:
    # Other pages may read only if they are listed.
    with dask.config.set({_LISTED: [_OTHER]}):
        cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    scheduler = cluster.scheduler
    port = scheduler.http_server.port
    # What the headers of the session are is written in its token, which nobody signs.
    made_up = {"headers": {}, "cookies": {}, "arguments": {}}
    tokens = [generate_jwt_token(generate_session_id(), extra_payload=made_up) for _ in range(2)]
    with urllib.request.urlopen(cluster.flame_link, timeout=60) as page:
        assert page.status == 200
    with urllib.request.urlopen(f"{cluster.flame_link}?bokeh-token={tokens[0]}", timeout=60):
        pass
    sockets = [cluster.sync(connect, port, token) for token in tokens]
    (server,) = (a for a in scheduler.http_application.applications if hasattr(a, "get_sessions"))
    sessions = {session.id: session for session in server.get_sessions("/flame")}
    assert len(sessions) == 3
    made = [sessions.pop(get_session_id(token)) for token in tokens]
    (usual,) = sessions.values()
    assert may_stop(scheduler, usual.document.session_context.request)
    for session in made:
        assert not may_stop(scheduler, session.document.session_context.request)
    for socket in sockets:
        cluster.loop.add_callback(socket.close)


def train(rate: float) -> None:
    print("it begins")
    if rate > 0.5:
        raise ValueError("the rate is too high")
    Event("begun").set()
    while True:
        dask_flame.report(loss=rate)
        time.sleep(0.05)


def test_an_opened_call_has_its_traceback_and_its_lines_and_can_be_stopped(flame: Any) -> None:
    cluster, client = flame(max=2)
    reports = cluster.scheduler.plugins[NAME]
    failing, running = client.map(train, [0.9, 0.1])
    wait_for(lambda: failing.key in reports.calls())
    wait_for(lambda: reports.calls()[failing.key].state == "failed")

    def opened() -> Any:
        return details(reports, failing.key)

    wait_for(lambda: any("it begins" in line for line in opened()["lines"]))
    assert 'raise ValueError("the rate is too high")' in opened()["traceback"]
    assert details(reports, "unknown") is None
    Event("begun", client=client).wait()
    key = find(reports, running.key)
    assert key == running.key
    reports.stop(key)
    with pytest.raises(dask_flame.CallStopped):
        running.result()
    wait_for(lambda: reports.calls()[running.key].state == "cancelled")

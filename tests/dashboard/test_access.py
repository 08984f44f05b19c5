"""The token of a dashboard, on every route of the scheduler's server."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import dask.config
import pytest
from bokeh.util.token import get_token_payload
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.routing import PathMatches
from tornado.websocket import websocket_connect

from dask_flame.dashboard.access import TokenGate, _is_from_elsewhere, _without_token
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

OWN = "a-token_of.my~own"
PAGE = {"Accept": "text/html,application/xhtml+xml"}


class Dashboard:
    """A cluster with a token, and requests to its dashboard."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        link = urlsplit(cluster.dashboard_link)
        self.host, self.port = link.hostname, link.port
        self.token = link.query.removeprefix("token=")

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def status(self, path: str, method: str = "GET", **headers: str) -> int:
        return self.ask(path, method, **headers)[0]

    def cookie(self) -> str:
        status, headers, _ = self.ask(f"/status?token={self.token}", **PAGE)
        assert status == 302
        cookie, *attributes = headers["Set-Cookie"].split("; ")
        assert attributes == ["HttpOnly", "Path=/", "SameSite=Lax"]
        return cookie

    def routes(self) -> set[str]:
        """A path of each route of the server, with "x" for what it matches."""
        application = self.cluster.scheduler.http_application
        apps = [application, *application.applications]
        rules = [rule for app in apps for rule in app.default_router.rules]
        found = set()
        while rules:
            rule = rules.pop()
            if isinstance(rule.matcher, PathMatches):
                pattern = rule.matcher.regex.pattern.removesuffix("$").removesuffix("/?")
                found.add(re.sub(r"\([^)]*\)", "x", pattern).replace("\\", ""))
            rules += getattr(rule.target, "rules", [])
        return found - {""}


@pytest.fixture
def dashboard(flame: Any) -> Iterator[Dashboard]:
    with dask.config.set({"flame.dashboard.token": "auto"}):
        cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0", silence_logs=None)
        yield Dashboard(cluster)


def test_every_route_needs_the_token(dashboard: Dashboard) -> None:
    # Before the pages are built, and then.
    assert dashboard.status("/flame") == 403
    bearer = f"Bearer {dashboard.token}"
    assert dashboard.status("/flame", Authorization=bearer) in (200, 302)
    routes = dashboard.routes()
    expected = {"/metrics", "/sitemap.json", "/individual-plots.json", "/json/counts.json"}
    expected |= {"/info/logs/x.html", "/statics/x", "/static/x", "/proxy/x/x/x"}
    for page in (
        "/flame",
        "/pools",
        "/inspect",
        "/status",
        "/individual-flame-curves",
        "/individual-profile",
    ):
        expected |= {page, f"{page}/ws", f"{page}/autoload.js", f"{page}/metadata"}
    assert routes >= expected, expected - routes
    for path in [*sorted(routes), "/nope", "//health", "/health/", "/healthy", "/HEALTH", "/x?y"]:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            if path == "/health" and method in ("GET", "HEAD"):
                continue
            assert dashboard.status(path, method) == 403, (method, path)
    assert dashboard.ask("/health")[2] == "ok"
    for path in (
        "/metrics",
        "/json/counts.json",
        "/flame",
        "/flame/metadata",
        "/statics/css/base.css",
    ):
        for scheme in ("token", "Bearer", "bearer"):
            assert dashboard.status(path, Authorization=f"{scheme} {dashboard.token}") == 200, path
        assert dashboard.status(f"{path}?token={dashboard.token}") == 200


def test_the_page_in_its_place_says_how_to_get_in(dashboard: Dashboard) -> None:
    status, headers, text = dashboard.ask("/status", **PAGE)
    assert status == 403
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert "cluster.dashboard_link" in text
    assert dashboard.token not in text
    assert dashboard.ask("/status", "HEAD")[2] == ""


def test_wrong_tokens(dashboard: Dashboard) -> None:
    right = dashboard.token
    name = dashboard.cookie().partition("=")[0]
    for wrong in ("", right[:-1], right + "x", right.swapcase(), "é", "%ff", "auto", "None"):
        quoted = "".join(c if c.isascii() else "%C3%A9" for c in wrong)
        assert dashboard.status(f"/status?token={quoted}", **PAGE) == 403
        assert dashboard.status("/status", Authorization=f"token {wrong}") == 403
        assert dashboard.status("/status", Cookie=f"{name}={wrong}") == 403
    assert dashboard.status("/status", Authorization=right) == 403
    assert dashboard.status("/status", Authorization=f"Basic {right}") == 403
    assert dashboard.status("/status", Cookie=f"{name}={right}") == 403


def test_the_link_leads_to_a_page_without_the_token_by_a_cookie(dashboard: Dashboard) -> None:
    path = f"/info/main/workers.html?a=b&token={dashboard.token}&c=%26d"
    status, headers, text = dashboard.ask(path, **PAGE)
    assert (status, text) == (302, "")
    # Relative, so that it keeps what a proxy has put before the path.
    assert headers["Location"] == "./workers.html?a=b&c=%26d"
    assert headers["Referrer-Policy"] == "no-referrer"
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert dashboard.token not in cookie
    assert dashboard.status("/info/main/workers.html", Cookie=f"other=1; {cookie}; x=y") == 200
    # What asks for data keeps no cookies, and is answered at once.
    assert dashboard.status(f"/metrics?token={dashboard.token}") == 200
    root = dashboard.ask(f"/?token={dashboard.token}", **PAGE)[1]
    assert root["Location"] == "./"


def test_the_list_of_plots_is_whole_when_it_is_asked_for_first(dashboard: Dashboard) -> None:
    # As JupyterLab's extension does, which keeps no cookies.
    link = dashboard.cluster.dashboard_link.replace("/status", "/individual-plots.json")
    with urllib.request.urlopen(link, timeout=60) as plots:
        assert "/individual-flame-curves" in json.load(plots).values()


def test_a_page_does_not_contain_what_opens_it(dashboard: Dashboard) -> None:
    cookie = dashboard.cookie()
    assert dashboard.status("/flame", Cookie=cookie) == 302  # the pages are built
    page = dashboard.ask("/flame", Cookie=f"{cookie}; other=s", **PAGE)
    assert page[0] == 200
    # Bokeh writes the headers and the cookies of the request into the page.
    (session,) = re.findall(r'"token":"([\w-]+)', page[2])
    told = get_token_payload(session)
    assert told["cookies"] == {"other": "s"}
    for secret in (dashboard.token, cookie.partition("=")[2]):
        assert secret not in page[2]
        assert secret not in str(told)


async def connect(url: str, **headers: str) -> bool:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = HTTPRequest(url, headers=HTTPHeaders(named), connect_timeout=30, request_timeout=30)
    try:
        socket = await websocket_connect(request, subprotocols=["bokeh", "x.y"])
    except HTTPClientError as error:
        if error.code != 403:
            raise
        return False
    socket.close()
    return True


def test_websockets_need_it_too_and_pages_of_others_cannot_use_the_cookie(
    dashboard: Dashboard,
) -> None:
    cookie = dashboard.cookie()
    wait_for(lambda: dashboard.status("/flame", Cookie=cookie) == 200)
    host = f"127.0.0.1:{dashboard.port}"
    url = f"ws://{host}/flame/ws"

    def connects(url: str, **headers: str) -> bool:
        return bool(dashboard.cluster.sync(connect, url, **headers))

    assert not connects(url)
    assert not connects(f"{url}?token={dashboard.token}x")
    assert connects(f"{url}?token={dashboard.token}")
    assert connects(url, Cookie=cookie)
    assert connects(url, Cookie=cookie, Origin=f"http://{host}")
    for origin in ("http://evil.example", "http://127.0.0.1:1", f"http://{host}.evil", "null"):
        assert not connects(url, Cookie=cookie, Origin=origin)
    forwarded = {"Origin": "https://hub.example", "X_Forwarded_Host": "hub.example"}
    assert connects(url, Cookie=cookie, **forwarded)
    # JSON and scripts, for another origin's page.
    for site in ("same-site", "cross-site"):
        script = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "cors"}
        assert dashboard.status("/flame/autoload.js", Cookie=cookie, **script) == 403
        link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate"}
        assert dashboard.status("/flame", Cookie=cookie, **link) == 200
        assert dashboard.status("/flame", "POST", Cookie=cookie, **link) == 403


@pytest.mark.parametrize("allowed", [False, True])
def test_pages_of_other_sites_read_nothing_without_a_token_either(
    flame: Any, allowed: bool
) -> None:
    setting = "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin"
    origins = ["*", "portal.example"] if allowed else ["*"]
    with dask.config.set({setting: origins}):
        cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    dashboard = Dashboard(cluster)
    wait_for(lambda: dashboard.status("/flame") == 200)
    host = f"127.0.0.1:{dashboard.port}"
    url = f"ws://{host}/flame/ws"

    def connects(**headers: str) -> bool:
        return bool(cluster.sync(connect, url, **headers))

    # Programs send no origin.
    assert connects()
    assert connects(Origin=f"http://{host}")
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        assert not connects(Origin=origin)
    assert connects(Origin="http://portal.example") is allowed
    script = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"}
    for path in ("/flame/autoload.js?bokeh-autoload-element=x", "/json/counts.json", "/metrics"):
        assert dashboard.status(path) == 200
        status, _, text = dashboard.ask(path, Origin="http://evil.example", **script)
        assert (status, "allow_websocket_origin" in text) == (403, True)
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert dashboard.status("/flame", **visit) == 200


def secretly_named(argument: int) -> int:
    return argument


def test_metrics_of_runners_name_no_call(flame: Any) -> None:
    cluster, client = flame(max=1, min=1, dashboard_address="127.0.0.1:0")
    future = client.submit(secretly_named, 471147, key="secretly-keyed")
    assert future.result() == 471147
    (worker,) = cluster.scheduler.workers.values()

    def metrics() -> str:
        # Its pages are built when it has registered.
        dashboard = Dashboard(cluster)
        dashboard.port = worker.services["dashboard"]
        status, _, text = dashboard.ask("/metrics")
        return text if status == 200 else ""

    text = wait_for(metrics)
    assert "dask_worker" in text
    for word in ("secretly", "471147"):
        assert word not in text


def test_runners_do_not_inherit_a_token_of_the_drivers_environment(
    flame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_FLAME__DASHBOARD__TOKEN", OWN)
    with dask.config.set({"flame.dashboard.token": OWN}):
        _, client = flame(max=1, dashboard_address="127.0.0.1:0")
        found = client.submit(eval, "dict(__import__('os').environ)").result()
    assert OWN not in found.values()


def test_no_log_has_the_token(dashboard: Dashboard) -> None:
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    handler = Keep(logging.DEBUG)
    names = ("", "tornado.access", "tornado.general", "tornado.application", "bokeh")
    names += ("distributed", "dask_flame", "asyncio", "bokeh.server")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    cookie = dashboard.cookie()
    try:
        for path in ("/flame", "/nope", "/metrics", "/info/call-stacks/x.html", "/json/x"):
            for headers in ({}, PAGE):
                dashboard.ask(f"{path}?token={dashboard.token}", **headers)
                dashboard.ask(f"{path}?token={dashboard.token}", "POST", **headers)
                dashboard.ask(path, Authorization=f"token {dashboard.token}", **headers)
                dashboard.ask(path, Cookie=cookie, **headers)
        # It was there, and requests were logged.
        assert any("404 GET /nope" in line for line in said)
        assert not [line for line in said if dashboard.token in line]
        assert not [line for line in said if cookie.partition("=")[2] in line]
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    logs = dashboard.cluster.get_logs()
    assert dashboard.token not in str(logs)


def test_links_have_it_and_nothing_else_shows_it(dashboard: Dashboard, flame: Any) -> None:
    cluster, token = dashboard.cluster, dashboard.token
    assert len(token) > 40
    query = f"?token={token}"
    with cluster.get_client() as client:
        for link in (cluster.dashboard_link, cluster.flame_link, client.dashboard_link):
            assert link.endswith(query)
        for page in (cluster._repr_html_(), client._repr_html_()):
            assert query in page
        for text in (repr(cluster), repr(client), str(cluster.manifest()), str(cluster.events)):
            assert token not in text
        assert token not in json.dumps(client.scheduler_info(), default=str)
        # Runners have none of it, and clusters of calls a token of their own.
        told = client.submit(dask.config.get, "flame.dashboard.token").result(timeout=60)
        assert told == "auto"
        shown = client.submit(lambda: repr(dask.config.config)).result(timeout=60)
        assert token not in shown
    other, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    assert token not in other.dashboard_link
    assert "?token=" in other.dashboard_link


def test_a_token_of_ones_own_and_none(flame: Any) -> None:
    with dask.config.set({"flame.dashboard.token": OWN}):
        cluster, client = flame(max=1, dashboard_address="127.0.0.1:0")
        assert cluster.dashboard_link.endswith(f"/status?token={OWN}")
        told = client.submit(dask.config.get, "flame.dashboard.token").result(timeout=60)
        assert told == "auto"
        assert OWN not in str(cluster.manifest())
        hidden, _ = flame(max=1)  # without pages, it serves its health and metrics
        port = hidden.scheduler.http_server.port
    dashboard = Dashboard(cluster)
    assert dashboard.status("/metrics") == 403
    assert dashboard.status("/metrics", Authorization=f"Bearer {OWN}") == 200
    dashboard.port = port
    assert dashboard.status("/metrics") == 403
    assert dashboard.status("/metrics", Authorization=f"Bearer {OWN}") == 200
    plain, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    assert "?" not in plain.dashboard_link
    assert Dashboard(plain).status("/metrics") == 200


@pytest.mark.parametrize(
    ("address", "path", "tokens", "rest"),
    [
        ("/a", "/a", [], ""),
        ("/a?", "/a", [], ""),
        ("/a?token=b", "/a", ["b"], ""),
        ("/a?x=%20&token=b&y&token=c", "/a", ["b", "c"], "x=%20&y"),
        ("/a?tok%65n=b%2D", "/a", ["b-"], ""),
        ("/a?tokens=b?token=c", "/a", [], "tokens=b?token=c"),
    ],
)
def test_an_address_is_taken_apart(address: str, path: str, tokens: list[str], rest: str) -> None:
    assert _without_token(address) == (path, tokens, rest)


def test_cookies_of_clusters_do_not_meet() -> None:
    names = set()
    for token in (OWN, OWN + "2"):
        gate = TokenGate(None, token)
        set_cookie = gate.set_cookie(HTTPHeaders())
        names.add(set_cookie.partition("=")[0])
        own = HTTPHeaders({"Cookie": set_cookie.partition(";")[0], "Authorization": "Basic x"})
        assert gate.has_cookie(own)
        assert dict(gate.without_cookie(own)) == {"Authorization": "Basic x"}
        both = HTTPHeaders({"Cookie": f"a=b; {own['Cookie']}", "Authorization": f"token {token}"})
        assert dict(gate.without_cookie(both)) == {"Cookie": "a=b"}
    assert len(names) == 2
    assert TokenGate(None, OWN, secure=True).set_cookie(HTTPHeaders()).endswith("; Secure")


def test_the_cookie_of_one_cluster_opens_no_other_one_with_the_same_token() -> None:
    """Whoever listens at the port of a driver that has ended gets the cookie of an open page."""
    ended, other = TokenGate(None, OWN), TokenGate(None, OWN)
    cookie = ended.set_cookie(HTTPHeaders()).partition(";")[0]
    assert ended.has_cookie(HTTPHeaders({"Cookie": cookie}))
    assert not other.has_cookie(HTTPHeaders({"Cookie": cookie}))
    value = cookie.partition("=")[2]
    name = other.set_cookie(HTTPHeaders()).partition("=")[0]
    assert not other.has_cookie(HTTPHeaders({"Cookie": f"{name}={value}"}))


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("/user/ann/proxy/8787", "/user/ann"),
        ("/user/ann%40x/lab/proxy/absolute/8787", "/user/ann%40x/lab"),
        ("/user/proxy/proxy/8787", "/user/proxy"),
        ("/user/ann/pages", "/user/ann/pages"),
        ("/proxy/8787", "/"),
        ("/a; Domain=example", "/"),
        ("//evil.example", "/"),
        ("x", "/"),
    ],
)
def test_behind_a_proxy_the_cookie_is_sent_to_this_users_server_only(
    prefix: str, path: str
) -> None:
    """Other users of a JupyterHub have servers at the same host."""
    said = TokenGate(None, OWN).set_cookie(HTTPHeaders({"X-ProxyContextPath": prefix}))
    assert said.split("; ")[1:] == ["HttpOnly", f"Path={path}", "SameSite=Lax"]


@pytest.mark.parametrize("token", [None, "auto"])
def test_dasks_proxy_leads_to_runners_only(flame: Any, token: str | None) -> None:
    """Its route would open WebSockets to any host, from the scheduler."""
    with dask.config.set({"flame.dashboard.token": token}):
        cluster, client = flame(max=1, dashboard_address="127.0.0.1:0")
    dashboard = Dashboard(cluster)
    given = {"Authorization": f"Bearer {dashboard.token}"}
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    upgrade["Sec_WebSocket_Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    with socket.create_server(("127.0.0.1", 0)) as inner:
        port = inner.getsockname()[1]
        for path in (f"/proxy/{port}/127.0.0.1/x", f"/proxy/{port}/%31%327.0.0.1/x?a/b"):
            for headers in ({}, upgrade):
                status, _, text = dashboard.ask(path, **given, **headers)
                assert (status, text) == (400, "No runner of this cluster has its pages there.\n")
        assert dashboard.status(f"/proxy/{port}/[::1]/x", "POST", **given) == 400
        inner.setblocking(False)
        with pytest.raises(BlockingIOError):
            inner.accept()
    assert client.submit(abs, -1).result() == 1
    (worker,) = cluster.scheduler.workers.values()
    text = dashboard.ask(f"/proxy/{worker.services['dashboard']}/{worker.host}/health", **given)[2]
    assert "No runner" not in text


def test_what_is_from_elsewhere() -> None:
    def elsewhere(method: str = "GET", **headers: str) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return _is_from_elsewhere(method, HTTPHeaders({"Host": "h:1", **named}))

    assert not elsewhere()
    assert not elsewhere("POST", Origin="http://h:1")
    assert elsewhere("POST", Origin="http://h:2")
    assert elsewhere("POST", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="navigate")
    assert not elsewhere(Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate")
    # The browser knows the address better than what is behind a proxy.
    assert not elsewhere("POST", Sec_Fetch_Site="same-origin", Origin="https://hub")
    assert elsewhere(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert not elsewhere(**visit)
    assert elsewhere(Upgrade="websocket", **visit)

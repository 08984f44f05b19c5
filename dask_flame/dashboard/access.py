"""Who may read the pages of a dashboard (scheduler).

Pages of other sites may not. With a token, nobody may who does not have it.

Bokeh has hooks of its own (``auth_provider``), but they cover Bokeh's pages only, and not those of
Dask: JSON, metrics, the tables of workers and tasks, and the proxy to the pages of workers. Pages
are also added while the server runs. Therefore the token is asked for before any route is looked
up, where tornado's server hands over a request. The request continues without it, so that no page,
and no log message about a request, contains the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import dask.config
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from dask_flame.core.deferred_pages import removed_query

#: Answers "ok", whatever the cluster does: probes of a substrate ask for it.
_OPEN = "/health"
_READS = ("GET", "HEAD")
#: Dask's setting for the origins of pages that may open WebSockets.
_ALLOWED = "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin"

#: Dask's route to pages of workers: port and host.
_PROXY = re.compile(r"/proxy/(\d+)/([^/]*)/")
_NO_RUNNER = "No runner of this cluster has its pages there.\n"
#: Where a proxy has put the pages, if that can be the path of a cookie.
_PREFIX = re.compile(r"(/[A-Za-z0-9._~%@:+-]+)+/?")

_REFUSED = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>This dashboard needs a token</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 38em; margin: 12vh auto; padding: 0 1.5em }
h1 { font-size: 1.4em }
code { padding: .15em .4em; border: 1px solid #8886; border-radius: 4px; white-space: nowrap }
</style>
</head>
<body>
<h1>This dashboard needs a token</h1>
<p>Open the link that its cluster prints. In the notebook or the program that made the cluster:</p>
<p><code>print(cluster.dashboard_link)</code></p>
<p>The link has the token, and this browser then remembers it in a cookie. Programs send the
header <code>Authorization: Bearer TOKEN</code>.</p>
</body>
</html>
"""


_OTHER_SITE = """\
This request comes from a page of another site. It may read a dashboard only if its origin is in
distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin of Dask's configuration.
"""


def guard(scheduler: Any, token: str | None) -> None:
    """Refuse requests to a scheduler's pages that pages of other sites have caused.

    With a token, refuse also each request that has neither the token nor its cookie.

    Call this before the event loop runs again after the scheduler was made: its server listens
    already. The server's ``request_callback`` is a public attribute of tornado's, though it is not
    in its documentation.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    token : str or None
        Characters that an address can hold.
    """
    server = scheduler.http_server
    application = scheduler.http_application
    gate: SiteGate | TokenGate
    if token is None:
        gate = SiteGate(application, _origins())
    else:
        gate = TokenGate(application, token, secure=server.ssl_options is not None)
    gate.leads_astray = partial(_leads_astray, scheduler)
    server.request_callback = gate


def _leads_astray(scheduler: Any, address: str) -> bool:
    """Return whether a request is to be passed on to a host and port where no runner has pages.

    Dask's route for this looks whether a runner does, but not when it opens a WebSocket.
    """
    found = _PROXY.search(address.partition("?")[0])
    if found is None:
        return False
    port, host = found[1], unquote_plus(found[2])
    try:
        # It imports aiohttp, if jupyter-server-proxy is installed.
        from distributed.http.proxy import check_worker_dashboard_exists

        return not check_worker_dashboard_exists(scheduler, f"{host}:{port}")
    except ValueError:  # it does not know IPv6
        return True


def _origins() -> frozenset[str]:
    """Return the hosts, with their ports, of the other sites that may read the pages.

    Dask's default is every site, so that only what a user has written counts.
    """
    named = dask.config.get(_ALLOWED, default=None) or ()
    return frozenset(str(origin) for origin in named) - {"*"}


def is_at_own_host(scheduler: Any, host: str) -> bool:
    """Return whether no page of another site can have opened a dashboard at this host.

    The owner of a domain can let a name of it lead to this machine for a moment (DNS rebinding).
    For a browser, the dashboard is then a page of that site. With a token, such a page is refused;
    without one, the name tells it.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    host : str
        The header ``Host`` of the request; empty if there was none, so that it is of no browser.
    """
    if isinstance(scheduler.http_server.request_callback, TokenGate):
        return True
    if not host or host in _origins():
        return True
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class SiteGate(HTTPServerConnectionDelegate):
    """Pass on all requests but those that pages of other sites have caused.

    Without it, any page that is open in a browser on this machine could read a dashboard there:
    Dask lets pages of all origins open its WebSockets.

    Parameters
    ----------
    application : tornado.httputil.HTTPServerConnectionDelegate
        Answers the requests.
    origins : collection of str
        Hosts, with their ports, of other sites that may read the pages.
    """

    def __init__(
        self, application: HTTPServerConnectionDelegate, origins: Collection[str] = ()
    ) -> None:
        self.application = application
        self.origins = origins
        self.leads_astray: Callable[[str], bool] = lambda address: False

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        return _SiteRequest(self, server_conn, request_conn)


class TokenGate(HTTPServerConnectionDelegate):
    """Pass on the requests that have a token.

    Requests may have it as ``?token=…``, as ``Authorization: token …`` or ``Bearer …``, or as the
    cookie that a page sets when it is opened by the former. A token on its own proves that its
    sender was given it. Browsers also send a cookie with requests that another site has caused, so
    with a cookie these are refused, unless they only show a page.

    Parameters
    ----------
    application : tornado.httputil.HTTPServerConnectionDelegate
        Answers the requests that have the token.
    token : str
    secure : bool, default False
        Whether the server has TLS, so that browsers must not send the cookie without it.
    """

    def __init__(
        self, application: HTTPServerConnectionDelegate, token: str, *, secure: bool = False
    ) -> None:
        self.application = application
        self.leads_astray: Callable[[str], bool] = lambda address: False
        self._token = token
        # A cookie opens this dashboard alone: a page that stays open sends it to whoever listens
        # next at its port.
        self._salt = secrets.token_hex()
        # Not named by the port: forwarded ports and proxies show dashboards that listen on the same
        # one. The name and the value do not tell the token.
        self._cookie = f"dask-flame-{self._derived('name')[:12]}"
        self._value = self._derived("value")
        self._secure = secure

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        return _GatedRequest(self, server_conn, request_conn)

    def _derived(self, purpose: str) -> str:
        message = f"dask-flame dashboard {purpose} {self._salt}".encode()
        return hmac.new(self._token.encode(), message, hashlib.sha256).hexdigest()

    # What a request has

    def is_right(self, given: str) -> bool:
        """Return whether this is the token."""
        return _same(given, self._token)

    def has_header(self, headers: HTTPHeaders) -> bool:
        """Return whether a request has the token in a header."""
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        return scheme.lower() in ("token", "bearer") and self.is_right(given.strip())

    def has_cookie(self, headers: HTTPHeaders) -> bool:
        """Return whether a request has the cookie."""
        return any(
            name == self._cookie and _same(value, self._value)
            for name, value in map(_name_and_value, _cookies(headers))
        )

    def without_cookie(self, headers: HTTPHeaders) -> HTTPHeaders:
        """Return headers without the cookie and the token.

        Bokeh would write all headers into the page.
        """
        kept = headers.copy()
        if self.has_header(headers):
            del kept["Authorization"]
        if "Cookie" in kept:
            others = [c for c in _cookies(headers) if _name_and_value(c)[0] != self._cookie]
            del kept["Cookie"]
            if others:
                kept["Cookie"] = "; ".join(others)
        return kept

    def set_cookie(self, headers: HTTPHeaders) -> str:
        """Return the header that sets the cookie until the browser ends.

        Behind jupyter-server-proxy, it is sent to the Jupyter server of this user only: others may
        have servers of their own at the same host. JupyterLab's sidebar for Dask, which has a proxy
        of its own at this server, needs the cookie, too.
        """
        prefix = headers.get("X-ProxyContextPath", "")
        if not _PREFIX.fullmatch(prefix):
            prefix = ""
        server, found, _ = prefix.rpartition("/proxy/")
        path = (server if found else prefix) or "/"
        secure = "; Secure" * self._secure
        return f"{self._cookie}={self._value}; HttpOnly; Path={path}; SameSite=Lax{secure}"


class _Request(HTTPMessageDelegate):
    """One request: passed on to the application, or answered here."""

    def __init__(self, server_conn: object, connection: Any) -> None:
        self._server_conn = server_conn
        self._connection = connection
        self._passed: HTTPMessageDelegate | None = None
        self._body = b""
        self._answer = (ResponseStartLine("HTTP/1.1", 403, "Forbidden"), HTTPHeaders())

    def _pass(
        self, gate: SiteGate | TokenGate, line: Any, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if gate.leads_astray(line.path):
            self._refuse(line.method, _NO_RUNNER, "text/plain", 400, "Bad Request")
            return None
        self._passed = gate.application.start_request(self._server_conn, self._connection)
        ready: Awaitable[None] | None = self._passed.headers_received(line, headers)
        return ready

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._passed is None:
            return None
        ready: Awaitable[None] | None = self._passed.data_received(chunk)
        return ready

    def finish(self) -> None:
        if self._passed is None:
            self._connection.write_headers(*self._answer, self._body)
            self._connection.finish()
        else:
            self._passed.finish()

    def on_connection_close(self) -> None:
        if self._passed is not None:
            self._passed.on_connection_close()

    def _refuse(
        self, method: str, text: str, kind: str, code: int = 403, reason: str = "Forbidden"
    ) -> None:
        body = text.encode()
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        self._say(code, reason, headers)
        self._body = b"" if method == "HEAD" else body

    def _say(self, code: int, reason: str, headers: dict[str, str]) -> None:
        common = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        start = ResponseStartLine("HTTP/1.1", code, reason)
        self._answer = (start, HTTPHeaders({**common, **headers}))


class _SiteRequest(_Request):
    def __init__(self, gate: SiteGate, *request: Any) -> None:
        super().__init__(*request)
        self._gate = gate

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        method = start_line.method
        origin = urlsplit(headers.get("Origin", "")).netloc
        if _is_from_elsewhere(method, headers) and origin not in self._gate.origins:
            self._refuse(method, _OTHER_SITE, "text/plain")
            return None
        return self._pass(self._gate, start_line, headers)


class _GatedRequest(_Request):
    def __init__(self, gate: TokenGate, *request: Any) -> None:
        super().__init__(*request)
        self._gate = gate
        self._removed = ""

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        gate = self._gate
        path, given, query = _without_token(start_line.path)
        method = start_line.method
        by_address = any(map(gate.is_right, given))
        if by_address and _shows_page(method, headers):
            self._redirect(path, query, headers)
        elif (
            by_address
            or gate.has_header(headers)
            or (gate.has_cookie(headers) and not _is_from_elsewhere(method, headers))
            or (path == _OPEN and method in _READS)
        ):
            # A page that is built now redirects to itself, and needs the token there.
            self._removed = next(filter(gate.is_right, given), "")
            line = RequestStartLine(method, _joined(path, query), start_line.version)
            return self._pass(gate, line, gate.without_cookie(headers))
        else:
            self._refuse(method, _REFUSED, "text/html")
        return None

    def finish(self) -> None:
        # The handler runs as a task, which copies the context.
        before = removed_query.set(f"token={self._removed}" if self._removed else "")
        try:
            super().finish()
        finally:
            removed_query.reset(before)

    def _redirect(self, path: str, query: str, given: HTTPHeaders) -> None:
        """Show the same page without the token, which would stay in the history of the browser."""
        # Relative, because a proxy may add a prefix to the path.
        here = f"./{_joined(path.rpartition('/')[2], query)}"
        headers = {"Location": here, "Set-Cookie": self._gate.set_cookie(given)}
        headers["Content-Length"] = "0"
        self._say(302, "Found", headers)


def _without_token(address: str) -> tuple[str, list[str], str]:
    """Return the path of an address, its tokens, and the rest of its query."""
    path, _, query = address.partition("?")
    given, rest = [], []
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if unquote_plus(name) == "token":
            given.append(unquote_plus(value))
        else:
            rest.append(part)
    return path, given, "&".join(rest)


def _joined(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _cookies(headers: HTTPHeaders) -> list[str]:
    lines = headers.get_list("Cookie")
    return [cookie.strip() for line in lines for cookie in line.split(";")]


def _name_and_value(cookie: str) -> tuple[str, str]:
    name, _, value = cookie.partition("=")
    return name.strip(), value.strip()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _shows_page(method: str, headers: HTTPHeaders) -> bool:
    """Return whether the answer is for a person; programs do not keep cookies."""
    return method in _READS and "text/html" in headers.get("Accept", "")


def _is_from_elsewhere(method: str, headers: HTTPHeaders) -> bool:
    """Return whether a page of another origin has caused a request that is not a visit.

    This includes pages of other ports of the same host: browsers send them cookies, too.
    """
    upgrade = headers.get("Upgrade", "")
    visit = method in _READS and not upgrade
    if site := headers.get("Sec-Fetch-Site", ""):
        if site in ("same-origin", "none"):
            return False
        return not (visit and headers.get("Sec-Fetch-Mode") == "navigate")
    # Browsers leave these headers out for plain HTTP to other machines, and some for WebSockets.
    origin = headers.get("Origin", "")
    hosts = (headers.get("Host"), headers.get("X-Forwarded-Host"))
    return bool(origin) and urlsplit(origin).netloc not in hosts

"""What a page can do to a running call, and who may do it (scheduler)."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import parse_qs

from dask.typing import Key

from dask_flame.core.distributed_internals import listens_on
from dask_flame.core.settings import configured
from dask_flame.dashboard.access import is_at_own_host
from dask_flame.reports.names import names
from dask_flame.reports.scheduler.lookup import Gatherer


def may_stop(scheduler: Any, request: Any) -> bool:
    """Return whether a page can stop calls.

    By default it can if the dashboard listens on this machine only: everybody who can open the page
    could do it. ``flame.reports.stop`` changes this. In any case the page must have been opened by
    itself, and without a token at an address that no other site can have: the scripts of another
    page, in a browser of the same user, cannot use it.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    request : object
        The request that opened the page, as ``session_context.request`` of its document.
    """
    wanted: bool | None = configured("reports.stop")
    if wanted is None:
        addresses = listens_on(scheduler.http_server)
        wanted = bool(addresses) and all(map(_is_loopback, addresses))
    headers = dict(getattr(request, "headers", {}))
    host = str(headers.get("Host") or "")
    by_itself = not _brings_session(request) and _is_by_itself(headers)
    return wanted and by_itself and is_at_own_host(scheduler, host)


def details(reports: Gatherer, key: str) -> dict[str, Any] | None:
    """Return what the page shows of one call only when it is opened.

    Parameters
    ----------
    reports : Gatherer
    key : str
        Text of the call's key.

    Returns
    -------
    dict or None
        ``key``; ``traceback`` of its failure; ``lines`` that it has printed. None if there is no
        such call.
    """
    found = find(reports, key)
    if found is None:
        return None
    call = reports.calls()[found]
    shown = reports.name_of(found) or names([call])[found]
    lines = list(reports.lines(call.runner, shown)) if reports.lines is not None else []
    return {"key": key, "traceback": reports.traceback(found), "lines": lines}


def find(reports: Gatherer, key: str) -> Key | None:
    """Return the key of a call by its text, as pages know it; None if there is no such call."""
    calls = reports.calls()
    return key if key in calls else next((k for k in calls if str(k) == key), None)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _brings_session(request: Any) -> bool:
    """Return whether a session was not begun by its page, but by a token that was sent for it.

    Bokeh takes the headers of such a session from the token, which any script can write. A page
    whose session has ended comes back in this way, and then loads itself again.
    """
    path, query = getattr(request, "path", ""), getattr(request, "query", "")
    return path.endswith("/ws") or "bokeh-token" in parse_qs(query, keep_blank_values=True)


def _is_by_itself(headers: dict[str, Any]) -> bool:
    # Browsers tell which page has caused a request; no script can change these headers. Other
    # clients, which send none, are no browsers that somebody could misuse.
    site = str(headers.get("Sec-Fetch-Site", "none"))
    origin = str(headers.get("Origin") or "")
    return site in ("none", "same-origin") and (
        not origin or origin.partition("://")[2] == headers.get("Host")
    )

"""Links to the dashboard, from the template in Dask's configuration (driver)."""

from __future__ import annotations

import warnings

import dask.config
from distributed.utils import format_dashboard_link


def dashboard_link(host: str, port: int, warned: set[str]) -> str:
    """Return the dashboard's link; its plain address if the template cannot be filled in.

    Parameters
    ----------
    host : str
    port : int
    warned : set of str
        Templates that have caused a warning; updated in place to warn once for each.
    """
    try:
        return str(format_dashboard_link(host, port))
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        template = str(dask.config.get("distributed.dashboard.link", default=""))
        if template not in warned:
            warned.add(template)
            what = f"{error.args[0]} is not set" if isinstance(error, KeyError) else str(error)
            warnings.warn(
                f"distributed.dashboard.link is {template!r}, and cannot be filled in ({what}): "
                "the dashboard is shown by its own address; set the variable, or write "
                'dask.config.set({"distributed.dashboard.link": "{scheme}://{host}:{port}/status"})',
                UserWarning,
                stacklevel=3,
            )
    certificate = dask.config.get("distributed.scheduler.dashboard.tls.cert", default=None)
    return f"{'https' if certificate else 'http'}://{host}:{port}/status"


def host_of(address: str) -> str:
    """Return the host in the address of a scheduler, in brackets if it is of IPv6."""
    place = address.partition("://")[2].partition("/")[0]
    return place.rpartition(":")[0] or place


def served_at(dashboard_address: str | None, scheduler: str) -> str:
    """Return the host for links of a dashboard that a scheduler in this process serves.

    A dashboard on the loopback interface does not answer at the address of a scheduler that
    listens on a network, as for runners of Slurm.

    Parameters
    ----------
    dashboard_address : str or None
        As checked; without a host: all addresses of this machine.
    scheduler : str
        Address of the scheduler.

    Examples
    --------
    >>> served_at("127.0.0.1:8787", "tls://10.0.0.1:40999")
    '127.0.0.1'
    >>> served_at(":8787", "tls://10.0.0.1:40999")
    '10.0.0.1'
    """
    host = (dashboard_address or "").rpartition(":")[0]
    return host_of(scheduler) if host in ("", "0.0.0.0") else host


def with_token(link: str, token: str | None) -> str:
    """Return a link of the dashboard with its token, if both are there."""
    if not link or token is None:
        return link
    address, mark, fragment = link.partition("#")
    return f"{address}{'&' if '?' in address else '?'}token={token}{mark}{fragment}"


def page_link(dashboard: str, page: str) -> str:
    """Return the address of a dashboard page; empty without a dashboard."""
    address, mark, query = dashboard.partition("?")
    return dashboard and f"{address.removesuffix('/status').rstrip('/')}/{page}{mark}{query}"

"""Links to the dashboard, by the template in Dask's configuration."""

from __future__ import annotations

import socket
import warnings
from typing import Any

import dask.config
import pytest
from dask.distributed import Client

from dask_flame import FlameCluster
from dask_flame.driver.dashboard_links import dashboard_link, page_link, served_at, with_token


@pytest.mark.unit
@pytest.mark.parametrize("template", ["/user/{FLAME_NOT_SET}/{port}", "{0}/{port}", "{port", 5])
def test_a_template_that_cannot_be_filled_in_gives_a_link_and_one_warning(template: Any) -> None:
    warned: set[str] = set()
    with dask.config.set({"distributed.dashboard.link": template}):
        with pytest.warns(UserWarning, match=r"distributed\.dashboard\.link is .* filled in"):
            assert dashboard_link("h", 1, warned) == "http://h:1/status"
        with warnings.catch_warnings(action="error"):
            assert dashboard_link("h", 1, warned) == "http://h:1/status"


@pytest.mark.unit
def test_pages_beside_the_dashboard() -> None:
    assert page_link("", "flame") == ""
    assert page_link("http://h:1/status", "flame") == "http://h:1/flame"
    assert page_link("/user/me/proxy/1/", "flame") == "/user/me/proxy/1/flame"


@pytest.mark.unit
def test_links_with_a_token() -> None:
    link = with_token("/user/me/proxy/1/status", "abc")
    assert link == "/user/me/proxy/1/status?token=abc"
    assert page_link(link, "flame") == "/user/me/proxy/1/flame?token=abc"
    assert with_token("http://h/?a=b#c", "abc") == "http://h/?a=b&token=abc#c"
    assert with_token("http://h/status", None) == "http://h/status"
    assert with_token("", "abc") == ""


@pytest.mark.unit
def test_links_lead_to_where_the_dashboard_listens() -> None:
    scheduler = "tls://10.0.0.1:40999"
    assert served_at("127.0.0.1:8787", scheduler) == "127.0.0.1"
    assert served_at("10.0.0.2:0", scheduler) == "10.0.0.2"
    assert served_at(":8787", scheduler) == served_at("0.0.0.0:0", scheduler) == "10.0.0.1"


@pytest.mark.process
def test_a_cluster_is_shown_whatever_the_template(flame: Any) -> None:
    cluster, client = flame(max=1, dashboard_address="127.0.0.1:0")
    port = cluster.scheduler_info["services"]["dashboard"]
    with dask.config.set({"distributed.dashboard.link": "{FLAME_NOT_SET}/{port}/status"}):
        with pytest.warns(UserWarning, match="FLAME_NOT_SET is not set"):
            assert cluster.dashboard_link == f"http://127.0.0.1:{port}/status"
        for shown in (repr(cluster), cluster._repr_html_(), repr(client), client._repr_html_()):
            assert shown
        assert cluster.flame_link == f"http://127.0.0.1:{port}/flame"


@pytest.mark.process
def test_a_client_that_has_only_the_address_shows_the_link(flame: Any) -> None:
    """As JupyterLab's sidebar writes it into a notebook."""
    cluster, _ = flame(max=1, dashboard_address="127.0.0.1:0")
    with Client(cluster.scheduler_address) as other:
        assert other.dashboard_link == cluster.dashboard_link
        assert f"href='{cluster.dashboard_link}'" in other._repr_html_().replace('"', "'")


@pytest.mark.process
@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_in_use_is_told_in_one_line_with_the_other_port(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        socket.create_server((host, 0)) as other,
        warnings.catch_warnings(action="error"),
        FlameCluster(max=1, dashboard_address=f"{host}:{other.getsockname()[1]}") as cluster,
    ):
        port = cluster.scheduler_info["services"]["dashboard"]
        told = f"port {other.getsockname()[1]} is in use: the dashboard is at"
        assert caplog.messages == [f"{told} http://127.0.0.1:{port}/status"]
        assert cluster.dashboard_link in caplog.text

"""Links to the dashboard, by the template in Dask's configuration."""

from __future__ import annotations

import socket
import warnings
from typing import Any

import dask.config
import psutil
import pytest

from dask_flame import FlameCluster
from dask_flame.driver.dashboard_links import dashboard_link, page_link


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
@pytest.mark.filterwarnings("ignore:unclosed.*0.0.0.0:ResourceWarning")  # of tornado's own
def test_a_port_in_use_may_be_an_error_and_leaves_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, warnings.catch_warnings():
        before = psutil.Process().net_connections()
        warnings.filterwarnings("error", "Port .* is already in use")
        with pytest.raises(UserWarning, match="is already in use"):
            FlameCluster(max=1, dashboard_address=f"127.0.0.1:{other.getsockname()[1]}")
        assert psutil.Process().net_connections() == before

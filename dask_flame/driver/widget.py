"""A notebook widget that shows and controls a cluster's pools (driver)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Any, Protocol

import dask.config
from dask.utils import parse_timedelta
from distributed import Status
from tornado.ioloop import PeriodicCallback

from dask_flame.charts.panel import live, same
from dask_flame.core.pool import Pool
from dask_flame.errors import FlameError

#: Maximum seconds between two updates; see :func:`dask_flame.charts.panel.live`.
_HEARTBEAT = 5.0


class Controlled(Protocol):
    """The methods of :class:`FlameCluster` that the widget uses."""

    status: Status
    name: str
    periodic_callbacks: dict[str, PeriodicCallback]

    @property
    def pools(self) -> Mapping[str, Pool]: ...

    @property
    def loop(self) -> Any: ...

    def resize(self, pool: str | None = None, **changes: Any) -> Pool: ...

    def close(self) -> Any: ...

    def _repr_html_(self) -> str: ...


class Widget:
    """A view of a cluster's pools, with buttons to resize and end it.

    The view updates while a cell runs. The buttons work when the kernel is idle, and in notebooks
    that support subshells also while a cell runs.

    Attributes
    ----------
    root : ipywidgets.Widget

    Raises
    ------
    ImportError
        If ipywidgets is not installed.
    """

    def __init__(self, cluster: Controlled) -> None:
        import ipywidgets as kit

        self._cluster = cluster
        self._panel = kit.HTML()
        self._shown, self._shown_at = "", 0.0
        pools = list(cluster.pools)
        narrow = kit.Layout(width="130px")
        self._pool = kit.Dropdown(
            options=pools,
            layout=kit.Layout(width="150px", display="none" if len(pools) == 1 else None),
        )
        style = {"description_width": "30px"}
        self._min = kit.BoundedIntText(description="min", max=10**6, layout=narrow, style=style)
        self._max = kit.BoundedIntText(description="max", max=10**6, layout=narrow, style=style)
        self._resize = kit.Button(description="Resize", layout=kit.Layout(width="auto"))
        self._end = kit.Button(description="End cluster…", layout=kit.Layout(width="auto"))
        self._really = kit.Button(
            description="End it, and its calls",
            button_style="danger",
            layout=kit.Layout(width="auto", display="none"),
        )
        self._said = kit.HTML()
        self._controls = (self._pool, self._min, self._max, self._resize, self._end)
        self._pool.observe(lambda _: self._fill(), "value")
        self._resize.on_click(self._guarded(self._do_resize))
        self._end.on_click(lambda _: self._ask())
        self._really.on_click(self._guarded(self._do_end))
        self._fill()
        self._buttons = kit.HBox(
            [*self._controls, self._really, self._said],
            layout=kit.Layout(flex_flow="row wrap", align_items="center"),
        )
        self.update()
        self.root = _root(kit, [self._panel, self._buttons])
        for control in (*self._controls, self._really):
            _beside(control)
        cluster.loop.add_callback(self._install)

    # View

    def _install(self) -> None:
        seconds = parse_timedelta(dask.config.get("distributed.deploy.cluster-repr-interval"), "ms")
        callback = PeriodicCallback(self.update, seconds * 1000)
        self._cluster.periodic_callbacks["cluster-repr"] = callback
        callback.start()

    def update(self) -> None:
        """Show the current state, or the time at which it is still the same."""
        page, now = self._cluster._repr_html_(), time.monotonic()
        if not same(page, self._shown) or now - self._shown_at > _HEARTBEAT:
            self._shown, self._shown_at = page, now
            self._panel.value = live(self._cluster.name, page)
        if self._cluster.status in (Status.closing, Status.closed):
            for control in (*self._controls, self._really):
                control.disabled = True
            self._buttons.layout.display = "none"

    def _fill(self) -> None:
        policy = self._cluster.pools[self._pool.value]
        self._min.value, self._max.value = policy.min, policy.max

    # Buttons

    def _guarded(self, action: Any) -> Any:
        def act(_: Any) -> None:
            try:
                self._say(action())
            except (FlameError, OSError) as error:
                self._say(str(error), bad=True)
            self.update()

        return act

    def _say(self, text: str, *, bad: bool = False) -> None:
        colour = ' style="color:#D55E00"' if bad else ""
        self._said.value = f"<span{colour}>{escape(text)}</span>"

    def _do_resize(self) -> str:
        policy = self._cluster.resize(self._pool.value, min=self._min.value, max=self._max.value)
        return f"{policy.min} to {policy.max} runners from now on"

    def _ask(self) -> None:
        hidden = self._really.layout.display == "none"
        self._really.layout.display = None if hidden else "none"
        self._end.description = "Keep it" if hidden else "End cluster…"

    def _do_end(self) -> str:
        self._cluster.close()
        return ""


def _root(kit: Any, children: list[Any]) -> Any:
    """Return a box that is shown as an output of its own.

    distributed shows a cluster by one output with the widget and its HTML. JupyterLab would show
    only the widget, and an error in its place without the kernel, also in a saved notebook.
    Therefore the HTML is an output of its own; its style hides one of the two.
    """

    class Root(kit.VBox):
        def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
            from IPython.display import display

            view = super()._repr_mimebundle_(**kwargs) or {}
            view.pop("text/plain", None)
            # Nothing is shown of it where there are no widgets.
            display({**view, "text/html": ""}, raw=True)
            return {}

    return Root(children)


def _beside(control: Any) -> None:
    """Handle a control's messages in the subshell that receives them.

    JupyterLab sends clicks to a subshell of the kernel. Since version 7.4, ipykernel forwards them
    to the shell that showed the widget last, which is blocked by the running cell.
    """
    # Older versions of ipykernel ignore this attribute.
    control.comm._reply_subshell_for = lambda data, default: default

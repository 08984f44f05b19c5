"""Show widgets that a cell makes on a runner as text (runner).

A widget is drawn by the front end, with messages between it and the process that made the widget.
A runner has no connection to the front end.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"
#: Message about widgets in the cell's output.
NOTE = "widgets of a runner are shown as text; make them in a cell of the notebook to use them\n"


def is_widget(value: Any) -> bool:
    """Return whether a value is a widget of ipywidgets, or of a library that is based on it."""
    module = sys.modules.get("ipywidgets.widgets.widget")
    return module is not None and isinstance(value, module.Widget)


def without_views(data: dict[str, Any]) -> dict[str, Any]:
    """Return a display without the view of a widget, or the same display if it has none."""
    return {kind: shown for kind, shown in data.items() if kind != VIEW} if VIEW in data else data


class _TextBars(types.ModuleType):
    """Takes the place of ``tqdm.notebook``, and draws its bars as text."""

    def __reduce__(self) -> Any:
        return importlib.import_module, (self.__name__,)

    def __getattr__(self, name: str) -> Any:
        std = importlib.import_module("tqdm.std")
        found = {"tqdm": std.tqdm, "tqdm_notebook": std.tqdm}
        found |= {"trange": std.trange, "tnrange": std.trange}
        try:
            return found[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def draw_bars_as_text() -> None:
    """Let ``tqdm.notebook`` draw text in this process, also where it was imported before."""
    name = "tqdm.notebook"
    if isinstance(sys.modules.get(name), _TextBars):
        return
    sys.modules[name] = bars = _TextBars(name)
    if (tqdm := sys.modules.get("tqdm")) is not None:
        tqdm.notebook = bars  # type: ignore[attr-defined]

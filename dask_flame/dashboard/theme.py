"""Light and dark themes of pages and figures (scheduler)."""

from __future__ import annotations

from typing import Any

from bokeh.models import GlobalInlineStyleSheet, InlineStyleSheet, NoOverlap

from dask_flame.charts.colors import QUIET, RULE, VARIABLES


def _variables(which: int) -> str:
    return " ".join(f"--flame-{name}: {values[which]};" for name, values in VARIABLES.items())


#: Style of Bokeh's tooltips and panels.
_TIPS = """
.bk-Tooltip { --tooltip-color: var(--flame-card); --tooltip-text: var(--flame-ink);
 --tooltip-border: var(--flame-rule) }
.bk-Panel { color: #18191D }
"""
#: ``data-flame-theme`` is set by static/theme.js. The selectors at the end are Dask's page frame.
THEME = f"""
:root {{ {_variables(0)} color-scheme: light }}
:root[data-flame-theme="dark"] {{ {_variables(1)} color-scheme: dark }}
:root[data-flame-theme], :root[data-flame-theme] body {{
 background: var(--flame-ground); color: var(--flame-ink) }}
:root[data-flame-theme="dark"] #navbar-toggle-icon img {{ filter: invert(1) }}
{_TIPS}
:root[data-flame-theme="dark"] .navbar ul, :root[data-flame-theme="dark"] .dropdown-content {{
 background: var(--flame-bar) }}
:root[data-flame-theme="dark"] .navbar li a {{ color: var(--flame-ink) }}
:root[data-flame-theme="dark"] .navbar li.active {{ background: rgb(234 170 109 / 25%) }}
:root[data-flame-theme="dark"] .navbar li:hover a {{ color: #000 }}
:root[data-flame-theme="dark"] .navbar li:hover .dropdown-content a {{ color: var(--flame-ink) }}
"""
#: Lets figures, which Bokeh draws on a canvas, take their colors from the theme's variables.
_CANVAS = f"""
{_TIPS}
:host {{
 --bk-background-fill-color: transparent; --bk-border-fill-color: transparent;
 --bk-outline-line-color: transparent;
 --bk-axis-line-color: var(--flame-quiet); --bk-major-tick-line-color: var(--flame-quiet);
 --bk-major-label-text-color: var(--flame-ink); --bk-axis-label-text-color: var(--flame-ink);
 --bk-grid-line-color: var(--flame-rule);
}}
"""
#: Hides Bokeh's own element in a Div that a script fills.
EMPTY = ":host > .bk-clearfix { display: none !important }"
#: Makes the content of a Div as wide as the Div; bokeh would shrink it.
FULL_WIDTH = ":host > div { display: block; width: 100% }"


def sheet() -> GlobalInlineStyleSheet:
    """Return the theme's variables, for the ``stylesheets`` of a page's root."""
    return GlobalInlineStyleSheet(css=THEME)


def canvas() -> InlineStyleSheet:
    """Return a style sheet with which a figure follows the theme."""
    return InlineStyleSheet(css=_CANVAS)


def plain(fig: Any) -> None:
    """Give a figure the style of the pages.

    The colors are those of the light theme, for versions of Bokeh without CSS variables.
    """
    fig.stylesheets = [*fig.stylesheets, canvas()]
    fig.outline_line_color = None
    fig.xgrid.visible = False
    fig.ygrid.grid_line_color = RULE
    for axis in fig.xaxis:
        axis.major_label_policy = NoOverlap()
    for axis in (*fig.xaxis, *fig.yaxis):
        axis.axis_line_color = axis.major_tick_line_color = QUIET
        axis.minor_tick_line_color = None
        axis.axis_label_text_color = axis.major_label_text_color = QUIET
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "13px"
        axis.major_label_text_font_size = "12px"

"""The frame of our pages: Dask's navigation bar, and tabs for our pages below it (scheduler)."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

from bokeh.document import Document
from distributed.dashboard.components.scheduler import env

from dask_flame.dashboard import theme
from dask_flame.dashboard.static import script

#: Our pages, by path relative to the dashboard's prefix.
_TABS = {"flame": "Calls", "pools": "Pools", "inspect": "Inspect"}

#: static/frame.js sets ``--flame-top`` to the height of Dask's bar, which does not move with the
#: page and has more lines in a narrow window.
_TEMPLATE = env.from_string("""\
{% extends "base.html" %}
{% block js_resources %}
{{ deferred(bokeh_js) }}
{% endblock %}
{% block extra_resources %}
<style>
{{ style }}
</style>
<script>{{ script }}</script>
<style>
html { scroll-padding-top: calc(var(--flame-top, 41px) + 4px) }
body { padding-top: calc(var(--flame-top, 41px) + 4px); padding-bottom: 6px }
.content { display: flex; flex-direction: column }
.content main { flex: 1; min-height: 0 }
.dropdown-content { top: auto }
.dropdown:focus-within .dropdown-content { display: block }
.flame-tabs { display: flex; flex-wrap: wrap; align-items: center; gap: 2px;
 padding: 2px 6px 0; font-size: 14px }
.flame-tabs a { padding: 4px 12px; color: inherit; text-decoration: none;
 border-bottom: 2px solid transparent }
.flame-tabs a:hover, .flame-tabs a:focus-visible { border-color: #eaaa6d }
.flame-tabs a[aria-current] { border-color: #D55E00; font-weight: 600 }
.flame-tabs button { font: inherit; color: inherit; padding: 3px 8px; cursor: pointer;
 background: none; border: 1px solid var(--flame-rule); border-radius: 4px; margin-left: 14px }
.flame-tabs a + button { margin-left: auto }
.flame-pools, .flame-lost { margin-left: auto }
.flame-pools { color: var(--flame-quiet) }
.flame-lost { color: var(--flame-bad) }
.flame-lost:empty, [hidden] { display: none }
.flame-pools i { display: inline-block; width: 9px; height: 9px; margin: 0 3px 0 8px;
 border-radius: 2px }
.flame-pools a { all: revert; color: inherit }
</style>
{% endblock %}
{% block content %}
<nav class="flame-tabs" aria-label="Flame">
{% for path, title in tabs.items() %}
<a href="{{ path }}"{% if path == here %} aria-current="page"{% endif %}>{{ title }}</a>
{% endfor %}
</nav>
<main>{{ first }}{{ plot_div }}</main>
{{ started(plot_script) if deferrable(bokeh_js) else plot_script }}
{% endblock %}
""")


#: Parts of Bokeh that our pages do not use, which a browser takes long to start.
_UNUSED = ("bokeh-gl", "bokeh-tables", "bokeh-mathjax")
_SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.DOTALL)
_SOURCE = re.compile(r'src="([^"]*)"')
#: A longer script is Bokeh itself, inside of the page.
_SHORT = 2_000


def put_into_frame(
    doc: Document, here: str, variables: dict[str, Any], *, first: str = "", style: str = ""
) -> None:
    """Give a page Dask's navigation bar and our tabs.

    Parameters
    ----------
    doc : bokeh.document.Document
    here : str
        Path of the page, without a slash: ``"flame"``.
    variables : dict
        Variables of distributed's templates.
    first, style : str
        HTML that is shown until the page's scripts have started, and its CSS.
    """
    doc.template = _TEMPLATE
    own: dict[str, Any] = {"tabs": _TABS, "here": here, "first": first}
    own |= {"deferred": deferred, "started": started, "deferrable": deferrable}
    own |= {"style": f"{theme.THEME}{style}", "script": script("theme")}
    doc.template_variables.update({**variables, **own})


def deferred(scripts: str | None) -> str:
    """Return Bokeh's script elements so that the browser shows the page before it runs them.

    Parameters
    ----------
    scripts : str or None
        HTML, as Bokeh passes it to templates. It is returned as it is if Bokeh is configured to
        include its whole code.
    """
    if not deferrable(scripts):
        return scripts or ""
    found = list(_SCRIPT.finditer(scripts or ""))
    sources = [match[1] for each in found if (match := _SOURCE.search(each["attributes"]))]
    used = [src for src in sources if not any(f"{name}." in src for name in _UNUSED)]
    links = [f'<link rel="preload" as="script" href="{src}">' for src in used]
    code = [each["code"] for each in found if each["code"].strip()]
    loader = f"<script>{script('start')}\nflameStart.load({_listed(used)});</script>"
    return "\n".join((*links, loader, *map(_later, code)))


def deferrable(scripts: str | None) -> bool:
    """Return whether the page loads Bokeh's scripts, rather than including their code."""
    found = list(_SCRIPT.finditer(scripts or ""))
    return bool(found) and all(len(each["code"]) <= _SHORT for each in found)


def started(scripts: str) -> str:
    """Return the elements of a page's scripts so that they wait for those of :func:`deferred`."""

    def later(found: re.Match[str]) -> str:
        return found[0] if "application/json" in found["attributes"] else _later(found["code"])

    return _SCRIPT.sub(later, scripts)


def _later(code: str) -> str:
    return f"<script>flameStart.then(() => {{{code}}});</script>"


def _listed(sources: list[str]) -> str:
    return json.dumps([unescape(src) for src in sources])

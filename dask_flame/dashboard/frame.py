"""The frame of our pages: Dask's navigation bar, and tabs for our pages below it (scheduler)."""

from __future__ import annotations

from typing import Any

from bokeh.document import Document
from distributed.dashboard.components.scheduler import env

#: Our pages, by path relative to the dashboard's prefix.
_TABS = {"flame": "Calls", "pools": "Pools"}

#: static/frame.js sets ``--flame-top`` to the height of Dask's bar, which does not move with the
#: page and has more lines in a narrow window.
_TEMPLATE = env.from_string("""\
{% extends "base.html" %}
{% block extra_resources %}
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
<main>{{ plot_div }}</main>
{{ plot_script }}
{% endblock %}
""")


def put_into_frame(doc: Document, here: str, variables: dict[str, Any]) -> None:
    """Give a page Dask's navigation bar and our tabs.

    Parameters
    ----------
    doc : bokeh.document.Document
    here : str
        Path of the page, without a slash: ``"flame"``.
    variables : dict
        Variables of distributed's templates.
    """
    doc.template = _TEMPLATE
    doc.template_variables.update({**variables, "tabs": _TABS, "here": here})

"""Browser scripts of this directory, combined into one module for each page (scheduler)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.models import CustomJS


def run_when_ready(doc: Document, *scripts: str, **args: Any) -> None:
    """Run scripts of this directory in the browser when a page is ready.

    Parameters
    ----------
    doc : bokeh.document.Document
    *scripts : str
        Names of files without ``.js``, in order of their dependencies. They share one scope; the
        last one defines a function ``main(args, context)``.
    **args : bokeh.model.Model or any value that Bokeh serializes
        Contents of that function's ``args``.
    """
    doc.js_on_event(DocumentReady, CustomJS(code=_module(scripts), args=args, module=True))


@cache
def function_call(script: str, call: str) -> str:
    """Return code for a ``CustomJS`` model: the functions of a script, then a call of one.

    Parameters
    ----------
    script : str
        The name of a file of this folder without ``.js``.
    call : str
        An expression. Its value is the value of the code.
    """
    return f"{_read(script)}\nreturn {call};\n"


@cache
def script(name: str) -> str:
    """Return a script of this directory, for a page that runs it before Bokeh has started."""
    return _read(name)


@cache
def _module(scripts: tuple[str, ...]) -> str:
    parts = map(_read, scripts)
    last = "export default (args, obj, data, context) => main(args, context);\n"
    return "\n".join((*parts, last))


def _read(script: str) -> str:
    return files(__name__).joinpath(f"{script}.js").read_text("utf-8")

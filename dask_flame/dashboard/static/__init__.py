"""What runs in the browser: scripts in this folder, put together into one module (scheduler)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from bokeh.document import Document
from bokeh.events import DocumentReady
from bokeh.models import CustomJS


def run_when_ready(doc: Document, *scripts: str, **args: Any) -> None:
    """Run scripts of this folder in the browser once a page is there.

    Parameters
    ----------
    doc : bokeh.document.Document
    *scripts : str
        Names of files without ``.js``, in the order in which they build on each other. They share
        one scope; the last one has a function ``main(args, context)``.
    **args : bokeh.model.Model or any value that Bokeh serializes
        What that function finds in ``args``.
    """
    doc.js_on_event(DocumentReady, CustomJS(code=_module(scripts), args=args, module=True))


@cache
def _module(scripts: tuple[str, ...]) -> str:
    parts = [files(__name__).joinpath(f"{name}.js").read_text("utf-8") for name in scripts]
    last = "export default (args, obj, data, context) => main(args, context);\n"
    return "\n".join((*parts, last))

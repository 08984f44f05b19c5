"""Format a value for display (application)."""

from __future__ import annotations

import io
import sys
from typing import Any

from dask_flame.attached.application.outputs import sendable

#: Maximum number of characters of the text of a value.
_LONGEST = 100_000


def formatted(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the display data of a value, and its metadata, as IPython where it is installed."""
    from dask_flame.attached.application.completion import loaded

    loaded()
    try:
        from IPython.core.formatters import DisplayFormatter
    except ImportError:
        return {"text/plain": _text(value)}, {}
    try:
        data, metadata = DisplayFormatter().format(value)
    except Exception:
        return {"text/plain": _text(value)}, {}
    if (picture := _picture(value)) is not None:
        data["image/png"] = picture
    text = data.get("text/plain")
    if text is None:
        data["text/plain"] = _text(value)
    elif len(text) > _LONGEST:
        data["text/plain"] = f"{text[:_LONGEST]}… ({len(text):,} characters)"
    return sendable(data), metadata


def _picture(value: Any) -> bytes | None:
    """Return a figure of matplotlib as a picture, which IPython makes in notebooks only."""
    figures = sys.modules.get("matplotlib.figure")
    if figures is None or not isinstance(value, figures.Figure):
        return None
    file = io.BytesIO()
    value.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def _text(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr() fails: {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"

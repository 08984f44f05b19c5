"""Leave members out of the reference that classes have from other packages (Sphinx)."""

from __future__ import annotations

import inspect
from typing import Any


def from_elsewhere(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Return True for a method or property that is not of dask-flame; otherwise None."""
    function = obj.fget if isinstance(obj, property) else inspect.unwrap(obj)
    module = getattr(function, "__module__", None)
    if what in {"class", "exception"} and module and not module.startswith("dask_flame"):
        return True
    return None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-skip-member", from_elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

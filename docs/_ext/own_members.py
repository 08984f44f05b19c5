"""Leave members out of the reference that are not for users of a class (Sphinx).

They come from other packages, or fill a store in the scheduler.
"""

from __future__ import annotations

import inspect
from typing import Any

#: Methods of ReportStore that what fills it calls.
_WRITERS = frozenset(
    f"ReportStore.{name}" for name in ("add", "begin", "dump", "end", "end_all", "keep_actors")
) | {"ReportStore.load", "ReportStore.locked", "ReportStore.take"}


def not_for_users(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Return True for a member that is not of dask-flame, or not for users; otherwise None."""
    function = obj.fget if isinstance(obj, property) else inspect.unwrap(obj)
    if getattr(function, "__qualname__", "") in _WRITERS:
        return True
    module = getattr(function, "__module__", None)
    if what in {"class", "exception"} and module and not module.startswith("dask_flame"):
        return True
    return None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-skip-member", not_for_users)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

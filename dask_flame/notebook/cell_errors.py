"""How a notebook shows the error of a cell that ran elsewhere (driver)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from IPython.core.error import UsageError

E = TypeVar("E", bound=BaseException)


def unparsable(shell: Any, error: SyntaxError) -> Exception:
    """Return the error to raise for a cell that is no Python."""

    def render() -> list[str]:
        lines: list[str] = shell.SyntaxTB.structured_traceback(type(error), error, [])
        return lines

    # For a SyntaxError IPython would show all frames, which here belong to dask-flame.
    return with_rendering(class_named(type(error).__name__)(str(error)), render)


def class_named(kind: str) -> type[Exception]:
    """Return an exception class with the name of a class that is not available here."""
    return type(kind, (Exception,), {"__module__": "builtins"})


def short_traceback(shell: Any, error: BaseException) -> list[str]:
    """Return an error as a shell shows it, without frames."""
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, None)
    return lines


def with_rendering(error: E, render: Callable[[], list[str]]) -> E:
    """Let IPython show an error as rendered, without the frames that raise it."""
    with contextlib.suppress(AttributeError, TypeError):
        error._render_traceback_ = render  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def as_usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Show errors of these classes in one line, without a traceback."""
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from None

"""Options that are given by name: a positional one is refused, with the line to write (driver)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from dask_flame.errors import PositionalError

P = ParamSpec("P")
R = TypeVar("R")


def by_name(what: str, *names: str, first: int = 1) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse further positional arguments of a method.

    Parameters
    ----------
    what : str
        How a user writes the call, such as ``"FlameCluster"``.
    *names : str
        The options that a positional argument may have meant, in order. A single one is taken for
        the last of the first two, which is the upper bound: it is what others mean by a size.
    first : int
        Arguments that may be positional, ``self`` among them.

    Raises
    ------
    PositionalError
        From the method, in place of Python's own TypeError.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if len(args) > first:
                raise refusal(what, args[first:], names, args[1:first])
            return method(*args, **kwargs)

        return checked

    return decorate


def refusal(
    what: str, values: tuple[Any, ...], names: tuple[str, ...], before: tuple[Any, ...] = ()
) -> PositionalError:
    """Make the error for positional arguments, with the line that names them."""
    if not isinstance(values[0], int | float | str):
        # A Pool, perhaps.
        return PositionalError(
            f"{what}() takes its options by name; write {what}({names[1]}=8), or, for kinds of "
            'runner with names, FlameCluster(pools={"cpu": Pool(max=8)})'
        )
    meant = names[1:2] if len(values) == 1 else names
    given = [f"{name}={_shown(value)}" for name, value in zip(meant, values, strict=False)]
    words = [*(repr(value) for value in before), *given]
    more = ", …" if len(values) > len(meant) else ""
    return PositionalError(
        f"{what}() takes its options by name, and {_shown(values[0])} could mean several of them; "
        f"write {what}({', '.join(words)}{more})"
    )


def _shown(value: Any) -> str:
    # What was passed may be anything, a secret too: only what bounds are made of is shown.
    return repr(value) if isinstance(value, int | float | str) else "…"

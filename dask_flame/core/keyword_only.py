"""Refuse positional arguments for keyword options, with the line to write instead (driver)."""

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
        The call as a user writes it, such as ``"FlameCluster"``.
    *names : str
        The options that positional arguments may have meant, in order. A single argument is taken
        for the second option, the upper bound: other libraries mean that by a size.
    first : int
        Number of arguments that may be positional, ``self`` included.

    Raises
    ------
    PositionalError
        From the method, in place of Python's TypeError.
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
    """Return the error for positional arguments, with the line that names them.

    Parameters
    ----------
    what : str
        The call as a user writes it.
    values : tuple
        The positional arguments to refuse.
    names : tuple of str
        The options that they may have meant.
    before : tuple, default ()
        Permitted positional arguments.
    """
    if not isinstance(values[0], int | float | str):
        # For example, a Pool.
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
    # The argument may be anything, even a secret: show only types that bounds have.
    return repr(value) if isinstance(value, int | float | str) else "…"

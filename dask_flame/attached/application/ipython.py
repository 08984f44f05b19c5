"""IPython's completer without a shell (application). Requires IPython."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import islice
from typing import Any

from IPython.core.completer import (
    Completion,
    IPCompleter,
    SimpleMatcherResult,
    provisionalcompleter,
)


class _Magics:
    def lsmagic(self) -> dict[str, dict[str, Any]]:
        return {"line": {}, "cell": {}}


class _NoShell:
    """Stands for a shell without magics, which the completer asks for them."""

    magics_manager = _Magics()


class Completer(IPCompleter):
    """Completes Python code, and neither magics nor files."""

    @property
    def matchers(self) -> list[Any]:
        matchers = (self.dict_key_matcher, self.python_matcher, self.python_func_kw_matcher)
        return [_silent(one) for one in matchers]


def completions(code: str, cursor: int, names: dict[str, Any], most: int) -> list[Completion]:
    """Return the completions at a place in code, for objects with these names."""
    completer = Completer(
        shell=_NoShell(),
        namespace=names,
        global_namespace=names,
        use_jedi=False,
        evaluation="limited",  # calls no code that may have side effects
    )
    with provisionalcompleter():
        return list(islice(completer.completions(code, cursor), most))


def _silent(matcher: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a matcher that finds nothing where it fails.

    IPython would call ``sys.excepthook``, which is the application's.
    """

    @functools.wraps(matcher)
    def match(context: Any) -> Any:
        try:
            return matcher(context)
        except Exception:
            nothing: SimpleMatcherResult = {"completions": []}
            return nothing

    return match

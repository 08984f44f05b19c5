"""Questions that a notebook may ask of an application (application).

A question is a function of this process that returns data for JSON. It may be asked of an
application that is exposed with ``readonly=True``, so it must neither change the application nor
run code that the notebook names.

A function that returns an iterator answers in several parts. The iterator is closed when the
notebook needs no more of them, or has gone; where it waits, it must look at ``asked.over`` or
wait with ``asked.wait``.

>>> @question("answer")
... def answer(asked: Asked, *, times: int = 1) -> int:
...     return 42 * times
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from dask_flame.attached.application.audit import command
from dask_flame.errors import AttachError

#: When this module was imported, which is when the application was exposed.
_SINCE = time.time()

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Asked:
    """The circumstances of a question.

    Attributes
    ----------
    application : str
        Name of the application.
    options : mapping of str to object
        Options of ``expose`` that questions may need: ``readonly``.
    over : threading.Event
        Set when the notebook needs no further parts of the answer.
    """

    application: str
    options: Mapping[str, Any] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> bool:
        """Wait; return whether the answer is still wanted."""
        return not self.over.wait(seconds)


#: Functions by the names of their questions.
_questions: dict[str, Callable[..., Any]] = {}
#: Modules that define questions, imported when the first one is asked.
MODULES: list[str] = ["dask_flame.attached.application.looks"]


def question(name: str) -> Callable[[F], F]:
    """Register a function that answers a question; it is called with an :class:`Asked`.

    Keyword-only parameters are the options of the question.
    """

    def register(function: F) -> F:
        _questions[name] = function
        return function

    return register


def ask(name: str, asked: Asked, options: Mapping[str, Any]) -> Any:
    """Return the answer to a question: data for JSON, or an iterator of them.

    Raises
    ------
    AttachError
        There is no such question, or it has no such option.
    """
    for module in MODULES:
        import_module(module)
    if name not in _questions:
        known = ", ".join(sorted(_questions))
        raise AttachError(f"{name!r} is not a question; there are {known}")
    function = _questions[name]
    try:
        inspect.signature(function).bind(asked, **options)
    except TypeError as error:
        raise AttachError(f"{name}: {error}") from None
    return function(asked, **options)


@question("about")
def about(asked: Asked) -> dict[str, Any]:
    """Return what this process is."""
    return {
        "application": asked.application,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "command": command(),
        "folder": _folder(),
        "exposed": _SINCE,
        "threads": threading.active_count(),
        **asked.options,
    }


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""

"""What wraps functions of the user's ``__main__``, sent by value as they are (all places).

cloudpickle sends functions and classes of a notebook or a script with their code, but not all that
the standard library makes of them. A function with :func:`functools.lru_cache` is sent by its name,
which a runner does not know. A class with a :func:`functools.cached_property` (before Python 3.12:
it holds a lock), and a function with :func:`functools.singledispatch` (it holds weak references),
cannot be pickled.
"""

from __future__ import annotations

import copyreg
import functools
import sys
import typing
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

_CACHED: Any = type(functools.lru_cache(lambda: None))
_NEW_TYPE: Any = typing.NewType


def send_by_value() -> None:
    """From now on, what pickle would send by a name that runners do not know is sent by value."""
    copyreg.pickle(_CACHED, _reduce_cached)
    copyreg.pickle(_NEW_TYPE, _reduce_new_type)
    copyreg.pickle(functools.cached_property, _reduce_cached_property)
    copyreg.pickle(weakref.WeakKeyDictionary, _reduce_weak_keys)


def _by_name(thing: Any) -> bool:
    """Return whether other processes find this by the name of its module and its own."""
    module = getattr(thing, "__module__", None)
    if module in (None, "__main__") or module in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(module)
    for name in getattr(thing, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is thing


def _reduce_cached(function: Any) -> str | tuple[Any, ...]:
    if _by_name(function):
        return str(function.__qualname__)
    return _cached, (function.__wrapped__, function.cache_parameters())


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _reduce_cached_property(found: Any) -> tuple[Any, ...]:
    return _cached_property, (found.func, found.attrname)


def _cached_property(function: Callable[[Any], Any], name: str | None) -> Any:
    made = functools.cached_property(function)
    # As when its class is made, which cloudpickle does without it.
    made.attrname = name
    return made


def _reduce_weak_keys(mapping: weakref.WeakKeyDictionary[Any, Any]) -> tuple[Any, ...]:
    return weakref.WeakKeyDictionary, (), None, None, iter(list(mapping.items()))


def _reduce_new_type(made: Any) -> str | tuple[Any, ...]:
    if _by_name(made):
        return str(made.__qualname__)
    return _new_type, (made.__name__, made.__supertype__, made.__module__)


def _new_type(name: str, supertype: Any, module: str) -> Any:
    made = _NEW_TYPE(name, supertype)
    made.__module__ = module
    return made

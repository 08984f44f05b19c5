"""Pickle by value functions and classes of ``__main__`` that cloudpickle does not (all places).

cloudpickle sends the code of functions and classes of a notebook or a script, but not of all
objects that the standard library makes of them. A function with :func:`functools.lru_cache` is
pickled by name, which a runner cannot import. A class with a :func:`functools.cached_property`
(before Python 3.12: it holds a lock) and a function with :func:`functools.singledispatch` (it holds
weak references) cannot be pickled at all.
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
    """Register functions that pickle these objects by value if runners cannot import them."""
    copyreg.pickle(_CACHED, _reduce_cached)
    copyreg.pickle(_NEW_TYPE, _reduce_new_type)
    copyreg.pickle(functools.cached_property, _reduce_cached_property)
    copyreg.pickle(weakref.WeakKeyDictionary, _reduce_weak_keys)


def is_sent_by_value(function: Callable[..., Any]) -> bool:
    """Return whether a function is sent with its code, as one of a notebook is."""
    module = function.__module__
    return module == "__main__" or module in cloudpickle.list_registry_pickle_by_value()


def _by_name(thing: Any) -> bool:
    """Return whether other processes can import an object by its module and name."""
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
    # Set when its class is created, which cloudpickle does before it adds the property.
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

"""Provide the driver's ``__main__`` on a runner (runner).

Definitions of a notebook or a script are sent by value: the runner creates functions and classes
anew, as members of ``__main__``. Pickle refers to them by that name, and would not find them:
``pickle.dumps(Net())``, ``torch.save(net)`` or ``Pool.map(f)`` in a call would fail although they
work in the notebook. Therefore ``__main__`` on a runner looks names up among the definitions sent
with the call that asks.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import sys
import types
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from importlib.machinery import ModuleSpec
from typing import Any

import cloudpickle.cloudpickle
from dask.typing import Key

from dask_flame.core import current_call

_MAIN = "__main__"


class MainModule(types.ModuleType):
    """A ``__main__`` with different contents for each call.

    A notebook may send one version of a function to one call and a newer one to the next, while
    both run. A name unknown to the call is found as long as its object is in use anywhere.
    """

    def __init__(self) -> None:
        super().__init__(_MAIN)
        self.__builtins__ = builtins
        self._names: dict[Key, MutableMapping[str, Any]] = {}
        self._latest: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

    def __getattr__(self, name: str) -> Any:
        key = current_call.key_here()
        names = self._names.get(key) if key is not None else None
        if names is not None and name in names:
            return names[name]
        try:
            return self._latest[name]
        except KeyError:
            raise AttributeError(
                f"{name!r} of the driver's __main__ is not here: it was sent by its name alone. "
                "Functions and classes are sent with their code; put anything else that is pickled "
                "by name into a module that the runners have"
            ) from None

    def __reduce__(self) -> Any:
        return importlib.import_module, (_MAIN,)

    def record(self, thing: Any) -> None:
        """Record a function or class of the driver's ``__main__`` that was unpickled here."""
        name = getattr(thing, "__qualname__", "")
        if getattr(thing, "__module__", None) != _MAIN or "." in name:
            return
        self._latest[name] = thing
        key = current_call.key_here()
        if key is not None:
            self._names.setdefault(key, {})[name] = thing

    def use(self, names: MutableMapping[str, Any]) -> None:
        """Use these names, such as those of a cell, as this call's ``__main__``."""
        key = current_call.key_here()
        if key is not None:
            self._names[key] = names

    def forget(self, key: Key) -> None:
        """Drop the definitions of a call that is over."""
        self._names.pop(key, None)


def install(program: Mapping[str, str]) -> MainModule:
    """Install the module as ``__main__``, and have cloudpickle fill it; once per process.

    Parameters
    ----------
    program : mapping of str to str
        The ``file`` of the driver's ``__main__``, or the ``name`` of its module, if it has one:
        multiprocessing imports it in children that a call spawns.

    Notes
    -----
    Replaces two private functions of cloudpickle: pickles refer to them to complete a function or
    a class sent by value.
    """
    current = sys.modules.get(_MAIN)
    if isinstance(current, MainModule):
        return current
    main = MainModule()
    if "name" in program:
        main.__spec__ = ModuleSpec(program["name"], None)
    elif "file" in program:
        main.__file__ = program["file"]
    for name in ("_function_setstate", "_class_setstate"):
        finish = getattr(cloudpickle.cloudpickle, name)
        setattr(cloudpickle.cloudpickle, name, _then(finish, main.record))
    # Functions of the previous __main__ need its module, which nothing else refers to.
    main.__dict__["_program"] = current
    sys.modules[_MAIN] = main
    return main


def installed() -> MainModule | None:
    """Return the ``__main__`` set by :func:`install`, or None."""
    main = sys.modules.get(_MAIN)
    return main if isinstance(main, MainModule) else None


def _then(finish: Callable[..., Any], record: Callable[[Any], None]) -> Callable[..., Any]:
    @functools.wraps(finish)  # pickles made here must refer to it by cloudpickle's name
    def finished(thing: Any, state: Any) -> Any:
        value = finish(thing, state)
        record(thing)
        return value

    return finished

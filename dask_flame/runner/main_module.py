"""The driver's ``__main__`` on a runner (runner).

What a notebook or a script defines is sent by value: the runner makes functions and classes anew,
which say that they belong to ``__main__``. Pickle, which knows them by that name alone, would not
find them there: ``pickle.dumps(Net())``, ``torch.save(net)`` or ``Pool.map(f)`` in a call would
fail where they work in the notebook. So ``__main__`` on a runner gives, by their names, what the
call that asks was sent.
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
    """A ``__main__`` that looks different to each call.

    A notebook may have sent one version of a function to one call, and another to the next, while
    both run. What no call is known to hold is found as long as it is in use anywhere.
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

    def came(self, thing: Any) -> None:
        """A function or class of the driver's ``__main__`` has been made here."""
        name = getattr(thing, "__qualname__", "")
        if getattr(thing, "__module__", None) != _MAIN or "." in name:
            return
        self._latest[name] = thing
        key = current_call.key_here()
        if key is not None:
            self._names.setdefault(key, {})[name] = thing

    def use(self, names: MutableMapping[str, Any]) -> None:
        """Have this call's ``__main__`` be these names, such as those of a cell."""
        key = current_call.key_here()
        if key is not None:
            self._names[key] = names

    def forget(self, key: Key) -> None:
        """Let go of what a call was sent, once it is over."""
        self._names.pop(key, None)


def install(program: Mapping[str, str]) -> MainModule:
    """Put a new ``__main__`` in place, and have cloudpickle fill it; once in a process.

    Parameters
    ----------
    program : mapping of str to str
        The ``file`` of the driver's, or the ``name`` of its module, where it has either: what
        multiprocessing reads in children that a call spawns.

    Notes
    -----
    Two functions of cloudpickle's are replaced, which are private: they are what a pickle names to
    finish a function or a class that was sent by value.
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
        setattr(cloudpickle.cloudpickle, name, _then(finish, main.came))
    # Its functions live on in the module that they were made in, which nobody else holds.
    main.__dict__["_program"] = current
    sys.modules[_MAIN] = main
    return main


def installed() -> MainModule | None:
    """Return the ``__main__`` that :func:`install` has put in place; None where it has not."""
    main = sys.modules.get(_MAIN)
    return main if isinstance(main, MainModule) else None


def _then(finish: Callable[..., Any], came: Callable[[Any], None]) -> Callable[..., Any]:
    @functools.wraps(finish)  # so that a pickle made here names it as it names cloudpickle's own
    def finished(thing: Any, state: Any) -> Any:
        value = finish(thing, state)
        came(thing)
        return value

    return finished

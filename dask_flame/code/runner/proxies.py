"""Modules in ``sys.modules`` that stand for one module of several versions (runner)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol


class Modules(Protocol):
    """The modules of a version."""

    modules: dict[str, ModuleType]

    def load(self, name: str) -> ModuleType: ...


#: Attributes whose request imports the module: an import asks for them. Tools that look at all
#: modules ask for others.
_IMPORTING = frozenset({"__spec__", "__path__"})


class ModuleProxy(ModuleType):
    """Stands for the module of this name in the version of the call that uses it.

    An import statement, :func:`importlib.import_module` and :mod:`pickle` read ``__spec__`` of the
    module that they find in ``sys.modules``: this imports the module of the current version, so
    that its errors appear there.
    """

    def __init__(self, name: str, current: Callable[[], Modules | None]) -> None:
        own = object.__getattribute__(self, "__dict__")
        own["__name__"] = name
        own["_dask_flame_current"] = current

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return ModuleProxy
        if name == "__reduce_ex__":
            return object.__getattribute__(self, name)
        if name == "__name__":
            return object.__getattribute__(self, "__dict__")[name]
        return getattr(_module(self, name), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(_module(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_module(self), name)

    def __dir__(self) -> list[str]:
        return dir(_module(self))

    def __repr__(self) -> str:
        return repr(_module(self))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return importlib.import_module, (object.__getattribute__(self, "__dict__")["__name__"],)


def _module(proxy: ModuleProxy, asked: str = "") -> ModuleType:
    """Return the module that a proxy stands for now.

    Raises
    ------
    AttributeError
        There is none, and its absence must not be an error of the code that asks.
    """
    own = object.__getattribute__(proxy, "__dict__")
    name: str = own["__name__"]
    modules: Modules | None = own["_dask_flame_current"]()
    if modules is not None and name in modules.modules:
        return modules.modules[name]
    if modules is not None and asked in _IMPORTING:
        try:
            return modules.load(name)
        except (SystemExit, GeneratorExit) as error:
            raise ImportError(f"module {name!r} has raised {error!r}", name=name) from error
    raise AttributeError(f"module {name!r} is not imported in this version")

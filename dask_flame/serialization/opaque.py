"""Send a graph through a scheduler that does not have the driver's modules (all places).

A scheduler unpickles the graphs that it is sent, and pickles each task again for its runner. With
:func:`opaquely`, the functions, classes and instances of local modules and of ``__main__`` are
sent as bytes, which only the runner unpickles.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import pickle
from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import GenericAlias, MethodType, ModuleType, UnionType
from typing import Any, get_args

import cloudpickle
from distributed.utils import iscoroutinefunction
from toolz import curry

#: The top-level modules that the scheduler may not have; None: it runs in this process.
_missing: contextvars.ContextVar[Collection[str] | None] = contextvars.ContextVar(
    "dask_flame_missing", default=None
)


@contextlib.contextmanager
def opaquely(missing: Collection[str] | None) -> Iterator[None]:
    """Pickle for a scheduler without these top-level modules in the body; None: for any."""
    token = _missing.set(missing)
    try:
        yield
    finally:
        _missing.reset(token)


def dumps_opaquely(
    dumps: Callable[..., bytes], value: Any, *, buffer_callback: Any = None, protocol: Any = None
) -> bytes | None:
    """Pickle for a scheduler without the modules of :func:`opaquely`.

    Parameters
    ----------
    dumps : callable
        Pickles for a runner, as :func:`distributed.protocol.pickle.dumps`.
    value : object
    buffer_callback : callable, optional
    protocol : int, optional

    Returns
    -------
    bytes or None
        None outside of :func:`opaquely`.
    """
    missing = _missing.get()
    if missing is None:
        return None
    file = io.BytesIO()
    pickler = _Pickler(
        file, dumps, missing, protocol=protocol or 5, buffer_callback=buffer_callback
    )
    pickler.dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    def __init__(
        self, file: Any, dumps: Callable[..., bytes], missing: Collection[str], **kwargs: Any
    ) -> None:
        super().__init__(file, **kwargs)
        self._dumps = dumps
        self._missing = {*missing, "__main__"}

    def reducer_override(self, obj: Any) -> Any:
        if self._is_missing(obj):
            with opaquely(None):
                return _opaque, (self._dumps(obj), _name_of(obj), _is_coroutine_function(obj))
        return super().reducer_override(obj)

    def _is_missing(self, obj: Any) -> bool:
        if isinstance(obj, ModuleType):
            return obj.__name__.partition(".")[0] in self._missing
        if isinstance(obj, MethodType):
            return self._is_missing(obj.__self__)
        if isinstance(obj, UnionType | GenericAlias):
            return any(map(self._is_missing, get_args(obj)))
        if isinstance(obj, partial | curry):
            return self._is_missing(obj.func)
        # Functions with a cache and type variables have the module of their definition.
        return self._is_of(obj) or self._is_of(type(obj))

    def _is_of(self, obj: Any) -> bool:
        module = getattr(obj, "__module__", None)
        return isinstance(module, str) and module.partition(".")[0] in self._missing


class Opaque:
    """Stands, on a scheduler, for an object that only a runner can unpickle.

    Parameters
    ----------
    pickled : bytes
    name : str
    is_coro : bool
        Whether it is a coroutine function.
    """

    def __init__(self, pickled: bytes, name: str, is_coro: bool) -> None:
        self._pickled = pickled
        self.__name__ = name
        self.is_coro = is_coro

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Dask may call a function of a collection to infer its metadata.
        return pickle.loads(self._pickled)(*args, **kwargs)

    def __reduce__(self) -> Any:
        return pickle.loads, (self._pickled,)

    def __sizeof__(self) -> int:
        return len(self._pickled)

    def __repr__(self) -> str:
        return f"<{self.__name__}>"


def _opaque(pickled: bytes, name: str, is_coro: bool) -> Opaque:
    return Opaque(pickled, name, is_coro)


def is_coroutine_function(function: Any) -> bool:
    """Return whether a function, which may be opaque, is a coroutine function."""
    return isinstance(function, Opaque) and function.is_coro


def _is_coroutine_function(obj: Any) -> bool:
    try:
        return bool(iscoroutinefunction(obj))
    except Exception:
        return False


def _name_of(obj: Any) -> str:
    name = getattr(obj, "__name__", None)
    return name if isinstance(name, str) else type(obj).__name__

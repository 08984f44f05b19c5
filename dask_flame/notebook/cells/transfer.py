"""Pickle named values for transfer between a notebook and a runner (driver, runner).

Functions and classes that were defined in the notebook are pickled by value. The globals of a
function are not pickled with it: it gets the namespace in which it is unpickled, so that all
functions share one, as in a notebook. The globals that it uses are sent under their own names.

Names are pickled separately, so that one failure does not affect the others. Names that share an
object are pickled together, so that they still share it afterwards.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import cloudpickle

from dask_flame.notebook.cells.widgets import is_widget

#: Maximum length of the reason for a failure, in characters.
_REASON = 300


@dataclass(frozen=True)
class Parcel:
    """Pickled values.

    Attributes
    ----------
    parts : tuple of (tuple of str, bytes)
        Names and their pickled values.
    failed : mapping of str to str
        Names that could not be pickled, and the reasons.
    users : mapping of str to str
        For each additional name, the name of the value whose functions use it.
    """

    parts: tuple[tuple[tuple[str, ...], bytes], ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)


def pack(
    values: Mapping[str, Any], namespace: dict[str, Any], names: Iterable[str], *, follow: bool
) -> Parcel:
    """Pickle the values of some names.

    Parameters
    ----------
    values : mapping of str to object
        Values by name.
    namespace : dict
        Globals of the functions that share them.
    names : iterable of str
        Names to pickle.
    follow : bool
        Whether to include the globals that pickled functions use.

    Returns
    -------
    Parcel
    """
    waiting = list(dict.fromkeys(names))
    users: dict[str, str] = {}
    packed: dict[str, _Packed] = {}
    failed: dict[str, str] = {}
    while waiting:
        name = waiting.pop(0)
        try:
            packed[name] = item = _Packed({name: values[name]}, namespace)
        except Exception as error:
            failed[name] = reason(error)
            continue
        if follow:
            for other in item.needs:
                if other in values and other not in (*packed, *failed, *waiting):
                    users[other] = name
                    waiting.append(other)
    parts: list[tuple[tuple[str, ...], bytes]] = []
    for group in _groups(packed):
        if len(group) == 1:
            parts.append((group, packed[group[0]].data))
        else:
            together = {name: values[name] for name in group}
            parts.append((group, _Packed(together, namespace).data))
    return Parcel(tuple(parts), failed, users)


def unpack(parcel: Parcel, namespace: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values, and the reasons for which others could not be unpickled.

    The namespace becomes the globals of functions; the values are not put into it.
    """
    values: dict[str, Any] = {}
    failed: dict[str, str] = {}
    # cloudpickle replaces `__builtins__` with each function.
    builtins = namespace.get("__builtins__")
    token = _unpacking.set(namespace)
    try:
        for names, data in parcel.parts:
            try:
                values.update(pickle.loads(data))
            except Exception as error:
                failed.update(dict.fromkeys(names, reason(error)))
    finally:
        _unpacking.reset(token)
        if builtins is not None:
            namespace["__builtins__"] = builtins
    return values, failed


def reason(error: BaseException) -> str:
    """Return an error as one line of text."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    if len(said) > _REASON:
        said = said[:_REASON] + "…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_unpacking: ContextVar[dict[str, Any]] = ContextVar("dask_flame_unpacking")


class _Globals(dict[str, Any]):
    """Replaces the shared globals in a pickled function."""


class _Packed:
    """Pickled values, and the objects in them.

    Attributes
    ----------
    data : bytes
        The pickled values.
    needs : set of str
        Globals that their functions use.
    memo : mapping of int to object
        Contained objects by id. Keeping them alive keeps the ids unique.
    """

    def __init__(self, values: dict[str, Any], namespace: dict[str, Any]) -> None:
        file = io.BytesIO()
        pickler = _Pickler(file, namespace)
        pickler.dump(values)
        self.data = file.getvalue()
        self.needs = pickler.needs
        self.memo = {
            key: value
            for key, (_, value) in pickler.memo.copy().items()
            if value is not values and _may_change(value)
        }


def _may_change(value: Any) -> bool:
    """Return whether it matters that an object is shared."""
    kind = type(value)
    if kind is _Globals or isinstance(value, type | FunctionType):
        return False
    return kind.__hash__ is None or hasattr(value, "__dict__")


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, namespace: dict[str, Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._namespace = namespace
        self._shared = _Globals()
        self.needs: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if obj is self._shared:
            return _shared_globals, ()
        if is_widget(obj):
            raise TypeError("a widget works only in the process that made it; use its values")
        reduced = super().reducer_override(obj)
        if (
            isinstance(obj, FunctionType)
            and obj.__globals__ is self._namespace
            and isinstance(reduced, tuple)
        ):
            # Format of cloudpickle: constructor, (code, globals, …), and the state with the globals
            # that the function uses.
            make, (code, _, *rest), (state, slots), *others = reduced
            self.needs |= slots["__globals__"].keys()
            slots = {**slots, "__globals__": {}}
            return make, (code, self._shared, *rest), (state, slots), *others
        return reduced


def _shared_globals() -> dict[str, Any]:
    return _unpacking.get()


def _groups(packed: Mapping[str, _Packed]) -> list[tuple[str, ...]]:
    """Return the names in order, grouped if they share an object."""
    group_of: dict[str, list[str]] = {}
    first_with: dict[int, str] = {}
    for name, item in packed.items():
        group_of[name] = [name]
        for key in item.memo:
            other = group_of[first_with.setdefault(key, name)]
            mine = group_of[name]
            if other is not mine:
                other.extend(mine)
                for moved in mine:
                    group_of[moved] = other
    groups = {id(group): tuple(group) for group in group_of.values()}
    return list(groups.values())

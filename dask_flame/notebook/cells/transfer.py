"""Values by their names, packed to travel between a notebook and a runner (driver, runner).

Functions and classes that were defined in the notebook travel as they are. A function's globals do
not travel with it: at the other end it gets those of the namespace that it is unpacked into, as in
a notebook, where all functions share one. What it uses of them travels under its own name.

Names are packed apart, so that one that cannot travel does not hold up others; those that share
an object are packed together, so that they share it at the other end as well.
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

#: The longest reason that is given for what cannot travel.
_REASON = 300


@dataclass(frozen=True)
class Parcel:
    """Packed values.

    Attributes
    ----------
    parts : tuple of (tuple of str, bytes)
        The names in each, and their values.
    failed : mapping of str to str
        What could not be packed, and why.
    users : mapping of str to str
        Of names that nobody asked for: what it is whose functions use them.
    """

    parts: tuple[tuple[tuple[str, ...], bytes], ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)


def pack(
    values: Mapping[str, Any], namespace: dict[str, Any], names: Iterable[str], *, follow: bool
) -> Parcel:
    """Pack the values of these names.

    Parameters
    ----------
    values : mapping of str to object
        Where the values are found.
    namespace : dict
        The globals of the functions that share them.
    names : iterable of str
    follow : bool
        Whether what packed functions use of the globals is packed, too.
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
    """The values, and why some could not be unpacked.

    Functions get this namespace for their globals; nothing is put into it.
    """
    values: dict[str, Any] = {}
    failed: dict[str, str] = {}
    # cloudpickle sets it anew with each function.
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
    """An error in one line."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    if len(said) > _REASON:
        said = said[:_REASON] + "…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_unpacking: ContextVar[dict[str, Any]] = ContextVar("dask_flame_unpacking")


class _Globals(dict[str, Any]):
    """Stands in a packed function for the globals that it shares."""


class _Packed:
    """Values in bytes.

    Attributes
    ----------
    data : bytes
    needs : set of str
        The globals that functions in it use.
    memo : mapping of int to object
        The objects in it, by their ids; all kept, so that no id is used twice.
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
    """Whether it matters that an object is shared."""
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
        reduced = super().reducer_override(obj)
        if (
            isinstance(obj, FunctionType)
            and obj.__globals__ is self._namespace
            and isinstance(reduced, tuple)
        ):
            # cloudpickle's own: how to make the function, with (code, globals, …); its state, with
            # the globals that it uses.
            make, (code, _, *rest), (state, slots), *others = reduced
            self.needs |= slots["__globals__"].keys()
            slots = {**slots, "__globals__": {}}
            return make, (code, self._shared, *rest), (state, slots), *others
        return reduced


def _shared_globals() -> dict[str, Any]:
    return _unpacking.get()


def _groups(packed: Mapping[str, _Packed]) -> list[tuple[str, ...]]:
    """The names, those together that share an object, in their order."""
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

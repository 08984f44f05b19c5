"""Options as dataclass fields, with metadata for their use (driver).

:class:`dask_flame.Pool` and the options of backends (:mod:`dask_flame.core.backend_options`)
declare each option in one place: how its value is checked, where its default is configured, how it
is shown, and whether it may be changed while the cluster runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Set, ValuesView
from copy import copy
from dataclasses import Field, dataclass, field
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar

from dask_flame.core import config
from dask_flame.core.option_checks import EXAMPLES, declared_example, line, shown, wrong
from dask_flame.core.text import exact_memory, function_name, memory
from dask_flame.errors import PoolError

#: A function that checks a value. Called with the option's name and the value, it returns the
#: normalized value or raises a PoolError made by :func:`dask_flame.core.option_checks.wrong`.
Check = Callable[[str, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Option:
    """The declaration of an option or a setting.

    Attributes
    ----------
    check : callable
        Called with the option's name and a value, it returns the normalized value, or raises a
        PoolError. ``dask_flame.core.option_checks`` has some, and `wrong` makes the error.
    example : str
        A valid value, as Python source, for messages of errors.
    default : Any
        The value if the option is neither given nor configured.
    section : str
        The section of ``flame.yaml`` with its default, such as ``"pool"`` for
        ``flame.pool.idle-timeout``; empty if it cannot be configured.
    nullable : bool
        Whether the setting may be null, which means `default`.
    fixed : bool
        Whether it cannot be changed while the cluster runs.
    for_runners : bool
        Whether only runners or the driver use it, and not the scheduler.
    secret : bool
        Whether its value may hold secrets. Then only the names in it are shown.
    in_bytes : bool
        Whether it is a size.
    amount : callable or None
        Check whether an error may repeat a value that was given under another name; only for
        numbers, durations and sizes.
    preference : bool
        Whether it may also be a list of values in order of preference, see
        :mod:`dask_flame.core.kinds`. `check` is given one value at a time.
    orders : mapping of str to tuple
        Words for certain orders of preference: ``{"prefer": (True, False)}``.
    words : mapping
        The text of a value in the kind of a runner, if it is not the value itself:
        ``{True: "spot"}``.
    """

    check: Check
    example: str
    default: Any = None
    section: str = ""
    nullable: bool = False
    fixed: bool = False
    for_runners: bool = False
    secret: bool = False
    in_bytes: bool = False
    amount: Check | None = None
    preference: bool = False
    orders: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    words: Mapping[Any, str] = field(default_factory=dict)

    def checked(self, name: str, value: Any) -> Any:
        """Return the normalized value; errors show the declared example.

        A list of values in order of preference becomes a tuple.

        Raises
        ------
        PoolError
        """
        token = declared_example.set(self.example)
        try:
            if isinstance(value, str) and value in self.orders:
                return value
            if self.preference and isinstance(value, list | tuple):
                return self._checked_order(name, value)
            if self.preference and isinstance(value, Set | Iterator | ValuesView):
                raise self._no_order(name, value)
            return self.check(name, value)
        finally:
            declared_example.reset(token)

    def _checked_order(self, name: str, values: list[Any] | tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            checked = [self.check(name, value) for value in values]
        except PoolError as error:
            raise PoolError(f"{name}={shown(values)} cannot be an order: {error}") from None
        if not checked or any(value in checked[:n] for n, value in enumerate(checked)):
            raise wrong(name, values, "a list of different values, the preferred one first")
        return tuple(checked)

    def _no_order(self, name: str, value: Any) -> PoolError:
        """Return the error for several values that are no list; an iterator is not used up."""
        example = self.example if self.example.startswith("[") else f"[{self.example}]"
        if isinstance(value, Set):
            with contextlib.suppress(PoolError):
                checked = self._checked_order(name, sorted(value, key=repr))
                example = f"[{', '.join(map(repr, checked))}]".replace("'", '"')
        return PoolError(
            f"{name}={shown(value)} is no order of preference, which is a list with the preferred "
            f"value first; write {line(name, example)}"
        )

    def order(self, value: Any) -> tuple[Any, ...]:
        """Return the single values of a checked value, the preferred one first."""
        if isinstance(value, str) and value in self.orders:
            return self.orders[value]
        return value if self.preference and isinstance(value, tuple) else (value,)

    def taken(self, name: str, value: Any) -> Any:
        """Return the checked value: the given one, else the configured one, else the default.

        Raises
        ------
        PoolError
        """
        if value is not None:
            return self.checked(name, value)
        if not self.section:
            return copy(self.default)
        return self.configured(f"{self.section}.{name.replace('_', '-')}")

    def configured(self, setting: str) -> Any:
        """Return the checked value of a setting: ``configured("pool.max")`` for ``flame.pool.max``.

        Raises
        ------
        PoolError
        """
        value = config.get(setting, self.default)
        if value is None and (self.nullable or not config.is_written(setting)):
            return copy(self.default)
        return self.checked(f"flame.{setting}", value)

    def shown(self, value: Any) -> str:
        """Return the text of the value for a ``repr``."""
        if self.secret:
            return names_of(value)
        if callable(value):
            return function_name(value)  # the representation of a partial has its arguments
        return repr((self.in_bytes and exact_memory(value or 0)) or value)

    def said(self, value: Any) -> str:
        """Return the text of the value for an event."""
        if self.secret:
            return names_of(value)
        if callable(value):
            return function_name(value)
        return str(memory(value) if self.in_bytes and value else value)


def option(check: Check, example: str, *, hash: bool | None = None, **more: Any) -> Any:
    """Declare a field that is an option.

    Parameters
    ----------
    check : callable
        See :attr:`Option.check`.
    example : str
        A valid value, as Python source.
    hash : bool, optional
        Whether the hash of the object includes it: False for mappings.
    **more
        Further attributes of :class:`Option`.
    """
    return field(hash=hash, metadata={"option": Option(check=check, example=example, **more)})


class Declared:
    """Base of a class whose options are fields made with :func:`option`.

    A subclass is a dataclass with ``frozen=True, init=False, repr=False``.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = {
            name: value.metadata["option"]
            for name, value in vars(cls).items()
            if isinstance(value, Field) and "option" in value.metadata
        }
        for name, known in declared.items():
            EXAMPLES.setdefault(name, known.example)
        names = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in declared]
        cls.__signature__ = Signature([*names, Parameter("options", Parameter.VAR_KEYWORD)])

    @classmethod
    def declared(cls) -> Mapping[str, Option]:
        """Return the declaration of each option, by name."""
        return {
            name: known.metadata["option"]
            for name, known in cls.__dataclass_fields__.items()
            if "option" in known.metadata
        }


def names_of(values: object) -> str:
    """Return the names in a mapping without its values, which may be secrets.

    Examples
    --------
    >>> names_of({"HF_TOKEN": "hf_1234", "LANG": "C"})
    '{HF_TOKEN: …, LANG: …}'
    """
    if isinstance(values, Mapping):
        return "{" + ", ".join(f"{name}: …" for name in values) + "}"
    return repr(str(values)) if isinstance(values, str | Path) else "…"

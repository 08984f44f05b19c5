"""The options of pools that belong to certain backends: a class for each backend (driver).

A backend has its class as the attribute ``Options``. The module of its entry point has the same
class under that name, so that ``Pool(image=…)`` is checked before a backend is chosen. That module
is imported for this check, and should import little.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import dask.config

from dask_flame.core import config
from dask_flame.core.config import DEFAULTS, unknown_setting
from dask_flame.core.option_checks import EXAMPLES, line
from dask_flame.core.options import Declared, Option
from dask_flame.errors import PoolError

logger = logging.getLogger("dask_flame")

#: The entry point group of backends.
GROUP = "dask_flame.backends"

#: The backend that options are meant for, if it is known.
_meant: ContextVar[str] = ContextVar("dask_flame_backend", default="")
_classes: dict[str, type[BackendOptions]] = {}  # by the name of the backend
_points: dict[str, EntryPoint] = {}  # by the name of the backend
_imported: set[str] = set()  # names of the backends whose modules have been imported


@dataclass(frozen=True, init=False, repr=False)
class BackendOptions(Declared):
    """Options of a pool for one backend; None for an option that was not given.

    A subclass declares each as a field, see :func:`dask_flame.backends.option`, and is a
    dataclass with ``frozen=True, init=False, repr=False``.

    Attributes
    ----------
    backend : str
        The name of the backend.
    makes : str
        The word for its runners, in the plural, such as ``"pods"``. The error of another backend
        that is given one of these options uses it. By default, the name of the backend is used.
    settings : mapping of str to Option
        Settings of the backend that are not options of a pool, by their names in the section
        ``flame.<backend>`` of the configuration.
    merges : bool
        Whether the backend itself looks up options that a pool does not have in the configuration.
        By default the cluster does, so that :attr:`RunnerSpec.options` has them.

    Raises
    ------
    PoolError
        An option is wrong; the message has its name and a line that works.
    """

    backend: ClassVar[str] = ""
    makes: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Option]] = {}
    merges: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _classes[cls.backend] = cls
        for name, known in cls.settings.items():
            EXAMPLES.setdefault(f"flame.{cls.backend}.{name}", known.example)

    def __init__(self, **given: Any) -> None:
        declared = self.declared()
        if unknown := next((name for name in given if name not in declared), None):
            raise PoolError(f"unknown option {unknown}; there are {', '.join(declared) or 'none'}")
        for name, known in declared.items():
            value = given.get(name)
            object.__setattr__(self, name, None if value is None else known.checked(name, value))

    def check_max(self, max: int) -> None:
        """Check that the options are for a pool with so many runners; by default they are.

        Raises
        ------
        PoolError
        """

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {n: v for n in self.declared() if (v := getattr(self, n)) is not None}

    @property
    def shown(self) -> dict[str, str]:
        """The texts of the given options, without secrets, by name."""
        declared = self.declared()
        return {name: declared[name].shown(value) for name, value in self.given.items()}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={text}" for name, text in self.shown.items())
        return f"{type(self).__name__}({options})"

    @classmethod
    def runners(cls) -> str:
        """Return the word for its runners, in the plural."""
        return cls.makes or f"runners of {cls.backend!r}"

    @classmethod
    def configured(cls) -> BackendOptions:
        """Return the options that are configured for all pools.

        Raises
        ------
        PoolError
        """
        settings = {n: o.taken(n, None) for n, o in cls.declared().items() if o.section}
        return cls(**settings)

    @classmethod
    def setting(cls, name: str) -> Any:
        """Return one of the :attr:`settings`, checked.

        Raises
        ------
        PoolError
        """
        return cls.settings[name].configured(f"{cls.backend}.{name}")

    @classmethod
    def check_settings(cls) -> None:
        """Check the backend's section of the configuration.

        Raises
        ------
        PoolError
        """
        cls._check_names()
        for name in cls.settings:
            cls.setting(name)
        for name, known in cls.declared().items():
            if known.section and name.replace("_", "-") not in cls.settings:
                known.taken(name, None)

    @classmethod
    def _check_names(cls) -> None:
        """Refuse settings that there are not; the sections of ``flame.yaml`` are checked as it is.

        The section of a class that declares no setting may be read by other means.
        """
        options = [n.replace("_", "-") for n, o in cls.declared().items() if o.section]
        names = list(dict.fromkeys([*cls.settings, *options]))
        given = dask.config.get(f"flame.{cls.backend}", None)
        if cls.backend in DEFAULTS["flame"] or not names or not isinstance(given, Mapping):
            return
        for name in given:
            # Where its runners are: see `Backend.places`, of which these options do not know.
            if (setting := str(name).replace("_", "-")) not in (*names, "namespace", "context"):
                hint = hint_for(cls.backend, setting)
                raise unknown_setting(f"{cls.backend}.", name, names, hint)


def check_settings() -> None:
    """Check the sections of the configuration that belong to installed backends.

    Raises
    ------
    PoolError
    """
    sections = dask.config.get("flame", None) or {}
    for name in sorted({*DEFAULTS["flame"], *sections} & installed().keys()):
        _import(name)
        if name in _classes:
            _classes[name].check_settings()


def hint_for(section: str, name: str) -> str:
    """Return what to write for an option of a backend that has no setting; empty if it is none."""
    if section in installed():
        _import(section)
    option = name.replace("-", "_")
    known = _classes[section].declared().get(option) if section in _classes else None
    if known is None or known.section:
        return ""
    return (
        f"{option} is an option of a pool, without a setting; write "
        f"FlameCluster({line(option, known.example)})"
    )


def secret_settings() -> list[tuple[str, str]]:
    """Return the sections and names of settings whose values are secrets of the driver."""
    _import_all()
    return [
        (section, name)
        for section, known in sorted(_classes.items())
        for name, setting in known.settings.items()
        if setting.secret
    ]


def knowing(name: str) -> list[type[BackendOptions]]:
    """Return the classes that declare an option, in a fixed order."""
    _import_all()
    if not any(name in known.declared() for known in _classes.values()):
        installed(again=True)
        _import_all()
    found = [_classes[key] for key in sorted(_classes) if name in _classes[key].declared()]
    # Put the class first that the option is most likely meant for.
    meant = _meant.get() or config.get("backend")
    return sorted(found, key=lambda known: (known.backend != meant, not known.makes))


@contextlib.contextmanager
def meant_for(backend: Any) -> Iterator[None]:
    """Prefer a backend's options in errors, in place of those of the configured one.

    Parameters
    ----------
    backend : str, Backend, callable or None
    """
    name = backend if isinstance(backend, str) else getattr(backend, "name", "")
    token = _meant.set(name if isinstance(name, str) else "")
    try:
        yield
    finally:
        _meant.reset(token)


def configuring(setting: str) -> list[type[BackendOptions]]:
    """Return the classes that have a setting of this name."""
    _import_all()
    return [_classes[key] for key in sorted(_classes) if setting in _classes[key].settings]


def option_names() -> frozenset[str]:
    """Return the names of the options of all installed backends."""
    _import_all()
    return frozenset(name for known in _classes.values() for name in known.declared())


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normalized options; each must be valid for a backend that declares it.

    Raises
    ------
    PoolError
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        _import_all()
    order = (name for key in sorted(_classes) for name in _classes[key].declared())
    return {name: _checked(name, given[name]) for name in dict.fromkeys(order) if name in given}


def _checked(name: str, value: Any) -> Any:
    first: PoolError | None = None
    others: list[str] = []
    for known in knowing(name):
        option = known.declared()[name]
        try:
            return option.checked(name, value)
        except PoolError as error:
            if first is None:
                first = error
            else:
                others.append(f'with backend="{known.backend}" as {line(name, option.example)}')
    assert first is not None, name
    problem, write, correct = str(first).rpartition("; write ")
    if others and write:
        raise PoolError(f"{problem} (or {', '.join(others)}){write}{correct}")
    raise first


def declared(name: str) -> Option | None:
    """Return the declaration of a backend's option; None if no backend declares it."""
    return next((known.declared()[name] for known in knowing(name)), None)


def shown(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of options for a ``repr``."""
    known = {name: declared(name) for name in options}
    return {n: o.shown(options[n]) for n, o in known.items() if o is not None}


def installed(*, again: bool = False) -> Mapping[str, EntryPoint]:
    """Return the entry points of backends, by name.

    Parameters
    ----------
    again : bool, default False
        Whether to read them again, because a backend may have been installed in the meantime.
    """
    if again or not _points:
        _points.clear()
        _points.update((point.name, point) for point in entry_points(group=GROUP))
    return _points


def _import_all() -> None:
    for name in list(installed()):
        _import(name)


def _import(name: str) -> None:
    if name in _imported:
        return
    _imported.add(name)
    try:
        known = getattr(import_module(installed()[name].module), "Options", None)
    except Exception:
        # Choosing this backend raises the error.
        logger.debug("the options of backend=%r cannot be imported", name, exc_info=True)
    else:
        if isinstance(known, type) and issubclass(known, BackendOptions):
            _classes[known.backend] = known

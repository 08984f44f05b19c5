"""The options in the line of ``%flame`` and ``%%flame``; pure (driver)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from typing import Any

from IPython.core.error import UsageError

from dask_flame.driver import calls

_YES_OR_NO = {"yes": True, "true": True, "no": False, "false": False}
_USE = "%%flame pool=gpu timeout=5m rerun=no"
_USE_ON = "%%flame on=shop timeout=5m get=x,y"


@dataclass(frozen=True)
class CellOptions:
    """Options of cells, as for :func:`dask_flame.call`.

    Attributes
    ----------
    on : str or None
        Application in which the cell runs, in place of a runner.
    instance : str or None
        Process id of one of several instances of the application.
    get : str or None
        Names, separated by commas, whose values the application sends back.
    """

    pool: str | None = None
    timeout: str | None = None
    rerun: bool | None = None
    on: str | None = None
    instance: str | None = None
    get: str | None = None

    def changed(self, line: str) -> CellOptions:
        """Return the options changed by the words of a magic's line: ``pool=gpu``, or ``gpu``.

        Raises
        ------
        UsageError
            The line is not valid.
        """
        changes: dict[str, Any] = {}
        known = [field.name for field in fields(self)]
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{line}: {error}; write for example {_USE}") from None
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                name, value = "pool", word
            if name not in known:
                raise UsageError(
                    f"{word}: there are the options {', '.join(known)}; write for example {_USE}"
                )
            # An empty value or "none" restores the default.
            given = None if value.lower() in ("", "none") else value
            if name == "rerun" and given is not None:
                if given.lower() not in _YES_OR_NO:
                    raise UsageError(f"rerun={value} is not yes or no; write rerun=no")
                changes[name] = _YES_OR_NO[given.lower()]
            else:
                changes[name] = given
        return replace(self, **changes)._checked()

    def _checked(self) -> CellOptions:
        if self.on is None:
            for name in ("instance", "get"):
                if getattr(self, name) is not None:
                    raise UsageError(f"{name}= is for cells in an application: {_USE_ON}")
        elif self.instance is not None and not self.instance.isdecimal():
            raise UsageError(f"instance={self.instance} is not a process id; write instance=1234")
        return self

    def where(self) -> tuple[str | None, int | None]:
        """Return the application, and which of its instances."""
        return self.on, None if self.instance is None else int(self.instance)

    def annotations(self) -> dict[str, Any]:
        """Return the annotations of the cell's task."""
        return calls.annotations_of(self.pool, self.timeout, self.rerun)

    def __str__(self) -> str:
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        words = [f"{name}={value}" for name, value in said.items() if value is not None]
        return " ".join(words) or "the cluster's first pool, no timeout"

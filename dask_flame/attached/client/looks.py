"""Look inside an application without code (driver)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from dask_flame.attached.client.channel import Silent
from dask_flame.attached.looking import looks
from dask_flame.attached.looking.log import Log, LogLine
from dask_flame.attached.looking.memory import Memory
from dask_flame.attached.looking.modules import Modules, Versions
from dask_flame.attached.looking.outside import stacks_of
from dask_flame.attached.looking.pools import Pools
from dask_flame.attached.looking.processes import Processes
from dask_flame.attached.looking.values import Stacks
from dask_flame.attached.looking.wire import unpacked

#: Seconds for stacks from the application itself; then they are read from outside.
WITHIN = 5.0


class Looks(ABC):
    """What can be seen of an application without running code in it.

    All of it also works with an application that is exposed with ``readonly=True``.

    Attributes
    ----------
    name : str
    pid : int
    """

    name: str
    pid: int

    @abstractmethod
    def ask(self, question: str, *, within: float | None = None, **options: Any) -> Any:
        """Return the answer to a question."""

    def stacks(self) -> Stacks:
        """Return what its threads and asyncio tasks execute, with lines.

        If it does not answer, because a thread holds its interpreter, py-spy reads it, where that
        is installed (``pip install py-spy``) and may look at processes; the result says if not.

        Examples
        --------
        >>> app.stacks().busy[0].lines[-1]  # doctest: +SKIP
        Line(file='/srv/shop/basket.py', line=31, function='total', source='rates = fetch()')
        """
        try:
            found: Stacks = looks.opened("stacks", self.ask("stacks", within=WITHIN))
        except Silent:
            return self._from_outside(f"it has not answered within {WITHIN:g} s")
        return found

    def _from_outside(self, why: str) -> Stacks:
        return stacks_of(self.pid, self.name, why=why)

    def memory(self, *, most: int = 20, limit: float = 1.0) -> Memory:
        """Return what its memory is used for: types of objects, and lines where tracemalloc is on.

        Parameters
        ----------
        most : int, default 20
            Maximum number of types, and of lines.
        limit : float, default 1.0
            Seconds after which no more objects are counted; at most 10. The application goes on
            meanwhile, more slowly.
        """
        found: Memory = looks.opened("memory", self.ask("memory", most=most, limit=limit))
        return found

    @property
    def modules(self) -> Modules:
        """The modules that it has loaded, and whether their files have changed since."""
        found: Modules = looks.opened("modules", self.ask("modules"))
        return found

    @property
    def versions(self) -> Versions:
        """The versions of its Python and of the packages that it has loaded."""
        found: Versions = looks.opened("versions", self.ask("versions"))
        return found

    @property
    def processes(self) -> Processes:
        """Its process and those that it has started; command lines are without secrets."""
        found: Processes = looks.opened("processes", self.ask("processes"))
        return found

    @property
    def pools(self) -> Pools:
        """The FlameClusters that live in it, as they show themselves in a cell."""
        found: Pools = looks.opened("pools", self.ask("pools"))
        return found

    def log(self, *, follow: bool = False, most: int = 100) -> Log | Iterator[LogLine]:
        """Return lines of its log.

        An application keeps no lines for this: earlier ones come from the files and buffers that it
        logs to. While somebody follows, a handler collects the lines that its loggers let pass.

        Parameters
        ----------
        follow : bool, default False
            Return an iterator, which waits for further lines until it is closed or interrupted.
        most : int, default 100
            Maximum number of earlier lines.

        Examples
        --------
        >>> for line in app.log(follow=True):  # doctest: +SKIP
        ...     print(line)
        """
        if follow:
            return self._followed(most)
        with closing(self.ask("log", most=most)) as parts:
            return unpacked(Log, next(parts))

    def _followed(self, most: int) -> Iterator[LogLine]:
        with closing(self.ask("log", follow=True, most=most)) as parts:
            for part in parts:
                news = unpacked(Log, part)
                if news.lost:
                    said = f"{news.lost:,} lines were dropped, as they came too quickly"
                    yield LogLine(0, None, "", "", said)
                yield from news.lines

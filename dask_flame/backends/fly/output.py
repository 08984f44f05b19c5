"""The last output of runners in machines, as ``fly logs`` shows it (driver)."""

from __future__ import annotations

import asyncio
import logging

from dask_flame.backends.fly.api.client import FlyApi
from dask_flame.backends.fly.api.errors import FlyError

logger = logging.getLogger("dask_flame")

#: Runners whose output is kept, lines of each, and pages that are read at a time.
_KEPT, _LINES, _PAGES = 200, 200, 10
#: Seconds that output may take to arrive after a machine's end, and the first pause between
#: attempts.
_HEARD_WITHIN, _AGAIN = 3.0, 0.2
#: Seconds within which a page is answered.
_WITHIN = 5.0


class MachineOutput:
    """The last lines of runners, by their names.

    Parameters
    ----------
    api : FlyApi
    """

    def __init__(self, api: FlyApi) -> None:
        self._api = api
        self._machines: dict[str, str] = {}
        self._lines: dict[str, list[str]] = {}
        self._after: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def runs_in(self, name: str, machine: str) -> None:
        """Note the machine of a runner. It is remembered after its end."""
        self._machines[name] = machine
        while len(self._machines) > _KEPT:
            oldest = next(iter(self._machines))
            for known in (self._machines, self._lines, self._after, self._locks):
                known.pop(oldest, None)

    def of(self, name: str) -> str:
        """Return the known output of a runner; may be empty."""
        return "".join(f"{line}\n" for line in self._lines.get(name, ()))

    async def fetch(self, name: str) -> None:
        """Fetch what a runner has printed since the last time; on an error, nothing."""
        if name not in self._machines:
            return
        async with self._locks.setdefault(name, asyncio.Lock()):
            try:
                for _ in range(_PAGES):
                    after = self._after.get(name, "")
                    async with asyncio.timeout(_WITHIN):
                        lines, token = await self._api.logs(self._machines[name], after)
                    kept = self._lines.setdefault(name, [])
                    if not after:
                        kept.clear()  # this page has all that is known
                    kept += [str(line.get("message", "")).rstrip("\n") for line in lines]
                    del kept[:-_LINES]
                    if token:
                        self._after[name] = token
                    if not lines or not token or token == after:
                        return
            except (FlyError, TimeoutError) as error:
                logger.debug("the output of %s cannot be read: %s", name, error)

    async def last_words(self, name: str) -> str:
        """Return the output of a runner that has ended, once its last lines have arrived.

        Nobody says when that is: they have if there are some and no more come.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _HEARD_WITHIN, _AGAIN
        while True:
            before = len(self._lines.get(name, ()))
            await self.fetch(name)
            if (before and before == len(self._lines[name])) or loop.time() + pause > until:
                return self.of(name)
            await asyncio.sleep(pause)
            pause *= 2

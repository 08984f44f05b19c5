"""Compare the packages of runners that register with the driver's (driver, scheduler's pod)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from dask_flame.core.packages_option import PackagesOption
from dask_flame.core.threads import in_thread
from dask_flame.packages.differences import Difference, advice, compare, refusal
from dask_flame.packages.imported import ImportedPackages, core_versions
from dask_flame.packages.installed import canonical

#: The kind of the events.
EVENT = "packages"
#: Seconds to wait for the driver's answer.
_ANSWER_WITHIN = 10.0


class RegistrationCheck(Protocol):
    """Decide whether a runner may register."""

    async def __call__(
        self, *, runner: str, found: Mapping[str, str] | None, versions: Mapping[str, str]
    ) -> str:
        """Return why a runner must not register, without a subject; empty if it may.

        Parameters
        ----------
        runner : str
            The name of the runner.
        found : mapping of str to str or None
            All packages of the runner; None if they are the driver's, or if it has not told them.
        versions : mapping of str to str
            The versions of some packages, which every Dask worker tells.
        """


class PackageCheck:
    """Refuse runners that would not understand the driver, and report other differences once.

    This is a :class:`RegistrationCheck`.

    Parameters
    ----------
    option : PackagesOption
    imported : ImportedPackages
    remote : bool
        Whether runners are on other machines.
    note : callable
        Called with :data:`EVENT` and the text of a warning.
    """

    def __init__(
        self,
        option: PackagesOption,
        imported: ImportedPackages,
        *,
        remote: bool,
        note: Callable[[str, str], object],
    ) -> None:
        self._option = option
        self._imported = imported
        self._remote = remote
        self._note = note
        self._told: set[Difference] = set()

    async def __call__(
        self, *, runner: str, found: Mapping[str, str] | None, versions: Mapping[str, str]
    ) -> str:
        if why := refusal(compare(core_versions(), versions, complete=False), remote=self._remote):
            return why
        if found is None:
            return ""
        driver = await in_thread(self._imported.versions)
        differences = compare(driver, found)
        if why := refusal(differences, remote=self._remote):
            return why
        # The user has chosen the versions in the list.
        news = [d for d in differences if d not in self._told and d.name not in self._option.named]
        if news:
            self._told.update(news)
            self._note(EVENT, f"{runner} {advice(news, remote=self._remote)}")
        return ""


class AskedCheck:
    """Have the driver compare the packages of runners, for a scheduler in another process.

    This is a :class:`RegistrationCheck`. A driver that is not connected cannot answer: then only
    packages that every Dask worker tells are compared, with those of this process.

    Parameters
    ----------
    ask : callable
        Passes the arguments on to the driver's check, and returns its answer.
    """

    def __init__(self, ask: Callable[..., Awaitable[str]]) -> None:
        self._ask = ask

    async def __call__(
        self, *, runner: str, found: Mapping[str, str] | None, versions: Mapping[str, str]
    ) -> str:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                return await self._ask(runner=runner, found=found, versions=versions)
        except (TimeoutError, ConnectionError):
            return refusal(compare(core_versions(), versions, complete=False), remote=True)


def told_versions(versions: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of packages in the registration of a Dask worker."""
    packages: Mapping[str, Any] = versions.get("packages") or {}
    return {canonical(name): v for name, v in packages.items() if isinstance(v, str)}

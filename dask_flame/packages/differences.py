"""Compare the packages of a runner with the driver's; no I/O (driver, scheduler's pod)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dask_flame.packages.installed import OWN, public

#: Packages with which driver, scheduler and runner understand each other, and the number of leading
#: parts of their versions that must be equal: all (0), the year and month, or the major version.
BREAKING: Mapping[str, int] = {
    OWN: 0,
    "dask": 2,
    "distributed": 2,
    "cloudpickle": 1,
    "msgpack": 1,
}
#: Packages that are compared even if the driver has not imported them.
CORE = frozenset({*BREAKING, "tornado"})
#: Number of packages that a message names.
_NAMED = 12


@dataclass(frozen=True, order=True)
class Difference:
    """A package with another version on a runner.

    Attributes
    ----------
    name : str
        Canonical name of the package.
    driver : str
        The driver's version.
    runner : str
        The runner's version; empty if the package is missing there.
    """

    name: str
    driver: str
    runner: str

    @property
    def breaks(self) -> bool:
        """Whether driver and runner would not understand each other."""
        parts = BREAKING.get(self.name)
        if parts is None or not self.runner:
            return False
        return _leading(self.driver, parts) != _leading(self.runner, parts)

    @property
    def requirement(self) -> str:
        """The driver's version, as pip takes it."""
        return f"{self.name}=={public(self.driver)}"

    def __str__(self) -> str:
        if not self.runner:
            return f"{self.name} is missing (the driver has {self.driver})"
        return f"{self.name} {self.runner} (the driver has {self.driver})"


def compare(
    driver: Mapping[str, str], runner: Mapping[str, str], *, complete: bool = True
) -> list[Difference]:
    """Return the packages of the driver that differ on a runner, sorted by name.

    Local parts of versions are ignored: ``2.6.0+cpu`` and ``2.6.0+cu124`` are equal.

    Parameters
    ----------
    driver, runner : mapping of str to str
        Versions by canonical name.
    complete : bool, default True
        Whether `runner` has all packages of the runner, so that the others are missing there.

    Examples
    --------
    >>> [str(d) for d in compare({"numpy": "2.1.0"}, {"numpy": "1.26.4"})]
    ['numpy 1.26.4 (the driver has 2.1.0)']
    """
    return sorted(
        Difference(name, version, runner.get(name, ""))
        for name, version in driver.items()
        if (complete or runner.get(name)) and public(runner.get(name, "")) != public(version)
    )


def refusal(differences: Iterable[Difference], *, remote: bool) -> str:
    """Return why a runner must not be used, as a sentence without its subject; empty if it may be.

    Parameters
    ----------
    differences : iterable of Difference
    remote : bool
        Whether the runner is on another machine, so that its packages are those of an image.
    """
    breaking = [d for d in differences if d.breaks]
    if not breaking:
        return ""
    here = " and ".join(f"{d.name} {d.runner}" for d in breaking)
    there = " and ".join(f"{d.name} {d.driver}" for d in breaking)
    return (
        f"has {here}, and the driver has {there}, which do not understand each other. "
        f"{fix(breaking, remote=remote)}; or install the other versions where the driver runs"
    )


def advice(differences: Collection[Difference], *, remote: bool) -> str:
    """Return a warning about differences that may matter, as a sentence without its subject."""
    named = ", ".join(map(str, list(differences)[:_NAMED]))
    more = f" and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
    return (
        f"has other packages than the driver: {named}{more}. Calls that use them may fail, or "
        f'return other results. {fix(differences, remote=remote)}. packages="ignore" compares '
        "nothing"
    )


def fix(differences: Collection[Difference], *, remote: bool) -> str:
    """Return how to give runners, or the scheduler's pod, the driver's versions."""
    wanted = [d.requirement for d in differences]
    more = " …" if len(wanted) > _NAMED else ""
    line = f"pip install {' '.join(wanted[:_NAMED])}{more}"
    # A runner cannot replace dask-flame, which installs the others there.
    sync = ', or write packages="sync", and each runner installs them'
    sync = sync if any(d.name != OWN for d in differences) else ""
    if remote:
        return f'Build an image with the driver\'s versions ({line}) and write image="IMAGE"{sync}'
    return (
        "Its import path is not the driver's: see PYTHONPATH in env=. Install the driver's "
        f"versions there ({line}){sync}"
    )


def _leading(version: str, parts: int) -> tuple[str, ...]:
    numbers = public(version).split(".")
    return tuple(numbers[:parts] if parts else numbers)

"""The driver's local modules, for a cluster or a Client that sends them (driver)."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from types import ModuleType

from dask_flame.code.driver.roots import chosen
from dask_flame.code.driver.shared_scan import ScanOptions, scans
from dask_flame.core.settings import configured

#: What ``code=`` accepts: all local modules, none, or these.
Choice = bool | Sequence[str | os.PathLike[str] | ModuleType]


class LocalCode:
    """The local modules of this process that one cluster or Client sends.

    Those with equal options share a :class:`dask_flame.code.driver.shared_scan.SharedScan`.

    Parameters
    ----------
    choice : bool or sequence of path-like or module, default True
        True: the modules in the folders of ``sys.path`` that are not installed, and in those of
        other imported modules. Otherwise the folders, packages and modules to use.
    data : bool, default False
        Whether to include the other files in packages.

    Attributes
    ----------
    scan : SharedScan
    """

    def __init__(self, choice: Choice = True, *, data: bool = False) -> None:
        options = ScanOptions(
            chosen=None if choice is True else tuple(chosen(choice or [])),
            data=data,
            most_bytes=configured("code.file-limit"),
            limit=configured("code.limit"),
        )
        self.scan = scans.use(options, self)

    @property
    def tops(self) -> frozenset[str]:
        """The top-level names of the modules."""
        return self.scan.tops

    def version(self) -> str | None:
        """Return the id of the present version; None if there are no local modules, or closed.

        Notices every change that was made before the call.
        """
        return self.scan.version() if self in self.scan.users else None

    def pack(self, known: Collection[bytes]) -> tuple[str | None, bytes, set[bytes]]:
        """Return the present version, and a pack: see :meth:`SharedScan.pack`."""
        return self.scan.pack(known) if self in self.scan.users else (None, b"", set())

    def close(self) -> None:
        """Use the scan no more: without users, it watches no folders."""
        scans.leave(self.scan, self)


def versions() -> list[str]:
    """Return the present versions of all local code that this process sends."""
    return sorted(found for scan in scans.used() if (found := scan.version()) is not None)

"""Put the driver's files in place before a runner registers (runner).

The runner asks its scheduler for the list of files, compares it with what is there, and asks for
the contents that it lacks. A file appears whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed.core import rpc
from distributed.security import Security

from dask_flame.core.packs import Pack
from dask_flame.files.compare import difference
from dask_flame.files.tree import FILE, FOLDER, Item, loads

#: Maximum number of digests in one request.
_AT_ONCE = 256
#: Errors of a path that other runners of the pool have too, so that no further one boots.
_FINAL = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EPERM,
        errno.EROFS,
    }
)


class CannotPlace(Exception):
    """Files cannot be put in place; `final` if that is so for every runner of the pool."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


def place_files(launch_config: Mapping[str, Any]) -> bool:
    """Put the files of a launch configuration in place; return whether they are.

    Otherwise the reason has been printed, and the scheduler knows it if it is final.
    """
    files = launch_config.get("files")
    if not files:
        return True
    try:
        asyncio.run(_place(launch_config, files["plan"], replace=files["replace"]))
    except CannotPlace as error:
        print(error, file=sys.stderr)
        return False
    return True


async def _place(launch_config: Mapping[str, Any], plan: Sequence[str], *, replace: bool) -> None:
    security = Security(**launch_config["security"]) if launch_config["security"] else Security()
    limit = launch_config["boot_timeout"]
    scheduler = rpc(
        launch_config["scheduler"],
        timeout=limit,
        connection_args=security.get_connection_args("worker"),
    )
    try:
        async with asyncio.timeout(limit):
            await Placement(scheduler, replace=replace).run(plan)
    except CannotPlace as error:
        if error.final:
            with contextlib.suppress(OSError):
                await scheduler.flame_files_refused(name=launch_config["name"], why=str(error))
        raise
    except (OSError, TimeoutError) as error:  # of the connection
        said = str(error) or f"not within boot_timeout={limit:g} s"
        raise CannotPlace(
            f"files= did not arrive from the scheduler: {said}", final=False
        ) from None
    finally:
        await scheduler.close_rpc()


class Placement:
    """Fetch files from the scheduler, and put them in place.

    Parameters
    ----------
    scheduler : distributed.core.rpc
    replace : bool
        Whether other files of this runner's own file system are replaced.
    """

    def __init__(self, scheduler: Any, *, replace: bool) -> None:
        self._scheduler = scheduler
        self._replace = replace
        self._pack = Pack()
        self._own = os.stat("/").st_dev

    async def run(self, plan: Sequence[str]) -> None:
        """Put all files of a plan in place.

        Raises
        ------
        CannotPlace
        OSError
            The connection to the scheduler is lost.
        """
        pieces = [await self._block(name, plan[number:]) for number, name in enumerate(plan)]
        items = loads(b"".join(pieces))
        lacking = []
        for item in items:
            with _explained(item.path):
                if self._lacks(item):
                    lacking.append(item)
        wanted = [name for item in lacking for name in item.blocks]
        for item in lacking:
            await self._put(item, wanted)
            del wanted[: len(item.blocks)]

    def _lacks(self, item: Item) -> bool:
        """Return whether an item is to be written.

        Raises
        ------
        CannotPlace
            Something else is there, and must not be replaced.
        """
        path = item.path
        if not os.path.lexists(path):
            return True
        why = difference(item, path)
        if not why:
            return False
        folder = os.path.isdir(path) and not os.path.islink(path)
        if folder or not self._replace or os.lstat(path).st_dev != self._own:
            where = "" if self._replace else ", or remove it there"
            raise CannotPlace(
                f"files= cannot put anything at {path!r} (in {os.getcwd()}): that {why}, and "
                f"is not overwritten; name another path{where}",
                final=True,
            )
        return True

    async def _put(self, item: Item, wanted: Sequence[str]) -> None:
        path = item.path
        with _explained(path):
            if item.kind == FOLDER:
                os.makedirs(path, exist_ok=True)
                return
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with _temporary(path) as temporary:
            if item.kind == FILE:
                await self._write(item, temporary, wanted)
            else:
                with _explained(path):
                    os.symlink(item.to, temporary)
            with _explained(path):
                self._appear(item, temporary)

    async def _write(self, item: Item, temporary: str, wanted: Sequence[str]) -> None:
        with _explained(item.path):
            # Until it has the mode of the driver's file, for this user only.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            file = open(os.open(temporary, flags, 0o600), "wb")  # noqa: SIM115, ASYNC230
        with file:
            for number, name in enumerate(item.blocks):
                block = await self._block(name, wanted[number:])
                with _explained(item.path):
                    file.write(block)
            with _explained(item.path):
                file.flush()
                os.fchmod(file.fileno(), item.mode | 0o400)

    def _appear(self, item: Item, temporary: str) -> None:
        """Give a complete file its name."""
        if self._replace or item.kind != FILE:
            os.replace(temporary, item.path)
            return
        try:
            os.link(temporary, item.path)
        except FileExistsError:
            # Another runner of this machine may have been faster.
            self._lacks(item)
        except OSError:  # a file system without hard links
            os.replace(temporary, item.path)

    async def _block(self, name: str, wanted: Sequence[str]) -> bytes:
        """Return a block; ask for it, together with those that come next."""
        key = bytes.fromhex(name)
        if key not in self._pack:
            names = list(dict.fromkeys(wanted[:_AT_ONCE]))
            answer = await self._scheduler.flame_files(wanted=names)
            if "pack" not in answer:
                raise CannotPlace("files= are not with the scheduler any more", final=False)
            self._pack = Pack(answer["pack"])
        return self._pack.read(key)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn an error of the operating system into one about a path of ``files=``."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise CannotPlace(
            f"files= cannot put anything at {path!r} (in {os.getcwd()}): {why}; name a path "
            "that runners may write to",
            final=error.errno in _FINAL,
        ) from None


@contextlib.contextmanager
def _temporary(path: str) -> Iterator[str]:
    """Yield a name beside a path, for what is removed unless it was renamed."""
    target = Path(path)
    temporary = str(target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}"))
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)

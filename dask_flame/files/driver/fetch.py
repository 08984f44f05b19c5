"""Fetch files that calls have written on their runners (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
import warnings
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from distributed import Client, Future

from dask_flame.core.messages import FETCH_HOLD, FETCH_LIST, FETCH_READ
from dask_flame.core.option_checks import shown
from dask_flame.core.own_folders import open_own
from dask_flame.errors import FlameError
from dask_flame.files.tree import BLOCK, FILE, FOLDER, Item, loads

P = ParamSpec("P")
T = TypeVar("T")

#: Requests for contents that are under way at a time.
_WINDOW = 3
#: Maximum number of files in one request.
_AT_ONCE = 200
#: Seconds between two messages that keep a runner, and for which a lost connection is tried again.
_RENEW = 5.0
_TRY_FOR = 30.0
#: The beginning of the names of folders for files that have not arrived completely.
_PARTIAL = ".dask-flame-fetch-"

#: Path below the root, offset, length.
Part = tuple[bytes, int, int]


def fetch(
    path: str | os.PathLike[str], future: Future, *, to: str | os.PathLike[str] | None = None
) -> Any:
    """Fetch a file or a folder that a call has written on its runner.

    Wait for the call, and copy from the runner that executed it. The runner does not end
    meanwhile. The copy appears when it is complete.

    Parameters
    ----------
    path : path
        A file or a folder on the runner. A relative path is relative to the working directory in
        which the call has ended.
    future : distributed.Future
        The call.
    to : path, optional
        Where to write. By default, the same name in the working directory. An existing folder
        receives a file under its own name. Files that exist are replaced; other files of an
        existing folder are kept.

    Returns
    -------
    pathlib.Path
        The copy; with an asynchronous client, an awaitable.

    Raises
    ------
    FileNotFoundError
        The runner has no such file. Other errors of its operating system are raised likewise.
    FlameError
        The runner has ended, or ends before everything is copied; nothing is left of the copy.
    Exception
        The call has failed or was cancelled: its own error.

    Warns
    -----
    UserWarning
        The file may be that of another call: it was written after the call had ended or before it
        began, while other calls ran, or was fetched for another call before.

    Notes
    -----
    Calls that share a working directory, as those of local runners do, replace each other's files
    of the same name. Name a file after its call, or write into ``tempfile.mkdtemp()`` and return
    the path. The copy keeps the time at which the file was last written.

    The contents pass through the scheduler, in pieces of 4 MiB. For large files, write to a volume
    or to an fsspec path.

    Examples
    --------
    >>> future = client.submit(Path("loss.txt").write_text, "0.9")
    >>> dask_flame.fetch("loss.txt", future, to="copy.txt").read_text()
    '0.9'
    """
    if not isinstance(future, Future):
        raise TypeError(
            f"future={shown(future)} is not a future; write "
            'fetch("model.pt", client.submit(train, 0.1))'
        )
    transfer = _Transfer(os.fspath(path), future, None if to is None else os.fspath(to))
    client: Client = future.client
    if client.asynchronous:
        return transfer.run()
    client.sync(transfer.hold)
    try:
        future.exception()  # inside a call, this leaves the slot of that call
        copy = client.sync(transfer.bring)
    finally:
        with contextlib.suppress(FlameError, RuntimeError):  # the client has closed meanwhile
            client.sync(transfer.release)
    transfer.warn(stacklevel=3)
    return copy


class _Transfer:
    """One fetch.

    Parameters
    ----------
    path : str
    future : distributed.Future
    to : str or None
    """

    def __init__(self, path: str, future: Future, to: str | None) -> None:
        self._path = path
        self._future = future
        self._client: Client = future.client
        self._target = _target(path, to)
        self._id = uuid.uuid4().hex
        self._renewing: asyncio.Task[None] | None = None
        self._doubt = ""

    async def run(self) -> Path:
        """Do it all."""
        await self.hold()
        try:
            await self._future.exception(asynchronous=True)
            copy = await self.bring()
        finally:
            await self.release()
        self.warn(stacklevel=2)
        return copy

    async def hold(self) -> None:
        """Keep the call's runner until :meth:`release`."""
        about = await self._client.scheduler.identity(n_workers=0)
        if about["type"] != "FlameScheduler":
            # It would not answer.
            raise FlameError(
                "fetch() needs a FlameCluster, and the scheduler of this client is another one; "
                "write client = Client(FlameCluster(max=8))"
            )
        await self._ask(FETCH_HOLD, fetch=self._id)
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW)
            with contextlib.suppress(OSError, FlameError):
                await self._ask(FETCH_HOLD, fetch=self._id)

    async def release(self) -> None:
        """Let the runner end when it is idle; without this message, it does so a while later."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._once(FETCH_HOLD, fetch=self._id, keep=False)

    async def bring(self) -> Path:
        """Copy what the finished call has written."""
        if self._future.status != "finished":
            await self._future  # it raises
        answer = await self._ask(FETCH_LIST, path=os.fsencode(self._path))
        items = loads(zlib.decompress(answer["items"]))
        root: bytes = answer["root"]
        self._doubt = answer["doubt"]
        target = await _to_its_end(_final, self._target, self._path, items)
        with _partial(target.parent) as folder:
            copy = folder / "copy"
            await self._copy(root, items, copy)
            await _to_its_end(_appear, copy, target)
        return target

    def warn(self, stacklevel: int) -> None:
        """Warn if what was copied may be the file of another call."""
        if self._doubt:
            warnings.warn(
                f"{self._doubt}, so that it may be the file of another call; calls that share a "
                "working directory replace each other's files: name the file after the call, "
                'such as f"model-{rate}.txt", or write into tempfile.mkdtemp() and return the path',
                UserWarning,
                stacklevel=stacklevel,
            )

    async def _copy(self, root: bytes, items: list[Item], copy: Path) -> None:
        """Write all items below a path, which does not exist."""
        writer = _Writer(copy, os.fsdecode(root), items)
        async for parts, data in self._contents(root, items):
            await _to_its_end(writer.write, parts, data)
        await _to_its_end(writer.finish)

    async def _contents(
        self, root: bytes, items: list[Item]
    ) -> AsyncIterator[tuple[list[Part], list[bytes]]]:
        """Yield the contents of all files in order, with a few requests under way."""
        under_way: deque[tuple[list[Part], asyncio.Task[Any]]] = deque()
        requests = _requests(items)
        try:
            while True:
                while len(under_way) < _WINDOW and (parts := next(requests, None)):
                    ask = self._ask(FETCH_READ, root=root, parts=parts)
                    under_way.append((parts, asyncio.ensure_future(ask)))
                if not under_way:
                    return
                parts, task = under_way[0]
                data = (await task)["data"]
                under_way.popleft()
                yield parts, list(data)
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

    async def _ask(self, what: str, **values: Any) -> dict[str, Any]:
        """Ask the scheduler, again if the connection is lost; raise what it answers."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _TRY_FOR
        while True:
            broken = ""
            try:
                answer = await self._once(what, **values)
            except OSError as error:
                broken = f"the scheduler cannot be reached: {error}"
            else:
                broken = answer.get("broken", "")
            if not broken:
                return self._checked(answer)
            if loop.time() > due or self._client.status not in ("running", "connecting"):
                raise FlameError(f"{self._path!r} could not be fetched: {broken}")
            await asyncio.sleep(0.2)

    async def _once(self, what: str, **values: Any) -> dict[str, Any]:
        request = getattr(self._client.scheduler, what)
        return await request(key=self._future.key, **values) or {}

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "gone" in answer:
            raise FlameError(f"{self._path!r} cannot be fetched: {answer['gone']}")
        if "text" in answer:
            text = f"{answer['text']} (on {answer['runner']})"
            raise OSError(answer["errno"], text, os.fsdecode(answer["path"]))
        return answer


async def _to_its_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread; if this is cancelled, wait for its end first."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # It would write to a folder that is being removed.
        await asyncio.wait({work})
        raise


class _Writer:
    """Write contents as they come, one file after another.

    Parameters
    ----------
    copy : Path
        A file, or the folder of several.
    root : str
        Its path on the runner.
    items : list of Item
    """

    def __init__(self, copy: Path, root: str, items: list[Item]) -> None:
        self._copy = copy
        self._root = root
        self._items = items
        self._made: set[Path] = set()

    def write(self, parts: list[Part], data: list[bytes]) -> None:
        """Write the answer to one request."""
        for (path, offset, length), content in zip(parts, data, strict=True):
            if len(content) < length:
                name = os.path.join(self._root, os.fsdecode(path)) if path else self._root
                raise FlameError(
                    f"{name!r} has become shorter while it was fetched; fetch it when nothing "
                    "writes to it"
                )
            self._file(path, offset, content)

    def _file(self, path: bytes, offset: int, content: bytes) -> None:
        file = self._at(os.fsdecode(path))
        with open(file, "ab" if offset else "xb") as opened:
            opened.write(content)

    def finish(self) -> None:
        """Make everything that has no content, and set permissions."""
        for item in self._items:
            path = self._at(item.path)
            if item.kind == FOLDER:
                path.mkdir(exist_ok=True)
            elif item.kind != FILE:
                path.symlink_to(item.to)
            else:
                path.touch()
                path.chmod(item.mode | 0o400)
                if item.written:
                    # Where runners share this folder, the copy may replace the file itself, and is
                    # compared with calls again.
                    os.utime(path, ns=(item.written, item.written))

    def _at(self, path: str) -> Path:
        file = self._copy / path if path else self._copy
        if file.parent not in self._made:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(file.parent)
        return file


def _requests(items: list[Item]) -> Iterator[list[Part]]:
    """Yield requests for the contents of all files, each of limited size."""
    parts: list[Part] = []
    size = 0
    for item in items:
        for offset in range(0, item.size, BLOCK):
            length = min(BLOCK, item.size - offset)
            if parts and (size + length > BLOCK or len(parts) == _AT_ONCE):
                yield parts
                parts, size = [], 0
            parts.append((os.fsencode(item.path), offset, length))
            size += length
    if parts:
        yield parts


def _target(path: str, to: str | None) -> str:
    """Return where to write, with a / at its end if it is a folder for it."""
    if to is not None:
        return os.path.join(os.getcwd(), os.path.expanduser(to))
    name = os.path.basename(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise FlameError(f'path={path!r} has no name of its own; write to="results"')
    return os.path.join(os.getcwd(), name)


def _final(target: str, path: str, items: list[Item]) -> Path:
    """Return where the copy is to be.

    Raises
    ------
    OSError
        It cannot be there.
    """
    file = _is_file(items)
    if file and (target.endswith("/") or os.path.isdir(target)):
        target = os.path.join(target, os.path.basename(path.rstrip("/")))
    final = Path(os.path.normpath(target))
    if final.is_dir() if file else final.exists() and not final.is_dir():
        there, new = ("folder", "file") if file else ("file", "folder")
        raise FileExistsError(f"{final} is a {there}, and {path!r} is a {new}; write to=")
    return final


def _is_file(items: list[Item]) -> bool:
    return bool(items) and items[0].path == "" and items[0].kind == FILE


@contextlib.contextmanager
def _partial(parent: Path) -> Iterator[Path]:
    """Yield a new folder beside the target, and remove it, and others whose process has died."""
    for old in parent.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            descriptor = open_own(old)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                os.close(descriptor)
    folder, descriptor = _locked_folder(str(parent))
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(parent: str) -> tuple[str, int]:
    """Make a folder; return its path, and a descriptor that keeps others from removing it."""
    while True:
        folder = tempfile.mkdtemp(prefix=_PARTIAL, dir=parent)
        # Another process may remove it before it is locked.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(descriptor), os.lstat(folder)):
                    return folder, os.dup(descriptor)
            finally:
                os.close(descriptor)


def _appear(copy: Path, target: Path) -> None:
    """Move a complete copy to its place, where it replaces files of the same names.

    Raises
    ------
    OSError
        A file would replace a folder, or a folder a file; then nothing is moved.
    """
    moves = list(_moves(copy, target))
    for source, place in moves:
        os.replace(source, place)


def _moves(copy: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    folder = copy.is_dir() and not copy.is_symlink()
    if not os.path.lexists(target):
        yield copy, target
    elif folder != target.is_dir():
        kinds = ("a file", "a folder") if folder else ("a folder", "a file")
        raise FileExistsError(f"{target} is {kinds[0]}, and {kinds[1]} was to be written there")
    elif folder:
        for entry in copy.iterdir():
            yield from _moves(entry, target / entry.name)
    else:
        yield copy, target

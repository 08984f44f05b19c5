"""Inspect and end local clusters from outside (command line)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import dask.config
import psutil

from dask_flame.attached.looking.values import Stacks
from dask_flame.backends.inspector import (
    ClusterListing,
    Entrance,
    Inspector,
    Orphan,
    RunnerListing,
)
from dask_flame.backends.local.connection_file import read_connection
from dask_flame.backends.local.process_scan import (
    PREFIX,
    Marked,
    ProcessScan,
    SupervisorProcess,
    cluster_of,
    described,
    scan_processes,
)
from dask_flame.backends.local.runner_stacks import runner_stacks
from dask_flame.backends.local.supervisor.control_signals import NO_MORE, OUTPUT, PRINTED, STOP
from dask_flame.core.folder_locks import LOCK
from dask_flame.core.own_folders import open_in, open_own
from dask_flame.core.placed_links import remove_folder
from dask_flame.core.processes import send
from dask_flame.core.redaction import hide
from dask_flame.core.resource_trackers import WITHIN as TRACKERS_WITHIN
from dask_flame.core.resource_trackers import is_tracker
from dask_flame.errors import BackendError

#: Seconds to wait for a supervisor's answer.
_ANSWER_WITHIN = 5.0
#: Seconds for processes that lost their driver to end by themselves.
_BY_ITSELF = 3.0
_END_WITHIN = 10.0
_PAUSE = 0.1


class LocalInspector(Inspector):
    """The clusters of this user on this machine, within the same container."""

    async def clusters(self) -> list[ClusterListing]:
        scan = scan_processes()
        ids = {*scan.supervisors, *(m.cluster for m in scan.marked)}
        return sorted((_listing(id, scan) for id in ids), key=lambda c: (c.started or 0, c.id))

    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        supervisor = scan_processes().supervisors.get(cluster.id)
        scratch = supervisor.scratch if supervisor is not None else None
        if supervisor is None or scratch is None:
            raise BackendError(f"{cluster.id} has no supervisor that knows what its runners print")
        file = scratch / PRINTED
        file.unlink(missing_ok=True)
        send(supervisor.process, OUTPUT)
        if not await _until(file.exists, _ANSWER_WITHIN):
            raise BackendError(f"the supervisor of {cluster.id} does not answer")
        said: dict[str, str] = json.loads(file.read_text())
        return {
            name: "\n".join(said.get(name, "").splitlines()[-lines:]) for name in _names(cluster)
        }

    async def stacks(self, cluster: ClusterListing, runner: str) -> Stacks:
        found = [marked for marked in scan_processes().of(cluster.id) if marked.runner == runner]
        if not found:
            raise BackendError(f"{runner} of {cluster.id} has ended")
        # Other processes with the same mark were started by the runner, and after it.
        process = min(found, key=lambda marked: marked.started).process
        return await runner_stacks(process, runner)

    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        supervisor = scan_processes().supervisors.get(cluster.id)
        if supervisor is None or not supervisor.has_driver:
            await self._kill({cluster.id}, within, spare_living=False)
            _check_ended(cluster.id)
            return "ended; its driver was gone"
        driver = described(supervisor.driver)
        if await self._tell(cluster.id, within):
            return f"stopped; its driver, {driver}, lives on, and was told"
        # The supervisor does not respond. The driver may start another one: notify that one too.
        for process in _processes([cluster.id]):
            send(process, signal.SIGKILL)
        if await self._tell(cluster.id, _END_WITHIN):
            return f"stopped; its driver, {driver}, lives on, and was told"
        _check_ended(cluster.id)
        return (
            f"ended by force, as its supervisor did not answer within {within:g} s; its driver, "
            f"{driver}, was not told, and may begin again"
        )

    async def _tell(self, cluster: str, within: float) -> bool:
        """Make a supervisor end its runners and notify its driver; return whether it has."""
        notified: set[int] = set()

        def over() -> bool:
            scan = scan_processes()
            supervisor = scan.supervisors.get(cluster)
            if supervisor is None or not supervisor.has_driver:
                return False
            if supervisor.process.pid not in notified:
                notified.add(supervisor.process.pid)
                send(supervisor.process, STOP)
                send(supervisor.process, signal.SIGCONT)  # in case it is suspended
            scratch = supervisor.scratch
            noted = scratch is not None and (scratch / NO_MORE).exists()
            return noted and not supervisor.busy and not scan.of(cluster)

        return await _until(over, within)

    async def enter(self, cluster: ClusterListing) -> Entrance:
        for folder in _all_folders():
            if cluster_of(folder) == cluster.id and _in_use(folder):
                connection = read_connection(str(folder))
                if connection is not None:
                    hide(connection.secrets)
                    return Entrance(
                        address=connection.address, connection=connection, close=_nothing
                    )
        raise BackendError(
            f"{cluster.id} has no scheduler that can be found: its driver is {cluster.driver}"
        )

    async def orphans(self) -> list[Orphan]:
        found = {orphan.key: orphan for orphan in _orphans(scan_processes())}

        def gone() -> bool:
            there = {orphan.key for orphan in _orphans(scan_processes())}
            for key in list(found):
                if key not in there:
                    del found[key]
            return not found

        # After the driver's end, supervisors end their processes within a second, as runners do.
        await _until(gone, _BY_ITSELF)
        return list(found.values())

    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        wanted = {orphan.key for orphan in orphans}
        # The caller may have taken a while to decide: look again.
        now = [orphan for orphan in _orphans(scan_processes()) if orphan.key in wanted]
        for marked in scan_processes().abandoned():
            if _key(marked) in wanted:
                send(marked.process, signal.SIGKILL)
        # The name of a folder proves nothing about a living process: it may be a copy.
        await self._kill({s.cluster for s in now if s.cluster and s.key[0] == "process"})
        for orphan in now:
            if orphan.key[0] == "folder":
                _remove(Path(str(orphan.key[1])), orphan.key)
        return [orphan for orphan in _orphans(scan_processes()) if orphan.key in wanted]

    async def _kill(
        self, clusters: set[str], within: float = _END_WITHIN, *, spare_living: bool = True
    ) -> None:
        """Kill the processes of clusters without a driver until none is left."""
        supervisors = scan_processes().supervisors
        spare_until = time.monotonic() + TRACKERS_WITHIN
        folders = {
            scratch
            for id in clusters
            if id in supervisors
            and not supervisors[id].has_driver
            and (scratch := supervisors[id].scratch)
        }

        def over() -> bool:
            scan = scan_processes()
            spared = _living(scan) if spare_living else set()
            there = _processes(clusters - spared, scan)
            # Repeated, because a process just found may have started others.
            for process in there:
                if time.monotonic() > spare_until or not is_tracker(process):
                    send(process, signal.SIGKILL)
            return not there

        await _until(over, within)
        folders |= {f for f in _folders() if cluster_of(f) in clusters}
        for folder in folders:
            _remove(folder)


async def _nothing() -> None:
    """Close nothing."""


def _processes(clusters: Collection[str], scan: ProcessScan | None = None) -> list[psutil.Process]:
    """Return the processes of clusters, supervisors first, because they could start others."""
    scan = scan_processes() if scan is None else scan
    supervisors = [scan.supervisors[id].process for id in clusters if id in scan.supervisors]
    return supervisors + [m.process for m in scan.marked if m.cluster in clusters]


def _check_ended(cluster: str) -> None:
    if left := _processes([cluster]):
        shown = ", ".join(described(process.pid) for process in left)
        raise BackendError(f"{cluster} has processes that do not end: {shown}")


def _names(cluster: ClusterListing) -> list[str]:
    return [runner.name for runner in cluster.runners]


def _listing(id: str, scan: ProcessScan) -> ClusterListing:
    supervisor = scan.supervisors.get(id)
    state, driver = "orphaned", "none"
    if supervisor is not None:
        scratch = supervisor.scratch
        stopped = scratch is not None and (scratch / NO_MORE).exists()
        state = ("stopped" if stopped else "live") if supervisor.has_driver else "ending"
        driver = described(supervisor.driver) if supervisor.has_driver else "gone"
    runners = tuple(_runners(id, scan))
    starts = [r.started for r in runners if r.started is not None]
    starts += [] if supervisor is None else [supervisor.started]
    return ClusterListing(
        id=id,
        name=id.rpartition("-")[0],
        state=state,
        driver=driver,
        started=min(starts, default=None),
        runners=runners,
    )


def _runners(id: str, scan: ProcessScan) -> Iterator[RunnerListing]:
    first: dict[str, Marked] = {}
    for marked in scan.of(id):
        there = first.get(marked.runner)
        # Other processes with the same mark were started by the runner, and after it.
        if there is None or marked.started < there.started:
            first[marked.runner] = marked
    for name in sorted(first, key=lambda n: (n.rpartition("-")[0], len(n), n)):
        marked, prefix = first[name], name.rpartition("-")[0]
        state = "gone"
        with contextlib.suppress(psutil.Error):
            frozen = marked.process.status() == psutil.STATUS_STOPPED
            state = "frozen" if frozen else "running"
        yield RunnerListing(
            name=name,
            pool="default" if prefix == "runner" else prefix,
            state=state,
            started=marked.started,
            where=f"process {marked.process.pid}",
        )


def _orphans(scan: ProcessScan) -> Iterator[Orphan]:
    """Yield everything without a living driver, even if it is about to end."""
    living = _living(scan)
    for id, supervisor in scan.supervisors.items():
        if id not in living:
            why = f"its driver, process {supervisor.driver}, is gone"
            yield _process(supervisor, "supervisor", id, why)
    for marked in scan.marked:
        if marked.cluster not in living:
            yield _process(marked, marked.runner, marked.cluster, "its cluster has no driver")
    for marked in scan.abandoned():
        yield _process(marked, "template", "", "its supervisor is gone")
    for folder in _folders():
        yield Orphan(
            what=f"folder {folder}",
            cluster=cluster_of(folder),
            why="neither a supervisor nor a driver has it locked",
            key=_folder_key(folder),
        )


def _process(what: SupervisorProcess | Marked, role: str, cluster: str, why: str) -> Orphan:
    shown = f"{role}, {described(what.process.pid)}"
    return Orphan(what=shown, cluster=cluster, why=why, key=_key(what))


def _key(what: SupervisorProcess | Marked) -> tuple[object, ...]:
    return ("process", what.process.pid, what.started)


def _folder_key(folder: Path) -> tuple[object, ...]:
    return ("folder", str(folder), _identity(folder))


def _living(scan: ProcessScan) -> set[str]:
    """Return clusters with a living driver: parent of the supervisor, or holder of a lock."""
    supervisors = scan.supervisors.values()
    living = {g.cluster for g in supervisors if g.has_driver}
    dying = {_identity(scratch) for g in supervisors if not g.has_driver and (scratch := g.scratch)}
    # If only its supervisor was killed, a driver has results there, and may start another one.
    held = [f for f in _all_folders() if _in_use(f) and _identity(f) not in dying]
    return living | set(map(cluster_of, held))


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return a unique id of a folder, independent of its path; None if it does not exist."""
    with contextlib.suppress(OSError):
        there = folder.stat()
        return there.st_dev, there.st_ino
    return None


def _all_folders() -> Iterator[Path]:
    """Yield this user's scratch folders, recognized by name, from the usual places."""
    places = {tempfile.gettempdir(), dask.config.get("temporary-directory", default=None) or "."}
    places.discard(".")
    for folder in sorted(f for place in places for f in Path(place).glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            # Skip links: their targets belong to someone else, or are listed anyway. Skip folders
            # in which others may write: no cluster makes any, and what is in them proves nothing.
            os.close(open_own(folder))
            yield folder


def _in_use(folder: Path) -> bool:
    """Return whether a process holds the folder's lock."""
    try:
        with _locked(folder):
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _folders() -> Iterator[Path]:
    """Yield scratch folders that no process has locked."""
    for folder in _all_folders():
        with contextlib.suppress(OSError), _locked(folder):
            yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raise OSError if it has none, or another process holds it."""
    there = open_own(folder)
    try:
        descriptor = open_in(there, LOCK, os.O_RDWR)
    finally:
        os.close(there)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove(folder: Path, key: tuple[object, ...] | None = None) -> None:
    """Remove an unlocked folder; with a key, only if it is still the same folder."""
    with contextlib.suppress(OSError), _locked(folder):
        if key in (None, _folder_key(folder)):
            remove_folder(str(folder))


async def _until(condition: Callable[[], object], within: float) -> bool:
    """Wait until a condition holds, at most ``within`` seconds; return whether it does."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_PAUSE)
    return True

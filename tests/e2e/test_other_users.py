"""Other users of the machine get nothing from a cluster: real users, real attacks.

The connections between driver, scheduler and runners have their tests in test_closed_cluster.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dask
import psutil
import pytest

from dask_flame import FlameCluster
from dask_flame.core import own_folders
from dask_flame.core.own_folders import make_temporary
from dask_flame.core.placed_links import copy_of, place, remove_folder
from dask_flame.core.processes import MARK
from dask_flame.driver.hosts.in_process import InProcessScheduler
from dask_flame.errors import BackendError, FlameError, PoolError
from dask_flame.files.driver.fetch import _partial
from dask_flame.files.driver.local import place_here
from dask_flame.files.driver.option import check_files
from dask_flame.files.runner.place import Placement
from dask_flame.packages.folder_cache import cache_folder
from dask_flame.packages.installers import InstallFailed
from dask_flame.reports.driver.archive import Archive
from dask_flame.reports.runs import Run
from dask_flame.testing import marked_processes
from tests.support import other_user
from tests.support.other_user import (
    ATTACKER,
    VICTIM,
    as_user,
    attack,
    attacker,
    home_of,
    shared_folder,
)
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(other_user.cannot()), reason=other_user.cannot() or "-"),
]

_TOKEN = "DASK_FLAME_TEST_DRIVER"
_SECRET = "hunter2-secret"

DRIVER = """
import json, os, sys, time
os.umask(0)  # what is private is so by itself
import dask
from dask.distributed import Client
from dask_flame import FlameCluster, report

def work(number):
    import subprocess
    report(step=1, loss=0.5)
    env = {**os.environ, **report.bind().env}
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=env)
    time.sleep(600)

if __name__ == "__main__":
    busy, options = int(sys.argv[1]), json.loads(sys.stdin.readline())
    with open("source.txt", "w") as file:
        file.write("the user's")
    keep = os.path.join(os.environ["HOME"], "kept", "runs.db")
    with dask.config.set({"flame.home.memory": "64 KiB", "flame.reports.keep": keep}):
        cluster = FlameCluster(max=2, dashboard_address=None, **options)
        client = Client(cluster)
        futures = client.map(work, range(busy))
        while sum(m.busy for m in cluster.runners.values()) < busy:
            time.sleep(0.01)
        # Those of the dashboard, and of the runners' health and metrics.
        ports = list(client.run(lambda dask_worker: dask_worker.http_server.port).values())
        ports.append(cluster.scheduler.http_server.port)
        print("ready", json.dumps(ports), flush=True)
        sys.stdin.readline()
        client.close()
        cluster.close()
        print("closed", flush=True)
        sys.stdin.readline()
"""


class Driver:
    """A driver of some user with the most permissive umask, and its cluster."""

    def __init__(self, shared: Path, user: int, busy: int, options: dict[str, Any]) -> None:
        self.shared = shared
        self.home = home_of(user, shared)
        self.token = str(self.home)
        env = {**os.environ, "TMPDIR": str(shared), "HOME": str(self.home), _TOKEN: self.token}
        env.pop("DASK_CONFIG", None)
        self.process = subprocess.Popen(
            [*as_user(user), sys.executable, "-c", DRIVER, str(busy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self.home,
            env=env,
            text=True,
        )
        self.tell(json.dumps(options))
        self.ports = set(json.loads(self.says("ready")))

    def says(self, word: str) -> str:
        """Wait until the driver has printed a line with this word; return the rest of it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word)
        raise AssertionError(f"the driver has ended without {word!r}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """Have the driver close its cluster, without waiting."""
        self.tell("")

    def processes(self) -> list[psutil.Process]:
        return marked_processes(self.token, variable=_TOKEN)

    def supervisors(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has just been killed
                if any(word.endswith("/supervisor/__main__.py") for word in process.cmdline()):
                    found.append(process)
        return found

    @property
    def supervisor(self) -> psutil.Process:
        (found,) = self.supervisors()
        return found

    @property
    def cluster(self) -> str:
        """The prefix of its marks."""
        (mark,) = (word for word in self.supervisor.cmdline() if word.endswith("/1"))
        return mark.removesuffix("/1")

    @property
    def folder(self) -> Path:
        """The driver's own folder."""
        beginning = f"{self.shared}/dask-flame-"
        (folder,) = (word for word in self.supervisor.cmdline() if word.startswith(beginning))
        return Path(folder)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.resume()  # a supervisor sees to the rest
        wait_for(lambda: not self.processes())


Drive = Callable[..., Driver]


@pytest.fixture
def shared() -> Iterator[Path]:
    with shared_folder() as folder:
        yield folder


@pytest.fixture
def drive(shared: Path) -> Iterator[Drive]:
    made: list[Driver] = []

    def start(user: int = VICTIM, *, busy: int = 0, **options: Any) -> Driver:
        made.append(Driver(shared, user, busy, options))
        return made[-1]

    yield start
    for driver in made:
        driver.end()


_REACH = """
tops, owner = args
result = []
for top in tops:
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            there = os.lstat(path)
            if there.st_uid == owner and not stat.S_ISLNK(there.st_mode):
                if any(os.access(path, how) for how in (os.R_OK, os.W_OK, os.X_OK)):
                    result.append(path)
"""

_LOOK_INTO = """
result = {"opened": [], "lines": []}
for pid in args:
    for name in ("environ", "maps", "mem", "stack", "fd", "cwd/.", "root/."):
        path = f"/proc/{pid}/{name}"
        with contextlib.suppress(OSError):
            os.listdir(path) if name in ("fd", "cwd/.", "root/.") else open(path, "rb").read(1)
            result["opened"].append(path)
    result["lines"].append(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode())
"""

_CONNECT = """
result = []
for address in args:
    folder, name = os.path.split(address)
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            folder = os.open(folder, os.O_PATH)
            connection.connect(f"/proc/self/fd/{folder}/{name}")  # a path may be too long
            result.append("connected")
        except OSError as error:
            result.append(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("user", [0, VICTIM])
def test_nothing_of_a_cluster_can_be_read_or_changed(drive: Drive, user: int) -> None:
    driver = drive(user, busy=2, files={"source.txt": "placed.txt"}, secrets={"PASSWORD": _SECRET})
    wait_for((driver.home / "kept/runs.db").exists)
    # Files: all that its processes have made, anywhere that others can go.
    tops = [str(driver.shared)] + ([] if user == 0 else ["/dev/shm"])
    own = {str(driver.home), f"{driver.home}/source.txt"}
    assert set(attack(_REACH, tops, user)) == own
    made = {path.name for path in driver.shared.rglob("*")}
    assert made > {"flame.yaml", "runs.db", "placed.txt", "runner-1", "code", ".guard"}
    # Processes: nothing but their names.
    processes = driver.processes()
    assert len(processes) > 6
    assert any(p.environ().get("PASSWORD") == _SECRET for p in processes)
    seen = attack(_LOOK_INTO, *(p.pid for p in processes))
    assert seen["opened"] == []
    assert _SECRET not in "".join(seen["lines"])
    # Sockets: none but those of Dask.
    listening = {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= driver.ports
    # Those with a name are files: names without one ("abstract") are open to everybody.
    named = {c.laddr for p in processes for c in p.net_connections("unix") if c.laddr}
    assert all(name.startswith(("/proc/self/fd/", str(driver.shared))) for name in named)
    files = [str(path) for path in driver.shared.rglob("*") if path.is_socket()]
    assert len([file for file in files if "/report-" in file]) == 2
    assert set(attack(_CONNECT, *files)) == {"EACCES"}


_FILL = """
# Bodies of 99 MiB, of which a server without limits keeps all.
result = []
for port in args:
    open_ = []
    for number in range(4):
        connection = socket.create_connection(("127.0.0.1", port), timeout=120)
        open_.append(connection)
        taken = 0
        try:
            connection.sendall(b"POST /health HTTP/1.1\\r\\nHost: a\\r\\n")
            connection.sendall(b"Content-Length: %d\\r\\n\\r\\n" % (99 << 20))
            while taken < 99 << 20:
                connection.sendall(bytes(1 << 20))
                taken += 1 << 20
        except OSError:
            pass
        result.append(taken)
    for connection in open_:
        connection.close()
"""


def test_memory_of_runners_and_driver_is_not_filled_by_requests(drive: Drive) -> None:
    """Four bodies of this kind have ended runners with a limit on their memory."""
    driver = drive(busy=2)

    def most_used() -> dict[psutil.Process, int]:
        lines = {p: Path(f"/proc/{p.pid}/status").read_text() for p in driver.processes()}
        return {p: int(text.split("VmHWM:")[1].split()[0]) << 10 for p, text in lines.items()}

    before = most_used()
    assert len(driver.ports) == 3
    taken = attack(_FILL, *driver.ports)
    assert len(taken) == 12
    assert max(taken) < 64 << 20
    after = most_used()
    assert after.keys() == before.keys()
    assert max(after[process] - before[process] for process in before) < 64 << 20


_PLANT = """
folder, precious, forged = args
os.mkdir(folder)
link = folder + "-link"
note = {"link": link, "copy": folder + "/placed" + link, "before": [], "temporary": precious}
pathlib.Path(folder, ".placed").write_text(json.dumps(note) + "\\n")
for name in (".ending", ".supervised", ".stopped", ".printed.json.new"):
    os.symlink(forged, os.path.join(folder, name))
pathlib.Path(folder, ".guard").touch()
"""


def test_a_folder_with_the_name_of_one_that_was_removed(drive: Drive) -> None:
    """The supervisor is to remove the driver's folder, which may be another user's by then."""
    driver = drive(0)
    supervisor, folder = driver.supervisor, driver.folder
    precious, forged = driver.home / "precious", driver.home / "forged"
    precious.symlink_to("/etc")
    supervisor.suspend()
    driver.close()
    wait_for(lambda: not folder.exists())
    attack(_PLANT, str(folder), str(precious), str(forged))
    supervisor.resume()
    driver.says("closed")
    wait_for(lambda: not supervisor.is_running())
    assert precious.is_symlink()
    assert not forged.exists()
    assert (folder / ".placed").exists()


def sweep(user: int, shared: Path, home: Path) -> str:
    """Type ``dask flame sweep`` as a user."""
    done = subprocess.run(
        [*as_user(user), sys.executable, "-m", "dask", "flame", "sweep", "--yes"],
        env={**os.environ, "TMPDIR": str(shared), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("user", [0, VICTIM])
def test_folders_that_look_like_left_over_ones(shared: Path, user: int) -> None:
    home = home_of(user, shared)
    precious, forged = home / "precious", home / "forged"
    precious.symlink_to("/etc")
    foreign, own, left = (shared / f"dask-flame-a-1-{name}" for name in ("x", "y", "z"))
    attack(_PLANT, str(foreign), str(precious), str(forged))
    # Of this user, but everybody may write there: nobody knows who has.
    own.mkdir()
    own.chmod(0o777)
    attack(_PLANT.replace("os.mkdir(folder)", ""), str(own), str(precious), str(forged))
    # Really left over.
    left.mkdir(mode=0o700)
    (left / ".guard").touch(mode=0o600)
    for path in (own, left, left / ".guard"):
        os.chown(path, user, user)
    said = sweep(user, shared, home)
    assert str(left) in said
    assert not left.exists()
    assert str(foreign) not in said
    assert str(own) not in said
    assert precious.is_symlink()
    assert not forged.exists()
    assert (foreign / ".placed").exists()
    assert (own / ".placed").exists()


_RENAME = """
start, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[45:47])
words = "\\0".join(args).encode() + b"\\0"
ctypes.memmove(start, words.ljust(end - start, b"\\0"), end - start)
"""


def test_processes_that_look_like_a_clusters(drive: Drive) -> None:
    """Root may kill anybody's process, and must not be led to by a mark."""
    driver = drive(0)
    home, cluster, supervisor = driver.home, driver.cluster, driver.supervisor
    program = "/x/dask_flame/backends/local/supervisor/__main__.py"
    words = ["python", "-P", program, "5", f"{cluster}/1", str(os.getpid()), "", str(driver.folder)]
    env = {**os.environ, MARK: f"{cluster}/1/runner-1"}
    up = "print('up', flush=True); sys.stdin.read()"
    with attacker(up, env=env) as marked, attacker(_RENAME + up, *words) as named:
        assert psutil.Process(named.pid).cmdline()[: len(words)] == words
        assert psutil.Process(marked.pid).environ()[MARK] == f"{cluster}/1/runner-1"
        assert psutil.Process(marked.pid).uids().real == ATTACKER
        # The driver ends what is left of a supervisor that was killed, and starts another.
        supervisor.kill()
        wait_for(lambda: [p for p in driver.supervisors() if p != supervisor])
        driver.close()
        driver.says("closed")
        assert "nothing to sweep" in sweep(0, driver.shared, home)
        assert marked.poll() is None
        assert named.poll() is None


@pytest.mark.parametrize("kind", ["open", "foreign", "below", "link", "default"])
def test_a_temporary_directory_that_is_not_safe(
    shared: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, foreign = shared / "own", shared / "foreign"
    own.mkdir(mode=0o755)
    attack("os.mkdir(args[0], 0o755)", str(foreign))
    place, why = own, "belongs to user 1502"
    if kind in ("open", "default"):
        own.chmod(0o777)
        why = f"everybody may replace what is in {own} (mode 777, without the sticky bit)"
    elif kind == "foreign":
        place = foreign
    elif kind == "below":
        place = foreign / "mine"
        place.mkdir(mode=0o700)
    else:
        place = shared / "link"
        attack("os.symlink(*args)", str(own), str(place))
    if kind == "default":
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        place_setting = {}
    else:
        place_setting = {"temporary-directory": str(place)}
    with dask.config.set(place_setting), pytest.raises(BackendError) as error:
        FlameCluster(max=1, dashboard_address=None)
    assert f"{str(place)!r} is not safe from other users of this machine: " in str(error.value)
    assert why in str(error.value)
    assert 'write dask.config.set({"temporary-directory": ' in str(error.value)
    assert not list(shared.rglob("dask-flame-*"))


def test_a_temporary_directory_is_made_for_this_user_alone(shared: Path) -> None:
    place = shared / "new" / "place"
    before = os.umask(0)
    try:
        with (
            dask.config.set({"temporary-directory": str(place)}),
            FlameCluster(max=1, dashboard_address=None),
        ):
            assert list(place.glob("dask-flame-*"))
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == place.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("bits", ["0o755", "0o777"])
def test_a_scheduler_imports_nothing_from_the_folder_of_another_user(
    shared: Path, bits: str
) -> None:
    """Dask's own folder has one name for all users, and is on the scheduler's import path."""
    attack(f"os.mkdir(args[0], {bits})", str(shared / "dask-scratch-space"))
    parts: Any = SimpleNamespace(backend=SimpleNamespace(folder=None))
    host = InProcessScheduler(parts, cluster=cast(Any, None))
    with dask.config.set({"temporary-directory": str(shared)}):
        own = shared / f"dask-scratch-space-{os.getuid()}"
        assert host._directory() == str(own)
        assert own.stat().st_mode & 0o777 == 0o700
        own.rmdir()
        attack("os.mkdir(args[0])", str(own))
        with pytest.raises(BackendError, match="is not safe from other users of this machine"):
            host._directory()


_MAKE = """
for path in args:
    os.makedirs(path, 0o777)
"""


@pytest.mark.parametrize("made", ["cache", "cache/dask-flame", "cache/dask-flame/packages"])
def test_packages_are_not_imported_from_the_cache_of_another_user(
    shared: Path, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack(_MAKE, str(shared / made))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
    own = shared / "own"
    own.mkdir(mode=0o700)
    assert cache_folder(str(own)) == own / "packages"
    with pytest.raises(InstallFailed, match=r"not safe from other .* belongs to user 1502"):
        cache_folder(None)


def test_runs_are_not_kept_where_others_could_read_or_forge_them(shared: Path) -> None:
    attack("pathlib.Path(args[0]).touch()", str(shared / "runs.db"))
    attack("os.mkdir(args[0])", str(shared / "foreign"))
    own = shared / "own"
    own.mkdir(mode=0o755)
    attack("os.symlink(*args)", str(shared / "elsewhere"), str(shared / "link"))
    run = Run("7f", "sweep", 99.0, 2)
    for path in ("runs.db", "new.db", "foreign/runs.db", "link"):
        with pytest.raises(FlameError, match="is not safe from other users of this machine"):
            Archive(shared / path).write([run], [])
    assert (shared / "runs.db").stat().st_size == 0
    assert not (shared / "elsewhere").exists()
    Archive(own / "runs.db").write([run], [])
    assert Archive(own / "runs.db").runs() == [run]


def test_a_link_that_was_left_and_leads_to_another_user_s_folder(shared: Path) -> None:
    """After a power failure a link of `files=` may lead nowhere, where anybody makes a folder."""
    home = home_of(0, shared)
    link, gone = home / "data.txt", shared / "dask-flame-old-1-x"
    (home / "source.txt").write_text("data")
    copy = copy_of(str(gone), str(link))
    link.symlink_to(copy)
    plan = check_files({str(home / "source.txt"): str(link)})
    own = make_temporary("dask-flame-new-1-", str(shared))
    attack("os.makedirs(os.path.dirname(args[0])); pathlib.Path(args[0]).write_text('data')", copy)
    with pytest.raises(PoolError, match=r"is a link into .*dask-flame-old-1-x, which is another"):
        place_here(plan, own)
    assert os.readlink(link) == copy
    # It was made after this look: nothing in it is believed, and the link does not go back to it.
    Path(copy_of(own, str(link))).parent.mkdir(parents=True)
    Path(copy_of(own, str(link))).write_text("data")
    place(own, str(link))
    assert os.readlink(link) == copy_of(own, str(link))
    remove_folder(own)
    assert not os.path.lexists(link)


def test_left_over_fetches_of_other_users_stay(shared: Path) -> None:
    foreign = shared / ".dask-flame-fetch-x"
    attack("os.mkdir(args[0]); pathlib.Path(args[0], 'file').touch()", str(foreign))
    own = shared / ".dask-flame-fetch-y"
    own.mkdir(mode=0o700)
    before = os.umask(0)
    try:
        with _partial(shared) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert attack(_REACH, [str(shared)], 0) == []
    finally:
        os.umask(before)
    assert (foreign / "file").exists()
    assert not own.exists()
    assert not folder.exists()


def test_a_file_that_only_its_owner_may_read_never_is_readable_by_others(shared: Path) -> None:
    """A runner writes files of `files=` in pieces."""
    source, target = shared / "source", shared / "target"
    source.write_bytes(b"secret")
    source.chmod(0o600)
    (item,) = check_files({str(source): str(target)})
    seen: list[Any] = []

    async def block(name: str, wanted: Any) -> bytes:
        seen.extend(attack(_REACH, [str(shared)], 0))
        return b"secret"

    placement = Placement(None, replace=False)
    placement._block = block  # type: ignore[method-assign]
    before = os.umask(0)
    try:
        asyncio.run(placement._put(dataclasses.replace(item, blocks=("00",)), ["00"]))
    finally:
        os.umask(before)
    assert seen == []
    assert target.stat().st_mode & 0o777 == 0o600


def why_in(words: list[str], place: str) -> str:
    """Why a place is not safe, for a program in namespaces of its own."""
    # The interpreter of the tests may be in a folder of root, which is nobody there.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    code = f"{inspect.getsource(own_folders)}\nprint(why_unsafe(sys.argv[1]))"
    command = [*words, python, "-c", code, place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"there are no such namespaces here: {done.stderr.splitlines()[-1]}")
    return done.stdout.strip()


@pytest.mark.parametrize("numbers", ["--map-root-user", "--map-user=1000"])
def test_the_root_of_a_user_namespace_is_not_the_owner_of_tmp(numbers: str) -> None:
    assert why_in([*as_user(VICTIM), "unshare", "--user", numbers], "/tmp") == ""


def test_an_empty_dir_of_a_pod(shared: Path) -> None:
    """Kubernetes gives it mode 777, without the sticky bit."""
    place, volume = shared / "tmp", shared / "kubernetes.io~empty-dir" / "tmp"
    volume.mkdir(parents=True)
    place.mkdir()
    volume.chmod(0o2777)
    memory = f'mount -t tmpfs -o mode=777 tmpfs "{place}"'
    mounts = {
        "on disk": f'mount --bind "{volume}" "{place}"',
        "in memory": f"{memory}; export KUBERNETES_SERVICE_HOST=x",
        "no pod": f"{memory}; unset KUBERNETES_SERVICE_HOST",
    }
    seen = {
        name: why_in(["unshare", "--mount", "sh", "-ec", f'{mount}; "$0" "$@"'], str(place))
        for name, mount in mounts.items()
    }
    assert (seen["on disk"], seen["in memory"]) == ("", "")
    assert seen["no pod"].startswith("everybody may replace what is in")

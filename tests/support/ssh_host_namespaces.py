"""Hosts with namespaces of their own, and the network between them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.paths import ROOT
from tests.support.ssh_host_common import Host, program, run, tied
from tests.support.waiting import wait_for

#: The first process of a host: it outlives its server, and all others end with it.
_INIT = """\
hostname {name}
ip link set lo up
echo 0 > /proc/sys/net/ipv4/ip_forward
{mounts}
mkdir -p /run/sshd {home}/.ssh
for file in passwd group shadow hosts; do mount --bind {folder}/$file /etc/$file; done
cp {folder}/authorized_keys {home}/.ssh/authorized_keys
chown -R {uid}:{uid} {home}
chmod 700 {home} {home}/.ssh
touch {folder}/ready
{server} &
sleep infinity &
wait
"""
#: The commands of a host's own processes, beside the first.
_OF_THE_HOST = re.compile(r"sshd -D |^sleep infinity$")
#: Folders that a host has of its own.
_OWN = {"/tmp": "1777", "/var/tmp": "1777", "/dev/shm": "1777", "/home": "755", "/run": "755"}


class Network:
    """A switch in a namespace of its own, with this machine on one of its ports."""

    number = 0

    def __init__(self, folder: Path) -> None:
        self.process = tied(["unshare", "--net", "sleep", "infinity"], folder / "switch")
        try:
            ours = os.readlink("/proc/self/ns/net")
            there = f"/proc/{self.process.pid}/ns/net"
            wait_for(lambda: os.readlink(there) != ours, what="the switch")
            self.inside("ip", "link", "add", "switch", "type", "bridge", "forward_delay", "0")
            self.inside("ip", "link", "set", "switch", "up")
            self.number = self._connect_driver()
            self.driver = f"10.213.{self.number}.1"
            run("ip", "address", "add", f"{self.driver}/24", "dev", f"flamessh{self.number}")
            run("ip", "link", "set", f"flamessh{self.number}", "up")
        except BaseException:
            self.close()
            raise

    def _connect_driver(self) -> int:
        """Make this machine's interface, whose name reserves the addresses of the network."""
        for number in range(1, 250):
            words = ["ip", "link", "add", f"flamessh{number}", "type", "veth", "peer", "name"]
            words += ["driver", "netns", str(self.process.pid)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.inside("ip", "link", "set", "driver", "master", "switch", "up")
                return number
            assert "File exists" in done.stderr, done.stderr
        raise AssertionError("all numbers are taken")

    def inside(self, *words: str) -> None:
        """Run a command of this machine in the network of the switch."""
        run("nsenter", "-t", str(self.process.pid), "-n", *words)

    def close(self) -> None:
        """End it. The kernel would remove its interfaces, and their other ends, some time later."""
        if self.number:
            run("ip", "link", "delete", f"flamessh{self.number}")
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class NamespaceHost(Host):
    """A host with its own network, processes, user, ``/home`` and ``/tmp``.

    Parameters
    ----------
    name : str
    folder : Path
    network : Network
    jump : NamespaceHost, optional
        Take it off the network: only this host reaches it.
    """

    port = 22
    pid = 0

    def __init__(
        self, name: str, folder: Path, network: Network, jump: NamespaceHost | None = None
    ) -> None:
        super().__init__(name, folder)
        self._network = network
        self.jump: NamespaceHost | None = jump
        last = int(name[-1])
        self.address = f"10.{214 if jump else 213}.{network.number}.{10 + last}"
        self.user, self._uid = f"ada{last}", 1600 + last
        self.home = f"/home/{self.user}"
        self._accounts()
        self._plugged: tuple[int, int] | None = None
        self._cut = False
        self._before: frozenset[str] = frozenset()

    def _accounts(self) -> None:
        lines = {
            "passwd": f"{self.user}:x:{self._uid}:{self._uid}::{self.home}:/bin/bash",
            "group": f"{self.user}:x:{self._uid}:",
            "shadow": f"{self.user}:*:19000:0:99999:7:::",
            "hosts": f"{self.address} {self.name}",
        }
        for file, line in lines.items():
            (self.folder / file).write_text(Path("/etc", file).read_text().rstrip() + f"\n{line}\n")

    @property
    def root(self) -> Path:  # type: ignore[override]
        return Path(f"/proc/{self.pid}/root")

    def start(self) -> None:
        self.configure("0.0.0.0", ".ssh/authorized_keys", "yes")
        (self.folder / "ready").unlink(missing_ok=True)
        script = self.folder / "init"
        script.write_text(
            _INIT.format(
                name=self.name,
                folder=self.folder,
                home=self.home,
                uid=self._uid,
                server=" ".join(self.server()),
                mounts="\n".join(_own_folders(self._shared)),
            )
        )
        kinds = ("--pid", "--net", "--mount", "--ipc", "--uts", "--mount-proc")
        words = ["unshare", "--fork", "--kill-child", *kinds, "sh", "-e", str(script)]
        self.process = tied(words, self.folder / "output")
        wait_for(
            lambda: (self.folder / "ready").exists() or self.process.poll() is not None,  # type: ignore[union-attr]
            what=f"the start of {self.name}",
        )
        assert self.process.poll() is None, (self.folder / "output").read_text()
        (first,) = psutil.Process(self.process.pid).children()
        self.pid = first.pid
        self._plug()
        self.reached()
        self._before = frozenset(self._files())

    def _plug(self) -> None:
        """Connect it with the network, or with the host through which it is reached."""
        outside = self._network.inside if self.jump is None else self.jump.net
        # The driver's address, or that of the other host on the line between the two.
        beside = self._network.driver if self.jump is None else f"{self.address[:-2]}12"
        end = ("type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        # The network of a host that has ended may stay a minute, and with it the line to it.
        with contextlib.suppress(AssertionError):
            outside("ip", "link", "delete", self.name)
        outside("ip", "link", "add", self.name, *end)
        if self.jump is None:
            outside("ip", "link", "set", self.name, "master", "switch")
        else:
            outside("ip", "address", "add", f"{beside}/24", "dev", self.name)
        outside("ip", "link", "set", self.name, "up")
        # Its neighbours remember the address of its card after it was started again.
        card = f"02:00:00:00:{self._network.number:02x}:{self._uid % 100:02d}"
        self.net("ip", "link", "set", "eth0", "address", card, "up")
        self.net("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.net("ip", "route", "add", "default", "via", beside)
        self._cut = False
        self._plugged = (self.pid, self.jump.pid if self.jump else 0)

    def reached(self) -> None:
        near = ("nsenter", "-t", str(self.jump.pid), "-n") if self.jump else ()
        look = f"import socket; socket.create_connection(('{self.address}', 22), 5).recv(4)"
        words = (*near, sys.executable, "-ISc", look)
        wait_for(
            lambda: subprocess.run(words, capture_output=True, check=False).returncode == 0,
            what=f"an answer of {self.name}",
        )

    def inside(self, *words: str) -> str:
        """Run a command on the host, as root."""
        return run("nsenter", "-t", str(self.pid), "-a", *words)

    def net(self, *words: str) -> None:
        """Run a command of this machine in the host's network."""
        run("nsenter", "-t", str(self.pid), "-n", *words)

    def cut(self) -> None:
        """Cut its network: what runs there goes on, and no connection is ended."""
        self._link("down")
        self._cut = True

    def mend(self) -> None:
        """Undo :meth:`cut`."""
        self._link("up")
        self._cut = False

    def _link(self, state: str) -> None:
        outside = self._network.inside if self.jump is None else self.jump.net
        outside("ip", "link", "set", self.name, state)

    def stop_server(self) -> None:
        def servers() -> list[psutil.Process]:
            return [
                p for p in self._processes() if _words(p).startswith(("sshd", "/usr/sbin/sshd"))
            ]

        for process in servers():
            process.kill()
        wait_for(lambda: not servers())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()  # its first process ends with it, by --kill-child
            self.process.wait()
            wait_for(lambda: not psutil.pid_exists(self.pid), what=f"the end of {self.name}")
            self.process = None

    def authorize(self, keys: str) -> None:
        self.at(f"{self.home}/.ssh/authorized_keys").write_text(keys)

    def restore(self) -> None:
        if not self._whole():
            self.kill()
            self.start()
        if self._plugged != (self.pid, self.jump.pid if self.jump else 0):
            # The line to the host that was there before.
            with contextlib.suppress(AssertionError):
                self.net("ip", "link", "delete", "eth0")
            self._plug()
        if self._cut:
            self.mend()
        self.reached()

    def _whole(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return False
        server = any("sshd -D" in _words(p) for p in self._processes())
        with contextlib.suppress(OSError):
            there = self.at(f"{self.home}/.ssh/authorized_keys").read_text()
            return server and there == self._trusted
        return False

    @contextlib.contextmanager
    def full(self, *folders: str) -> Iterator[None]:
        """Leave no room in some of the host's own folders: ``/home``, ``/tmp``, ``/var/tmp``."""
        for folder in folders:
            fill = f"dd if=/dev/zero of={folder}/full bs=4k 2>/dev/null || :"
            self.inside("sh", "-ec", f"mount -o remount,size=64k {folder}; {fill}")
        try:
            yield
        finally:
            for folder in folders:
                self.inside("sh", "-ec", f"rm {folder}/full; mount -o remount,size=1g {folder}")

    def _processes(self) -> Iterator[psutil.Process]:
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if pid != self.pid and os.readlink(f"/proc/{pid}/ns/pid") == mine:
                    yield psutil.Process(pid)

    def left(self) -> list[str]:
        if self.process is None:
            return []
        return [
            *(f"process {line}" for line in self._others()),
            *(f"socket {name}" for name in self._listening()),
            *(f"file {name}" for name in self._files() if name not in self._before),
        ]

    def _others(self) -> Iterator[str]:
        for process in self._processes():
            # Without words it has ended.
            if (words := _words(process)) and not _OF_THE_HOST.search(words):
                yield f"{process.pid} {words[:300]}"

    def _listening(self) -> Iterator[str]:
        net = Path(f"/proc/{self.pid}/net")
        for file in ("tcp", "tcp6"):
            for line in (net / file).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                port = int(local.rsplit(":", 1)[1], 16)
                if state == "0A" and port != 22:
                    yield f"{file} {port}"
        for line in (net / "unix").read_text().splitlines()[1:]:
            if len(words := line.split()) > 7:
                yield words[7]

    def _files(self) -> Iterator[str]:
        """Yield the files in its own folders, without what it shares, and without the cache."""
        skipped = {*_shared(self._shared), f"{self.home}/.cache"}
        for top in _OWN:
            for here, folders, files in os.walk(self.at(top)):
                place = "/" + os.path.relpath(here, self.root)
                folders[:] = [f for f in folders if f"{place}/{f}" not in skipped]
                yield from (f"{place}/{name}" for name in (*folders, *files))


def no_namespaces() -> str:
    """Return why hosts cannot have namespaces of their own here; empty if they can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "only root of a Linux can make network namespaces"
    absent = [name for name in ("ip", "nsenter", "setpriv", "unshare") if program(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: iproute2 and util-linux)"
    words = ["unshare", "--fork", "--kill-child", "--pid", "--net", "--mount", "--mount-proc"]
    script = "mount -t tmpfs none /run; ip link add a0 type bridge; ip link add b0 type veth"
    tried = subprocess.run([*words, "sh", "-ec", script], capture_output=True, text=True)
    return (tried.stderr.strip() or "unshare fails") if tried.returncode else ""


def _words(process: psutil.Process) -> str:
    """Return the command line; empty for a process that has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""


def _shared(folder: Path) -> list[str]:
    """Return the paths of this machine that the hosts have too."""
    places = {sys.prefix, sys.base_prefix, str(ROOT), str(folder)}
    return sorted(str(Path(place).resolve()) for place in places)


def _own_folders(folder: Path) -> Iterator[str]:
    """Yield shell commands that give a host its own folders, and what it shares inside of them."""
    shared = _shared(folder)
    own = dict(_OWN)
    for place in shared:
        # A user of the host cannot pass through a folder of root: the host has another one.
        own |= {str(p): "755" for p in Path(place).parents if not p.stat().st_mode & 0o001}
    inside = [place for place in shared if any(place.startswith(f"{o}/") for o in own)]
    yield "mount -t tmpfs none /mnt"
    for number, place in enumerate(inside):
        yield f"mkdir /mnt/{number}; mount --rbind '{place}' /mnt/{number}"
    for path, mode in sorted(own.items()):
        yield f"mkdir -p '{path}'; mount -t tmpfs -o mode={mode} none '{path}'"
    for number, place in enumerate(inside):
        yield f"mkdir -p '{place}'; mount --rbind /mnt/{number} '{place}'"
    yield "umount -l /mnt"

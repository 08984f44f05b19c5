"""A real sshd on a port of the loopback address, and the files of a client, for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.support.paths import free_port
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin"


def cannot() -> str:
    """Return why there can be no sshd here; empty if there can."""
    if sys.platform != "linux":
        return "these tests of sshd need Linux"
    for program in ("sshd", "ssh-keygen"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PLACES}") is None:
            return f"{program} is not installed: apt-get install openssh-server"
    return ""


needs_sshd = pytest.mark.skipif(bool(cannot()), reason=cannot() or "it is there")


def find(program: str) -> str:
    """Return the path of a program of OpenSSH."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    assert found is not None, f"{program} is not installed"
    return found


def keygen(path: Path, *, comment: str = "dask-flame tests", passphrase: str = "") -> str:
    """Make a key at a path; return the line of its public half."""
    words = [find("ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-C", comment]
    subprocess.run([*words, "-f", str(path)], check=True)
    return Path(f"{path}.pub").read_text().strip()


class Sshd:
    """An sshd, which runs until :meth:`stop` or :meth:`kill`.

    Its user is the one of this process. What it starts has `environment`, and nothing else of this
    process, as on another machine; TMPDIR is a folder of its own, :attr:`temporary`.

    Parameters
    ----------
    folder : Path
        For its files.
    authorized : str
        Lines of public keys that may log in.
    address : str
        Where it listens.
    environment : mapping of str to str
        Variables of sessions, over the usual ones.
    settings : str
        Further lines of its configuration.
    inside : tuple of str
        Words before the program, such as those that enter a network namespace.
    """

    def __init__(
        self,
        folder: Path,
        authorized: str,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        settings: str = "",
        inside: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.address = address
        self.port = port or free_port("127.0.0.1" if inside else address)
        self._inside = inside
        folder.mkdir(parents=True, exist_ok=True)
        # A short path: it is part of the paths of sockets, of which sshd takes 107 bytes.
        self.temporary = Path(tempfile.mkdtemp(prefix="ssh-host-", dir="/tmp"))
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.host_key = folder / "host_key"
        self.public = keygen(self.host_key) if not self.host_key.exists() else ""
        self.public = Path(f"{self.host_key}.pub").read_text().strip()
        self.authorized = folder / "authorized_keys"
        self.authorized.write_text(authorized + "\n")
        self.log = folder / "sshd.log"
        self.process: subprocess.Popen[bytes] | None = None
        variables = {
            "PYTHONPATH": _python_path(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            **(environment or {}),
        }
        given = " ".join(f'"{name}={value}"' for name, value in variables.items())
        self.config = folder / "sshd_config"
        self.config.write_text(
            f"ListenAddress {address}:{self.port}\n"
            f"HostKey {self.host_key}\n"
            f"PidFile {folder / 'sshd.pid'}\n"
            f"AuthorizedKeysFile {self.authorized}\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "KbdInteractiveAuthentication no\nPrintMotd no\nMaxStartups 100\nMaxSessions 100\n"
            f"SetEnv {given}\n{settings}\n"
        )

    def start(self) -> Sshd:
        """Start it; return when it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        words = [find("sshd"), "-D", "-e", "-f", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._inside, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", _PLACES)},
                start_new_session=True,
            )
        wait_for(self._listens, what=f"sshd listens: {self.log.read_text()}")
        return self

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "Server listening on" in self.log.read_text()

    def sessions(self) -> list[psutil.Process]:
        """Return the processes of sshd that serve connections."""
        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(self.process.pid).children(recursive=True)
            return [p for p in below if _name(p).startswith("sshd")]
        return []

    def left(self) -> list[str]:
        """Return what clusters have left on this host: processes, folders and sockets."""
        left = [str(path) for path in self.temporary.iterdir()]
        variable = f"TMPDIR={self.temporary}".encode()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes()
                if process.status() != psutil.STATUS_ZOMBIE and variable in environ:
                    left.append(f"process {process.pid}: {' '.join(process.cmdline())[:200]}")
        return left

    def kill_sessions(self) -> None:
        """Kill the processes that serve connections, as a crash of the host's sshd would."""
        for process in self.sessions():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def stop(self) -> None:
        """End it, and all connections; what clusters have started there has to end by itself."""
        if self.process is not None:
            sessions = self.sessions()
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
            for process in sessions:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(sessions, 60)
            self.process = None

    def close(self) -> None:
        """End it, and remove the folder for temporary files."""
        self.stop()
        shutil.rmtree(self.temporary, ignore_errors=True)


class SshClient:
    """What a client of ssh has in its home: a key, known hosts and a configuration.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.key = folder / "id_ed25519"
        self.public = keygen(self.key)
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.touch()
        self.config = folder / "config"
        self.config.touch()

    def public_of(self) -> str:
        """Return the line of the public half of the key."""
        return Path(f"{self.key}.pub").read_text().strip()

    def knows(self, sshd: Sshd, *, public: str = "") -> None:
        """Trust the key of a host."""
        line = f"[{sshd.address}]:{sshd.port} {' '.join((public or sshd.public).split()[:2])}\n"
        with self.known_hosts.open("a") as file:
            file.write(line)

    def alias(self, name: str, sshd: Sshd, *, more: str = "") -> None:
        """Add a host to the configuration."""
        with self.config.open("a") as file:
            file.write(
                f"Host {name}\n  HostName {sshd.address}\n  Port {sshd.port}\n"
                f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {self.known_hosts}\n"
                + "".join(f"  {line}\n" for line in more.splitlines())
                + "\n"
            )


@contextlib.contextmanager
def running(sshd: Sshd) -> Iterator[Sshd]:
    """Run an sshd; at the end, nothing of clusters may be left on its host."""
    try:
        sshd.start()
        yield sshd
        wait_for(lambda: not sshd.left(), what=f"nothing is left on the host: {sshd.left()}")
    finally:
        sshd.close()


def _python_path() -> str:
    """Return where what this process imports is found, also if it is not installed."""
    return os.pathsep.join(dict.fromkeys([str(ROOT), *os.environ.get("PYTHONPATH", "").split(":")]))


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""

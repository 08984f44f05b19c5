"""What hosts of :mod:`tests.support.ssh_hosts` have in common: keys and their server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

_SSHD_CONFIG = """\
Port {port}
ListenAddress {listen}
HostKey {key}
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {authorized}
StrictModes {strict}
PrintMotd no
LogLevel VERBOSE
SetEnv {environment}
"""


class Host:
    """A host that is reached by SSH.

    Parameters
    ----------
    name : str
        By which the driver's ``~/.ssh/config`` knows it.
    folder : Path
        For files of all hosts; ``home`` in it is the driver's home.

    Attributes
    ----------
    address, port, user, home : str
        How it is reached, and the user's home there.
    root : Path
        Its file system, seen from this machine.
    jump : Host or None
        Through which it is reached.
    log : Path
        The server's log.
    """

    address: str
    port: int
    user: str
    home: str
    root: Path
    jump: Host | None = None
    process: subprocess.Popen[bytes] | None = None

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.log = self.folder / "log"
        self.folder.mkdir()
        self._shared = folder
        self._trusted = (folder / "home" / ".ssh" / "id_ed25519.pub").read_text()
        (self.folder / "authorized_keys").write_text(self._trusted)
        keygen(self.folder / "host_key")

    @property
    def known_line(self) -> str:
        """The host's line of ``known_hosts``."""
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        return f"{name} {kind} {key}\n"

    def at(self, path: str) -> Path:
        """Return a path of the host, seen from this machine."""
        return self.root / path.lstrip("/")

    def configure(self, listen: str, authorized: str, strict: str, **environment: str) -> None:
        """Write the configuration of the server."""
        text = _SSHD_CONFIG.format(
            port=self.port,
            listen=listen,
            key=self.folder / "host_key",
            authorized=authorized,
            strict=strict,
            environment=" ".join(f'"{k}={v}"' for k, v in (_variables() | environment).items()),
        )
        (self.folder / "sshd_config").write_text(text)

    def server(self) -> list[str]:
        """Return the command of the server."""
        # It starts itself again for each connection, and wants an absolute path for that.
        config = str(self.folder / "sshd_config")
        return [str(program("sshd")), "-D", "-f", config, "-E", str(self.log)]

    # What a test does with it.

    def start(self) -> None:
        """Start it."""
        raise NotImplementedError

    def reached(self) -> None:
        """Return when its server answers."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it with all of its processes, as a power cut does."""
        raise NotImplementedError

    def stop_server(self) -> None:
        """End the server and its connections; what these have started goes on."""
        raise NotImplementedError

    def authorize(self, keys: str) -> None:
        """Let only these keys in."""
        raise NotImplementedError

    def restore(self) -> None:
        """Undo what a test has done to it."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """Return its processes, listening sockets and files, without those that it began with."""
        raise NotImplementedError


def _variables() -> dict[str, str]:
    """Return the environment of all sessions: the Python of these tests is in the PATH."""
    return {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def program(name: str) -> str | None:
    """Return the path of a program, also of one that only root has in its PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def keygen(path: Path, kind: str = "ed25519") -> None:
    """Make a key without a passphrase, in place of one that is there."""
    path.unlink(missing_ok=True)
    words = [str(program("ssh-keygen")), "-q", "-t", kind, "-N", "", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def tied(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that is killed with this one, however this one ends."""
    tie = ("setpriv", "--pdeathsig", "KILL") if sys.platform == "linux" else ()
    with open(log, "ab") as file:
        return subprocess.Popen(
            [*tie, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def run(*words: str) -> str:
    """Run a program to its end, and return what it prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout

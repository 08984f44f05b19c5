"""The programs that install packages: uv, or else pip (runner).

They read the configuration of the user: ``pip.conf``, ``uv.toml``, and the variables ``PIP_*`` and
``UV_*``. No option of an index, a proxy or a certificate is added. Imports only the standard
library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

#: Number of lines, and of characters per line, of an installer's output in an error.
_SHOWN_LINES, _LONGEST_LINE = 15, 300
_PR_SET_PDEATHSIG = 1
#: Variables that would install packages elsewhere than into the folder that is asked for.
_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
#: Variables with which uv is started, and that do not configure it.
_OF_UV_ITSELF = frozenset({"UV", "UV_CACHE_DIR", "UV_RUN_RECURSION_DEPTH"})


class InstallFailed(Exception):
    """Packages could not be installed; the message has the last words of the installer."""


class Installer(ABC):
    """One of the programs.

    Parameters
    ----------
    command : sequence of str
        The program, and its first arguments.
    """

    name: ClassVar[str]
    #: Where its configuration is.
    configuration: ClassVar[str]

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    @abstractmethod
    def resolve(self, lines: Sequence[str], work: Path, lock: int) -> list[str]:
        """Return the requirements of all packages to install for `lines` in this environment.

        Packages that are there and satisfy them are not included.
        """

    @abstractmethod
    def install(self, lines: Sequence[str], target: Path, work: Path, lock: int) -> None:
        """Install exactly these packages into a folder, without the packages that they need."""

    def _run(self, arguments: Sequence[str], lines: Sequence[str], work: Path, lock: int) -> str:
        # A file: arguments are visible to other users, and lines may hold credentials.
        file = work / "requirements.txt"
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            opened.writelines(f"{line}\n" for line in lines)
        command = [*self._command, *arguments, "-r", str(file)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=work,
                env={k: v for k, v in os.environ.items() if k not in _ELSEWHERE},
                pass_fds=(lock,),
                preexec_fn=_end_with_parent(),
            )
        except OSError as error:
            raise InstallFailed(
                f"packages= could not be installed: {self.name} cannot be started: {error}"
            ) from None
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            lines = last_words(said)
            raise InstallFailed(
                f"{lines}\npackages= could not be installed by {self.name}: {_reason(lines)}; its "
                f"index, proxy and certificates are those of {self.configuration}"
            )
        return said


class Pip(Installer):
    """``python -m pip``."""

    name = "pip"
    configuration = "pip.conf, and of the variables PIP_… (env=)"
    _QUIETLY = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")

    def __init__(self) -> None:
        # -P: the working directory is not on the import path.
        super().__init__((sys.executable, "-P", "-m", "pip"))

    def resolve(self, lines: Sequence[str], work: Path, lock: int) -> list[str]:
        report = work / "report.json"
        arguments = ("install", "--dry-run", "--quiet", "--report", str(report), *self._QUIETLY)
        self._run(arguments, lines, work, lock)
        chosen = []
        for item in json.loads(report.read_text())["install"]:
            about = item["metadata"]
            line = f"{about['name']}=={about['version']}"
            if item["is_direct"]:
                line = f"{about['name']} @ {item['download_info']['url']}"
            chosen.append(line)
        return chosen

    def install(self, lines: Sequence[str], target: Path, work: Path, lock: int) -> None:
        where = ("--no-deps", "--no-warn-conflicts", "--target", str(target))
        self._run(("install", *where, *self._QUIETLY), lines, work, lock)


class Uv(Installer):
    """``uv pip``."""

    name = "uv"
    configuration = "uv.toml, and of the variables UV_… (env=)"
    #: ``+ polars==1.2``, ``+ polars @ file:///x.whl`` or ``+ polars==1.2 (from file:///x.whl)``.
    _CHOSEN = re.compile(
        r"^ [+~] ([\w.-]+)(?:==(\S+))?(?: \(from (\S+)\)| @ (\S+))?$", re.MULTILINE
    )

    def resolve(self, lines: Sequence[str], work: Path, lock: int) -> list[str]:
        arguments = ("pip", "install", "--dry-run", "--color", "never", *self._here())
        said = self._run(arguments, lines, work, lock)
        chosen = [
            f"{name} @ {at}" if (at := old or new) else f"{name}=={version}"
            for name, version, old, new in self._CHOSEN.findall(said)
        ]
        if not chosen and "Would install" in said:
            raise InstallFailed(
                f"{last_words(said)}\npackages= could not be installed: this answer of uv is not "
                "known to this version of dask-flame"
            )
        return chosen

    def install(self, lines: Sequence[str], target: Path, work: Path, lock: int) -> None:
        where = ("--no-deps", "--target", str(target))
        arguments = ("pip", "install", "--color", "never", *where, *self._here())
        self._run(arguments, lines, work, lock)

    @staticmethod
    def _here() -> tuple[str, str]:
        return "--python", sys.executable


def installer(environ: Mapping[str, str] = os.environ) -> Installer:
    """Return uv if it is there, else pip.

    pip is also returned if only pip is configured, as uv does not read that configuration.

    Raises
    ------
    InstallFailed
        If there is neither.
    """
    uv = _uv()
    has_pip = find_spec("pip") is not None
    if uv and not (has_pip and _configures_pip(environ) and not _configures_uv(environ)):
        return Uv(uv)
    if has_pip:
        return Pip()
    raise InstallFailed(
        "packages= could not be installed: this Python has neither uv nor pip; add one of them to "
        "the image, or install the packages there"
    )


def _uv() -> list[str]:
    if program := shutil.which("uv"):
        return [program]
    return [sys.executable, "-P", "-m", "uv"] if find_spec("uv") is not None else []


#: Configuration of pip that users share.
_SHARED = (os.path.join(sys.prefix, "pip.conf"), "/etc/pip.conf", "/etc/xdg/pip/pip.conf")


def _configures_pip(environ: Mapping[str, str]) -> bool:
    names = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "PROXY", "CERT")
    if any(environ.get(f"PIP_{name}") for name in (*names, "TRUSTED_HOST", "CONFIG_FILE")):
        return True
    home = os.path.expanduser("~")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files = [os.path.join(config, "pip/pip.conf"), os.path.join(home, ".pip/pip.conf")]
    return any(map(os.path.isfile, [*files, *_SHARED]))


def _configures_uv(environ: Mapping[str, str]) -> bool:
    if any(name.startswith("UV_") and name not in _OF_UV_ITSELF for name in environ):
        return True
    home = os.path.expanduser("~")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return any(map(os.path.isfile, (os.path.join(config, "uv/uv.toml"), "/etc/uv/uv.toml")))


def last_words(said: str) -> str:
    """Return the last lines of an installer's output, without credentials."""
    # Imported here, as most runners need no installer.
    from dask_flame.core.redaction import veiled

    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    return "\n".join(veiled(line[:_LONGEST_LINE], random=False) for line in lines[-_SHOWN_LINES:])


def _reason(lines: str) -> str:
    """Return the line of an installer's last words that says what is wrong."""
    every = [line.strip() for line in lines.splitlines()] or ["no reason was printed"]
    begins = ("error:", "\N{MULTIPLICATION SIGN} ")  # of pip's errors, and of uv's
    errors = [line for line in every if line.lower().startswith(begins)]
    return [*every[-1:], *errors][-1].removeprefix("ERROR: ").removeprefix("error: ")


def _end_with_parent() -> Callable[[], None] | None:
    """Return what makes a child end with this thread, even if it is killed; None but on Linux."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            with contextlib.suppress(OSError):
                os.kill(os.getpid(), signal.SIGKILL)

    return bind

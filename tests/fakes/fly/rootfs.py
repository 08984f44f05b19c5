"""The folder, variables and command line of a machine of the fake Fly (test process)."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tests.fakes.fly.errors import invalid

_PYTHON = re.compile(r"(?:/usr/(?:local/)?bin/)?python(3(\.\d+)?)?")
_NAME = re.compile(r"\b([0-9a-z]+)\.vm\.([0-9a-z-]+)\.internal\b")
#: What machines have of this process' environment, in place of an image with the same programs.
_IMAGE = ("PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "DASK_FLAME_WATCHED")
#: Directories of every image: a file in one of them does not make all its paths the machine's.
_SYSTEM = {"/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/mnt"}


class Rootfs:
    """What a machine's process finds.

    A path of the machine cannot be made on the computer that runs the tests. So a path of ``files``
    or ``mounts``, or of a directory that only holds such, is replaced by the path of the real file
    where it begins an argument, the value of an argument like ``--file=/run/flame/…``, or a
    variable's value. Inside a longer text, or in a file, it is not. The name
    ``<machine>.vm.<app>.internal`` is replaced by the machine's address wherever it stands in
    these.

    Parameters
    ----------
    folder : Path
        The machine's. The root file system is below it, and a start of the machine makes it anew;
        mounts stay.
    config : mapping
        The machine's configuration.
    secrets : mapping of str to str
        The app's, base64.
    address : callable
        Of a machine's id, its address; None if there is no such machine.
    pythons : mapping of str to str
        By image, the program that ``python`` is in it.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        secrets: Mapping[str, str],
        address: Callable[[str], str | None],
        pythons: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._config = config
        self._secrets = secrets
        self._address = address
        self._pythons = pythons
        self.root = folder / "root"
        self.work = folder / "root" / "app"

    def prepare(self) -> None:
        """Make the root file system as the image and ``files`` have it."""
        shutil.rmtree(self.root, ignore_errors=True)
        for path in (self.work, self.root / "tmp"):
            path.mkdir(parents=True)
        for mount in self._config.get("mounts") or []:
            (self._folder / "volumes" / _inside(mount["path"])).mkdir(parents=True, exist_ok=True)
        for file in self._config.get("files") or []:
            path = self.root / _inside(file["guest_path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._content(file))
            path.chmod(0o600)

    def _content(self, file: Mapping[str, Any]) -> bytes:
        if "secret_name" in file:
            return base64.b64decode(self._secrets[file["secret_name"]])
        return base64.b64decode(file["raw_value"])

    def real(self, text: str) -> str:
        """Return a text with the machine's paths and names replaced by this computer's."""
        for path, there in sorted(self._paths().items(), reverse=True):
            if match := re.match(rf"(--?[\w-]+=)?{re.escape(path)}(?=/|$)", text):
                text = f"{match[1] or ''}{there}{text[match.end() :]}"
                break
        return _NAME.sub(lambda match: self._address(match[1]) or match[0], text)

    def _paths(self) -> dict[str, Path]:
        paths = {
            mount["path"].rstrip("/"): self._folder / "volumes" / _inside(mount["path"])
            for mount in self._config.get("mounts") or []
        }
        for file in self._config.get("files") or []:
            path = PurePosixPath(file["guest_path"])
            for one in (path, *path.parents):
                if str(one) not in _SYSTEM:
                    paths[str(one)] = self.root / _inside(str(one))
        return paths

    def variables(self, of_machine: Mapping[str, str]) -> dict[str, str]:
        """Return the whole environment of the machine's process.

        Parameters
        ----------
        of_machine : mapping of str to str
            What Fly itself sets: ``FLY_MACHINE_ID`` and so on.
        """
        env = {name: os.environ[name] for name in _IMAGE if name in os.environ}
        path = os.environ.get("PATH", os.defpath)
        env |= {
            "PATH": os.pathsep.join((os.path.dirname(sys.executable), path)),
            "HOME": str(self.work),
            "TMPDIR": str(self.root / "tmp"),
        }
        # The secrets of an app are variables of all its machines.
        for name, value in self._secrets.items():
            env[name] = base64.b64decode(value).decode(errors="replace")
        env |= {name: self.real(value) for name, value in (self._config.get("env") or {}).items()}
        return env | dict(of_machine)

    def command(self, image: Mapping[str, Any]) -> list[str]:
        """Return the command line: the image's, or what ``init`` puts in its place."""
        init = self._config.get("init") or {}
        words = init.get("exec") or [
            *(init.get("entrypoint") or image.get("entrypoint") or []),
            *(init.get("cmd") or image.get("cmd") or []),
        ]
        if not words:
            raise FileNotFoundError("the image has no command, and neither has init")
        words = [self.real(word) for word in words]
        if _PYTHON.fullmatch(words[0]):
            words[0] = self._pythons.get(self._config.get("image", ""), sys.executable)
        return words


def _inside(path: str) -> str:
    return str(PurePosixPath(path)).lstrip("/")


def check_files(config: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    """Refuse files without an absolute path or a content, as the API does."""
    for file in config.get("files") or []:
        path = file.get("guest_path", "")
        if not path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise invalid(f"config.files: guest_path must be an absolute path, got {path!r}")
        given = [name for name in ("raw_value", "secret_name") if file.get(name) is not None]
        if len(given) != 1:
            raise invalid(f"config.files: {path}: one of raw_value or secret_name must be set")
        if given == ["secret_name"]:
            if file["secret_name"] not in secrets:
                raise invalid(f"config.files: {path}: secret {file['secret_name']} not found")
            continue
        try:
            base64.b64decode(file["raw_value"], validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"config.files: {path}: raw_value is not valid base64") from None

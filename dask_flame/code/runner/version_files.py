"""The files of one version on a runner: where they are, their contents, their compiled code."""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType

from dask_flame.code.manifest import Manifest
from dask_flame.core.packs import digest


class VersionFiles:
    """The files of a version.

    Parameters
    ----------
    manifest : Manifest
    content : callable
        Return a file's content by its digest.
    folder : Path
        Folder for unpacked files and compiled modules, which other runners of this machine may
        share.
    here : bool
        Whether the driver's folders are those of this machine.
    """

    def __init__(
        self,
        manifest: Manifest,
        content: Callable[[bytes], bytes],
        folder: Path,
        *,
        here: bool,
    ) -> None:
        self.manifest = manifest
        self.here = here
        self._content = content
        self._folder = folder
        self._unpacking = threading.Lock()
        self._unpacked: dict[int, str] = {}

    def replaced(self, manifest: Manifest) -> VersionFiles:
        """Return the files of another version."""
        return VersionFiles(manifest, self._content, self._folder, here=self.here)

    def root(self, number: int) -> str:
        """Return the path of a root on the driver's machine."""
        return self.manifest.roots[number].path

    def digest(self, root: int, path: str) -> bytes:
        """Return the digest of a file."""
        return self.manifest.roots[root].files[path]

    def content(self, root: int, path: str) -> bytes:
        """Return the content of a file."""
        return self._content(self.digest(root, path))

    def code(self, root: int, path: str, shown: str) -> CodeType:
        """Return the compiled code of a module, which other runners may have compiled.

        Parameters
        ----------
        root : int
        path : str
        shown : str
            The file that tracebacks show.
        """
        cached = self._folder / "compiled" / _compiled(self.digest(root, path), shown)
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):
            code = marshal.loads(cached.read_bytes())
            if isinstance(code, CodeType):
                return code
        code = compile(self.content(root, path), shown, "exec", dont_inherit=True)
        # PYTHONDONTWRITEBYTECODE is about the user's folders; this one goes with the cluster.
        with contextlib.suppress(OSError):
            _write(cached, marshal.dumps(code))
        return code

    def folder_of(self, number: int) -> str:
        """Return the folder that has the files of a root: the driver's own, or unpacked.

        A runner on another machine may have the same folder, on a shared disk or in its image,
        with files that are not sent.
        """
        if self.here and os.path.isdir(self.root(number)):
            return self.root(number)
        with self._unpacking:
            if number not in self._unpacked:
                has_it = self._has_data(number)
                self._unpacked[number] = self.root(number) if has_it else self._unpack(number)
            return self._unpacked[number]

    def _has_data(self, number: int) -> bool:
        """Return whether a root's folder is here, with the same files beside the modules."""
        root = self.manifest.roots[number]
        if not os.path.isdir(root.path):
            return False
        try:
            return all(
                digest(Path(root.path, path).read_bytes()) == key
                for path, key in data_files(root.files).items()
            )
        except OSError:
            return False

    def _unpack(self, number: int) -> str:
        """Write the files of a root into a folder of their own; return the folder."""
        root = self.manifest.roots[number]
        identity = Manifest((root,)).version
        folder = self._folder / identity
        if folder.is_dir():
            return str(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=self._folder))
        try:
            for path, key in root.files.items():
                file = made / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(self._content(key))
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another runner was faster
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return str(folder)


def data_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files that are no modules."""
    return {path: key for path, key in files.items() if not path.endswith(".py")}


def _compiled(key: bytes, file: str) -> str:
    shown = hashlib.blake2b(os.fsencode(file), digest_size=8).hexdigest()
    return f"{key.hex()}-{shown}.{sys.implementation.cache_tag}-{sys.flags.optimize}"


def _write(file: Path, content: bytes) -> None:
    """Write a file at once, as other runners may read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(prefix=".", dir=file.parent)
    with open(handle, "wb") as opened:
        opened.write(content)
    os.replace(made, file)

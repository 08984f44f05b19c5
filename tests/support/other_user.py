"""Programs of other users of this machine, for tests that run as root."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Ordinary users that no account belongs to.
VICTIM, ATTACKER = 1501, 1502

#: Imports as root, because an interpreter may be in a folder that others cannot read; then it is
#: the other user, for good.
_ATTACK = """
import contextlib, ctypes, errno, fcntl, json, os, pathlib, shutil, signal, socket, stat, subprocess
import sys, tempfile, time
import importlib
import encodings.idna, psutil
for module in json.loads(sys.argv[4]):
    importlib.import_module(module)
user, code, arguments = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
os.umask(0)
os.environ.pop("DASK_FLAME_RUNNER", None)
scope = {**globals(), "args": arguments}
exec(compile(code, "attack", "exec"), scope)
print(json.dumps(scope.get("result")), flush=True)
"""


@functools.cache
def _prefix(user: int) -> tuple[str, ...] | None:
    """Return the words before a program that let this user run it; None if none do."""
    setpriv = shutil.which("setpriv")
    if os.getuid() != 0 or setpriv is None:
        return None
    be = (setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups")
    # It may read everything, where the interpreter is in a folder of root; it writes no more.
    read = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")
    # setpriv itself still may what root may, so that the interpreter is started by another program.
    for words in ((*be, "env"), (*be, *read, "env")):
        try:
            program = [sys.executable, "-c", "import psutil"]
            done = subprocess.run([*words, *program], stderr=subprocess.DEVNULL, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return words
    return None


def cannot() -> str:
    """Return why there can be no other users here; empty if there can."""
    if sys.platform != "linux":
        return "setpriv is Linux's"
    if os.getuid() != 0:
        return "only root can run programs of other users"
    if _prefix(VICTIM) is None:
        return "this interpreter cannot be run by other users, or setpriv is missing"
    return ""


def as_user(user: int) -> list[str]:
    """Return the words before a program that let this user run it."""
    words = _prefix(user) if user else ()
    assert words is not None
    return list(words)


def attack(
    code: str, *args: Any, user: int = ATTACKER, within: float = 240, modules: Sequence[str] = ()
) -> Any:
    """Run Python code as another user with ``args``; return what it assigns to ``result``.

    ``modules`` are imported before; the code imports them by name.
    """
    words = [sys.executable, "-c", _ATTACK, str(user), code, json.dumps(args), json.dumps(modules)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=within, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def attacker(code: str, *args: Any, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """Run Python code as another user meanwhile; it has printed a line when the body begins."""
    words = [sys.executable, "-c", _ATTACK, str(ATTACKER), code, json.dumps(args), "[]"]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def shared_folder(mode: int = 0o1777) -> Iterator[Path]:
    """Yield a folder of root like ``/tmp``, which all users reach."""
    folder = Path(tempfile.mkdtemp(prefix="other-users-", dir="/tmp"))
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def home_of(user: int, shared: Path) -> Path:
    """Make a home of this user that others may look into."""
    home = shared / f"home-{user}"
    home.mkdir(mode=0o755)
    os.chown(home, user, user)
    return home

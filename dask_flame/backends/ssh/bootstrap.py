"""The command that starts an agent on a host, and the messages if it does not start (driver)."""

from __future__ import annotations

import base64
import shlex

from dask_flame._version import __version__
from dask_flame.core.python_versions import here

#: Run by any Python 3 there: it says its version if the agent cannot be imported, or what runners
#: import beside it: an installation without its dependencies would leave a folder behind.
_PROGRAM = """
import json, platform, sys
from importlib.util import find_spec
try:
    for name in ("dask", "distributed", "psutil", "cloudpickle", "msgpack", "tornado"):
        if find_spec(name) is None:
            raise ImportError("No module named " + repr(name))
    from dask_flame.backends.ssh.agent import main
except Exception as error:
    said = {"ev": "here", "python": platform.python_version(), "missing": str(error)}
    said["version"] = ""
    try:
        from dask_flame._version import __version__
        said["version"] = __version__
    except Exception:
        pass
    print("dask-flame " + json.dumps(said), flush=True)
    sys.exit(1)
main()
"""
#: Without the working directory, where a file of the user may have the name of a module.
_FIRST = "import sys;sys.path=[p for p in sys.path if p];import base64;"


def command(python: str | None, executable: str, program: str = _PROGRAM) -> str:
    """Return the command to run on a host, for a shell of any kind.

    Parameters
    ----------
    python : str or None
        The interpreter; None: `executable` if it is there, else ``python3``.
    executable : str
        The driver's interpreter.
    program : str, optional
        What it runs.
    """
    coded = base64.b64encode(program.strip().encode()).decode()
    code = f'{_FIRST}exec(base64.b64decode("{coded}").decode())'
    if python is None:
        find = f'P={shlex.quote(executable)}; [ -x "$P" ] || P=python3'
    else:
        find = f"P={_expandable(python)}"
    # A shell of POSIX, because the user's may be another one. The code has no single quotes.
    words = f'{find}; exec "$P" -c {shlex.quote(code)}'
    return f"exec sh -c {shlex.quote(words)}"


def _expandable(path: str) -> str:
    """Return a path for a shell, in which ``~/`` is the home on the host."""
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(path)


def why_unfit(python: str, version: str, missing: str, ssh: str, interpreter: str) -> str:
    """Return why runners cannot run in an interpreter of a host; empty if they can.

    Parameters
    ----------
    python, version : str
        Its versions of Python, and of dask-flame; the latter may be empty.
    missing : str
        Why the agent cannot be imported there; empty if it can.
    ssh : str
        The words to type after ``ssh``.
    interpreter : str
        The interpreter there, as the user may write it.
    """
    driver = here()
    if python.split(".")[:2] != driver.split(".")[:2]:
        minor = ".".join(driver.split(".")[:2])
        return (
            f"it has Python {python} ({interpreter}), and the driver has Python {driver}: "
            f'functions that one pickles can end the other; write python="/path/to/python{minor}" '
            f"for an interpreter of it that has dask-flame"
        )
    if version != __version__:
        has = f"has dask-flame {version}" if version else "lacks dask-flame"
        return (
            f"its Python ({interpreter}) {has}, and the driver has {__version__}; type: "
            f"ssh {ssh} {interpreter} -m pip install dask-flame=={__version__} — or write "
            'python="/path/to/python" for an interpreter of it that has dask-flame'
        )
    if missing:
        return (
            f"its Python ({interpreter}) cannot import dask-flame ({missing}); type: ssh {ssh} "
            f"{interpreter} -m pip install --upgrade dask-flame=={__version__}"
        )
    return ""


def why_ended(code: int | None, words: str, ssh: str, interpreter: str) -> str:
    """Return why an agent has ended before its first word, and the line to type.

    Parameters
    ----------
    code : int or None
        The exit code.
    words : str
        What was printed.
    ssh, interpreter : str
        As for :func:`why_unfit`.
    """
    said = " ".join(words.split()) or "nothing was printed"
    if code in (126, 127):
        return (
            f"there is no {interpreter} ({said}); write "
            'python="/path/to/python" for an interpreter there that has dask-flame'
        )
    return (
        f"its agent has ended (exit code {code}): {said[-800:]}; type: "
        f'ssh {ssh} {interpreter} -c "import dask_flame"'
    )

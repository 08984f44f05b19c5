"""Run a JupyterLab server with Dask's extension, for tests and pictures (driver)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: No network access, no news, and `jupyterapp` is available to scripts.
_CONFIGURATION = {
    "LabApp": {
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "expose_app_in_browser": True,
        "extension_manager": "readonly",
        "news_url": None,
    },
}
_QUIET = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@dataclass(frozen=True)
class Lab:
    """A running server.

    Attributes
    ----------
    process : subprocess.Popen
    address : str
        Base address, with a slash at its end.
    token : str
        Token for access.
    work : pathlib.Path
        Directory of its notebooks.
    log : pathlib.Path
        File with its output.
    """

    process: subprocess.Popen[bytes]
    address: str
    token: str
    work: Path
    log: Path

    def page(self, notebook: str) -> str:
        """Return the address of a notebook in a new workspace, with the token."""
        workspace = secrets.token_hex(4)
        return f"{self.address}lab/workspaces/{workspace}/tree/{notebook}?token={self.token}"

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Return the answer of the server's REST interface, for instance to ``"dask/clusters"``.

        Parameters
        ----------
        path : str
            Path below the base address.
        method : str, default "GET"
            HTTP method.
        body : object, optional
            Body of the request, sent as JSON.

        Returns
        -------
        object
            The decoded answer.
        """
        request = urllib.request.Request(
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or "null")


@contextlib.contextmanager
def jupyterlab(
    folder: Path,
    *,
    dask_config: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    within: float = 60,
) -> Iterator[Lab]:
    """Start a JupyterLab server on the loopback interface, and end it afterwards.

    Parameters
    ----------
    folder : pathlib.Path
        Empty directory for the server's files, settings and logs. Notebooks are in
        ``folder / "work"``.
    dask_config : str, optional
        Dask's configuration for the server, as YAML.
    settings : mapping of str to mapping, optional
        Settings of JupyterLab by ``"extension/plugin"``.
    within : float, default 60
        Maximum seconds until the server has started.

    Yields
    ------
    Lab

    Raises
    ------
    RuntimeError
        The server did not start; the message has its output.

    Notes
    -----
    The server ends its kernels when it ends. The body may kill it.
    """
    work, home, log = folder / "work", folder / "home", folder / "jupyterlab.log"
    for made in (work, home / "dask"):
        made.mkdir(parents=True)
    if dask_config is not None:
        (home / "dask" / "lab.yaml").write_text(dask_config)
    _write(home / "jupyter" / "jupyter_server_config.json", _CONFIGURATION)
    for plugin, values in {**_QUIET, **(settings or {})}.items():
        place = home / "jupyter" / "lab" / "user-settings" / f"{plugin}.jupyterlab-settings"
        _write(place, values)
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = {"ip": "127.0.0.1", "port": _free_port(), "root_dir": work}
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    environment = os.environ | {
        "HOME": str(home),
        "DASK_CONFIG": str(home / "dask"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_TOKEN": token,
    }
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
    try:
        address = _address(process, home / "runtime", token, log, within)
        yield Lab(process, address, token, work, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _write(place: Path, values: Mapping[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(values))


def _free_port() -> int:
    """Return a port that is free now; the server uses another if it is taken meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _address(
    process: subprocess.Popen[bytes], runtime: Path, token: str, log: Path, within: float
) -> str:
    """Return the address of the server, once it answers."""
    deadline = time.monotonic() + within
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((runtime / f"jpserver-{process.pid}.json").read_text())
            address: str = told["url"]
            urllib.request.urlopen(f"{address}api/status?token={token}", timeout=30).close()
            return address
        time.sleep(0.05)
    raise RuntimeError(f"JupyterLab did not start in {within} s:\n{log.read_text()}")

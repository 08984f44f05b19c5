"""Put packages into the launch configuration of a runner (driver)."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from dask_flame.core.launch_config import Packages, Wanted
from dask_flame.packages.installed import environment


def told(packages: Packages, *, local: bool) -> Packages:
    """Return the packages as a runner reads them.

    Parameters
    ----------
    packages : Packages
    local : bool
        Whether the runner is on this machine. On another one, it gets the archives themselves.
    """
    if not packages:
        return {}
    if local:
        return {**packages, "driver": environment()}
    return {**packages, "install": [_sent(wanted) for wanted in packages["install"]]}


def _sent(wanted: Wanted) -> Wanted:
    if "digest" not in wanted:
        return wanted
    data = base64.b64encode(Path(wanted["line"]).read_bytes()).decode()
    return {**wanted, "line": os.path.basename(wanted["line"]), "data": data}

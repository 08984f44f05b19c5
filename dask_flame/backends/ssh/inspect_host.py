"""List and end clusters on this host, for a command line elsewhere (host).

Started over SSH; a request is one line of JSON on the standard input, and the answer one line of
the standard output. Runners are processes here, as those of the local backend are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import psutil

from dask_flame.backends.inspector import ClusterListing, Orphan, RunnerListing
from dask_flame.backends.local.inspector import LocalInspector
from dask_flame.backends.local.process_scan import scan_processes
from dask_flame.backends.ssh.agent import PREFIX
from dask_flame.errors import BackendError

#: What is in the command line of an agent, and of nothing else that starts supervisors.
_AGENT = "b64decode"


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.readline())
    try:
        answer = {"ev": "answer", "value": asyncio.run(_answer(request))}
    except BackendError as error:
        answer = {"ev": "answer", "error": str(error)}
    print(PREFIX + json.dumps(answer), flush=True)


async def _answer(request: dict[str, Any]) -> Any:
    inspector, op = LocalInspector(), request["op"]
    if op == "orphans":
        return [asdict(orphan) for orphan in await inspector.orphans()]
    if op == "end":
        wanted = [opened_orphan(plain) for plain in request["orphans"]]
        return [asdict(orphan) for orphan in await inspector.end(wanted)]
    clusters = await _clusters(inspector)
    if op == "clusters":
        return [asdict(cluster) for cluster in clusters]
    found = next((c for c in clusters if c.id == request["cluster"]), None)
    if found is None:
        return None
    if op == "logs":
        return dict(await inspector.logs(found, lines=request["lines"]))
    return await inspector.stop(found, within=request["within"])


async def _clusters(inspector: LocalInspector) -> list[ClusterListing]:
    """Return the clusters whose drivers are elsewhere, and those without a driver."""
    supervisors = scan_processes().supervisors
    found = []
    for cluster in await inspector.clusters():
        supervisor = supervisors.get(cluster.id)
        if supervisor is None or not supervisor.has_driver:
            found.append(cluster)
        elif (driver := _elsewhere(supervisor.driver)) is not None:
            found.append(replace(cluster, driver=driver))
    return found


def _elsewhere(agent: int) -> str | None:
    """Return where the driver of an agent is; None if the process is no agent."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(agent)
        if any(_AGENT in word for word in process.cmdline()):
            words = process.environ().get("SSH_CONNECTION", "").split()
            return words[0] if words else "elsewhere"
    return None


def opened_cluster(plain: dict[str, Any]) -> ClusterListing:
    """Return a cluster from JSON."""
    runners = tuple(RunnerListing(**runner) for runner in plain["runners"])
    return ClusterListing(**{**plain, "runners": runners})


def opened_orphan(plain: dict[str, Any]) -> Orphan:
    """Return an orphan from JSON."""
    return Orphan(**{**plain, "key": _tuples(plain["key"])})


def _tuples(value: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(each) if isinstance(each, list | tuple) else each for each in value)

"""List and end clusters on machines that answer to ssh, without their drivers (command line)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import asyncssh

from dask_flame.backends.inspector import (
    ClusterListing,
    Inspector,
    Orphan,
    check_where,
)
from dask_flame.backends.ssh.bootstrap import command
from dask_flame.backends.ssh.connection import HostError, connect
from dask_flame.backends.ssh.hosts import HostSpec, check_hosts
from dask_flame.backends.ssh.inspect_host import opened_cluster, opened_orphan
from dask_flame.backends.ssh.options import SshOptions
from dask_flame.errors import BackendError

_PREFIX = "dask-flame "
_PROGRAM = "from dask_flame.backends.ssh.inspect_host import main; main()"
#: Seconds for an answer, beside the time that a request may take.
_WITHIN = 120.0


class SshInspector(Inspector):
    """The clusters of this user on several hosts.

    A host that cannot be reached is noted, and the others are listed.

    Parameters
    ----------
    hosts : sequence of HostSpec
    python : str or None
        The interpreter there.
    """

    def __init__(self, hosts: Sequence[HostSpec], python: str | None) -> None:
        super().__init__()
        self._hosts = {host.name: host for host in hosts}
        self._python = python
        self._connections: dict[str, asyncssh.SSHClientConnection] = {}

    @classmethod
    def of(cls, **where: str) -> Self:
        """Return the inspector for the options of a command line, or of the configuration.

        Raises
        ------
        BackendError
        """
        check_where(where, own=("hosts",), write="; over SSH write --hosts")
        configured = SshOptions.configured().given
        hosts = configured.get("hosts", ())
        if (given := where.get("hosts")) is not None:
            named = given if "/" in given else [word for word in given.split(",") if word]
            hosts = check_hosts("hosts", named)
        if not hosts:
            raise BackendError(
                "no hosts are named; write --hosts gpu1,gpu2, or set flame.ssh.hosts"
            )
        return cls(hosts, configured.get("python"))

    async def __aenter__(self) -> Self:
        await asyncio.gather(*map(self._connect, self._hosts.values()))
        if not self._connections:
            raise BackendError("no host can be reached: " + "; ".join(self.notes))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections.values():
            connection.close()
        for connection in self._connections.values():
            with contextlib.suppress(OSError, asyncssh.Error):
                await connection.wait_closed()

    async def _connect(self, host: HostSpec) -> None:
        try:
            self._connections[host.name] = await connect(host)
        except HostError as error:
            self.notes.append(f"{host.name}: {error}")
            self.unseen.append(host.name)

    async def clusters(self) -> list[ClusterListing]:
        found: dict[str, ClusterListing] = {}
        for host, answer in (await self._ask_all(op="clusters")).items():
            for plain in answer:
                here = _at(host, opened_cluster(plain))
                there = found.get(here.id)
                found[here.id] = here if there is None else _together(there, here)
        return sorted(found.values(), key=lambda cluster: (cluster.started or 0, cluster.id))

    async def logs(self, cluster: ClusterListing, *, lines: int) -> Mapping[str, str]:
        wanted = {runner.name for runner in cluster.runners}
        answers = await self._ask_all(op="logs", cluster=cluster.id, lines=lines)
        texts = {name: text for answer in answers.values() for name, text in (answer or {}).items()}
        return {name: text for name, text in texts.items() if name in wanted}

    async def stop(self, cluster: ClusterListing, *, within: float) -> str:
        answers = await self._ask_all(op="stop", cluster=cluster.id, within=within)
        hosts = ", ".join(host for host, answer in answers.items() if answer is not None)
        if cluster.state == "orphaned":
            return f"ended on {hosts or 'no host'}; its driver was gone"
        driver = cluster.driver or "elsewhere"
        return f"stopped on {hosts or 'no host'}; its driver, at {driver}, lives on, and was told"

    async def orphans(self) -> list[Orphan]:
        found = []
        for host, answer in (await self._ask_all(op="orphans")).items():
            for orphan in map(opened_orphan, answer):
                what = f"{host}: {orphan.what}"
                found.append(replace(orphan, what=what, key=(host, *orphan.key)))
        return found

    async def end(self, orphans: Sequence[Orphan]) -> list[Orphan]:
        left: list[Orphan] = []
        for host in dict.fromkeys(str(orphan.key[0]) for orphan in orphans):
            here = [orphan for orphan in orphans if orphan.key[0] == host]
            sent = [_plain(orphan) for orphan in here]
            answer = await self._ask(host, op="end", orphans=sent)
            keys = {opened_orphan(plain).key for plain in answer}
            left += [orphan for orphan in here if orphan.key[1:] in keys]
        return left

    # Requests

    async def _ask_all(self, **request: Any) -> dict[str, Any]:
        """Return the answers of all hosts that answer; note the others.

        Raises
        ------
        BackendError
            No host answers.
        """
        hosts = list(self._connections)
        answers = await asyncio.gather(
            *(self._ask(host, **request) for host in hosts), return_exceptions=True
        )
        found: dict[str, Any] = {}
        why = ""
        for host, answer in zip(hosts, answers, strict=True):
            if isinstance(answer, BackendError):
                why = str(answer)
                self.notes.append(why)
                if host not in self.unseen:
                    self.unseen.append(host)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[host] = answer
        if not found:
            raise BackendError(why)
        return found

    async def _ask(self, name: str, **request: Any) -> Any:
        """Return the answer of a host.

        Raises
        ------
        BackendError
        """
        python = self._hosts[name].python or self._python
        words = command(python, sys.executable, _PROGRAM)
        within = _WITHIN + request.get("within", 0.0)
        try:
            done = await asyncio.wait_for(
                self._connections[name].run(words, input=json.dumps(request) + "\n"), within
            )
        except TimeoutError:
            raise BackendError(f"{name} did not answer within {within:g} s") from None
        except (OSError, asyncssh.Error) as error:
            raise BackendError(f"{name}: {error}") from None
        for line in str(done.stdout).splitlines():
            _, mark, plain = line.partition(_PREFIX)
            if mark:
                answer = json.loads(plain)
                if "error" in answer:
                    raise BackendError(f"{name}: {answer['error']}")
                return answer["value"]
        said = (str(done.stderr).strip().splitlines() or ["it said nothing"])[-1]
        raise BackendError(
            f"{name}: dask-flame cannot be run there ({said}); set flame.ssh.python to an "
            "interpreter there that has it"
        )


def _at(host: str, cluster: ClusterListing) -> ClusterListing:
    """Return a cluster with the host of each of its runners."""
    runners = tuple(replace(r, where=f"{host}, {r.where}") for r in cluster.runners)
    return replace(cluster, runners=runners)


def _together(one: ClusterListing, other: ClusterListing) -> ClusterListing:
    """Return one cluster of its parts on two hosts."""
    states = (one.state, other.state)
    order = ("stopped", "live", "starting", "ending", "orphaned")
    live = one if order.index(one.state) <= order.index(other.state) else other
    return replace(
        live,
        state=min(states, key=order.index),
        started=min(_known(one.started, other.started), default=None),
        runners=(*one.runners, *other.runners),
    )


def _known(*times: float | None) -> Iterable[float]:
    return (time for time in times if time is not None)


def _plain(orphan: Orphan) -> dict[str, Any]:
    """Return an orphan for JSON, as its host knows it."""
    key = list(orphan.key[1:])
    return {"what": orphan.what, "cluster": orphan.cluster, "why": orphan.why, "key": key}

"""One host of a cluster: its connection, its agent, and the runners there (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import asyncssh
from distributed.comm.addressing import unparse_host_port

from dask_flame.backends.ssh.bootstrap import command, why_ended, why_unfit
from dask_flame.backends.ssh.claims import Capacity, Need, Taken
from dask_flame.backends.ssh.connection import HostError, connect
from dask_flame.backends.ssh.hosts import HostSpec
from dask_flame.backends.ssh.options import SshOptions
from dask_flame.backends.ssh.placement import capacity_of
from dask_flame.backends.ssh.relay import Relay

logger = logging.getLogger("dask_flame")

_PREFIX = b"dask-flame "
#: Seconds for the agent's first word, and for the supervisor's, beside the connection: a file
#: system of a network that is read for the first time may be slow.
_HERE_WITHIN, _HELLO_WITHIN = 120.0, 60.0
#: Seconds for the agent to end everything, when it is asked to.
_END_WITHIN = 30.0
_CHUNK = 1 << 16
_KEPT_WORDS = 4000
#: Seconds for what the agent has printed, after it has said that something has failed.
_WORDS_WITHIN = 0.3

#: Called with the name of a runner, and a message of the agent or of its supervisor.
Heard = Callable[["Machine", dict[str, Any]], None]


class Machine:
    """A host with a connection, from :meth:`start` until `lost` is called.

    Parameters
    ----------
    host : HostSpec
    python : str or None
        The interpreter there, if the host has none of its own.
    mark : str
        Prefix of the marks of the cluster's processes.
    relay : Relay or None
        If runners are reached through the connection.
    heard : callable
        Called with each message about a runner.
    lost : callable
        Called with this machine and the reason, once, when it can no longer be used.
    """

    def __init__(
        self,
        host: HostSpec,
        python: str | None,
        mark: str,
        heard: Heard,
        lost: Callable[[Machine, str], None],
    ) -> None:
        self.host = host
        self.capacity = Capacity()
        self.others = Taken()
        self.runners: dict[str, Need] = {}
        self.address = ""
        #: Where it can be connected to directly, see :mod:`dask_flame.backends.ssh.reach`.
        self.place = ""
        self._python = host.python or python
        self._mark = mark
        self._heard = heard
        self._lost = lost
        self._relay: Relay | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: Any = None
        self._here: asyncio.Future[dict[str, Any]] | None = None
        self._hello: asyncio.Future[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._words = ""
        self._announced: set[str] = set()
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._over = False
        self._closing = False
        #: Whether :meth:`begin` was called.
        self.begun = False

    # Start

    async def start(self) -> None:
        """Connect, and start the agent, which says what the host has.

        Raises
        ------
        HostError
        """
        loop = asyncio.get_running_loop()
        self._here, self._hello = loop.create_future(), loop.create_future()
        try:
            self._connection = await connect(self.host)
            await self._start_agent()
        except BaseException:
            await self.close()
            raise

    async def _start_agent(self) -> None:
        assert self._connection is not None
        assert self._here is not None
        words = command(self._python, sys.executable)
        try:
            self._process = await self._connection.create_process(
                words, encoding=None, request_pty=False
            )
        except (asyncssh.Error, OSError) as error:
            raise HostError(
                f"its sshd starts no program ({error}); type: ssh {self.host.ssh} true"
            ) from None
        self._tasks = [
            asyncio.ensure_future(self._read()),
            asyncio.ensure_future(self._read_errors()),
        ]
        said = await self._first(self._here, _HERE_WITHIN)
        interpreter = self._python or "python3"
        if why := why_unfit(
            said["python"], said["version"], said.get("missing", ""), self.host.ssh, interpreter
        ):
            raise HostError(why)
        self.capacity = capacity_of(self.host, said)

    async def begin(self, relay: Relay | None, first: Mapping[str, Any] | None) -> None:
        """Start the supervisor, and a process for runners of the first kind.

        Parameters
        ----------
        relay : Relay or None
            If runners are reached through the connection.
        first : mapping or None
            A kind of runners, see :class:`dask_flame.backends.ssh.launch.Kinds`.

        Raises
        ------
        HostError
        """
        assert self._hello is not None
        assert self._connection is not None
        self.begun = True
        if relay is not None:
            self._relay, self.address = relay, relay.new_address()
        silence: float = SshOptions.setting("silence")
        if first is not None:
            self._announced.add(first["key"])
        self.send(
            op="begin",
            mark=self._mark,
            lease=silence,
            capacity=asdict(self.capacity),
            address=self.address,
            kind=first,
        )
        try:
            folder = await self._first(self._hello, _HELLO_WITHIN)
            self._tasks.append(asyncio.ensure_future(self._ping(silence / 4)))
            if relay is not None:
                await relay.add(self.address, self._connection, f"{folder}/s")
        except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
            await self.close()
            raise HostError(
                f"its sshd does not forward Unix sockets ({error}): see AllowStreamLocalForwarding "
                'and DisableForwarding in its sshd_config; or write reach="direct", if the driver '
                "and all hosts can connect to each other"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def _first(self, answer: asyncio.Future[Any], within: float) -> Any:
        """Wait for a word of the agent.

        Raises
        ------
        HostError
            It says why there is none, or does not answer.
        """
        reading = self._tasks[0]
        await asyncio.wait({answer, reading}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if not reading.done():
            raise HostError(
                f"its agent did not answer within {within:g} s; type: ssh {self.host.ssh} true"
            )
        with contextlib.suppress(asyncssh.Error, TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
        interpreter = self._python or "python3"
        code = self._process.exit_status
        raise HostError(why_ended(code, self._words, self.host.ssh, interpreter))

    @property
    def peer(self) -> tuple[str, str]:
        """The addresses of the driver and of the host, as their connection has them."""
        assert self._connection is not None
        own = self._connection.get_extra_info("sockname") or ("",)
        there = self._connection.get_extra_info("peername") or ("",)
        return str(own[0]), str(there[0])

    def scheduler(self, address: str) -> str:
        """Return the address of a scheduler in this process, for runners that connect directly."""
        scheme, _, place = address.partition("://")
        own, port = self.peer[0], place.rpartition(":")[2]
        return f"{scheme}://{unparse_host_port(own, int(port))}"

    @property
    def over(self) -> bool:
        """Whether it can no longer be used."""
        return self._over or self._closing

    # Messages

    def send(self, **message: Any) -> None:
        """Send a message to the agent, if it lives."""
        if self._process is not None and not self._over:
            with contextlib.suppress(OSError, asyncssh.Error):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(self, op: str, **message: Any) -> dict[str, Any]:
        """Send a message to the agent, and return its answer; one of a kind at a time."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[op] = answer
        self.send(op=op, **message)
        try:
            return await answer
        finally:
            self._answers.pop(op, None)

    def announce(self, kind: Mapping[str, Any]) -> None:
        """Tell the agent of a kind of runners, once."""
        if kind["key"] not in self._announced:
            self._announced.add(kind["key"])
            self.send(**kind)

    def forget(self, key: str) -> None:
        """Tell the agent that no more runners of a kind are to be booted."""
        if key in self._announced:
            self._announced.discard(key)
            self.send(op="forget", key=key)

    def take(self, name: str, need: Need) -> None:
        """Note that a runner is to be here."""
        self.runners[name] = need

    def release(self, name: str) -> None:
        """Note that a runner is not here."""
        self.runners.pop(name, None)

    def taken(self) -> Taken:
        """Return what this cluster's runners, and those of others, have taken."""
        taken = self.others
        for need in self.runners.values():
            taken = taken.plus(need)
        return taken

    async def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError, asyncssh.Error):
            while chunk := await self._process.stdout.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    # Start-up files of the user's shell may print before it.
                    _, mark, words = line.partition(_PREFIX)
                    if mark:
                        self._receive(json.loads(words))
                    else:
                        self._keep(line.decode(errors="replace"))
        if self._hello is not None and not self._hello.done():
            return  # `_first` says why
        why = "the connection has ended, or was silent for too long"
        if self._connection is not None and not self._connection.is_closed():
            why = "its agent has ended"
            said = " ".join(self._words.split())
            why += f": {said[-400:]}" if said else ""
        self._end(why)

    async def _read_errors(self) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            while chunk := await self._process.stderr.read(_CHUNK):
                self._keep(chunk.decode(errors="replace"))

    def _keep(self, words: str) -> None:
        self._words = f"{self._words}\n{words}"[-_KEPT_WORDS:]

    async def _ping(self, pause: float) -> None:
        while not self._over:
            await asyncio.sleep(pause)
            self.send(op="ping")

    def _receive(self, message: dict[str, Any]) -> None:
        assert self._here is not None
        assert self._hello is not None
        event = message["ev"]
        if event == "here":
            if not self._here.done():
                self._here.set_result(message)
        elif event == "hello":
            if not self._hello.done():
                self._hello.set_result(message["scratch"])
        elif event in self._answers:
            if not self._answers[event].done():
                self._answers[event].set_result(message)
        elif event == "failed":
            # What was printed comes by another way, perhaps a moment later.
            asyncio.get_running_loop().call_later(_WORDS_WITHIN, self._failed, message["why"])
        else:
            if "others" in message:
                self.others = Taken(**message["others"])
            try:
                self._heard(self, message)
            except Exception:
                logger.exception("what %s said could not be taken in", self.host.name)

    def _failed(self, why: str) -> None:
        assert self._hello is not None
        said = self._words.strip().rpartition("\n")[2]
        why += f" ({said[-400:]})" if said else ""
        if not self._hello.done():
            self._hello.set_exception(HostError(f"runners cannot start there: {why}"))
            self._hello.exception()
        self._end(why)

    # The end

    def _end(self, why: str) -> None:
        if not self._over:
            self._over = True
            if self._relay is not None:
                self._relay.remove(self.address)
            if not self._closing:
                self._lost(self, why)

    async def close(self) -> None:
        """End the agent, with all runners, and the connection; return when they have ended."""
        self._closing = True
        if self._relay is not None:
            self._relay.remove(self.address)
        if self._process is not None and self._connection is not None:
            with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
                self._process.stdin.write_eof()
                if not self._connection.is_closed():
                    await asyncio.wait_for(self._process.wait_closed(), _END_WITHIN)
        self._over = True
        if self._connection is not None:
            self._connection.abort()
            with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
                await asyncio.wait_for(self._connection.wait_closed(), _END_WITHIN)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

"""A client of Fly's Machines API: the machines of one app, and their output (driver)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

from dask_flame.backends.fly.api.credentials import Token
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.pace import Pace
from dask_flame.backends.fly.api.transport import PATIENCE, Retries, Transport
from dask_flame.backends.fly.api.types import (
    CreateRequest,
    Event,
    LogLine,
    Machine,
    UpdateRequest,
)

#: Seconds within which the API answers a request to create or change a machine: it finds a host
#: first, and may pull the image.
CREATE_WITHIN = 60.0
#: Seconds of retries of the first request: somebody waits for the cluster to start.
CHECK_PATIENCE = 10.0
#: Seconds of retries of a list: whoever needs it asks again.
LIST_PATIENCE = 8.0
#: The longest time that the API lets a client wait for a state, in seconds.
LONGEST_WAIT = 60


@dataclass
class Creation:
    """The state of a request to create a machine.

    Attributes
    ----------
    may_exist : bool
        Whether the machine may exist, although its answer has not come. Until then, the request
        may be cancelled.
    given_up : bool
        Set this to make no further attempt.
    """

    may_exist: bool = False
    given_up: bool = False


class FlyApi:
    """Requests about the machines of one app.

    Parameters
    ----------
    app : str
    token : Token
    base : str
        Address of the Machines API, without a slash at its end.
    logs : str
        Address of the API for output.
    pace : Pace, optional
    patience : float
        Seconds of retries after errors that may pass.
    """

    def __init__(
        self,
        app: str,
        token: Token,
        base: str,
        logs: str,
        *,
        pace: Pace | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.app = app
        self.base = base
        self.pace = pace or Pace()
        self._transport = Transport(token, base, self.pace, patience=patience)
        self._logs = Transport(token, logs, Pace(), patience=0)
        self._path = f"/v1/apps/{quote(app, safe='')}"
        self._lists: dict[tuple[tuple[str, str], ...], _List] = {}

    async def close(self) -> None:
        """Cancel all requests and close all connections; later requests raise an error."""
        for waiting in list(self._lists.values()):
            waiting.task.cancel()
        await self._transport.close()
        await self._logs.close()

    @property
    def now(self) -> float:
        """Unix time by the clock of the API, which the times of machines are from."""
        return time.time() + self._transport.ahead

    async def check(self) -> None:
        """Ask for the app.

        Raises
        ------
        FlyError
            If it does not exist, or the token is not for it.
        """
        await self._transport.request(
            "GET", self._path, action="app", identifier=self.app, patience=CHECK_PATIENCE
        )

    # Machines

    async def create(
        self,
        body: CreateRequest,
        same: Mapping[str, str],
        creation: Creation | None = None,
        *,
        waits: Callable[[FlyError], None] | None = None,
    ) -> Machine:
        """Create a machine, once, whatever happens to the answers.

        The name is unique in the app. After an attempt that may have taken effect, the machine is
        looked up before the next one.

        Parameters
        ----------
        body : CreateRequest
        same : mapping of str to str
            Metadata by which the machine is found, and which no other has.
        creation : Creation, optional
            The state of this request.
        waits : callable, optional
            Called with the error before each further attempt.

        Raises
        ------
        FlyError
            With `unsure` if a machine may exist all the same.
        """
        creation = creation or Creation()
        retries = Retries(self._transport.patience)
        refusal: FlyError | None = None
        while True:
            try:
                if creation.may_exist and (found := await self._find(body["name"], same)):
                    return found
                if refusal is None and not creation.given_up:
                    await self.pace.turn("create", self.app)
                    return await self._create_once(body, creation)
            except FlyError as error:
                if error.conflict and refusal is None:
                    # Perhaps another attempt, whose answer was lost, has taken the name.
                    refusal, creation.may_exist = error, True
                    continue
                error.unsure = creation.may_exist
                if waits is not None and error.passes:
                    waits(error)
                await self._transport.before_retry(error, retries, "create", self.app)
            else:
                raise refusal or FlyError(0, "given up", unsure=creation.may_exist)

    async def _create_once(self, body: CreateRequest, creation: Creation) -> Machine:
        known = creation.may_exist
        creation.may_exist = True
        try:
            made = await self._transport.once(
                "POST", f"{self._path}/machines", body=body, timeout=CREATE_WITHIN
            )
        except FlyError as error:
            if error.status and not error.unsure:
                creation.may_exist = known
            raise
        return cast("Machine", made)

    async def _find(self, name: str, same: Mapping[str, str]) -> Machine | None:
        """Return the machine with this name and these metadata, if there is one."""
        for machine in await self.list_machines(same):
            if machine.get("name") == name and machine.get("state") != "destroyed":
                return machine
        return None

    async def list_machines(self, metadata: Mapping[str, str]) -> list[Machine]:
        """Return the app's machines that have these metadata, as they are after this call.

        Calls that wait for their turn share one request.

        Parameters
        ----------
        metadata : mapping of str to str
            The first is sent to the server; the others are looked for in the answer.
        """
        first = tuple(metadata.items())[:1]
        waiting = self._lists.get(first)
        if waiting is None or waiting.begun:
            waiting = self._lists[first] = _List()
            waiting.task = asyncio.ensure_future(self._list(first, waiting))
            waiting.task.add_done_callback(_seen)
        found = await asyncio.shield(waiting.task)
        wanted = metadata.items()
        return [one for one in found if wanted <= metadata_of(one).items()]

    async def _list(self, first: tuple[tuple[str, str], ...], this: _List) -> list[Machine]:
        try:
            params = {f"metadata.{key}": value for key, value in first}
            await self.pace.turn("list", self.app)
            this.begun = True
            retries = Retries(min(self._transport.patience, LIST_PATIENCE))
            while True:
                try:
                    found = await self._transport.once(
                        "GET", f"{self._path}/machines", params=params
                    )
                    return cast("list[Machine]", found or [])
                except FlyError as error:
                    await self._transport.before_retry(error, retries, "list", self.app)
                    await self.pace.turn("list", self.app)
        finally:
            if self._lists.get(first) is this:
                del self._lists[first]

    async def get(self, id: str) -> Machine:
        """Return a machine, perhaps one that was destroyed a moment ago."""
        return cast("Machine", await self._machine("GET", id, "get"))

    async def start(self, id: str, *, patience: float | None = None) -> None:
        """Start a stopped machine."""
        await self._machine("POST", id, "start", "/start", patience=patience)

    async def stop(self, id: str, *, signal: str, timeout: float) -> None:
        """Send a signal to a machine's process, which is killed after `timeout` seconds."""
        body = {"signal": signal, "timeout": f"{max(1, round(timeout))}s"}
        await self._machine("POST", id, "stop", "/stop", body=body)

    async def update(self, id: str, body: UpdateRequest) -> Machine:
        """Replace the configuration of a machine."""
        made = await self._machine("POST", id, "update", body=body, timeout=CREATE_WITHIN)
        return cast("Machine", made)

    async def destroy(self, id: str, *, patience: float | None = None) -> bool:
        """End a machine by force, and remove it; return whether it existed."""
        try:
            await self._machine("DELETE", id, "delete", params={"force": "true"}, patience=patience)
        except FlyError as error:
            if error.gone:
                return False
            raise
        return True

    async def wait(self, id: str, state: str, *, timeout: float, instance: str = "") -> bool:
        """Wait until a machine is in a state; return False if it is not within `timeout`.

        Parameters
        ----------
        id, state : str
        timeout : float
            Seconds.
        instance : str
            The version of the machine; states other than ``"started"`` need it.
        """
        seconds = min(LONGEST_WAIT, max(1, round(timeout)))
        params = {"state": state, "timeout": str(seconds)}
        if instance:
            params["instance_id"] = instance
        try:
            await self._machine("GET", id, "wait", "/wait", params=params, timeout=seconds + 10.0)
        except FlyError as error:
            if error.status == 408:
                return False
            raise
        return True

    async def set_metadata(self, id: str, key: str, value: str) -> None:
        """Set one of a machine's metadata."""
        path = f"/metadata/{quote(key, safe='')}"
        await self._machine("POST", id, "metadata", path, body={"value": value})

    async def _machine(self, method: str, id: str, action: str, path: str = "", **more: Any) -> Any:
        return await self._transport.request(
            method,
            f"{self._path}/machines/{quote(id, safe='')}{path}",
            action=action,
            identifier=id,
            **more,
        )

    # Output

    async def logs(self, id: str, after: str = "") -> tuple[list[LogLine], str]:
        """Return a page of a machine's output, as ``fly logs`` reads it, and where it ends.

        This is not part of the Machines API, and its form is not published.

        Parameters
        ----------
        id : str
        after : str
            Where an earlier page has ended.
        """
        params = {"instance": id, **({"next_token": after} if after else {})}
        answer = await self._logs.request(
            "GET",
            f"/api{self._path}/logs",
            action="logs",
            identifier=id,
            params=params,
        )
        lines = [item.get("attributes") or {} for item in (answer or {}).get("data") or ()]
        token = ((answer or {}).get("meta") or {}).get("next_token") or ""
        return cast("list[LogLine]", lines), str(token)


class _List:
    """A list of machines that several calls wait for."""

    task: asyncio.Task[list[Machine]]

    def __init__(self) -> None:
        self.begun = False


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


def metadata_of(machine: Machine) -> dict[str, str]:
    """Return the metadata of a machine."""
    return (machine.get("config") or {}).get("metadata") or {}


def events_of(machine: Machine) -> list[Event]:
    """Return the events of a machine, the latest first."""
    return sorted(
        machine.get("events") or [], key=lambda event: event.get("timestamp") or 0, reverse=True
    )

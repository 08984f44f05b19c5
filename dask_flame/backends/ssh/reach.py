"""Find out whether the driver and the hosts can connect to each other (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dask_flame.backends.ssh.machine import Machine
from dask_flame.backends.ssh.probe import TOKEN, first_out_of_reach
from dask_flame.core.threads import in_thread

#: Seconds for a connection of a trial, and for an answer of an agent about several.
_WITHIN, _ANSWER_WITHIN = 3.0, 15.0


async def why_not_direct(new: Sequence[Machine], before: Sequence[Machine] = ()) -> str:
    """Return why the driver and all hosts cannot connect to any port of each other; empty if so.

    It is tried: each of them listens for a moment, and all others connect. If so, each host of
    `new` has its `place`, at which its runners listen.

    Parameters
    ----------
    new : sequence of Machine
    before : sequence of Machine, optional
        Those that can already, each other.
    """
    if not new:
        return "no host is connected"
    token = secrets.token_hex(TOKEN // 2)
    machines = [*new, *before]
    try:
        async with _listening({machine.peer[0] for machine in new}, token) as own:
            there = await asyncio.gather(*(_place(machine, token) for machine in machines))
            number = await in_thread(first_out_of_reach, there[: len(new)], token, _WITHIN)
            if number >= 0:
                return f"the driver cannot connect to {new[number].host.name} at {there[number][0]}"
            trial = _Trial(machines, there, token)
            reasons = await asyncio.gather(*(trial.why_not_from(m, own) for m in new))
            # Only then, because a host that is out of reach keeps their agents waiting.
            if before and not any(reasons):
                asked = (trial.why_not_from(m, {}, most=len(new)) for m in before)
                reasons = await asyncio.gather(*asked)
    except TimeoutError:
        return f"a host did not answer within {_ANSWER_WITHIN:g} s"
    except OSError as error:
        return f"the driver cannot listen: {error}"
    finally:
        for machine in machines:
            machine.send(op="hush")
    why = next(filter(None, reasons), "")
    if not why:
        for machine, (address, _) in zip(new, there, strict=False):
            machine.place = address
    return why


async def _place(machine: Machine, token: str) -> tuple[str, int]:
    """Return where a host listens for the trial."""
    said = await asyncio.wait_for(machine.ask("listen", token=token), _ANSWER_WITHIN)
    return str(said["address"]), int(said["port"])


@dataclass(frozen=True)
class _Trial:
    """Hosts that listen."""

    machines: Sequence[Machine]
    there: Sequence[tuple[str, int]]
    token: str

    async def why_not_from(
        self, machine: Machine, own: Mapping[str, int], most: int | None = None
    ) -> str:
        """Return whom a host cannot connect to; empty if it reaches all.

        Parameters
        ----------
        machine : Machine
        own : mapping of str to int
            Where the driver listens: its ports, by its addresses; empty if it is not tried.
        most : int, optional
            Only the first ones are tried.
        """
        named = [("the driver", (machine.peer[0], own[machine.peer[0]]))] if own else []
        others = list(zip(self.machines, self.there, strict=True))[:most]
        named += [(other.host.name, at) for other, at in others if other is not machine]
        places = [place for _, place in named]
        asked = machine.ask("reach", places=places, token=self.token, within=_WITHIN)
        number = int((await asyncio.wait_for(asked, _ANSWER_WITHIN))["failed"])
        if number < 0:
            return ""
        whom, (address, _) = named[number]
        return f"{machine.host.name} cannot connect to {whom} at {address}"


@contextlib.asynccontextmanager
async def _listening(addresses: Iterable[str], token: str) -> AsyncIterator[dict[str, int]]:
    """Listen at a port of each of these addresses of the driver; yield the ports."""
    servers: dict[str, asyncio.Server] = {}

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(token.encode())
        writer.close()

    try:
        for address in addresses:
            servers[address] = await asyncio.start_server(tell, address, 0)
        yield {a: int(s.sockets[0].getsockname()[1]) for a, s in servers.items()}
    finally:
        for server in servers.values():
            server.close()


#: All addresses of the driver.
ANY = "0.0.0.0"


def own_address(machines: Iterable[Machine]) -> str:
    """Return where a scheduler listens that hosts connect to directly."""
    own = {machine.peer[0] for machine in machines}
    return own.pop() if len(own) == 1 else ANY

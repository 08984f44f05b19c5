"""Find out whether the driver and the hosts can connect to each other (driver)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence

from dask_flame.backends.ssh.machine import Machine
from dask_flame.backends.ssh.probe import TOKEN, first_out_of_reach
from dask_flame.core.threads import in_thread

#: Seconds for a connection of a trial, and for an answer of an agent about several.
_WITHIN, _ANSWER_WITHIN = 3.0, 15.0


async def why_not_direct(machines: Sequence[Machine]) -> str:
    """Return why the driver and all hosts cannot connect to any port of each other; empty if so.

    It is tried: each of them listens for a moment, and all others connect.
    """
    if not machines:
        return "no host is connected"
    token = secrets.token_hex(TOKEN // 2)
    try:
        async with _listening({machine.peer[0] for machine in machines}, token) as own:
            there = await asyncio.gather(*(_place(machine, token) for machine in machines))
            number = await in_thread(first_out_of_reach, there, token, _WITHIN)
            if number >= 0:
                place = "{}:{}".format(*there[number])
                return f"the driver cannot connect to {machines[number].host.name} at {place}"
            reasons = await asyncio.gather(
                *(_why_not_from(machine, machines, own, there, token) for machine in machines)
            )
    except TimeoutError:
        return f"a host did not answer within {_ANSWER_WITHIN:g} s"
    except OSError as error:
        return f"the driver cannot listen: {error}"
    return next(filter(None, reasons), "")


async def _place(machine: Machine, token: str) -> tuple[str, int]:
    """Return where a host listens for the trial."""
    said = await asyncio.wait_for(machine.ask("listen", token=token), _ANSWER_WITHIN)
    return str(said["address"]), int(said["port"])


async def _why_not_from(
    machine: Machine,
    machines: Sequence[Machine],
    own: dict[str, int],
    there: Sequence[tuple[str, int]],
    token: str,
) -> str:
    """Return whom a host cannot connect to; empty if it reaches all."""
    driver = (machine.peer[0], own[machine.peer[0]])
    others = [n for n, other in enumerate(machines) if other is not machine]
    places = [driver, *(there[n] for n in others)]
    asked = machine.ask("reach", places=places, token=token, within=_WITHIN)
    number = int((await asyncio.wait_for(asked, _ANSWER_WITHIN))["failed"])
    if number < 0:
        return ""
    whom = "the driver" if number == 0 else machines[others[number - 1]].host.name
    place = "{}:{}".format(*places[number])
    return f"{machine.host.name} cannot connect to {whom} at {place}"


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


def own_address(machines: Iterable[Machine]) -> str:
    """Return where a scheduler listens that hosts connect to directly."""
    own = {machine.peer[0] for machine in machines}
    return own.pop() if len(own) == 1 else "0.0.0.0"

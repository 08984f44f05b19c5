"""Compare the connections of a local cluster: dask-flame's sockets, Dask's TCP, and TLS.

    python benchmarks/messages.py [--rounds 5] [--messages 2000] [--megabytes 64]

A process echoes what this one sends. In each round each kind of connection has its turn. The
figures are medians of the rounds: of a small message and its answer, of the CPU time of this
process for it, and of a large message and its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

from distributed.comm import CommClosedError, connect, listen
from distributed.protocol import to_serialize
from distributed.security import Security

from dask_flame.comm import backend
from dask_flame.comm.addresses import PREFIX, new_socket_in

KINDS = ("flame", "tcp", "tls")
#: As large as a scheduler's message about a call.
_MESSAGE = {"op": "task-finished", "key": "call-0123456789", "status": "OK", "nbytes": 28}


def _arguments(kind: str, security: dict[str, Any], role: str) -> dict[str, Any]:
    if kind != "tls":
        return {}
    given = Security(**security)
    return given.get_listen_args(role) if role == "scheduler" else given.get_connection_args(role)


async def _echo(comm: Any) -> None:
    try:
        while True:
            await comm.write({"data": (await comm.read())["data"]})
    except CommClosedError:
        pass


def serve(kind: str, folder: str, security: dict[str, Any], pipe: Connection) -> None:
    """Echo messages until this process is ended."""

    async def run() -> None:
        backend.register()
        where = PREFIX + new_socket_in(folder) if kind == "flame" else f"{kind}://127.0.0.1:0"
        async with listen(where, _echo, **_arguments(kind, security, "scheduler")) as listener:
            pipe.send(listener.contact_address)
            await asyncio.Event().wait()

    asyncio.run(run())


async def measure(address: str, arguments: dict[str, Any], args: Any) -> tuple[float, ...]:
    """Return the seconds for a small message, of them CPU time, and for a large one."""
    comm = await connect(address, **arguments)
    small = {**_MESSAGE, "data": None}
    for _ in range(200):
        await comm.write(small)
        await comm.read()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(args.messages):
        await comm.write(small)
        await comm.read()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    large = bytes(args.megabytes * 10**6)
    began = time.perf_counter()
    await comm.write({"data": to_serialize(large)})
    await comm.read()
    whole = time.perf_counter() - began
    await comm.close()
    return took / args.messages, cpu / args.messages, whole


def main() -> None:
    """Measure all kinds in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--megabytes", type=int, default=64)
    args = parser.parse_args()
    backend.register()
    made = Security.temporary()
    names = ("tls_ca_file", "tls_scheduler_cert", "tls_scheduler_key")
    security = {name: getattr(made, name) for name in names}
    security |= {
        f"tls_client_{part}": security[f"tls_scheduler_{part}"] for part in ("cert", "key")
    }
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for kind in KINDS:
                here, there = spawn.Pipe()
                process = spawn.Process(target=serve, args=(kind, folder, security, there))
                process.start()
                try:
                    arguments = _arguments(kind, security, "client")
                    found[kind].append(asyncio.run(measure(here.recv(), arguments, args)))
                finally:
                    process.terminate()
                    process.join()
    print(f"| | message and answer, µs | CPU here, µs | {args.megabytes} MB and back, ms |")
    print("|---|---|---|---|")
    for kind, rounds in found.items():
        small, cpu, large = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"| {kind} | {small * 1e6:.0f} | {cpu * 1e6:.0f} | {large * 1e3:.0f} |")


if __name__ == "__main__":
    main()

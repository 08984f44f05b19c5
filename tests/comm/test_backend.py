"""Connections of distributed over Unix sockets, and who may make them."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import CommClosedError, connect, get_address_host, listen, resolve_address
from distributed.comm.core import FatalCommClosedError
from distributed.core import Server, rpc
from distributed.protocol import to_serialize

from dask_flame.comm.addresses import PREFIX, location, new_socket_in
from dask_flame.comm.backend import SocketConnector
from tests.support.other_user import ATTACKER, attack, cannot, shared_folder
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def content(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def echo(comm: Any) -> None:
    try:
        while True:
            await comm.write(await comm.read())
    except CommClosedError:
        pass


def somewhere(folder: Path) -> str:
    return PREFIX + new_socket_in(str(folder))


@pytest.mark.parametrize("where", ["folder", "abstract", "named"])
async def test_messages_go_and_come(folder: Path, where: str) -> None:
    address = {
        "folder": somewhere(folder),
        "abstract": PREFIX + new_socket_in(""),
        "named": PREFIX + location(str(folder / "a name:with 100% odd")),
    }[where]
    async with listen(address, echo) as listener:
        assert listener.listen_address == listener.contact_address
        comm = await connect(listener.contact_address)
        big = bytes(range(256)) * (1 << 16)
        for message in (
            {"op": "x", "many": (1, None)},
            {"data": to_serialize({1, 2})},
            {"big": big},
        ):
            await comm.write(message)
            received = await comm.read()
            assert received == ({"data": {1, 2}} if "data" in message else message)
        assert comm.handshake_options["compression"] is None
        await comm.close()
        assert comm.closed()
        with pytest.raises(CommClosedError):
            await comm.write(1)
        with pytest.raises(CommClosedError):
            await comm.read()
    assert content(folder) == []


async def test_a_large_message_that_comes_when_python_exits_ends_the_connection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def give(comm: Any) -> None:
        comm.allow_offload = False  # it is in this process, too
        await comm.write(b"0" * 200_000_000)
        with pytest.raises(CommClosedError):
            await comm.read()

    async with listen(somewhere(folder), give) as listener:
        comm = await connect(listener.contact_address)
        # Python sets it when the main thread has ended.
        monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
        with pytest.raises(CommClosedError, match="this process exits"):
            await comm.read()
        assert comm.closed()


async def test_a_dask_server_answers(folder: Path) -> None:
    server = Server({"add": lambda x, y: x + y})
    await server.listen(somewhere(folder))
    try:
        assert get_address_host(server.address) == "127.0.0.1"
        assert resolve_address(server.address) == server.address
        async with rpc(server.address) as remote:
            assert await remote.add(x=1, y=2) == 3
    finally:
        await server.close()
    assert content(folder) == []


async def test_a_long_path_is_no_limit(folder: Path) -> None:
    deep = folder / ("a" * 90) / ("b" * 90)
    os.makedirs(deep)
    async with listen(somewhere(deep), echo) as listener:
        comm = await connect(listener.contact_address)
        await comm.write("x")
        assert await comm.read() == "x"
        comm.abort()


@pytest.mark.parametrize("where", ["folder", "abstract"])
async def test_a_copy_of_the_listening_socket_does_not_answer(folder: Path, where: str) -> None:
    address = PREFIX + new_socket_in(str(folder) if where == "folder" else "")
    listener = await listen(address, echo)
    copy = listener._sock.dup()  # as a forked child has one
    listener.stop()
    with copy, pytest.raises(OSError, match=r"refused|No such file"):
        await SocketConnector().connect(listener.contact_address.removeprefix(PREFIX))


async def test_a_closed_peer_is_noticed_without_reading(folder: Path) -> None:
    ended = asyncio.Event()

    async def hang_up(comm: Any) -> None:
        await comm.close()
        ended.set()

    async with listen(somewhere(folder), hang_up) as listener:
        comm = await connect(listener.contact_address)
        await ended.wait()
        await until(comm.closed)
        with pytest.raises(CommClosedError):
            await comm.write("x")
        comm.abort()


async def test_a_cancelled_read_ends_the_connection(folder: Path) -> None:
    async with listen(somewhere(folder), echo) as listener:
        comm = await connect(listener.contact_address)
        reading = asyncio.ensure_future(comm.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert comm.closed()


async def test_a_forgotten_connection_is_closed(folder: Path) -> None:
    over = asyncio.Event()

    async def until_its_end(comm: Any) -> None:
        try:
            await comm.read()
        except CommClosedError:
            over.set()

    async with listen(somewhere(folder), until_its_end) as listener:
        comm = await connect(listener.contact_address)
        del comm
        gc.collect()
        await asyncio.wait_for(over.wait(), 60)


async def test_many_connect_at_once(folder: Path) -> None:
    import dask.config

    with dask.config.set({"distributed.comm.socket-backlog": 1}):
        async with listen(somewhere(folder), echo) as listener:
            comms = await asyncio.gather(*(connect(listener.contact_address) for _ in range(50)))
            for comm in comms:
                await comm.close()


async def test_a_full_queue_is_waited_for(folder: Path) -> None:
    path = str(folder / "full")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        connected = []
        full = False
        while not full:
            sock = socket.socket(socket.AF_UNIX)
            connected.append(sock)
            sock.setblocking(False)
            try:
                sock.connect(path)
            except BlockingIOError:
                full = True
        connecting = asyncio.ensure_future(SocketConnector().connect(location(path)))
        await asyncio.sleep(0.02)
        assert not connecting.done()
        for _ in connected:
            listening.accept()[0].close()
            if connecting.done():
                break
            await asyncio.sleep(0.1)
        (await asyncio.wait_for(connecting, 60)).abort()
        for sock in connected:
            sock.close()


async def test_nobody_there_is_an_error_of_the_system(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await SocketConnector().connect(location(str(folder / "nothing")))
    with pytest.raises(ValueError, match="names no socket"):
        await SocketConnector().connect("127.0.0.1")


async def test_encryption_is_not_promised(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="encryption required"):
        await SocketConnector().connect(location("/x"), require_encryption=True)
    with pytest.raises(RuntimeError, match="encryption required"):
        listen(somewhere(folder), echo, require_encryption=True)


async def test_a_client_of_another_program_finds_the_backend(folder: Path) -> None:
    script = "from distributed.comm import get_address_host as f; print(f('flame://127.0.0.1/x'))"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout == "127.0.0.1\n", done.stderr


# Other users

CONNECT = """
import asyncio
from distributed.comm import connect

async def main():
    try:
        comm = await connect(args[0], timeout=10)
        await comm.write("let me in")
        return "answer: " + str(await comm.read())
    except OSError as error:
        return str(error)

result = asyncio.run(main())
"""
DASK = ["asyncio", "distributed", "distributed.client", "dask_flame.comm.backend"]

other_users = pytest.mark.skipif(bool(cannot()), reason=cannot())


class Trap:
    """Pickled, it leaves a file where it is read."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)

    def __reduce__(self) -> Any:
        return open, (self._file, "w")


async def test_a_socket_is_for_its_user_alone_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        async with listen(somewhere(folder), echo):
            (path,) = content(folder)
            assert os.stat(path).st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


async def test_no_socket_is_put_where_others_could_replace_it() -> None:
    with shared_folder(0o777) as folder:
        with pytest.raises(PermissionError, match=f"no socket is put into {folder}: everybody may"):
            await listen(somewhere(folder), echo)
        os.chmod(folder, 0o1777)
        async with listen(somewhere(folder), echo):
            pass


@other_users
async def test_another_user_gets_nothing_from_a_folder(folder: Path) -> None:
    heard = []

    async def hear(comm: Any) -> None:
        heard.append(await comm.read())

    for mode in (0o700, 0o755):
        os.chmod(folder, mode)
        async with listen(somewhere(folder), hear) as listener:
            address = listener.contact_address
            said = await asyncio.to_thread(attack, CONNECT, address, modules=DASK)
        assert f"belongs to root (uid 0), and this is uid {ATTACKER}: only processes of" in said
    assert heard == []


@other_users
async def test_another_user_gets_nothing_from_the_abstract_namespace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard = []

    async def hear(comm: Any) -> None:
        heard.append(comm)

    async with listen(PREFIX + new_socket_in(""), hear) as listener:
        # Its connector would refuse to talk to us; a plain socket talks, and is not heard.
        script = """
sock = socket.socket(socket.AF_UNIX)
sock.connect("\\0" + args[0])
try:
    sock.sendall(bytes(100))
    result = sock.recv(10).decode()
except OSError as error:
    result = ""
"""
        name = listener.contact_address.rpartition("~00")[2]
        assert await asyncio.to_thread(attack, script, name) == ""
    assert heard == []
    assert f"a connection of uid {ATTACKER}" in caplog.text


@other_users
async def test_nothing_is_read_from_a_server_of_another_user(folder: Path) -> None:
    read = folder / "read"
    frame = pickle.dumps(Trap(read))
    script = f"""
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind("\\0dask-flame-trap-{os.getpid()}")
    listening.listen()
    sock, _ = listening.accept()
    try:
        sock.sendall({struct.pack("2Q", 1, len(frame)) + frame!r})
        sock.recv(1)
    except OSError:
        pass
"""
    serving = asyncio.ensure_future(asyncio.to_thread(attack, script))
    address = PREFIX + location(f"\0dask-flame-trap-{os.getpid()}")
    why = ""
    while not why and not serving.done():
        try:
            await SocketConnector().connect(address.removeprefix(PREFIX))
        except FatalCommClosedError as error:
            why = str(error)
        except ConnectionRefusedError:  # it does not listen yet
            await asyncio.sleep(0.05)
    assert f"belongs to uid {ATTACKER}" in why
    await serving
    assert content(folder) == []

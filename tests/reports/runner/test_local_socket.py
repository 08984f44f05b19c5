"""The socket for reports of child processes: for this user only, wherever its folder is."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from dask_flame.reports.runner.local_socket import connect, listen

pytestmark = pytest.mark.process


def talk(listening: socket.socket, address: str) -> None:
    with listening, connect(address, 10) as one:
        other, _ = listening.accept()
        with other:
            other.sendall(b"hello\n")
            assert one.recv(10) == b"hello\n"


@pytest.mark.parametrize("length", [0, 300])
def test_it_is_in_a_folder_of_this_user(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("x" * (length // 2)) / ("y" * (length // 2))
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    before = os.umask(0)
    try:
        listening, address = listen(str(folder))
    finally:
        os.umask(before)
    assert Path(address).parent == folder
    assert stat.S_ISSOCK(os.stat(address).st_mode)
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o600
    talk(listening, address)


def test_a_folder_that_others_may_change_has_none(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for folder in ("open", "none"):
        listening, address = listen(str(tmp_path / folder))
        assert address.isdigit()
        talk(listening, address)
    assert list((tmp_path / "open").iterdir()) == []


def test_many_may_connect_before_any_is_accepted(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    async def meet() -> None:
        listening, address = listen(str(tmp_path))
        listening.listen(2)  # fewer than those that come
        connecting = [asyncio.to_thread(connect, address, 30.0) for _ in range(4)]
        waiting = asyncio.gather(*connecting)
        with listening:
            for _ in range(4):
                other, _ = await asyncio.to_thread(listening.accept)
                other.close()
        for one in await waiting:
            one.close()

    asyncio.run(meet())

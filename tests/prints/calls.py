"""What test_prints.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

from distributed import Event


def talk() -> None:
    print("a", "print")
    print("an error", file=sys.stderr)
    sys.stdout.write("written\n")
    logging.getLogger("mine").warning("take %s", "care")
    logging.getLogger("mine").info("not shown")
    warnings.warn("a warning", stacklevel=2)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    print("last", end="")


def pieces(me: str, gate: Event) -> None:
    gate.wait()
    for i in range(30):
        for piece in (me, " ", str(i)):
            sys.stdout.write(piece)
            time.sleep(0)
        sys.stdout.write("\n")


async def slowly(me: str) -> None:
    for i in range(5):
        print(me, end=" ")
        await asyncio.sleep(0.002)
        print(i)


def beneath(text: str, gate: Event | None = None) -> None:
    if gate is not None:
        gate.wait()
    subprocess.run(["echo", text], check=True)
    os.write(2, f"{text} again\n".encode())


def quick(n: int) -> None:
    os.write(1, f"raw {n}\n".encode())


def die(how: str) -> None:
    print("begun")
    print("last words")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    import ctypes

    ctypes.string_at(0)


def flood(lines: int, after: Event | None = None) -> None:
    for i in range(lines):
        print("line", i)
    if after is not None:
        after.wait()


def in_children() -> list[int | None]:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            print("parent", end="")
            print("", flush=True)
            time.sleep(0.0001)

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    fork = multiprocessing.get_context("fork")
    codes = []
    try:
        for i in range(8):
            child = fork.Process(target=print, args=("child", i), kwargs={"flush": True})
            child.start()
            child.join(40)
            codes.append(child.exitcode)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return codes


def captured(folder: str) -> str:
    path = Path(folder) / "captured"
    before = os.dup(1)
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        print("into the file")
        os.write(1, b"from beneath\n")
        os.dup2(before, 1)
    os.close(before)
    print("and back")
    sys.stdout.buffer.write(b"bytes\n")
    print("text")
    return path.read_text()


def endless(n: int) -> None:
    for _ in range(n):
        print("y" * 20_000, end="")

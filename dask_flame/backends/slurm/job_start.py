"""The first process of a job: ``python -m dask_flame.backends.slurm.job_start FILE`` (runner).

It reads the runner's command and configuration from FILE and removes it, so that private keys stay
on the shared disk only for as long as the job waits. It ends at once if the driver is gone: then
this job has waited longer than its driver lived. Otherwise it becomes the runner.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import ssl
import struct
import sys
import time
from typing import Any, NoReturn
from urllib.parse import urlsplit

from dask_flame.backends.slurm import scratch

#: Seconds for which a scheduler that refuses connections, or does not answer, is tried.
_WITHIN, _REFUSED_WITHIN, _ATTEMPT, _PAUSE = 60.0, 5.0, 10.0, 0.5
#: The request for the address of a network interface (Linux).
_SIOCGIFADDR = 0x8915


def main(arguments: list[str]) -> NoReturn:
    """Become the runner, or end with the reason as the last line of the output."""
    interface = ""
    if arguments[0] == "--interface":
        _, interface, *arguments = arguments
    folder = os.environ.get("TMPDIR", "")
    if os.path.basename(folder).startswith(scratch.PREFIX):
        scratch.keep(folder)
        scratch.remove_unused(os.path.dirname(folder))
    job = _take(arguments[0])
    config: dict[str, Any] = job["config"]
    if interface:
        config["host"] = _address_of(interface)
    _check_scheduler(config["scheduler"], config["security"])
    # The configuration has private keys: it is neither an argument nor a variable. The runner
    # closes the file when it has read it.
    file = _nameless_file(json.dumps(config), inherited=True)
    command = [sys.executable, *job["flags"], "-m", "dask_flame.runner.from_file", _path(file)]
    sys.stdout.flush()
    os.execve(sys.executable, command, {**os.environ, **job["environment"]})


def _take(file: str) -> dict[str, Any]:
    """Read a file and remove it."""
    try:
        with open(file) as source:
            job: dict[str, Any] = json.load(source)
    except FileNotFoundError:
        _end(f"{file} is gone, as is the driver of this job", 0)
    with contextlib.suppress(OSError):
        os.unlink(file)
    return job


def _nameless_file(content: str, *, inherited: bool = False) -> int:
    """Return an open file without a name, which ends with its last descriptor."""
    descriptor = os.memfd_create("dask-flame", 0 if inherited else os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "w") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _check_scheduler(address: str, security: dict[str, Any]) -> None:
    """Return if the scheduler can be connected to; end this process otherwise."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port or 0
    begun = time.monotonic()
    why: OSError
    while True:
        try:
            with socket.create_connection((host, port), timeout=_ATTEMPT) as connection:
                _shake_hands(connection, security)
            return
        except OSError as error:
            why = error
        refused = isinstance(why, ConnectionRefusedError)
        if time.monotonic() > begun + (_REFUSED_WITHIN if refused else _WITHIN):
            break
        time.sleep(_PAUSE)
    here = socket.gethostname()
    _end(
        f"the driver's scheduler, {address}, cannot be reached from node {here} ({why}): the "
        "driver is gone, or listens at an address that nodes do not reach; then write interface= "
        "with the name of the network that connects them, such as ib0; relevant settings: "
        "interface",
        1,
    )


def _shake_hands(connection: socket.socket, security: dict[str, Any]) -> None:
    """Do what the scheduler expects of a connection, which would warn of it otherwise."""
    if not security.get("tls_ca_file"):
        return
    context = ssl.create_default_context(cadata=security["tls_ca_file"])
    context.check_hostname = False  # as distributed does: the certificates are this cluster's own
    files = [_nameless_file(security[f"tls_worker_{what}"]) for what in ("cert", "key")]
    try:
        context.load_cert_chain(*map(_path, files))
    finally:
        for file in files:
            os.close(file)
    with context.wrap_socket(connection):
        pass


def _address_of(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("256s", interface.encode()[:15])
        try:
            answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
        except OSError as error:
            names = ", ".join(name for _, name in socket.if_nameindex())
            _end(
                f"node {socket.gethostname()} has no address at interface={interface!r} ({error}); "
                f"it has the interfaces {names}; relevant settings: interface",
                1,
            )
    return socket.inet_ntoa(answer[20:24])


def _end(why: str, code: int) -> NoReturn:
    print(why, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

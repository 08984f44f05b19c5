"""The program ``supervisor/__main__.py FD OWNER PARENT PLACE FOLDER FILES [KEY]`` (supervisor).

PLACE is where to create the scratch folder. FOLDER is a folder of the driver, to be removed when
the driver is gone. FILES is the limit of open files for runners; 0: the limit of this process.

A template takes half a second to import Dask, and a first call waits for it. Therefore it is forked
before the supervisor itself imports its modules, if the driver says by KEY that this process has
the environment of that kind. The kind is then the first message over FD.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import warnings

TYPE_CHECKING = False  # without the import of typing
if TYPE_CHECKING:
    from typing import Any

_ROOT = os.path.abspath(__file__).removesuffix(
    os.path.join("dask_flame", "backends", "local", "supervisor", "__main__.py")
)
#: Seconds to wait for the first kind. A later message works as well, only later.
_PATIENCE = 0.5


def main() -> None:
    """Fork the first template, if there is one; then run the supervisor."""
    descriptor, owner, parent, place, folder, files, *first = sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    received = b""
    seed = None
    if first:
        received = _line(connection)
        kind = json.loads(received) if received.endswith(b"\n") else {}
        if kind.get("key") == first[0]:
            seed = _fork(connection, kind, int(files))
    # Imported here, because the template does not need them.
    sys.path.insert(0, _ROOT)
    from dask_flame.backends.local.supervisor.runners import Forked
    from dask_flame.backends.local.supervisor.supervisor import Supervisor

    del sys.path[0]
    # The driver's warning filters are meant for runners; this process has no visible output.
    warnings.simplefilter("ignore")
    supervisor = Supervisor(
        connection, owner, int(parent), received, place=place, folder=folder, files=int(files)
    )
    if seed is not None:
        connection, pid, output = seed
        supervisor.launcher.seed = (connection, Forked(pid), output)
    supervisor.run()


def _line(connection: socket.socket) -> bytes:
    """Return the first line received, and no byte more; less if it does not arrive in time."""
    received = b""
    connection.settimeout(_PATIENCE)
    try:
        while not received.endswith(b"\n"):
            seen = connection.recv(1 << 16, socket.MSG_PEEK)
            if not seen:
                break
            received += connection.recv(seen.find(b"\n") + 1 or len(seen))
    except OSError:
        pass
    return received


def _fork(
    connection: socket.socket, kind: dict[str, Any], files: int
) -> tuple[socket.socket, int, int]:
    """Fork a template for this kind; return the connection to it, its process id, its output."""
    supervisor = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    if pid := os.fork():
        theirs.close()
        os.close(write)
        return ours, pid, read
    try:
        ours.close()
        connection.close()
        os.setsid()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files or soft, hard))
        for standard in (1, 2):
            os.dup2(write, standard)
        os.close(read)
        os.close(write)
        os.environ.clear()
        os.environ.update(kind["env"])
        sys.path.insert(0, _ROOT)
        from dask_flame.backends.local import fork_server

        del sys.path[0]
        sys.argv = [fork_server.__file__, str(theirs.detach()), str(supervisor)]
        fork_server.main(sys.argv[1:], kind)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()

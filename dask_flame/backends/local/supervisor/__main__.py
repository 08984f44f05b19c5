"""Where a guard begins: ``guard/__main__.py FD OWNER PARENT PLACE FOLDER FILES [KEY]`` (guard).

PLACE is where it makes its scratch folder, FOLDER one of the driver's, which goes when the driver
is gone, FILES the number of open files that runners may have, 0 for as many as this process.

A template takes half a second to import Dask, and a first call waits for it. So it is forked before
the guard itself imports what it needs, if the driver says that this process has been started with
the environment of the kind KEY, which is then the first thing that it says over FD.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import warnings

TYPE_CHECKING = False  # without what typing imports, and it with it
if TYPE_CHECKING:
    from typing import Any

_ROOT = os.path.abspath(__file__).removesuffix(
    os.path.join("dask_flame", "backends", "local", "supervisor", "__main__.py")
)
#: Seconds for the driver to say the first kind. What it says later is as good, if not as early.
_PATIENCE = 0.5


def main() -> None:
    """Fork the first template, if there is one; then guard."""
    descriptor, owner, parent, place, folder, files, *first = sys.argv[1:]
    connection = socket.socket(fileno=int(descriptor))
    heard = b""
    seed = None
    if first:
        heard = _line(connection)
        kind = json.loads(heard) if heard.endswith(b"\n") else {}
        if kind.get("key") == first[0]:
            seed = _fork(connection, kind, int(files))
    # Here, as the template needs none of it.
    sys.path.insert(0, _ROOT)
    from dask_flame.backends.local.supervisor.runners import Forked
    from dask_flame.backends.local.supervisor.supervisor import Supervisor

    del sys.path[0]
    # The driver's warning filters are for runners: nobody reads what this process warns of.
    warnings.simplefilter("ignore")
    guard = Supervisor(
        connection, owner, int(parent), heard, place=place, folder=folder, files=int(files)
    )
    if seed is not None:
        connection, pid, output = seed
        guard.seed = (connection, Forked(pid), output)
    guard.run()


def _line(connection: socket.socket) -> bytes:
    """The first line that is said, and no byte more; less if it does not come in time."""
    heard = b""
    connection.settimeout(_PATIENCE)
    try:
        while not heard.endswith(b"\n"):
            seen = connection.recv(1 << 16, socket.MSG_PEEK)
            if not seen:
                break
            heard += connection.recv(seen.find(b"\n") + 1 or len(seen))
    except OSError:
        pass
    return heard


def _fork(
    connection: socket.socket, kind: dict[str, Any], files: int
) -> tuple[socket.socket, int, int]:
    """Fork a template for runners of this kind: the connection to it, its process, its output."""
    guard = os.getpid()
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
        sys.argv = [fork_server.__file__, str(theirs.detach()), str(guard)]
        fork_server.main(sys.argv[1:], kind)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()

"""Where the repository is, and which ports are free."""

import contextlib
import random
import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port of an address that nobody uses."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Not one of those that connections are given: another process might have it before the pod.
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket(family) as found, contextlib.suppress(OSError):
            found.bind((address, port))
            return port

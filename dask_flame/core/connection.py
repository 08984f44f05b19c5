"""What another process of the same user needs to connect to a cluster (driver).

A backend keeps it where only those can read it who may act as the driver: in a Secret of the
cluster, or in a file of a folder of the user's own. It ends with the cluster.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import secrets
import socket
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ConnectionInfo:
    """How to connect to a cluster, and to become its driver.

    Attributes
    ----------
    address : str
        The scheduler's address, if it is in the driver's process; empty otherwise.
    security : mapping of str to str
        Arguments of :class:`distributed.Security`, with certificates and keys in place of the names
        of files. Empty: the connection is not encrypted.
    port, dashboard_port : int
        The ports of the scheduler's process; 0 if it is in the driver's process.
    service : str
        See :attr:`dask_flame.backends.SchedulerSpec.service`.
    key : str
        With it, the present driver seals what the next one needs. The scheduler does not know it.
    """

    address: str = ""
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    port: int = 0
    dashboard_port: int = 0
    service: str = ""
    key: str = field(default="", repr=False)

    def dumps(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> ConnectionInfo:
        """Return it from its text, which may come from another version of dask-flame."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})

    @property
    def secrets(self) -> list[str]:
        """The values that nobody else may see."""
        keys = [value for name, value in self.security.items() if name.endswith("_key")]
        return [*keys, *([self.key] if self.key else [])]

    @property
    def proof(self) -> str:
        """What shows the scheduler that a process has read this, without the key itself."""
        return hashlib.sha256(b"proof" + self.key.encode()).hexdigest()


def new_key() -> str:
    """Return a new :attr:`ConnectionInfo.key`."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def seal(key: str, content: bytes) -> bytes:
    """Compress and encrypt a content."""
    # An optional dependency, which TLS needs too.
    from cryptography.fernet import Fernet

    return Fernet(key.encode()).encrypt(zlib.compress(content))


def unseal(key: str, sealed: bytes) -> bytes:
    """Return a content that :func:`seal` has encrypted.

    Raises
    ------
    ValueError
        It was sealed with another key.
    """
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return zlib.decompress(Fernet(key.encode()).decrypt(sealed))
    except InvalidToken:
        raise ValueError("it was sealed with another key") from None


def this_process() -> str:
    """Describe this process for users of other ones."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def this_user() -> str:
    """Describe the user of this process, and its host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"

"""The token, and the addresses of Fly's APIs (driver)."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from dask_flame.backends.redact import HIDDEN
from dask_flame.core.redaction import hide
from dask_flame.errors import BackendError

PUBLIC = "https://api.machines.dev"
INTERNAL = "http://_api.internal:4280"
LOGS = "https://api.fly.io"
#: Minimum length of a part of a token that is hidden.
_TELLING = 8
_SCHEMES = ("bearer ", "flyv1 ")


@dataclass(frozen=True)
class Token:
    """A token of Fly. Neither its repr nor its str shows it.

    Attributes
    ----------
    value : str
    """

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        # From now on no text that this process shows has it.
        hide(self._parts())

    def __str__(self) -> str:
        return HIDDEN

    @property
    def header(self) -> str:
        """The value of the header ``Authorization``."""
        known = self.value.lower().startswith(_SCHEMES)
        return self.value if known else f"Bearer {self.value}"

    def clean(self, text: str) -> str:
        """Return a text without the token, which a server or a proxy may repeat."""
        for part in self._parts():
            text = text.replace(part, HIDDEN)
        return text

    def _parts(self) -> Iterable[str]:
        """Return the token, and the macaroons that it is made of, the longest first."""
        bare = self.value
        for scheme in _SCHEMES:
            if bare.lower().startswith(scheme):
                bare = bare[len(scheme) :]
        parts = {self.value, bare, *bare.split(",")}
        # A shorter text may occur in others by chance, and no token is as short.
        return sorted((part for part in parts if len(part) >= _TELLING), key=len, reverse=True)


def find_token(configured: str | None) -> Token:
    """Return the token of the configuration, or else of the environment.

    Raises
    ------
    BackendError
        If there is none.
    """
    value = (configured or os.environ.get("FLY_API_TOKEN") or "").strip()
    if not value:
        raise BackendError(
            "there is no token for Fly; type: export FLY_API_TOKEN=$(fly tokens create deploy -a "
            "APP), or set flame.fly.token in Dask's configuration to it"
        )
    if not value.isascii() or not value.isprintable():
        raise BackendError(
            "the token for Fly has characters that no token has, such as a line break; type: "
            "export FLY_API_TOKEN=$(fly tokens create deploy -a APP)"
        )
    return Token(value)


def find_base(configured: str | None, *, inside: bool) -> str:
    """Return the address of the Machines API.

    Parameters
    ----------
    configured : str or None
        ``flame.fly.api``.
    inside : bool
        Whether this process is in the private network of an organization.

    Raises
    ------
    BackendError
        If the token would cross a network unencrypted.
    """
    # The first is that of Fly's own documentation, the second flyctl's.
    variables = ("FLY_API_HOSTNAME", "FLY_FLAPS_BASE_URL")
    given = configured or next(filter(None, map(os.environ.get, variables)), None)
    return checked_base("flame.fly.api", given or (INTERNAL if inside else PUBLIC))


def checked_base(setting: str, base: str) -> str:
    """Return an address without its last slash.

    Raises
    ------
    BackendError
        If it is none, or the token would cross a network unencrypted.
    """
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise BackendError(
            f"{setting}={base.rpartition('@')[2]!r} is not the address of an API; write "
            f'dask.config.set({{"{setting}": "{PUBLIC}"}})'
        )
    if parts.scheme == "http" and not _is_private(parts.hostname):
        raise BackendError(
            f"{setting}={base!r} would send the token unencrypted to a host outside of Fly's "
            f'private network; write dask.config.set({{"{setting}": "https://{parts.netloc}"}})'
        )
    return base.rstrip("/")


def _is_private(host: str) -> bool:
    """Return whether a host is this machine, or in Fly's private network, which is encrypted."""
    if host == "localhost" or host.endswith(".internal"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address in ipaddress.ip_network("fdaa::/16")

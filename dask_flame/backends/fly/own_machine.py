"""The driver's own machine, if it is in one of Fly's (driver)."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OwnMachine:
    """The machine that the driver is in; all fields are empty if it is in none.

    Attributes
    ----------
    address : str
        Its address in the private network of its organization, IPv6.
    app, region, image : str
    """

    address: str = ""
    app: str = ""
    region: str = ""
    image: str = ""


def own_machine() -> OwnMachine:
    """Return the machine that this process is in, by the variables that Fly sets in it."""
    address = os.environ.get("FLY_PRIVATE_IP", "")
    if not is_address(address):
        return OwnMachine()
    get = os.environ.get
    return OwnMachine(
        address=address,
        app=get("FLY_APP_NAME", ""),
        region=get("FLY_REGION", ""),
        image=get("FLY_IMAGE_REF", ""),
    )


def is_address(text: str) -> bool:
    """Return whether this is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def bracketed(host: str) -> str:
    """Return a host as it is written before a port.

    Examples
    --------
    >>> bracketed("fdaa:0:1::3"), bracketed("10.0.0.1"), bracketed("[::1]")
    ('[fdaa:0:1::3]', '10.0.0.1', '[::1]')
    """
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

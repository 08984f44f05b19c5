"""A driver's surroundings for the Fly backend: the fake, and the variables of a machine."""

from __future__ import annotations

import dask
import pytest

from tests.fakes.fly import FakeFly

#: How many times faster than Fly the fake is, and allows requests; and as how much faster the
#: backend knows it. A busy machine delays requests by more than the moments between them.
SPEED, KNOWN_SPEED = 20, 10
#: The address of all machines and of the driver.
ADDRESS = "::1"


def inside(fly: FakeFly, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be in a machine of the fake's network."""
    for name, value in {
        "FLY_PRIVATE_IP": ADDRESS,
        "FLY_APP_NAME": "flame",
        "FLY_REGION": "ams",
        "FLY_IMAGE_REF": "registry.fly.io/flame:1",
    }.items():
        monkeypatch.setenv(name, value)
    reaching(fly, monkeypatch)


def reaching(fly: FakeFly, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead the way to the fake."""
    monkeypatch.setenv("FLY_API_TOKEN", fly.token)
    monkeypatch.setenv("FLY_API_HOSTNAME", fly.url)


def settings(fly: FakeFly) -> dask.config.set:
    """Return the configuration for the fake."""
    return dask.config.set({"flame.fly.rate": KNOWN_SPEED, "flame.fly.logs-api": fly.url})

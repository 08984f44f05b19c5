"""A caller of the fake Fly's API, and what tests ask of its machines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from tests.fakes.fly import FakeFly
from tests.support.waiting import wait_for

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


class Caller(httpx.Client):
    """Calls the API of a fake for one app.

    Parameters
    ----------
    fly : FakeFly
    app : str
    token : str, optional
        By default the fake's.
    """

    def __init__(self, fly: FakeFly, app: str = "flame", token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token or fly.token}"}
        self._fly = fly
        super().__init__(base_url=f"{fly.url}/v1/apps/{app}", headers=headers, timeout=90)

    def ok(self, method: str, path: str, **how: Any) -> Any:
        """Call, and return the JSON of the answer; it has to be 2xx."""
        response = self.request(method, path, **how)
        assert response.is_success, (response.status_code, response.text)
        return response.json() if response.content else None

    def make(self, name: str | None = None, **config: Any) -> str:
        """Create a machine, one that sleeps if nothing else is said; return its id."""
        created: str = self.ok("POST", "/machines", json=body(name, **config))["id"]
        return created

    def state(self, machine: str) -> str:
        """Return a machine's state, without a request that counts."""
        states = {m["id"]: m["state"] for m in self._fly.machines(deleted=True)}
        return str(states[machine])

    def reaches(self, machine: str, *states: str) -> None:
        """Return when a machine is in one of some states."""
        wait_for(lambda: self.state(machine) in states, what=f"one of {states}")

    def started(self, name: str | None = None, **config: Any) -> str:
        """Create a machine, and return its id when it runs."""
        machine = self.make(name, **config)
        self.reaches(machine, "started")
        return machine


def body(
    name: str | None = None,
    *,
    command: Sequence[str] = SLEEP,
    region: str | None = None,
    skip_launch: bool = False,
    guest: Mapping[str, Any] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Return the body of a create request.

    Parameters
    ----------
    name : str, optional
    command : sequence of str
        Of ``init.exec``.
    region : str, optional
    skip_launch : bool
    guest : mapping, optional
    **config : object
        More of the configuration.
    """
    config = {
        "image": "registry.fly.io/flame:1",
        "init": {"exec": list(command)},
        "restart": {"policy": "no"},
        **({"guest": dict(guest)} if guest else {}),
        **config,
    }
    made = {"name": name, "region": region, "skip_launch": skip_launch or None, "config": config}
    return {key: value for key, value in made.items() if value is not None}

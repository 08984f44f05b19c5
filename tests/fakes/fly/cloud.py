"""The fake Fly: its parts, its life, and what tests look at (test process)."""

from __future__ import annotations

import base64
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.fly import specification
from tests.fakes.fly.api import Api
from tests.fakes.fly.life import Lives
from tests.fakes.fly.machine import AT_REST, GONE
from tests.fakes.fly.mischief import Mischief
from tests.fakes.fly.rates import Buckets, Rate
from tests.fakes.fly.regions import Capacity
from tests.fakes.fly.requests import Requests
from tests.fakes.fly.server import Server
from tests.fakes.fly.settings import Delays, Settings
from tests.fakes.fly.store import App, Rules


def six_pn(index: int) -> str:
    """Return an address of the form that Fly's private networks have; nothing listens there.

    Examples
    --------
    >>> six_pn(1)
    'fdaa:0:18:a7b:7d:0:1:2'
    """
    return f"fdaa:0:18:a7b:7d:{index >> 16:x}:{index & 0xFFFF:x}:2"


class FakeFly(Mischief):
    """The Machines API over HTTP, whose machines are processes of this computer.

    Its event loop runs in a thread of its own; everything here may be called from any thread. It is
    a context manager, for ``with`` and for ``async with``. At its end every process and folder is
    gone; so they are when the process of the tests is killed with SIGKILL.

    Parameters
    ----------
    apps : iterable of str
        Names of the apps that there are, of the organization ``personal``.
    token : str, optional
        What is accepted as ``Authorization: Bearer …``. By default one is made up.
    speed : float
        How many times faster than the real ones the rate limits refill and the states change.
        The timeouts of `wait` and `stop` are in real seconds.
    delays : Delays, optional
        Seconds between states, before they are divided by ``speed``.
    rates : mapping of str to Rate, optional
        By action, in place of the published limits.
    limit : int or None
        Machines that the organization may have.
    region : str
        Where a machine goes that names none.
    capacity : mapping, optional
        By region, or by region and ``cpu_kind``, how many running machines there is room for.
    private_ip : str or callable
        Of machines: ``"6pn"`` for addresses that look like Fly's; an address that all have, as
        ``"::1"`` or ``"127.0.0.1"``; or a function of how many machines were made before. The
        machine finds it as ``FLY_PRIVATE_IP``, and ``<id>.vm.<app>.internal`` in its arguments and
        variables is replaced by it.
    images : mapping, optional
        By image, its ``entrypoint`` and ``cmd``. Every other image has neither.
    bad_images : mapping, optional
        By image, why it cannot be had.
    pythons : mapping, optional
        By image, the program that ``python`` is in it; by default the one that runs this.
    secrets : mapping of str to str, optional
        Of every app: variables of its machines, and files by ``secret_name``.
    env : mapping of str to str, optional
        Variables of all machines, as if their image had them.
    validate : bool
        Whether requests are checked against the specification, where that is: see `validates`.

    Attributes
    ----------
    url : str
        The base, without ``/v1``.
    token : str
    requests : Requests
        All that was asked, in order.
    violations : list of str
        Requests that broke the specification; they are refused with 400.

    Notes
    -----
    What a real Fly has and this has not: hosts, the proxy in front of services, health checks,
    volumes with a content of their own, snapshots, logs (`log` reads what a machine has printed).
    Whether the words of its errors are Fly's is known for name conflicts, `wait`, 429, memory and
    a start of an active machine.

    Examples
    --------
    >>> with FakeFly(speed=20) as fly:
    ...     fly.stick()                               # the next machine never starts
    ...     fly.fail("create", status=503, times=2)   # but first, two failures
    """

    def __init__(
        self,
        *,
        apps: Iterable[str] = ("flame",),
        token: str | None = None,
        speed: float = 1.0,
        delays: Delays | None = None,
        rates: Mapping[str, Rate] | None = None,
        limit: int | None = 50,
        region: str = "ams",
        capacity: Mapping[str | tuple[str, str], int] | None = None,
        private_ip: str | Callable[[int], str] = "6pn",
        images: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        bad_images: Mapping[str, str] | None = None,
        pythons: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__(name="Fly", prefix="dask-flame-fly-")
        self.token = token or _made_up()
        self._tokens = {self.token}
        self._skew = 0.0
        self._specification = specification.find() if validate else None
        self._buckets = Buckets(speed=speed, rates=rates)
        self._settings = Settings(
            Path(),
            delays or Delays(),
            speed,
            images=dict(images or {}),
            pythons=dict(pythons or {}),
            env=dict(env or {}),
        )
        for app in apps:
            self._settings.secrets[app] = {
                name: base64.b64encode(value.encode()).decode()
                for name, value in (secrets or {}).items()
            }
        address = six_pn if private_ip == "6pn" else private_ip
        self._rules = Rules(
            limit,
            region,
            Capacity(dict(capacity or {})),
            address if callable(address) else lambda index: address,
            dict(bad_images or {}),
        )
        self._apps = list(apps)

    def __repr__(self) -> str:
        return f"<FakeFly with {', '.join(self._apps) or 'no app'}>"

    async def _begin(self) -> None:
        self._settings.folder = self._folder
        self._lives = Lives(self._settings, lambda machine: self._api.address(machine))
        self._api = Api(self._lives, self._rules, self._clock)
        for name in self._apps:
            self._api.apps[name] = App(name, "personal")
        self._server = Server(
            self._api, self._buckets, self._tokens, self._clock, self._specification
        )
        await self._lives.host.begin()
        await self._server.start()

    def _clock(self) -> float:
        return time.time() + self._skew

    async def _end(self) -> list[BaseException]:
        errors: list[BaseException] = []
        if hasattr(self, "_server"):
            await self._server.close()
            errors.extend(self._server.errors)
        if hasattr(self, "_lives"):
            await self._lives.close()
            errors.extend(self._lives.errors)
        return errors

    # Reaching it

    @property
    def requests(self) -> Requests:
        return self._server.requests

    @property
    def violations(self) -> list[str]:
        return self._server.violations

    @property
    def validates(self) -> bool:
        """Whether requests are checked: the specification and jsonschema are on this computer."""
        return self._specification is not None

    @property
    def host_pid(self) -> int:
        """The process that runs the machines."""
        return self._lives.host.pid

    # What there is

    def machines(self, *, deleted: bool = False) -> list[dict[str, Any]]:
        """Return all machines as the API answers of them, oldest first.

        Parameters
        ----------
        deleted : bool
            Whether those that are destroyed are among them.
        """
        return self._call(lambda: [m.answer() for m in self._api.machines() if deleted or m.here])

    def states(self) -> dict[str, str]:
        """Return the state of each machine by its name, those that are destroyed too."""
        return self._call(lambda: {m.name: m.state for m in self._api.machines()})

    @property
    def pids(self) -> list[int]:
        """Of the processes of machines."""
        return self._call(lambda: list(self._lives.host.pids.values()))

    def left(self) -> list[str]:
        """Return what costs something still, as lines to read: machines, processes."""

        def left() -> list[str]:
            machines = [
                f"machine {m.name} ({m.id}): {m.state}"
                for m in self._api.machines()
                if m.state != "destroyed"
            ]
            return machines + [f"process {pid}" for pid in self._lives.host.pids.values()]

        return self._call(left)

    def running(self) -> list[str]:
        """Return the names of machines that are neither at rest nor gone."""
        idle = (*AT_REST, *GONE)
        return self._call(lambda: [m.name for m in self._api.machines() if m.state not in idle])

    def stuck(self) -> list[str]:
        """Return the names of machines that stay in the state ``created``."""

        def stuck() -> list[str]:
            return [
                machine.name
                for machine in self._api.machines()
                if machine.state == "created" and machine.stuck and not machine.stuck.is_set()
            ]

        return self._call(stuck)

    def log(self, machine: str) -> str:
        """Return what a machine has printed, one that is destroyed too."""

        def find() -> Path:
            for found in self._api.machines():
                if machine in (found.id, found.name):
                    return self._lives.inside.log(found)
            raise KeyError(f"no machine was ever called {machine!r}")

        with contextlib.suppress(FileNotFoundError):
            return self._call(find).read_text(errors="replace")
        return ""

    def logs(self) -> str:
        """Return what all machines have printed, those that are destroyed too."""
        folder = self._settings.folder
        return "\n".join(p.read_text(errors="replace") for p in sorted(folder.glob("m*.log")))


def _made_up() -> str:
    return f"fm2_{secrets.token_urlsafe(32)}"

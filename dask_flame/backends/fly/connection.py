"""Find the app, the token and the API, and check that they go together (driver)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dask_flame.backends.fly.api.client import FlyApi
from dask_flame.backends.fly.api.credentials import (
    LOGS,
    Token,
    checked_base,
    find_base,
    find_token,
)
from dask_flame.backends.fly.api.errors import FlyError
from dask_flame.backends.fly.api.pace import Pace
from dask_flame.backends.fly.options import FlyOptions
from dask_flame.backends.fly.own_machine import OwnMachine
from dask_flame.errors import BackendError


@dataclass(frozen=True)
class Connection:
    """The way to the machines of one app.

    Attributes
    ----------
    api : FlyApi
    token : Token
    logs : str
        Address of the API for output.
    factor : float
        How many times more than the published rates Fly allows.
    """

    api: FlyApi
    token: Token = field(repr=False)
    logs: str
    factor: float

    async def close(self) -> None:
        """Close all connections."""
        await self.api.close()


def open_connection(app: str, own: OwnMachine, *, write: str) -> Connection:
    """Return the connection for an app, by the configuration and the environment.

    Parameters
    ----------
    app : str
        Empty for the app that the driver's machine belongs to.
    own : OwnMachine
    write : str
        How the user names an app, for the error if there is none.

    Raises
    ------
    BackendError
    """
    app = app or own.app
    if not app:
        raise BackendError(
            "there is no app for the machines; type: fly apps create my-runners, and write "
            f"{write} (or set flame.fly.app in Dask's configuration)"
        )
    setting = FlyOptions.setting
    token = find_token(setting("token"))
    base = find_base(setting("api"), inside=bool(own.address))
    logs = checked_base("flame.fly.logs-api", setting("logs-api") or LOGS)
    factor = setting("rate")
    return Connection(FlyApi(app, token, base, logs, pace=Pace(factor)), token, logs, factor)


async def connect(app: str, own: OwnMachine, *, write: str = 'app="my-runners"') -> Connection:
    """Return the connection for an app, once Fly has answered that there is such an app.

    Raises
    ------
    BackendError
    """
    connection = open_connection(app, own, write=write)
    try:
        await connection.api.check()
    except FlyError as error:
        await connection.close()
        raise BackendError(_refusal(error, connection.api)) from None
    except BaseException:
        await connection.close()
        raise
    return connection


def _refusal(error: FlyError, api: FlyApi) -> str:
    if error.status == 404:
        return f"there is no app {api.app!r}: {error}; type: fly apps create {api.app}"
    if error.status in (401, 403):
        return (
            f"the token is not for the app {api.app!r}: {error}; type: export "
            f"FLY_API_TOKEN=$(fly tokens create deploy -a {api.app})"
        )
    return f"the Machines API cannot be used: {error}"

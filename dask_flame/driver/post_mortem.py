"""Look at the frames of a call that has failed, on its runner (driver)."""

from __future__ import annotations

from typing import Any

from distributed import Client, Future

from dask_flame.attached.client.outcomes import CellOutcome
from dask_flame.attached.looking.failures import Failure, Frame
from dask_flame.attached.looking.wire import unpacked
from dask_flame.core.messages import POST_MORTEM
from dask_flame.core.option_checks import shown
from dask_flame.driver.attached_runners import AttachedRunner, attach_runner
from dask_flame.errors import AttachError, FlameError


class PostMortem:
    """The frames of a failed call, with the values of their variables as text.

    Attributes
    ----------
    call, runner, error : str
    frames : tuple of Frame
        The outermost comes first. ``frames[-1].locals`` are the variables where it has failed.
    """

    def __init__(self, client: Client, key: Any, failure: Failure, frame: int = -1) -> None:
        self._client = client
        self._key = key
        self._failure = failure
        self._frame = frame
        self._attached: AttachedRunner | None = None

    @property
    def call(self) -> str:
        return self._failure.call

    @property
    def runner(self) -> str:
        return self._failure.runner

    @property
    def error(self) -> str:
        return self._failure.error

    @property
    def frames(self) -> tuple[Frame, ...]:
        return self._failure.frames

    def frame(self, number: int) -> PostMortem:
        """Return the same with another frame for :meth:`run`: 0 is the outermost."""
        frames = len(self.frames)
        if type(number) is not int or not -frames <= number < frames:
            raise FlameError(
                f"frame {shown(number)} does not exist: {self.call} has {frames} frames; write "
                "frame(0) for the outermost, or frame(-1) for the innermost"
            )
        return PostMortem(self._client, self._key, self._failure, number)

    def run(self, code: str, *, timeout: Any = None) -> Any:
        """Run code in the frame, on the runner, and return the value of its last expression.

        The code can use all names of the frame. Names that it assigns are known to further code,
        and do not change the frame. ``%%flame on=`` and a variable with this object runs a cell
        there, with its prints and displays.

        Parameters
        ----------
        code : str
        timeout : float or str, optional
            Maximum duration; 60 seconds by default.

        Raises
        ------
        CellError
            The code has raised.
        AttachError
            The runner has ended, or does not keep the frames any more.
        """
        limit = {} if timeout is None else {"timeout": timeout}
        return self.attached_application().run(code, **limit)

    def run_cell(self, source: str, **options: Any) -> CellOutcome:
        """Run a cell in the frame, and return how it has ended; see ``Application.run_cell``."""
        return self.attached_application().run_cell(source, **options)

    def attached_application(self) -> AttachedRunner:
        """Return the attachment in which code runs; it is made when it is first needed."""
        if self._attached is None or not self._attached.attached:
            options = {"key": self._key, "frame": self._frame}
            try:
                self._attached = attach_runner(self._client, self.runner, **options)
            except AttachError as error:
                raise AttachError(f"{self.call}, frame {self._frame}: {error}") from None
        return self._attached

    def close(self) -> None:
        """Detach; what the code has assigned is forgotten. The runner keeps the frames."""
        if self._attached is not None:
            self._attached.detach()
            self._attached = None

    def release(self) -> None:
        """Release the frames on the runner, and everything that they refer to.

        Cells that use one of them are stopped. Nothing happens if they were released before.
        """
        self.close()

        async def ask() -> None:
            # By the runner: the call may be forgotten, with the last future of it.
            options = {"release": True, "runner": self.runner}
            try:
                await _asked(self._client, self._key, **options)
            except FlameError:
                if self.runner in await _runners(self._client):
                    raise

        self._client.sync(ask)

    def __enter__(self) -> PostMortem:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._failure)

    def _repr_html_(self) -> str:
        return self._failure._repr_html_()


def post_mortem(future: Future) -> Any:
    """Return the frames of a call that has failed, with the values of their variables.

    Its pool must have ``post_mortem=True``. A runner keeps the frames of its last five failed calls
    until they are released, or until it ends: it ends after ``idle_timeout`` as usual.

    Parameters
    ----------
    future : distributed.Future
        Of the call. This waits until it has ended.

    Returns
    -------
    PostMortem
        With an asynchronous client, an awaitable.

    Raises
    ------
    FlameError
        The call has not failed; its runner has ended; or its frames are not kept.

    Examples
    --------
    >>> pm = dask_flame.post_mortem(future)         # doctest: +SKIP
    >>> pm.frames[-1].locals["batch"]               # doctest: +SKIP
    'ndarray (32, 128) float32'
    >>> pm.run("batch.mean()")                      # doctest: +SKIP
    nan
    """
    if not isinstance(future, Future):
        raise TypeError(
            f"future={shown(future)} is not a future; write post_mortem(client.submit(train, 0.1))"
        )
    client: Client = future.client
    return client.sync(_post_mortem, client, future)


async def _post_mortem(client: Client, future: Future) -> PostMortem:
    error = await future.exception(asynchronous=True)
    if error is None:
        raise FlameError(f"{future.key} has not failed: it is {future.status}")
    answer = await _asked(client, future.key)
    return PostMortem(client, answer["key"], unpacked(Failure, answer["found"]))


async def _runners(client: Client) -> set[str]:
    """Return the names of the runners that are up."""
    about = await client.scheduler.identity(n_workers=-1)
    return {worker["name"] for worker in about["workers"].values()}


async def _asked(client: Client, key: Any, **options: Any) -> dict[str, Any]:
    about = await client.scheduler.identity(n_workers=0)
    if about["type"] != "FlameScheduler":
        raise FlameError(
            "post_mortem() needs a FlameCluster, and the scheduler of this client is another one; "
            "write client = Client(FlameCluster(post_mortem=True))"
        )
    answer: dict[str, Any] = await getattr(client.scheduler, POST_MORTEM)(
        key=key, client=client.id, **options
    )
    if "failed" in answer:
        raise FlameError(answer["failed"])
    return answer

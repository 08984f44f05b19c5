"""The application to which a notebook is attached (driver)."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

from dask_flame.attached.client.channel import Answer, Answers, Channel, Silent
from dask_flame.attached.client.looks import Looks
from dask_flame.attached.client.outcomes import CellOutcome, Completions, outcome
from dask_flame.attached.client.output import printed
from dask_flame.attached.looking.values import Stacks
from dask_flame.errors import AttachError

#: Called with each output of a cell: ``{"type": "stream", "name": "stdout", "text": …}``,
#: ``{"type": "display", "data": …, "metadata": …, "transient": …, "update": …}`` or
#: ``{"type": "clear", "wait": …}``.
OnOutput = Callable[[dict[str, Any]], object]
#: Value of a timeout that is the application's default.
_DEFAULT = object()


class Application(Looks):
    """One instance of an application, as :func:`attach` returns it.

    Use it as a context manager, or call :meth:`detach`; dropping it detaches, too. The application
    forgets what its cells have assigned when the notebook detaches or ends.

    Attributes
    ----------
    name : str
    pid : int
        Its process id, as it sees it itself.
    about : dict
        ``started`` (seconds since the epoch), ``command``, ``readonly``.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._finalizer = weakref.finalize(self, channel.close)
        hello = channel.hello
        self.name = str(hello["application"])
        self.pid = int(hello["pid"])
        self.about = {key: hello.get(key) for key in ("started", "command", "readonly")}

    # Looking

    def ask(self, question: str, *, within: float | None = None, **options: Any) -> Any:
        """Return the answer to a question: data, or an iterator if it comes in parts.

        Parameters
        ----------
        question : str
            Such as ``"about"``.
        within : float, optional
            Maximum number of seconds for the first part.
        **options
            Of the question.

        Raises
        ------
        AttachError
            There is no such question, or it was refused.
        Silent
            No answer has come in time.
        """
        answers = self._channel.answers("ask", question=question, options=options)
        try:
            first = answers.next(within)
        except Silent:
            answers.close()
            raise
        if first[0]["is"] == "done":
            return first[0]["answer"]
        return _parts(self, first, answers)

    def complete(
        self, code: str, cursor: int | None = None, *, within: float | None = None
    ) -> Completions:
        """Return the names that fit at a place in code, from the live objects of the application.

        Parameters
        ----------
        code : str
        cursor : int, optional
            Number of characters before the cursor; default: all.
        within : float, optional
            Seconds after which to give up, with an AttachError.
        """
        cursor = len(code) if cursor is None else cursor
        answered, _ = self._channel.request("complete", within=within, code=code, cursor=cursor)
        answer = answered["answer"]
        return Completions(
            tuple(answer["matches"]),
            answer["start"],
            answer["end"],
            tuple(answer["types"]),
            tuple(answer["signatures"]),
        )

    def inspect(
        self,
        code: str,
        cursor: int | None = None,
        detail: int = 0,
        *,
        within: float | None = None,
    ) -> dict[str, Any]:
        """Return the documentation of the object at a place in code.

        Parameters
        ----------
        code : str
        cursor : int, optional
            Number of characters before the cursor; default: all.
        detail : int, default 0
            1: the source of the object, too.
        within : float, optional
            Seconds after which to give up, with an AttachError.

        Returns
        -------
        dict
            ``found``, ``name``, and ``data``, by MIME type.
        """
        cursor = len(code) if cursor is None else cursor
        answer, _ = self._channel.request(
            "inspect", within=within, code=code, cursor=cursor, detail=detail
        )
        return dict(answer["answer"])

    def is_complete(self, code: str) -> dict[str, str]:
        """Return whether code can be run as it is.

        Returns
        -------
        dict
            ``status``: ``complete``, ``incomplete`` or ``invalid``; ``indent`` of the next line.
        """
        return dict(self._channel.request("is_complete", code=code)[0]["answer"])

    # Running

    def run_cell(
        self,
        source: str,
        *,
        on_output: OnOutput | None = None,
        timeout: Any = _DEFAULT,
        quiet: bool = False,
    ) -> CellOutcome:
        """Run a cell inside the application, and return how it has ended.

        KeyboardInterrupt interrupts the cell. Nothing is unpickled.

        Parameters
        ----------
        source : str
        on_output : callable, optional
            Called with each output as it comes; default: output is written as if it was printed
            here.
        timeout : float, str or None
            Time limit in seconds, or as ``"5m"``; default: that of the application, 60 seconds.
        quiet : bool, default False
            Whether to drop the value of the last expression.

        Raises
        ------
        AttachError
            The application has refused it, or has ended. An error of the cell is not raised.
        """
        answer, _ = self._run(b"", on_output, timeout, source=source, quiet=quiet)
        return outcome(answer)

    def run(
        self,
        code: str | Callable[..., Any],
        *args: Any,
        timeout: Any = _DEFAULT,
        most: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a function or a cell inside the application, and return its value.

        The value is pickled there and unpickled here, so that the notebook trusts the application.
        :meth:`run_cell` fetches nothing.

        Parameters
        ----------
        code : callable or str
            A function, which is pickled with cloudpickle, or the source of a cell.
        *args, **kwargs
            Arguments of the function.
        timeout : float, str or None
            As for :meth:`run_cell`.
        most : int, optional
            Maximum size of the value in bytes; default: 64 MiB.

        Raises
        ------
        CellError
            The code has failed; the error has the name it had there.
        AttachError
            The application has refused it, or has ended.
        """
        options: dict[str, Any] = {"fetch": True, "most": most}
        data = b""
        if isinstance(code, str):
            if args or kwargs:
                raise AttachError("a cell takes no arguments; write app.run(function, argument)")
            options["source"] = code
        else:
            if not callable(code):
                raise AttachError(
                    f"{code!r} is neither a function nor the source of a cell; write for example "
                    'app.run("1 + 1")'
                )
            data = cloudpickle.dumps((code, args, kwargs))
            options["source"] = f"{getattr(code, '__name__', code)}(…)"
        answer, value = self._run(data, None, timeout, **options)
        how = outcome(answer)
        if how.error is not None:
            raise how.error
        return pickle.loads(value)

    def fetch(self, name: str, *, most: int | None = None) -> Any:
        """Return the value of a name that a cell has assigned; ``app[name]`` does so, too.

        Parameters
        ----------
        name : str
        most : int, optional
            Maximum size in bytes; default: 64 MiB.
        """
        return pickle.loads(self._channel.request("value", name=name, most=most)[1])

    def __getitem__(self, name: str) -> Any:
        return self.fetch(name)

    def names(self) -> list[str]:
        """Return the names that cells of this attachment have assigned."""
        return list(self._channel.request("names")[0]["answer"])

    def interrupt(self) -> None:
        """Interrupt the running cell of this attachment, from another thread."""
        self._channel.tell("interrupt")

    def _from_outside(self, why: str) -> Stacks:
        if not self._channel.here:
            raise AttachError(f"{self.name}: {why}, and it is not a process of this machine")
        return super()._from_outside(why)

    def detach(self) -> None:
        """Detach. The application forgets what the cells of this attachment have assigned."""
        self._finalizer()

    @property
    def attached(self) -> bool:
        """Whether the connection lives."""
        return not self._channel.closed

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached" if self.attached else "detached"
        return f"<Application {self.name!r}, pid {self.pid}: {state}>"

    def _run(
        self, data: bytes, on_output: OnOutput | None, timeout: Any, **options: Any
    ) -> tuple[dict[str, Any], bytes]:
        if timeout is not _DEFAULT:
            options["timeout"] = _seconds(timeout)
        show = on_output if on_output is not None else printed
        answers = self._channel.answers("run", data, **options)
        interrupts = 0
        try:
            while True:
                try:
                    # A signal may arrive in here, too: no part is lost.
                    answer, value = answers.next()
                    if answer["is"] == "done":
                        return answer, value
                    show(answer["output"])
                except KeyboardInterrupt:
                    interrupts += 1
                    if interrupts > 1:
                        raise
                    self.interrupt()
        finally:
            answers.close()  # nobody would listen any more


def _parts(application: Application, first: Answer, answers: Answers) -> Iterator[Any]:
    with answers:
        answer = first[0]
        while answer["is"] == "item":
            yield answer["answer"]
            answer, _ = answers.next()
    del application  # it detaches when nothing refers to it any more


def _seconds(timeout: Any) -> float | None:
    from dask.utils import parse_timedelta

    if timeout is None:
        return None
    try:
        seconds = float(parse_timedelta(timeout))
    except (TypeError, ValueError, KeyError):
        raise AttachError(
            f'timeout={timeout!r} is not a duration; write for example timeout="5m"'
        ) from None
    if not seconds > 0:
        raise AttachError(f"timeout={timeout!r} is not positive; write None for no limit")
    return seconds

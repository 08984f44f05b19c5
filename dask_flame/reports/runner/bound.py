"""``report.bind()``: reports of a call from any thread, and from processes that it starts."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

from dask_flame.reports.runner.validate import (
    COMPLAINTS,
    LAST_STEP,
    WORKS,
    InvalidValue,
    number,
    whole_step,
)

if TYPE_CHECKING:
    from dask_flame.reports.runner.sender import ReportSender
    from dask_flame.reports.wire import RunningCall

#: Tells a process that a call has started where to bring its reports.
VARIABLE = "DASK_FLAME_REPORT"
#: Seconds that a runner may take to take in a report of another process.
_WITHIN = 30.0


class BoundReport:
    """:func:`dask_flame.report`, bound to one call; made by ``report.bind()``.

    It is called as that is, from any thread, and can be pickled: the target of a
    ``multiprocessing.Process`` may take it as an argument. Any other program on the same machine
    whose environment has `env` reports for the call by plain :func:`dask_flame.report`.

    From another process a report takes about 0.1 ms: it waits until the runner has it, so that
    nothing is lost when the process ends. It never raises: where the runner is gone, it warns once.

    Attributes
    ----------
    env : dict of str to str
        To be put in the environment of a program: it has a secret that lets report for this call.
    """

    def __init__(self, port: int = 0, secret: str = "") -> None:
        self._port = port
        self._secret = secret
        self._local: tuple[ReportSender, RunningCall] | None = None
        self._lock = threading.Lock()
        self._pid = 0
        self._file: Any = None
        self._gone = False
        self._complaints: set[str] = set()
        self._tracked = 0

    @classmethod
    def local(cls, sender: ReportSender, call: RunningCall) -> BoundReport:
        """Of a call of this process."""
        bound = cls(*sender.channel.bind(call))
        bound._local = sender, call
        return bound

    @property
    def env(self) -> dict[str, str]:
        return {VARIABLE: f"{self._port}:{self._secret}"} if self._port else {}

    def __call__(
        self,
        *unnamed: Mapping[str, SupportsFloat | None],
        step: Any = None,
        **values: SupportsFloat | None,
    ) -> None:
        if unnamed:
            values = named(unnamed, self._complain) | values
            if not values:
                return
        step, numbers = checked(step, values, self._complain)
        if not numbers:
            return
        if self._local is not None and self._local[0].here:
            sender, call = self._local
            sender.add(call, step, numbers)
        else:
            self._say({"step": step, "values": numbers})

    def aside(self, step: int, values: dict[str, float]) -> None:
        """Report from another process, where other steps do not go on from this one."""
        self._say({"step": step, "values": values, "aside": True})

    def count(self, new: int, values: dict[str, float]) -> None:
        """Report from another process at a step that counts what that process does."""
        self._tracked += new
        self.aside(self._tracked, values)

    def _complain(self, about: str, message: str) -> None:
        if self._local is not None and self._local[0].here:
            sender, call = self._local
            sender.complain(call, about, message)
        elif about not in self._complaints and len(self._complaints) < COMPLAINTS:
            self._complaints.add(about)
            with contextlib.suppress(UserWarning):
                warnings.warn(message, stacklevel=4)
            self._say({"about": about, "complaint": message})

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundReport, (self._port, self._secret)

    def __repr__(self) -> str:
        return "<report() bound to a call>"

    def _say(self, what: dict[str, Any]) -> None:
        with self._lock:
            if self._gone or not self._port:
                return
            try:
                if self._pid != os.getpid():
                    # Two processes must not speak over one connection.
                    self._file = self._connect()
                    self._pid = os.getpid()
                _ask(self._file, what)
            except (OSError, ValueError) as error:
                self._gone = True
                why = f"report() cannot reach the runner of its call any more: {error}"
                with contextlib.suppress(UserWarning):
                    warnings.warn(why, stacklevel=4)

    def _connect(self) -> Any:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_WITHIN)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            # It goes on until the file is closed as well.
            file = connection.makefile("rwb")
        _ask(file, self._secret)
        return file


def _ask(file: Any, what: Any) -> None:
    file.write(json.dumps(what).encode() + b"\n")
    file.flush()
    if file.readline() != b"\n":
        raise ConnectionError("it has closed the connection")


def named(
    unnamed: Iterable[Any], complain: Callable[..., object], *args: Any
) -> dict[str, SupportsFloat | None]:
    """What was given without names, if it is a mapping that has them; the rest is complained of."""
    values: dict[str, SupportsFloat | None] = {}
    for what in unnamed:
        if isinstance(what, Mapping) and all(type(name) is str for name in what):
            values.update(what)
        else:
            kind = type(what).__name__
            complain(*args, "", f"report() got a value without a name, of type {kind}; {WORKS}")
    return values


def checked(
    step: Any, values: Mapping[str, Any], complain: Callable[..., object], *args: Any
) -> tuple[int | None, dict[str, float]]:
    """What of this can be reported; the rest is complained of.

    Parameters
    ----------
    step : object
    values : mapping of str to object
        None: there is none this time.
    complain : callable
        Takes `args`, what it is about, and one line.
    """
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if type(value) is float:
            numbers[name] = value
        elif value is not None:
            try:
                numbers[name] = number(name, value)
            except InvalidValue as error:
                complain(*args, name, str(error))
    if step is not None and (type(step) is not int or not 0 <= step <= LAST_STEP):
        try:
            step = whole_step(step)
        except InvalidValue as error:
            complain(*args, "step", str(error))
            step = None
    if not values:
        complain(*args, "", f"report() got no value; {WORKS}")
    return step, numbers


@functools.lru_cache(maxsize=4)
def _of(text: str) -> BoundReport | None:
    port, _, secret = text.partition(":")
    return BoundReport(int(port), secret) if port.isdigit() and secret else None


def from_environment() -> BoundReport | None:
    """Of the call that has started this process, if it has handed down its `env`."""
    text = os.environ.get(VARIABLE)
    return _of(text) if text else None

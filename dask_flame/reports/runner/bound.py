"""``report.bind()``: report for a call from any thread or child process (runner)."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

from dask_flame.reports.runner.local_socket import connect
from dask_flame.reports.runner.stopping import goes_on
from dask_flame.reports.runner.validate import (
    COMPLAINTS,
    LAST_STEP,
    WORKS,
    InvalidValue,
    last_step,
    number,
    whole_step,
)

if TYPE_CHECKING:
    from dask_flame.reports.runner.sender import ReportSender
    from dask_flame.reports.wire import RunningCall

#: Environment variable that tells a child process of a call where to send its reports.
VARIABLE = "DASK_FLAME_REPORT"
#: Seconds to wait until the runner acknowledges a report of another process.
_TIMEOUT = 30.0


class BoundReport:
    """:func:`dask_flame.report` for one call; returned by ``report.bind()``.

    Call it like :func:`dask_flame.report`, from any thread. It can be pickled, for instance as an
    argument of a ``multiprocessing.Process``. A program on the same machine that has `env` in its
    environment reports for the call with plain :func:`dask_flame.report`.

    From another process a report takes about 0.1 ms, because it waits until the runner has received
    it: nothing is lost when the process ends. If the runner has ended, it warns once. Like
    :func:`dask_flame.report`, it never raises unless the call was stopped by
    :func:`dask_flame.stop`; then it raises :class:`CallStopped` in the process that reports, or
    returns False.

    Attributes
    ----------
    env : dict of str to str
        Variables to add to the environment of a program. They contain a secret that allows
        reporting for this call.
    """

    def __init__(self, address: str = "", secret: str = "") -> None:
        self._address = address
        self._secret = secret
        self._local: tuple[ReportSender, RunningCall] | None = None
        self._lock = threading.Lock()
        self._pid = 0
        self._file: Any = None
        self._lost = False
        self._complaints: set[str] = set()
        self._tracked = 0

    @classmethod
    def local(cls, sender: ReportSender, call: RunningCall) -> BoundReport:
        """Return the report function of a call in this process."""
        bound = cls(*sender.channel.bind(call))
        bound._local = sender, call
        return bound

    @property
    def env(self) -> dict[str, str]:
        return {VARIABLE: f"{self._secret}:{self._address}"} if self._address else {}

    def __call__(
        self,
        *unnamed: Mapping[str, SupportsFloat | None],
        step: Any = None,
        of: Any = None,
        **values: SupportsFloat | None,
    ) -> bool:
        if unnamed:
            values = named(unnamed, self._complain) | values
            if not values:
                return True
        step, numbers = checked(step, values, self._complain)
        if of is not None:
            of = last_step(of, self._complain)
        if self._local is not None and self._local[0].here:
            sender, call = self._local
            if numbers:
                call.of = of or call.of
                sender.add(call, step, numbers)
            return goes_on(call.stopped, call.key)
        if not numbers:
            return True
        return goes_on(self._send({"step": step, "values": numbers, "of": of}))

    def aside(self, step: int, values: dict[str, float], *, of: float | None = None) -> bool:
        """Report from another process, without changing the call's next default step."""
        return goes_on(self._send({"step": step, "values": values, "aside": True, "of": of}))

    def describe(self, **about: Any) -> None:
        """Send fields of the call from another process; see :class:`dask_flame.CallReports`."""
        self._send({"described": about})

    def count(self, new: int, values: dict[str, float]) -> bool:
        """Report from another process; the step is the number of items done in that process."""
        self._tracked += new
        return self.aside(self._tracked, values)

    def _complain(self, about: str, message: str) -> None:
        if self._local is not None and self._local[0].here:
            sender, call = self._local
            sender.complain(call, about, message)
        elif about not in self._complaints and len(self._complaints) < COMPLAINTS:
            self._complaints.add(about)
            with contextlib.suppress(UserWarning):
                warnings.warn(message, stacklevel=4)
            self._send({"about": about, "complaint": message})

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundReport, (self._address, self._secret)

    def __repr__(self) -> str:
        return "<report() bound to a call>"

    def _send(self, what: dict[str, Any]) -> str:
        """Send to the runner; return whether the call was stopped, and how to tell."""
        with self._lock:
            if self._lost or not self._address:
                return ""
            try:
                if self._pid != os.getpid():
                    # Two processes must not share a connection.
                    self._file = self._connect()
                    self._pid = os.getpid()
                return _exchange(self._file, what)
            except (OSError, ValueError) as error:
                self._lost = True
                why = f"report() cannot reach the runner of its call any more: {error}"
                with contextlib.suppress(UserWarning):
                    warnings.warn(why, stacklevel=4)
                return ""

    def _connect(self) -> Any:
        with connect(self._address, _TIMEOUT) as connection:
            # The connection stays open until the file is closed, too.
            file = connection.makefile("rwb")
        _exchange(file, self._secret)
        return file


def _exchange(file: Any, what: Any) -> str:
    file.write(json.dumps(what).encode() + b"\n")
    file.flush()
    answer: bytes = file.readline()
    if not answer.endswith(b"\n"):
        raise ConnectionError("it has closed the connection")
    return answer[:-1].decode()


def named(
    unnamed: Iterable[Any], complain: Callable[..., object], *args: Any
) -> dict[str, SupportsFloat | None]:
    """Return the values of unnamed mappings; complain about any other unnamed value."""
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
    """Return the step and the values that are valid; complain about the others.

    Parameters
    ----------
    step : object
        Step to check. None stands for the next step.
    values : mapping of str to object
        Values to check. None stands for no value.
    complain : callable
        Called with `args`, the subject and a message of one line.
    *args
        First arguments of `complain`.

    Returns
    -------
    tuple of (int or None, dict of str to float)
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
def _parse(text: str) -> BoundReport | None:
    secret, _, address = text.partition(":")
    return BoundReport(address, secret) if address and secret else None


def from_environment() -> BoundReport | None:
    """Return the report function of the call that started this process, from its environment."""
    text = os.environ.get(VARIABLE)
    return _parse(text) if text else None

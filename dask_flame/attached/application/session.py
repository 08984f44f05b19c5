"""One attachment: its namespace, its running cell and its requests (application).

A session knows nothing of sockets. Whatever carries its messages calls :meth:`Session.handle` with
each request and :meth:`Session.close` in the end, and gives it a function that sends the answers.

Each request runs in a thread of its own, so that none waits for another one. The thread of the
request passes the output on, keeps the time limit and answers; the work itself is in a second
thread, where it can be interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from dask_flame.attached.application import audit, cells, completion, values
from dask_flame.attached.application.cell_run import CellRun
from dask_flame.attached.application.following import GIVE_UP, follow
from dask_flame.attached.application.interruption import Work
from dask_flame.attached.application.outputs import Outputs
from dask_flame.attached.application.questions import Asked, ask
from dask_flame.attached.wire import Message
from dask_flame.errors import AttachError

#: Sends an answer, with the bytes of a value. Raises OSError if nobody listens any more.
Send = Callable[[Message, bytes], None]

#: Time limit of other requests, in seconds.
_ANSWER_WITHIN = 10.0
#: Maximum number of requests of an attachment at a time, each of which has a thread.
_MOST_OPEN = 64
_numbers = itertools.count(1)


class _Gone(ConnectionError):
    """The notebook has gone, or nobody waits for an answer any more."""


class Session:
    """One attachment.

    Parameters
    ----------
    application : str
        Name of the application.
    send : callable
        Called with each answer, from any thread.
    log : Log
    readonly : bool
        Whether to answer questions only.
    options : mapping of str to object
        What questions may need to know of the application.
    main : mapping of str to object, optional
        Names that cells can use; by default the variables of the main module.
    """

    def __init__(
        self,
        application: str,
        send: Send,
        *,
        log: audit.Log,
        readonly: bool = False,
        options: Mapping[str, Any] | None = None,
        main: Mapping[str, Any] | None = None,
    ) -> None:
        self._application = application
        self._send = send
        self._log = log
        self._readonly = readonly
        self._options = {**(options or {}), "readonly": readonly}
        self._number = next(_numbers)
        self._count = itertools.count(1)
        self._namespace = cells.Namespace(main)
        self._lock = threading.Lock()
        self._closed = False
        #: Requests that are not answered yet, and of these the ones that were interrupted or
        #: canceled before their work began.
        self._open: set[Any] = set()
        self._unwanted: set[Any] = set()
        self._works: dict[Any, Work] = {}
        self._asked: dict[Any, Asked] = {}
        self._cell: Any = None
        self._threads: set[threading.Thread] = set()

    def handle(self, message: Message, data: bytes = b"") -> None:
        """Take a request; it is answered later, from another thread."""
        request, operation = message.get("id"), message.get("do")
        if operation in ("interrupt", "cancel"):
            if operation == "interrupt":
                self._interrupt(self._cell)
            else:
                self._cancel(message.get("request"))
            self._answer(request, "done", {})
            return
        try:
            run = self._operation(str(operation), message, data)
            self._register(request, is_cell=operation == "run")
        except Exception as error:
            self._refuse(request, error)
            return
        thread = threading.Thread(
            target=self._serve, args=(request, run), name="dask-flame-attach", daemon=True
        )
        with self._lock:
            if self._closed:
                return
            self._threads.add(thread)
        thread.start()

    def _register(self, request: Any, *, is_cell: bool) -> None:
        """Note a request at once, because the next message may interrupt or cancel it."""
        with self._lock:
            if request in self._open:
                raise AttachError(f"a request with the number {request} runs already")
            if len(self._open) >= _MOST_OPEN:
                raise AttachError(f"more than {_MOST_OPEN} requests of this attachment run")
            if is_cell:
                if self._cell is not None:
                    raise AttachError(
                        "a cell of this attachment runs already: wait for it, or app.interrupt()"
                    )
                self._cell = request
            self._open.add(request)

    def close(self, within: float = 2 * GIVE_UP) -> None:
        """Interrupt everything, and forget the names; wait at most ``within`` seconds."""
        with self._lock:
            self._closed = True
            asked, works = [*self._asked.values()], [*self._works.values()]
            threads = [*self._threads]
        for one in asked:
            one.over.set()
        for work in works:
            work.interrupt()
        due = time.monotonic() + within
        for thread in threads:
            thread.join(max(0.0, due - time.monotonic()))
        self._namespace.close()

    # Requests

    def _operation(self, name: str, message: Message, data: bytes) -> Callable[[Any], None]:
        """Return the function that serves a request."""
        if name == "ask":
            question, options = str(message["question"]), message.get("options") or {}
            return partial(self._ask, question=question, options=options)
        if name == "is_complete":  # about the code alone
            code = str(message.get("code", ""))
            return partial(self._simple, function=partial(completion.is_complete, code))
        if self._readonly:
            raise AttachError(
                f"{self._application} is exposed with readonly=True: it answers questions, such as "
                "app.stacks(), and runs no code"
            )
        if name == "run":
            return partial(self._run, message=message, data=data)
        code, cursor = str(message.get("code", "")), int(message.get("cursor", 0))
        names = self._namespace.visible
        simple: dict[str, Callable[[], Any]] = {
            "complete": lambda: completion.complete(code, cursor, names()),
            "inspect": lambda: completion.inspected(
                code, cursor, {**names(), **_builtins()}, int(message.get("detail", 0))
            ),
            "names": self._namespace.own,
        }
        if name in simple:
            return partial(self._simple, function=simple[name])
        if name == "value":
            return partial(self._value, message=message)
        raise AttachError(
            f"{name!r} is unknown to this application; are both sides of the same version?"
        )

    def _serve(self, request: Any, run: Callable[[Any], None]) -> None:
        try:
            run(request)
        except _Gone:
            pass  # `close` follows
        except Exception as error:
            with contextlib.suppress(_Gone):
                self._refuse(request, error)
        finally:
            self._over(request)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _over(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
            self._unwanted.discard(request)
            if self._cell == request:
                self._cell = None

    def _simple(self, request: Any, function: Callable[[], Any]) -> None:
        work = self._work(request, function)
        self._follow(work, timeout=_ANSWER_WITHIN)
        self._answer(request, "done", {"answer": _result(work)})

    def _value(self, request: Any, message: Message) -> None:
        name = str(message["name"])
        most = min(int(message.get("most") or values.MOST_VALUE), values.MOST_VALUE * 4)

        def get() -> bytes:
            if name not in self._namespace.names:
                raise AttachError(f"no cell has assigned {name!r} in {self._application}")
            return values.pickled(self._namespace.names[name], name, most)

        work = self._work(request, get)
        self._follow(work, timeout=_ANSWER_WITHIN * 6)
        data = _result(work)
        self._log.note("value", f"fetched {name} ({len(data):,} bytes)")
        self._answer(request, "done", {}, data)

    def _ask(self, request: Any, question: str, options: dict[str, Any]) -> None:
        asked = Asked(self._application, self._options)
        with self._lock:
            self._asked[request] = asked
            if self._closed or request in self._unwanted:
                asked.over.set()
        try:
            work = self._work(request, lambda: ask(question, asked, options))
            self._follow(work, timeout=_ANSWER_WITHIN * 6)
            answer = _result(work)
            if not hasattr(answer, "__next__"):
                self._answer(request, "done", {"answer": answer})
                return
            try:
                for part in answer:
                    self._answer(request, "item", {"answer": part})
                    if asked.over.is_set():
                        break
            finally:
                if hasattr(answer, "close"):
                    answer.close()
            self._answer(request, "done", {"answer": None})
        finally:
            with self._lock:
                self._asked.pop(request, None)

    # Cells

    def _run(self, request: Any, message: Message, data: bytes) -> None:
        try:
            outcome, sent = self._run_cell(request, message, data)
        finally:
            # Before the notebook knows of the end, because it may send the next cell at once.
            self._over(request)
        try:
            self._answer(request, "done", outcome, sent)
        except ValueError as error:
            self._refuse(request, error)

    def _run_cell(
        self, request: Any, message: Message, data: bytes
    ) -> tuple[dict[str, Any], bytes]:
        """Run a cell, send its output, and return its outcome and the bytes of its value."""
        number = next(self._count)
        filename = f"<{self._application}, attachment {self._number}, cell {number}>"
        cell = CellRun(message, data, number=number, filename=filename, namespace=self._namespace)
        self._log.note("cell", f"runs cell {number}", cell.source)
        work = self._work(request, cell.run, cell.around())
        send = partial(self._pass_on, request, cell.outputs)
        why = self._follow(work, timeout=cell.timeout, pass_on=send)
        for item in cell.outputs.close():
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                self._answer(request, "item", {"output": item})
        outcome, sent = cell.outcome(work, why)
        failed = outcome["error"]["name"] if outcome["status"] == "error" else "ok"
        seconds = outcome["seconds"]
        self._log.note("cell", f"cell {number} has ended: {failed}, {seconds:.2f} s")
        return outcome, sent

    def _pass_on(self, request: Any, outputs: Outputs) -> None:
        """Send the output that a cell has made so far."""
        if not outputs.ready.is_set():
            return
        try:
            for item in outputs.drain():
                self._answer(request, "item", {"output": item})
        except _Gone:
            self._closed = True  # interrupt it
        except Exception as error:
            # Whatever it is, the cell must not go on without supervision.
            outputs.text("stderr", f"an output was not sent: {type(error).__name__}\n")

    def _follow(
        self, work: Work, *, timeout: float | None, pass_on: Callable[[], None] | None = None
    ) -> str:
        return follow(work, timeout=timeout, detached=lambda: self._closed, pass_on=pass_on)

    def _work(
        self,
        request: Any,
        function: Callable[[], Any],
        around: AbstractContextManager[object] | None = None,
    ) -> Work:
        name = "dask-flame-attach-answer" if around is None else "dask-flame-attached-cell"
        work = Work(function, name, around=around)
        with self._lock:
            if self._closed:
                raise _Gone
            self._works[request] = work
            if request in self._unwanted:
                work.interrupt()
        work.on_end = partial(self._forget, request)
        work.start()
        return work

    def _forget(self, request: Any) -> None:
        with self._lock:
            self._works.pop(request, None)

    def _interrupt(self, request: Any) -> None:
        """Raise one KeyboardInterrupt in a cell, which may catch it and go on."""
        with self._lock:
            work = self._works.get(request)
            if work is None and request in self._open:
                self._unwanted.add(request)
        if work is not None:
            work.interrupt()

    def _cancel(self, request: Any) -> None:
        """Stop a request: nobody waits for its answer."""
        with self._lock:
            asked, work = self._asked.get(request), self._works.get(request)
            if work is None and asked is None and request in self._open:
                self._unwanted.add(request)
        if asked is not None:
            asked.over.set()
        if work is not None:
            work.canceled = True

    def _answer(self, request: Any, kind: str, message: Message, data: bytes = b"") -> None:
        try:
            self._send({"id": request, "is": kind, **message}, data)
        except OSError as error:
            raise _Gone from error

    def _refuse(self, request: Any, error: BaseException) -> None:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, AttachError):
            said = str(error)
        self._answer(request, "failed", {"error": said[:10_000]})


def _result(work: Work) -> Any:
    if not work.done.is_set():
        raise AttachError("the application does not answer in time, and does not stop")
    if isinstance(work.error, KeyboardInterrupt):
        raise AttachError("the application did not answer in time, or the request was canceled")
    if work.error is not None:
        raise work.error
    return work.result


def _builtins() -> dict[str, Any]:
    import builtins

    return {"__builtins__": builtins}

"""A Jupyter kernel that runs its cells inside an application (beside the front end).

The kernel forwards what the front end asks. It holds the attachment: when it ends, however, the
application forgets the names of its cells. When the application ends, the kernel says so, and
refuses cells until it is restarted, which attaches to the next process of the application. If the
kernel ended as well, front ends would drop it, and could not restart it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ipykernel.kernelbase import Kernel
from IPython.core.inputtransformer2 import TransformerManager
from traitlets import Integer, Unicode

from dask_flame._version import __version__
from dask_flame.attached.client.choice import attach_to
from dask_flame.attached.client.outcomes import CellOutcome
from dask_flame.attached.client.typed import understood
from dask_flame.errors import AttachError

T = TypeVar("T")

#: Seconds for which a front end waits for names or documentation.
_ANSWER_WITHIN = 3.0
#: Seconds between two looks whether the application is there.
_LOOK = 0.5
_WIDGET = "application/vnd.jupyter.widget-view+json"
_NO_WIDGETS = "(a widget, which does not work in an attached kernel)"


class AttachKernel(Kernel):
    """The kernel of one attachment.

    Attributes
    ----------
    application : str
        Name of the application.
    chosen : int
        Process id of one of its instances; 0: any.
    """

    application = Unicode(help="Name of the application to attach to.").tag(config=True)
    chosen = Integer(0, help="Process id of an instance; 0: any.").tag(config=True)
    implementation = "dask-flame"
    implementation_version = __version__

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._leaving = False
        self._said = False
        self._limit: dict[str, str | None] = {}
        self._history: list[tuple[int, int, str]] = []
        self._parent: dict[str, Any] = {}
        self._running = False
        self.shell_handlers |= {
            "comm_open": self._refuse_comm,
            "comm_msg": _no_answer,
            "comm_close": _no_answer,
        }
        self._app = attach_to(self.application, self.chosen)
        about = self._app.ask("about")
        self.language_info = {
            "name": "python",
            "version": about["python"],
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        }
        readonly = " It is readonly: cells are refused." if about.get("readonly") else ""
        self.banner = (
            f"Attached to {self._app.name}, process {self._app.pid}, Python {about['python']}."
            f"{readonly}\nCells run inside the application. Shutting the kernel down detaches."
        )

    @property
    def kernel_info(self) -> dict[str, Any]:
        return {**super().kernel_info, "supported_features": []}

    def start(self) -> None:
        super().start()
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, lambda *_: _start_thread(self._app.interrupt))
        self.io_loop.call_later(_LOOK, self._look)

    def pre_handler_hook(self) -> None:
        """Leave SIGINT alone: no cell runs in this process."""

    def post_handler_hook(self) -> None:
        """Leave SIGINT alone."""

    # Cells

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, Any] | None = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Run a cell inside the application; its output is shown as it comes."""
        parent = self._parent = self.get_parent("shell")
        if store_history:
            self._history.append((0, self.execution_count, code))
        payload: list[dict[str, Any]] = []
        try:
            self._running = True
            typed = understood(code)
            limit = typed.limit or self._limit
            if not typed.source.strip():
                self._limit = limit
            if typed.help:
                payload = await self._help(typed.help, typed.detail)
            elif typed.source.strip():
                show = _ignored if silent else self._later(partial(self._show, parent))
                run = partial(self._app.run_cell, typed.source, on_output=show, quiet=silent)
                outcome = await _in_thread(partial(run, **limit))
                failed = self._outcome(outcome, parent, silent)
                if failed is not None:
                    return failed
        except AttachError as error:
            why = str(error) if self._app.attached else self._gone()
            return self._failed("AttachError", why, [f"AttachError: {why}"], parent, silent)
        finally:
            self._running = False
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": payload,
            "user_expressions": dict.fromkeys(user_expressions or {}, _NO_EXPRESSIONS),
        }

    def _outcome(
        self, outcome: CellOutcome, parent: dict[str, Any], silent: bool
    ) -> dict[str, Any] | None:
        """Show the value or the error of a cell; return the reply if it has failed."""
        error = outcome.error
        if error is not None:
            lines = list(error.traceback)
            if error.name == "CallTimeout":
                lines.append('In this kernel: "%timeout 10m" in the first line of a cell.')
            return self._failed(error.name, error.value, lines, parent, silent)
        if outcome.value and not silent:
            data, metadata = _without_widgets(outcome.value), outcome.metadata
            content = {"execution_count": self.execution_count, "data": data, "metadata": metadata}
            self._publish("execute_result", content, parent)
        return None

    def _failed(
        self, name: str, value: str, lines: list[str], parent: dict[str, Any], silent: bool
    ) -> dict[str, Any]:
        error = {"ename": name, "evalue": value, "traceback": lines}
        if not silent:
            self._publish("error", error, parent)
        return {"status": "error", "execution_count": self.execution_count, **error}

    def _show(self, parent: dict[str, Any], output: dict[str, Any]) -> None:
        kind = output["type"]
        if kind == "stream":
            self._publish("stream", {"name": output["name"], "text": output["text"]}, parent)
        elif kind == "clear":
            self._publish("clear_output", {"wait": output["wait"]}, parent)
        elif kind == "display":
            content = {
                "data": _without_widgets(output["data"]),
                "metadata": output["metadata"],
                "transient": output["transient"],
            }
            shown = "update_display_data" if output["update"] else "display_data"
            self._publish(shown, content, parent)

    def _publish(self, kind: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        self.session.send(self.iopub_socket, kind, content, parent, ident=self._topic(kind))

    def _later(self, function: Callable[[T], object]) -> Callable[[T], None]:
        """Return a function that has this one called in the event loop, from any thread."""
        loop = asyncio.get_running_loop()

        def call(argument: T) -> None:
            with contextlib.suppress(RuntimeError):  # the kernel has ended
                loop.call_soon_threadsafe(function, argument)

        return call

    def _refuse_comm(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Close what a widget of the front end has opened."""
        opened = parent["content"].get("comm_id")
        self._publish("comm_close", {"comm_id": opened, "data": {}}, parent)

    # Questions

    async def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        """Return the names of the application that fit at the cursor."""
        ask = partial(self._app.complete, code, cursor_pos, within=_ANSWER_WITHIN)
        found = await self._asked(ask)
        if found is None:
            nothing = {"matches": [], "cursor_start": cursor_pos, "cursor_end": cursor_pos}
            return {**nothing, "metadata": {}, "status": "ok"}
        types = [
            {"start": found.start, "end": found.end, "text": text, "type": kind, "signature": said}
            for text, kind, said in zip(found.matches, found.types, found.signatures, strict=True)
        ]
        return {
            "matches": list(found.matches),
            "cursor_start": found.start,
            "cursor_end": found.end,
            "metadata": {"_jupyter_types_experimental": types},
            "status": "ok",
        }

    async def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()
    ) -> dict[str, Any]:
        """Return the documentation of the application's object at the cursor."""
        ask = partial(self._app.inspect, code, cursor_pos, detail_level, within=_ANSWER_WITHIN)
        data = (await self._asked(ask) or {}).get("data", {})
        return {"status": "ok", "found": bool(data), "data": data, "metadata": {}}

    async def do_is_complete(self, code: str) -> dict[str, Any]:
        """Return whether a cell is complete, as in IPython."""
        status, indent = TransformerManager().check_complete(code)
        return {"status": status, "indent": " " * (indent or 0)}

    async def do_history(
        self, hist_access_type: str, output: bool, raw: bool, n: int | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return the last cells of this kernel."""
        cells = self._history[-n:] if n else self._history
        if output:
            return {"status": "ok", "history": [(s, line, (text, None)) for s, line, text in cells]}
        return {"status": "ok", "history": cells}

    async def _help(self, name: str, detail: int) -> list[dict[str, Any]]:
        found = await _in_thread(partial(self._app.inspect, name, len(name), detail))
        if not found["found"]:
            raise AttachError(f"{name} is not found in {self._app.name}")
        return [{"source": "page", "data": found["data"], "start": 0}]

    async def _asked(self, function: Callable[[], T]) -> T | None:
        """Return an answer; None if it is refused or does not come in time."""
        with contextlib.suppress(AttachError):
            return await _in_thread(function)
        return None

    # The end

    async def interrupt_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Interrupt the running cell, not this process."""
        self._app.interrupt()
        self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """Detach; the application goes on."""
        self._leaving = True
        _start_thread(self._app.detach)
        return {"status": "ok", "restart": restart}

    def _look(self) -> None:
        """Say when the application has ended, unless a cell has."""
        if self._app.attached or self._running:
            self.io_loop.call_later(_LOOK, self._look)
        elif not self._leaving and not self._said:
            self._publish("stream", {"name": "stderr", "text": self._gone() + "\n"}, self._parent)

    def _gone(self) -> str:
        """Return why there is no application any more."""
        self._said = True
        if self._leaving:
            return f"detached from {self._app.name}"
        return (
            f"{self._app.name} (process {self._app.pid}) has ended or has closed the connection.\n"
            "To attach again, restart the kernel."
        )


_NO_EXPRESSIONS = {
    "status": "error",
    "ename": "AttachError",
    "evalue": "an attached kernel evaluates no user_expressions",
    "traceback": [],
}


def _no_answer(stream: Any, ident: Any, parent: dict[str, Any]) -> None:
    pass


def _ignored(_: object) -> None:
    pass


def _without_widgets(data: dict[str, Any]) -> dict[str, Any]:
    if _WIDGET not in data:
        return data
    kept = {kind: value for kind, value in data.items() if kind != _WIDGET}
    return {**kept, "text/plain": f"{kept.get('text/plain', '')} {_NO_WIDGETS}".strip()}


def _start_thread(function: Callable[[], object]) -> None:
    threading.Thread(target=function, name="dask-flame-kernel", daemon=True).start()


async def _in_thread(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, which does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        try:
            settled = function(), None
        except BaseException as error:
            settled = None, error  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(settle, *settled)

    _start_thread(call)
    return await future

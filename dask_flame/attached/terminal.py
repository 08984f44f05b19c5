"""``dask flame attach``: IPython in a terminal, with cells inside an application (command line).

IPython reads the cells: its editor, key bindings, highlighting and history are used. It runs none
of them.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from IPython.core import page
from IPython.core.completer import Completion
from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from IPython.terminal.ipapp import load_default_config
from IPython.terminal.prompts import Prompts, Token

from dask_flame.attached.client.application import Application
from dask_flame.attached.client.choice import attach_to
from dask_flame.attached.client.outcomes import CellOutcome
from dask_flame.attached.client.typed import understood
from dask_flame.errors import AttachError

#: Seconds to wait for names, for which the editor stands still.
_NAMES_WITHIN = 1.0
#: Seconds to wait for documentation.
_HELP_WITHIN = 10.0
#: Seconds after which the main thread looks for Ctrl-C, where the platform does not wake it.
_LOOK = 0.2
#: Presses of Ctrl-C in one cell with which the user leaves a cell that does not stop.
_LEAVE = 3
_EXIT = ("exit", "quit", "exit()", "quit()")
_BANNER = (
    "Cells run inside the application. Tab completes its names; name? and name?? describe them.\n"
    "Ctrl-C interrupts a cell, Ctrl-D detaches. %timeout 10m sets the time limit of cells."
)


def interact(name: str, instance: int = 0) -> int:
    """Attach to an application, and run what is typed inside it until the user detaches.

    Parameters
    ----------
    name : str
    instance : int, default 0
        Process id of one of several instances.

    Returns
    -------
    int
        0; 1 if the application has ended meanwhile.

    Raises
    ------
    AttachError
        The application cannot be attached to.
    """
    with attach_to(name, instance) as application:
        python = application.ask("about")["python"]
        print(f"Attached to {application.name}, process {application.pid}, Python {python}.")
        if application.about["readonly"]:
            print("It is exposed with readonly=True: it runs no cells.")
        print(_BANNER)
        # The key bindings of IPython look for the one shell of the process.
        shell = AttachedShell.instance(application)
        shell.mainloop()
        if not application.attached:
            return 1
    print(f"\nDetached from {application.name}; it goes on.")
    return 0


class AttachedShell(TerminalInteractiveShell):
    """IPython's terminal, whose cells run inside an application."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._limit: dict[str, str | None] = {}
        super().__init__(config=load_default_config())
        self.Completer = _Completer(application)
        self.prompts = _Prompts(self)
        self.confirm_exit = False

    def run_cell(
        self, raw_cell: str, store_history: bool = False, *ignored: Any, **options: Any
    ) -> ExecutionResult:
        """Run a cell inside the application; show its output, and its value or error."""
        result = ExecutionResult(ExecutionInfo(raw_cell, store_history, False, True, None))
        if raw_cell.strip() in _EXIT:
            self.ask_exit()
            return result
        if store_history:
            self.history_manager.store_inputs(self.execution_count, raw_cell, raw_cell)
        try:
            self._run(raw_cell)
        except AttachError as error:
            result.error_in_exec = error
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            if not self._application.attached:
                self.ask_exit()
        finally:
            if store_history:
                self.execution_count += 1
        return result

    def _run(self, raw_cell: str) -> None:
        typed = understood(raw_cell)
        limit = typed.limit or self._limit
        if not typed.source.strip():
            self._limit = limit
        if typed.help:
            application, name = self._application, typed.help
            found = application.inspect(name, detail=typed.detail, within=_HELP_WITHIN)
            if not found["found"]:
                raise AttachError(f"{name} is not found in {application.name}")
            page.page(found["data"])
        elif typed.source.strip():
            run = partial(self._application.run_cell, typed.source, on_output=_show)
            self._finish(_uninterrupted(partial(run, **limit), self._application))

    def _finish(self, outcome: CellOutcome) -> None:
        if outcome.error is not None:
            print(self._colored("\n".join(outcome.error.traceback)), file=sys.stderr)
            if outcome.error.name == "CallTimeout":
                print('Here: "%timeout 10m" in the first line of a cell.', file=sys.stderr)
        elif outcome.value:
            self.displayhook.write_output_prompt()
            self.displayhook.write_format_data({"text/plain": _text(outcome.value)})

    def _colored(self, traceback: str) -> str:
        if self.simple_prompt or self.colors.lower() == "nocolor":
            return traceback
        from pygments import highlight
        from pygments.formatters import TerminalFormatter
        from pygments.lexers import PythonTracebackLexer

        return str(highlight(traceback, PythonTracebackLexer(), TerminalFormatter())).rstrip("\n")


class _Prompts(Prompts):
    def in_prompt_tokens(self) -> list[tuple[Any, str]]:
        name = self.shell._application.name
        return [(Token.Prompt, f"{name} "), *super().in_prompt_tokens()]

    def out_prompt_tokens(self) -> list[tuple[Any, str]]:
        number = (Token.OutPromptNum, str(self.shell.execution_count))
        return [(Token.OutPrompt, "Out["), number, (Token.OutPrompt, "]: ")]


class _Completer:
    """Names of the application, as IPython's editor asks for them."""

    debug = False

    def __init__(self, application: Application) -> None:
        self._application = application

    def completions(self, text: str, offset: int) -> Iterator[Completion]:
        try:
            found = self._application.complete(text, offset, within=_NAMES_WITHIN)
        except AttachError:
            return  # the next cell says why
        for match, kind, said in zip(found.matches, found.types, found.signatures, strict=True):
            yield Completion(found.start, found.end, match, type=kind, signature=said)


def _show(output: dict[str, Any]) -> None:
    """Show an output of a cell."""
    if output["type"] == "stream":
        stream = sys.stderr if output["name"] == "stderr" else sys.stdout
        stream.write(output["text"])
        stream.flush()
    elif output["type"] == "display":
        print(_text(output["data"]))


def _text(data: dict[str, Any]) -> str:
    """Return display data as text."""
    return str(data.get("text/plain", f"<{', '.join(data)}>"))


def _uninterrupted(run: Callable[[], CellOutcome], application: Application) -> CellOutcome:
    """Run a cell to its end, while Ctrl-C interrupts it in the application.

    Raises
    ------
    AttachError
        The application has refused it or has ended, or the user has left a cell that does not stop.
    """
    done = threading.Event()
    result: list[CellOutcome | BaseException] = []
    presses: list[int] = []

    def call() -> None:
        try:
            result.append(run())
        except BaseException as error:
            result.append(error)
        finally:
            done.set()

    def pressed(*_: object) -> None:
        presses.append(1)
        # A message takes a moment if the application does not read.
        threading.Thread(target=application.interrupt, daemon=True).start()

    before = signal.signal(signal.SIGINT, pressed)
    try:
        threading.Thread(target=call, name="dask-flame-cell", daemon=True).start()
        while not done.wait(_LOOK) and len(presses) < _LEAVE:
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    if not result:
        application.detach()
        raise AttachError("the cell does not stop; detached, so that the application gives it up")
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]

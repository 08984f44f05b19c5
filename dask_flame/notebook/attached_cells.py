"""``%%flame on=NAME``: run a cell inside a running application (driver).

Completion and help of such cells come from the application, too.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client, get_client
from IPython.core import page
from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)
from IPython.core.error import UsageError

from dask_flame.attached.client.application import Application
from dask_flame.attached.client.attaching import attach
from dask_flame.attached.client.output import printed
from dask_flame.driver.attached_runners import AttachedRunner, attach_runner
from dask_flame.driver.cluster import FlameCluster
from dask_flame.driver.post_mortem import PostMortem
from dask_flame.driver.runners import Runner
from dask_flame.errors import AttachError

#: Seconds to wait for completions and help, which block the notebook meanwhile.
_ANSWER_WITHIN = 2.0
_MAGIC = re.compile(r"%%flame(?=\s|$)(.*)\n")
_HELP = re.compile(r"\s*(?:(\?\??)\s*([\w.]+)|([\w.]+)\s*(\?\??))\s*")
#: IPython replaces magics and help by calls of this function.
_OF_THE_SHELL = "get_ipython()"


class Shown:
    """The value of a cell's last expression, which stays in the application.

    It is displayed here as it was there.
    """

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self._data = data
        self._metadata = metadata

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._data, self._metadata

    def __repr__(self) -> str:
        return str(self._data.get("text/plain", ""))


class AttachedCells:
    """Runs the cells of one shell in applications, and completes them.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    where : callable
        Returns what a magic's line says of the application: its name, or None, and the instance.
    """

    def __init__(self, shell: Any, where: Callable[[str], tuple[str | None, int | None]]) -> None:
        self._shell = shell
        self._where = where
        #: By name, and the client of the cluster of a runner, and the instance of an application.
        self._attached: dict[tuple[str, str | None, int | None], Application] = {}
        self._runners: WeakKeyDictionary[Runner, AttachedRunner] = WeakKeyDictionary()

    def run(
        self, cell: str, on: str, *, instance: int | None, timeout: str | None, get: str | None
    ) -> Any:
        """Run a cell in an application; return its value as :class:`Shown`, or None.

        Raises
        ------
        UsageError
            There is no such application, or it refuses the cell.
        CellError
            The cell has failed there.
        """
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            application = self.application(on, instance)
            if self._answered_help(cell, application):
                return None
            # Keep the notebook's line numbers: its first line is the magic.
            outcome = application.run_cell("\n" + cell, on_output=printed, **options)
            if outcome.error is not None:
                raise outcome.error
            names = [name for name in re.split(r"[,\s]+", get or "") if name]
            values = {name: application.fetch(name) for name in names}
        except AttachError as error:
            if hasattr(error, "traceback"):
                raise
            raise UsageError(str(error)) from None
        self._shell.user_ns.update(values)
        return Shown(outcome.value, outcome.metadata) if outcome.value else None

    def application(self, on: str, instance: int | None = None) -> Application:
        """Return the application with a name, or in a variable of the notebook; attach to it.

        It may also be a runner of the current client's cluster, or a failed call's frame.

        Raises
        ------
        AttachError
        """
        named = self._shell.user_ns.get(on)
        if isinstance(named, Application):
            return named
        # These two are attached as long as their variables live.
        if isinstance(named, PostMortem):
            return named.attached_application()
        if isinstance(named, Runner):
            runner = self._runners.get(named)
            if runner is None or not runner.attached:
                runner = self._runners[named] = named.attach()
            return runner
        client = None if instance is not None else _client()
        # The runners of another cluster have the same names.
        keys = [(on, client.id, None)] if client is not None else []
        for key in (*keys, (on, None, instance)):
            if (known := self._attached.get(key)) is not None and known.attached:
                return known
        if client is not None and _has_runner(client, on):
            application: Application = attach_runner(client, on)
            self._attached[on, client.id, None] = application
        else:
            application = self._attached[on, None, instance] = attach(on, instance=instance)
        return application

    def close(self) -> None:
        """Detach from all applications that cells have attached to."""
        for application in (*self._attached.values(), *self._runners.values()):
            application.detach()
        self._attached.clear()
        self._runners.clear()

    def _answered_help(self, cell: str, application: Application) -> bool:
        """Show the help that the cell asks for; return whether it does."""
        lines = [line for line in cell.splitlines() if line.strip()]
        asked = [_HELP.fullmatch(line) for line in lines]
        if not lines or not all(asked):
            if _OF_THE_SHELL in self._shell.transform_cell(cell) and _OF_THE_SHELL not in cell:
                raise UsageError(
                    "magics, shell commands and ? do not run in an application among other code; "
                    "write ? in a cell of its own, and magics in a cell of the notebook"
                )
            return False
        for match in filter(None, asked):
            name = match[2] or match[3]
            detail = len(match[1] or match[4]) - 1
            found = application.inspect(name, detail=detail)
            if found["found"]:
                page.page(found["data"])
            else:
                print(f"Object `{name}` not found.")
        return True

    def target(self, text: str) -> tuple[Application, str, int] | None:
        """Return the application of a cell's text, its code, and where that begins in the text."""
        match = _MAGIC.match(text)
        if match is None:
            return None
        on, instance = self._where(match[1])
        if on is None:
            return None
        return self.application(on, instance), text[match.end() :], match.end()

    # A high priority: the notebook's own names are not wanted then.
    @context_matcher(identifier="dask_flame.attached", priority=1_000)  # type: ignore[untyped-decorator]
    def matcher(self, context: CompletionContext) -> SimpleMatcherResult:
        """Complete cells that run in an application (IPython's API of matchers, version 2)."""
        nothing: SimpleMatcherResult = {"completions": [], "suppress": False}
        with contextlib.suppress(AttachError, UsageError, OSError):
            target = self.target(context.full_text)
            if target is None:
                return nothing
            application, code, begin = target
            lines = context.full_text.split("\n")[: context.cursor_line]
            cursor = sum(len(line) + 1 for line in lines) + context.cursor_position - begin
            if cursor < 0:
                return nothing  # in the line of the magic
            found = application.complete(code, cursor, within=_ANSWER_WITHIN)
            return {
                "completions": [
                    SimpleCompletion(text, type=kind or None)
                    for text, kind in zip(found.matches, found.types, strict=True)
                ],
                "matched_fragment": code[found.start : cursor],
                "suppress": True,
                "ordered": True,
            }
        return nothing

    def help(self, code: str, cursor: int, detail: int) -> dict[str, Any] | None:
        """Return the answer to an ``inspect_request`` of Jupyter; None for other cells."""
        with contextlib.suppress(AttachError, UsageError, OSError):
            target = self.target(code)
            if target is None or cursor < target[2]:
                return None
            application, source, begin = target
            found = application.inspect(source, cursor - begin, detail, within=_ANSWER_WITHIN)
            return {
                "status": "ok",
                "found": found["found"],
                "data": found["data"],
                "metadata": {},
            }
        return None


def _client() -> Client | None:
    """Return the current client, if there is one."""
    try:
        return get_client()
    except ValueError:
        return None


def _has_runner(client: Client, name: str) -> bool:
    """Return whether a client's cluster has a runner with this name."""
    cluster = client.cluster
    if isinstance(cluster, FlameCluster):
        return name in cluster.runners
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return name in {worker["name"] for worker in workers.values()}


def hook(shell: Any, cells: AttachedCells) -> Callable[[], None]:
    """Let a shell complete and describe such cells; return a function that undoes it."""
    matcher = cells.matcher
    shell.Completer.custom_matchers.append(matcher)
    kernel: Any = getattr(shell, "kernel", None)
    undo = contextlib.ExitStack()
    undo.callback(shell.Completer.custom_matchers.remove, matcher)
    if hasattr(kernel, "do_inspect"):
        before = kernel.do_inspect

        def do_inspect(code: str, cursor_pos: int, detail_level: int = 0, *rest: Any) -> Any:
            answer = cells.help(code, cursor_pos, detail_level)
            return before(code, cursor_pos, detail_level, *rest) if answer is None else answer

        # Jupyter's frontends ask the kernel, which has no list of such functions.
        kernel.do_inspect = do_inspect
        undo.callback(delattr, kernel, "do_inspect")
    undo.callback(cells.close)
    return undo.close

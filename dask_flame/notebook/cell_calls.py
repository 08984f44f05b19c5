"""Run a whole cell of a notebook as a call on a runner (driver)."""

from __future__ import annotations

import ast
import contextlib
import pickle
import queue
import sys
import uuid
import warnings
from functools import partial
from typing import Any

import cloudpickle
import dask
from distributed import Client, Future, get_client, wait
from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError

from dask_flame.core import distributed_internals as internals
from dask_flame.core.terminal_text import tame
from dask_flame.driver import calls
from dask_flame.errors import FlameError
from dask_flame.notebook.cell_errors import (
    as_usage_errors,
    class_named,
    short_traceback,
    unparsable,
    with_rendering,
)
from dask_flame.notebook.cells import names
from dask_flame.notebook.cells.run import ERROR, VALUE, CellFailed, Order, Outcome, run_cell
from dask_flame.notebook.cells.transfer import Parcel, pack, unpack

#: Names that a shell defines in its namespace; they are not sent to runners.
_SHELLS_OWN = frozenset({"get_ipython", "exit", "quit", "display", "In", "Out", "__builtins__"})


class CellCalls:
    """Run cells of a notebook as calls on runners.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def run(self, cell: str, annotations: dict[str, Any]) -> Any:
        """Run a cell, assign the names that it has assigned, and return its value.

        Parameters
        ----------
        cell : str
        annotations : dict
            Those of the call.

        Raises
        ------
        UsageError
            The cell cannot be sent, or nothing can run it.
        Exception
            What the cell raised.
        """
        shell = self._shell
        key = f"cell-{shell.displayhook.prompt_count}-{uuid.uuid4().hex}"
        order = self._order(cell, key)
        news: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        client = self._client()
        client.subscribe_topic(order.topic, lambda event: _queue_items(event[1], key, news))
        try:
            with (
                as_usage_errors(FlameError),
                # Dask's advice to leave large data on the cluster does not apply to cells.
                dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}),
            ):
                packed = cloudpickle.dumps(order)
                _, future = calls.submitted(run_cell, (packed,), {}, annotations, key=key)
            try:
                self._follow(client, future, news)
                outcome, error = self._outcome(future)
            except KeyboardInterrupt as stopped:
                raise with_rendering(stopped, partial(short_traceback, shell, stopped)) from None
            finally:
                # Releasing the future cancels the task if it is still running.
                future.release()
        finally:
            _unsubscribe(client, order.topic)
        value = None
        if outcome is not None:
            value = self._take(outcome)
        if error is not None:
            raise error
        return value

    def _client(self) -> Client:
        try:
            client = get_client()
        except ValueError:
            raise UsageError(
                "%%flame: there is no Dask client, so nothing can run this cell; write before it\n"
                "    from dask.distributed import Client\n"
                "    from dask_flame import FlameCluster\n"
                "    client = Client(FlameCluster(max=8))"
            ) from None
        if client.asynchronous:
            raise UsageError(
                "%%flame waits for its cell, which an asynchronous client cannot; write "
                "client = Client(cluster) without asynchronous=True"
            )
        return client

    def _order(self, cell: str, key: str) -> Order:
        shell, namespace = self._shell, self._shell.user_ns
        # Keep the notebook's line numbers: its first line is the magic.
        source = "\n" + shell.transform_cell(cell)
        filename = shell.compile.cache(source, shell.displayhook.prompt_count, raw_code=cell)
        with warnings.catch_warnings():
            # The runner compiles the cell, too, and shows them.
            warnings.simplefilter("ignore", SyntaxWarning)
            try:
                tree = ast.parse(source, filename)
                compile(source, filename, "exec", names.FLAGS, dont_inherit=True)
            except SyntaxError as error:
                raise unparsable(shell, error) from None
            loaded = names.used(tree)
        used = [name for name in sorted(loaded) if name in namespace and name not in _SHELLS_OWN]
        parcel = pack(namespace, namespace, used, follow=True)
        if parcel.failed:
            raise UsageError(_not_sendable(parcel))
        return Order(
            source=source,
            filename=filename,
            topic=f"flame-cells-{uuid.uuid4().hex}",
            key=key,
            names=parcel,
            submodules=tuple(sorted(names.submodules(tree, namespace, sys.modules))),
            changes=frozenset(names.changed(tree)),
            quiet=DisplayHook.semicolon_at_end_of_expression(cell),
        )

    def _follow(
        self, client: Client, future: Future, news: queue.SimpleQueue[tuple[Any, ...]]
    ) -> None:
        """Show the output until the cell has ended."""
        client.loop.add_callback(_put_end, future, news)
        begun: set[str] = set()
        while (item := news.get())[0] != "end":
            what, *details = item
            if what == "begin":
                runner, run = details
                if begun and run not in begun:
                    print(f"its runner was lost: it runs again on {runner}", file=sys.stderr)
                begun.add(run)
            else:
                self._show(what, *details)

    def _show(self, what: str, *details: Any) -> None:
        publisher = self._shell.display_pub
        if what in ("stdout", "stderr"):
            stream = getattr(sys, what)
            stream.write(details[0])
            stream.flush()
        elif what == "clear":
            publisher.clear_output(wait=details[0])
        elif what == "display":
            data, metadata, transient, update = details
            publisher.publish(data, metadata, transient=transient, update=update)

    def _outcome(self, future: Future) -> tuple[Outcome | None, BaseException | None]:
        """Return the outcome of the cell, and the error to raise."""
        try:
            return pickle.loads(future.result()), None
        except CellFailed as failed:
            outcome: Outcome = pickle.loads(failed.outcome)
            return outcome, self._error(outcome)
        except Exception as error:
            # The runner was lost or the timeout expired: no line of the cell raised this error.
            return None, with_rendering(error, partial(short_traceback, self._shell, error))

    def _error(self, outcome: Outcome) -> BaseException:
        namespace = self._shell.user_ns
        loaded, _ = unpack(Parcel((((ERROR,), outcome.error),)), namespace)
        kind, said, text = outcome.error_text
        error = loaded.get(ERROR)
        if not isinstance(error, BaseException):
            # Its class is not installed here, or it cannot be pickled.
            return with_rendering(class_named(kind)(said), lambda: text.splitlines())
        frames = error.__traceback__
        tracebacks = self._shell.InteractiveTB

        def render() -> list[str]:
            lines: list[str] = tracebacks.structured_traceback(
                type(error), error, frames, tb_offset=0
            )
            return lines

        return with_rendering(error, render)

    def _take(self, outcome: Outcome) -> Any:
        """Assign the cell's names in the notebook, and return the value of its last expression."""
        namespace = self._shell.user_ns
        values, lost = unpack(outcome.names, namespace)
        lost = {**outcome.names.failed, **lost}
        value = values.pop(VALUE, None)
        namespace.update(values)
        for name in outcome.deleted:
            namespace.pop(name, None)
        if lost.pop(VALUE, None):
            self._shell.display_pub.publish(outcome.shown)
        for name, why in lost.items():
            said = tame(f"{name} stayed on the runner, as it cannot travel: {why}")
            print(said, file=sys.stderr)
        return value


def _queue_items(
    message: dict[str, Any], key: str, news: queue.SimpleQueue[tuple[Any, ...]]
) -> None:
    if message["cell"] == key:
        for item in pickle.loads(message["items"]):
            news.put(item)


async def _put_end(future: Future, news: queue.SimpleQueue[tuple[Any, ...]]) -> None:
    # Events of a call arrive before its end, on the same connection.
    try:
        with contextlib.suppress(Exception):
            await wait([future])
    finally:
        news.put(("end",))


def _unsubscribe(client: Client, topic: str) -> None:
    """Unsubscribe from a topic, and remove it from the scheduler."""
    with contextlib.suppress(Exception):
        client.unsubscribe_topic(topic)
        internals.event_handlers(client).pop(topic, None)
        client.run_on_scheduler(_drop_topic, topic, wait=False)


async def _drop_topic(topic: str, dask_scheduler: Any) -> None:
    internals.topics(dask_scheduler).pop(topic, None)


def _not_sendable(parcel: Parcel) -> str:
    reasons = []
    for name, why in parcel.failed.items():
        user = parcel.users.get(name)
        reasons.append(
            f"{name}{f', which {user} uses,' if user else ''} cannot travel to a runner: {why}"
        )
    return "\n".join([*reasons, "make it inside of the cell, or take it out"])

"""``%flame`` and ``%%flame``: run a whole cell on a runner (driver)."""

from __future__ import annotations

import ast
import contextlib
import pickle
import queue
import shlex
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import cloudpickle
import dask
from distributed import Client, Future, get_client, wait
from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError

from dask_flame.core import distributed_internals as internals
from dask_flame.core.terminal_text import tame
from dask_flame.driver import calls
from dask_flame.errors import FlameError
from dask_flame.notebook.attached_cells import AttachedCells
from dask_flame.notebook.cells import names
from dask_flame.notebook.cells.run import ERROR, VALUE, CellFailed, Order, Outcome, run_cell
from dask_flame.notebook.cells.transfer import Parcel, pack, unpack

E = TypeVar("E", bound=BaseException)

#: Names that a shell defines in its namespace; they are not sent to runners.
_SHELLS_OWN = frozenset({"get_ipython", "exit", "quit", "display", "In", "Out", "__builtins__"})
_YES_OR_NO = {"yes": True, "true": True, "no": False, "false": False}
_USE = "%%flame pool=gpu timeout=5m rerun=no"
_USE_ON = "%%flame on=shop timeout=5m get=x,y"


@dataclass(frozen=True)
class Options:
    """Options of cells, as for :func:`dask_flame.call`.

    Attributes
    ----------
    on : str or None
        Application in which the cell runs, in place of a runner.
    instance : str or None
        Process id of one of several instances of the application.
    get : str or None
        Names, separated by commas, whose values the application sends back.
    """

    pool: str | None = None
    timeout: str | None = None
    rerun: bool | None = None
    on: str | None = None
    instance: str | None = None
    get: str | None = None

    def changed(self, line: str) -> Options:
        """Return the options changed by the words of a magic's line: ``pool=gpu``, or ``gpu``.

        Raises
        ------
        UsageError
            The line is not valid.
        """
        changes: dict[str, Any] = {}
        known = [field.name for field in fields(self)]
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{line}: {error}; write for example {_USE}") from None
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                name, value = "pool", word
            if name not in known:
                raise UsageError(
                    f"{word}: there are the options {', '.join(known)}; write for example {_USE}"
                )
            # An empty value or "none" restores the default.
            given = None if value.lower() in ("", "none") else value
            if name == "rerun" and given is not None:
                if given.lower() not in _YES_OR_NO:
                    raise UsageError(f"rerun={value} is not yes or no; write rerun=no")
                changes[name] = _YES_OR_NO[given.lower()]
            else:
                changes[name] = given
        return replace(self, **changes)._checked()

    def _checked(self) -> Options:
        if self.on is None:
            for name in ("instance", "get"):
                if getattr(self, name) is not None:
                    raise UsageError(f"{name}= is for cells in an application: {_USE_ON}")
        elif self.instance is not None and not self.instance.isdecimal():
            raise UsageError(f"instance={self.instance} is not a process id; write instance=1234")
        return self

    def where(self) -> tuple[str | None, int | None]:
        """Return the application, and which of its instances."""
        return self.on, None if self.instance is None else int(self.instance)

    def annotations(self) -> dict[str, Any]:
        """Return the annotations of the cell's task."""
        return calls.annotations_of(self.pool, self.timeout, self.rerun)

    def __str__(self) -> str:
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        words = [f"{name}={value}" for name, value in said.items() if value is not None]
        return " ".join(words) or "the cluster's first pool, no timeout"


class FlameMagic:
    """The magics ``%flame`` and ``%%flame`` of one shell.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._options = Options()
        self.attached = AttachedCells(shell, lambda line: self._options.changed(line).where())

    def flame(self, line: str, cell: str | None = None) -> Any:
        """Run a cell on a runner of the current Dask client's cluster.

        ::

            %%flame
            model = fit(data)               # as if it ran here

            %%flame pool=gpu timeout=5m     # options of this cell
            %flame pool=gpu                 # options of all following %%flame cells
            %flame pool=none                # use the first pool again

        Names that the cell uses are sent with it, including functions and classes defined in this
        notebook and the names that these use. Names that the cell assigns are sent back, also if it
        fails, as are names whose items or attributes it assigns (``df["y"] = 1``). Changes by a
        method (``results.append(1)``, ``model.fit(x)``) are not sent back unless the name is also
        assigned (``model = model.fit(x)``).

        Printed text, displays and plots appear while the cell runs. Interrupting the cell stops it
        on its runner. The options are those of ``dask_flame.call``: pool, timeout and rerun (yes or
        no).

        With ``on=`` the cell runs inside an application that is exposed with
        ``dask_flame.expose("shop")``, in a namespace of its own there; ``get=`` fetches values::

            %%flame on=shop get=total
            total = basket.total()
        """
        options = self._options.changed(line)
        if options.on is not None:
            return self._on(options, cell)
        try:
            with _as_usage_errors(FlameError):
                annotations = options.annotations()
                checked = _checked(annotations)
        except UsageError as error:
            raise self._explained(error, options) from None
        if cell is None:
            self._options = options
            print(f"%%flame cells run with: {options}")
            if options.pool is not None and not checked:
                print("there is no Dask client yet: the first cell finds out about the pool")
            return None
        return self._run(cell, annotations)

    def _on(self, options: Options, cell: str | None) -> Any:
        """Run a cell in an application, or let all following cells run there."""
        on, instance = options.where()
        assert on is not None
        if cell is not None:
            return self.attached.run(
                cell, on, instance=instance, timeout=options.timeout, get=options.get
            )
        with _as_usage_errors(FlameError):
            application = self.attached.application(on, instance)
        self._options = options
        print(f"%%flame cells run in {application.name} (pid {application.pid}); to end this: ")
        print("%flame on=none")
        return None

    def _explained(self, error: UsageError, options: Options) -> UsageError:
        """Add to an error of a cell's options that ``%flame`` has set them."""
        pool = self._options.pool
        if pool is None or options.pool != pool:
            return error
        return UsageError(
            f"{error}\n%flame has set pool={pool} for all cells; write %flame pool=none, or %flame "
            "with another pool"
        )

    def _run(self, cell: str, annotations: dict[str, Any]) -> Any:
        shell = self._shell
        key = f"cell-{shell.displayhook.prompt_count}-{uuid.uuid4().hex}"
        order = self._order(cell, key)
        news: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        client = self._client()
        client.subscribe_topic(order.topic, lambda event: _queue_items(event[1], key, news))
        try:
            with (
                _as_usage_errors(FlameError),
                # Dask's advice to leave large data on the cluster does not apply to cells.
                dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}),
            ):
                packed = cloudpickle.dumps(order)
                _, future = calls.submitted(run_cell, (packed,), {}, annotations, key=key)
            try:
                self._follow(client, future, news)
                outcome, error = self._outcome(future)
            except KeyboardInterrupt as stopped:
                raise _with_rendering(stopped, partial(_short_traceback, shell, stopped)) from None
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
                raise _unparsable(shell, error) from None
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
            return None, _with_rendering(error, partial(_short_traceback, self._shell, error))

    def _error(self, outcome: Outcome) -> BaseException:
        namespace = self._shell.user_ns
        loaded, _ = unpack(Parcel((((ERROR,), outcome.error),)), namespace)
        kind, said, text = outcome.error_text
        error = loaded.get(ERROR)
        if not isinstance(error, BaseException):
            # Its class is not installed here, or it cannot be pickled.
            return _with_rendering(_class_named(kind)(said), lambda: text.splitlines())
        frames = error.__traceback__
        tracebacks = self._shell.InteractiveTB

        def render() -> list[str]:
            lines: list[str] = tracebacks.structured_traceback(
                type(error), error, frames, tb_offset=0
            )
            return lines

        return _with_rendering(error, render)

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


def _checked(annotations: dict[str, Any]) -> bool:
    """Check options with the current client; return False if there is no client yet."""
    try:
        client = get_client()
    except ValueError:
        return False
    calls.check_pool(client, annotations)
    return True


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


def _unparsable(shell: Any, error: SyntaxError) -> Exception:
    def render() -> list[str]:
        lines: list[str] = shell.SyntaxTB.structured_traceback(type(error), error, [])
        return lines

    # For a SyntaxError IPython would show all frames, which here belong to dask-flame.
    return _with_rendering(_class_named(type(error).__name__)(str(error)), render)


def _class_named(kind: str) -> type[Exception]:
    """Return an exception class with the name of a class that is not available here."""
    return type(kind, (Exception,), {"__module__": "builtins"})


def _short_traceback(shell: Any, error: BaseException) -> list[str]:
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, None)
    return lines


def _with_rendering(error: E, render: Callable[[], list[str]]) -> E:
    """Let IPython show an error as rendered, without the frames that raise it."""
    with contextlib.suppress(AttributeError, TypeError):
        error._render_traceback_ = render  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def _as_usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Show errors of these classes in one line, without a traceback."""
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from None

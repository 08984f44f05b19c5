"""All private names in Dask that dask-flame uses (any place).

A name that begins with an underscore may change with any release of dask, distributed or tornado,
and so may a method that is replaced. No other module uses such names, except to override the
methods in :data:`OVERRIDDEN`. A test looks up each registered name, and fails when one has changed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import distributed.scheduler
import distributed.utils
from dask._expr import LLGExpr  # the graph of client.submit
from dask._task_spec import (  # to read a graph, and distinguish its nodes from data
    Alias,
    DataNode,
    Dict,
    GraphNode,
    List,
    Set,
    Task,
    TaskRef,
    Tuple,
)
from dask.typing import Key
from distributed import Actor, Client, Future, Scheduler, Worker
from distributed._async_taskgroup import AsyncTaskGroup  # to shorten delays of an hour
from distributed.client import _MapExpr  # the graph of client.map
from distributed.deploy.cluster import Cluster
from distributed.metrics import time
from distributed.scheduler import TaskState
from distributed.shuffle._core import ShuffleSpec, barrier_key  # to restrict a shuffle to a pool
from distributed.spans import Span
from distributed.threadpoolexecutor import thread_state
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.tcpserver import TCPServer

from dask_flame.core.text import is_generated

if TYPE_CHECKING:
    from distributed.broker import Topic
    from distributed.client import FutureState
    from distributed.comm import Comm
    from distributed.utils import DequeHandler, LoopRunner

__all__ = [
    "Alias",
    "AsyncTaskGroup",
    "DataNode",
    "Dict",
    "GraphNode",
    "List",
    "Set",
    "ShuffleSpec",
    "Task",
    "TaskRef",
    "Tuple",
    "barrier_key",
]

#: Methods that are overridden in a subclass, with the reason. None of them is public.
OVERRIDDEN = {
    "BatchedSend._background_send": "what is said is sent at once, without an interval",
    "Client._send_to_scheduler": "calls of a call use its version of local modules",
    "Client._graph_to_futures": "calls of a call may use local modules",
    "Cluster._close": "a cluster closes its own parts first",
    "Cluster._get_logs": "logs of runners come from the substrate",
    "Cluster._repr_html_": "a cluster is shown by its pools",
    "Cluster._start": "a cluster starts its own parts",
    "Cluster._update_worker_status": "home is no runner",
    "Cluster._wait_for_workers": "runners that are waited for are booted",
    "Cluster._widget": "a cluster is shown by its pools",
    "Scheduler._create_taskstate_from_graph": "the last moment at which a graph can be changed",
    "Scheduler._task_to_msg": "a task is sent so that reading it cannot harm a connection",
    "ShuffleSchedulerPlugin._calculate_worker_for": "a shuffle stays within a pool",
    "Worker._get_client": "a call that waits in its client leaves its slot",
    "Worker._send_worker_status_change": "a paused runner returns the calls it has not begun",
}

#: Methods that :func:`replace` may replace on a class or an instance, and functions that it may
#: replace in a module, with the reason.
REPLACED = {
    "Client._cancel": "returns when the scheduler has heard of it",
    "Client._close": "a closed client no longer watches its local modules",
    "Client._ensure_connected": "a client that is back takes up its lease",
    "Client._graph_to_futures": "local modules are sent before the calls that need them, and calls "
    "are described before they begin",
    "Client._handle_event": "an event handler that exits must not end the event loop",
    "Client._reconnect": "a lost connection is resumed",
    "Client._register_nanny_plugin": "runners have the local modules that it needs",
    "Client._register_worker_plugin": "runners have the local modules that it needs",
    "Client._restart": "returns when all clients of this process have heard of it",
    "Client._run": "runners have the local modules that it needs",
    "Client.close": "a client that has closed itself still has to end its thread",
    "Client._scatter": "data that exits when it is pickled must not end the event loop",
    "Client._send_to_scheduler": "a client without its cluster says why, and calls say with which "
    "version of local modules they were submitted",
    "Client._send_to_scheduler_safe": "messages are numbered, to be sent again when they are lost",
    "Client.sync": "a closed or forked cluster says so",
    "HTTPServer.on_close": "connections without a request are counted",
    "TCPServer.handle_stream": "connections have a time to prove who they are",
    "Comm.read": "messages of a client are counted",
    "Comm.write": "a client's first message is sent alone",
    "Scheduler.remove_client": "what a client wanted is kept while it is away",
    "distributed.scheduler.offload": "the graph of a single call is read without a thread",
    "distributed.protocol.pickle.dumps": "what exits as it is pickled must not end the event loop",
    "distributed.protocol.pickle.loads": "what exits as it is read must not end the event loop",
}

#: The private names that functions here use: the class or module, and the name; see :func:`uses`.
USED: list[tuple[str, str]] = []

_F = TypeVar("_F", bound=Callable[..., Any])


def uses(*names: str) -> Callable[[_F], _F]:
    """Register the private names that a function uses, each as ``"Class._name"``."""

    def registered(function: _F) -> _F:
        for name in names:
            owner, _, attribute = name.rpartition(".")
            USED.append((owner, attribute))
        return function

    return registered


def replace(owner: object, name: str, function: Callable[..., Any]) -> None:
    """Replace a method of Dask on a class or an instance, or a function of a module.

    Parameters
    ----------
    owner : type, object or module
    name : str
    function : callable

    Raises
    ------
    LookupError
        The name is not in :data:`REPLACED`.
    """
    if isinstance(owner, ModuleType):
        names = [owner.__name__]
    else:
        cls = owner if isinstance(owner, type) else type(owner)
        names = [base.__name__ for base in cls.__mro__]
    if not any(f"{owner_name}.{name}" in REPLACED for owner_name in names):
        raise LookupError(f"{names[0]}.{name} is not listed in REPLACED")
    setattr(owner, name, function)


def restore(instance: object, name: str) -> None:
    """Restore a method that was replaced on an instance."""
    vars(instance).pop(name, None)


# Calls that a Client submits


class SubmittedCalls(NamedTuple):
    """The calls of one ``client.submit`` or ``client.map``.

    Attributes
    ----------
    function : callable
    keys : sequence of Key
    arguments : iterable of tuple
        Positional arguments of each call.
    kwargs : mapping
        Keyword arguments of all calls.
    own_keys : bool
        Whether the user has chosen the keys.
    """

    function: Callable[..., Any]
    keys: Sequence[Key]
    arguments: Iterable[tuple[Any, ...]]
    kwargs: Mapping[str, Any]
    own_keys: bool

    def each(self) -> Iterator[tuple[Key, tuple[Any, ...], Mapping[str, Any]]]:
        """Yield the key, the positional and the keyword arguments of each call."""
        for key, args in zip(self.keys, self.arguments, strict=False):
            yield key, args, self.kwargs


def calls_submitted(expr: Any) -> SubmittedCalls | None:
    """Return the calls of ``client.submit`` or ``client.map``; None for any other graph.

    Parameters
    ----------
    expr : object
        The first argument of ``Client._graph_to_futures``.
    """
    if isinstance(expr, _MapExpr):
        arguments = list(zip(*expr.iterables, strict=False))
        own = not isinstance(expr.key, str)
        return SubmittedCalls(expr.func, list(expr.keys), arguments, expr.kwargs, own)
    if type(expr) is LLGExpr and len(graph := expr.operand("dsk")) == 1:
        ((key, task),) = graph.items()
        if type(task) is Task:
            kwargs = {name: _given(value) for name, value in task.kwargs.items()}
            args = tuple(map(_given, task.args))
            return SubmittedCalls(task.func, [key], [args], kwargs, not is_generated(key))
    return None


def function_called(value: Any) -> Any:
    """Return the function of a task, or of a graph of `calls_submitted`; None for other values."""
    if type(value) is LLGExpr and len(graph := value.operand("dsk")) == 1:
        (value,) = graph.values()
    return value.func if type(value) in (Task, _MapExpr) else None


def _given(value: Any) -> Any:
    """Return an argument as it was given, before Dask wrapped it."""
    return value.value if type(value) is DataNode else value


# Objects of this process, of which there is no public list


@uses("Client._instances")
def clients() -> list[Client]:
    """Return the Clients of this process."""
    return list(Client._instances)


@uses("Worker._instances")
def workers() -> list[Worker]:
    """Return the workers of this process."""
    return list(Worker._instances)


@uses("Scheduler._instances")
def has_scheduler() -> bool:
    """Return whether there is a scheduler in this process."""
    return bool(Scheduler._instances)


@uses("Dispatch._lookup")
def met_as_object(dispatch: Any, function: Callable[..., Any]) -> list[type]:
    """Return the classes for which a dispatch has remembered the function of ``object``."""
    return [cls for cls, found in list(dispatch._lookup.items()) if found is function]


# Clients


@uses("Client._refcount_lock")
def futures_lock(client: Client) -> threading.RLock:
    """Return the lock held while futures are created and their graph is sent to the loop."""
    lock: threading.RLock = client._refcount_lock
    return lock


@uses("Client._periodic_callbacks")
def client_callbacks(client: Client) -> dict[str, PeriodicCallback]:
    """Return the periodic callbacks of a Client, which end with it."""
    callbacks: dict[str, PeriodicCallback] = client._periodic_callbacks
    return callbacks


@uses("Client._event_handlers")
def event_handlers(client: Client) -> dict[str, Callable[..., Any]]:
    """Return the event handlers of a Client by topic, as subscribing would send a request."""
    handlers: dict[str, Callable[..., Any]] = client._event_handlers
    return handlers


@uses("Client._stream_handlers")
def stream_handlers(client: Client) -> dict[str, Callable[..., Any]]:
    """Return the handlers of a Client for the scheduler's messages."""
    handlers: dict[str, Callable[..., Any]] = client._stream_handlers
    return handlers


@uses("Client._timeout")
def client_timeout(client: Client) -> float:
    """Return a Client's timeout for connecting, in seconds."""
    return float(client._timeout)


@uses("Client._asynchronous")
def made_asynchronous(client: Client) -> bool:
    """Return whether a Client was created for the user's own event loop."""
    return bool(client._asynchronous)


@uses("Client._handle_restart")
def handle_restart(client: Client) -> None:
    """Forget all futures of a Client."""
    client._handle_restart()


@uses("Client._handle_task_erred")
def fail_future(client: Client, key: Key, exception: bytes) -> None:
    """Fail the futures of a key with an exception, without the scheduler.

    Parameters
    ----------
    client : distributed.Client
    key : Key
    exception : bytes
        The pickled exception.
    """
    client._handle_task_erred(key=key, exception=exception)


@uses("Client._send_to_scheduler")
def send_to_scheduler(client: Client, message: dict[str, Any]) -> None:
    """Send a message as this Client does, in the order of its other messages."""
    client._send_to_scheduler(message)


@uses("Client._send_to_scheduler")
def stock_send(client: Client, message: dict[str, Any]) -> None:
    """Send a message by the method of the class, which is replaced on the instance."""
    type(client)._send_to_scheduler(client, message)


@uses("Client._send_to_scheduler_safe")
def stock_send_safe(client: Client, message: dict[str, Any]) -> None:
    """Send a message immediately, by the method of the class."""
    type(client)._send_to_scheduler_safe(client, message)


@uses("Client._close")
def closing_client() -> Callable[..., Any]:
    """Return the coroutine function that closes a Client."""
    close: Callable[..., Any] = Client._close
    return close


@uses("Client._ensure_connected", "Client._reconnect")
def connecting() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the methods by which Clients connect and reconnect."""
    return Client._ensure_connected, Client._reconnect


@uses("Client._restart")
async def stock_restart(client: Client, *args: Any, **kwargs: Any) -> None:
    """Restart the cluster by the method of the class."""
    await Client._restart(client, *args, **kwargs)


@uses("Client._cancel")
async def stock_cancel(client: Client, *args: Any, **kwargs: Any) -> None:
    """Cancel futures by the method of the class."""
    await Client._cancel(client, *args, **kwargs)


@uses("Client._ensure_connected")
async def connect(client: Client, timeout: float) -> None:
    """Reconnect a Client."""
    await client._ensure_connected(timeout=timeout)


@uses("Client._close")
async def close_client(client: Client) -> None:
    """Close a Client from its own event loop."""
    await client._close()


@uses("Client._loop_runner", "LoopRunner.stop")
def stop_loop(client: Client) -> None:
    """End the thread of a Client's event loop; call this from another thread."""
    client._loop_runner.stop()


@uses("Future._state")
def state_of(future: Future) -> FutureState:
    """Return the state that all futures of a key share."""
    state: FutureState = future._state
    return state


@uses("Actor._cls", "Actor._address", "Actor._key", "Actor._worker", "Actor._future")
def parts_of(actor: Actor) -> tuple[Any, str, Key, Worker | None, Future]:
    """Return the four arguments to create another proxy of an actor, and the future it holds."""
    return actor._cls, actor._address, actor._key, actor._worker, actor._future


# Clusters


@uses("Cluster._loop_runner", "LoopRunner._loop", "LoopRunner._all_loops")
def own_loop(cluster: Cluster) -> IOLoop | None:
    """Return the event loop of a cluster; None if it is the user's own loop."""
    runner: LoopRunner = cluster._loop_runner
    if runner._all_loops.get(runner._loop, (0, None))[1] is None:
        return None
    loop: IOLoop = runner._loop
    return loop


@uses("Cluster._watch_worker_status_task")
async def worker_status_lost(cluster: Cluster) -> None:
    """Wait until a cluster no longer receives the status of its workers."""
    await asyncio.wait([cluster._watch_worker_status_task])


@uses(
    "Cluster._watch_worker_status",
    "Cluster._watch_worker_status_comm",
    "Cluster._watch_worker_status_task",
)
def watch_worker_status(cluster: Cluster, comm: Comm) -> None:
    """Receive the status of workers through another connection; a cluster connects only once."""
    cluster._watch_worker_status_comm = comm
    cluster._watch_worker_status_task = asyncio.ensure_future(cluster._watch_worker_status(comm))


@uses("distributed.utils._offload_executor")
def offload_executor() -> ThreadPoolExecutor:
    """Return the executor that pickles and reads large messages."""
    executor: ThreadPoolExecutor = distributed.utils._offload_executor
    return executor


@uses("distributed.utils._offload_executor")
def renew_offload_executor(executor: ThreadPoolExecutor) -> None:
    """Replace the executor for large messages, whose thread is missing in a forked process."""
    distributed.utils._offload_executor = executor


# The scheduler


@uses("distributed.scheduler._materialize_graph")
def is_graph_of_one_call(function: Callable[..., Any], expr: Any) -> bool:
    """Return whether the scheduler calls this function to read a graph of ``client.submit``."""
    if function is not distributed.scheduler._materialize_graph or type(expr) is not LLGExpr:
        return False
    graph = expr.operand("dsk")
    return type(graph) is dict and len(graph) == 1 and type(next(iter(graph.values()))) is Task


@uses("TaskState._queueable")
def queueable(ts: TaskState) -> bool:
    """Return whether a task may be queued; false for tasks of a P2P shuffle that reschedule."""
    return bool(ts._queueable)


@uses("Scheduler._reschedule")
def reschedule(scheduler: Scheduler, key: Key, stimulus_id: str) -> None:
    """Move a call that was sent to a worker to another one.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    key : Key
    stimulus_id : str
    """
    scheduler._reschedule(key, stimulus_id=stimulus_id)


@uses("Scheduler._broker", "Broker._topics")
def topics(scheduler: Scheduler) -> dict[str, Topic]:
    """Return the topics of events; Dask empties ended ones after a while, but keeps them."""
    found: dict[str, Topic] = scheduler._broker._topics
    return found


@uses("Scheduler._broker", "Broker.truncate")
def forget_events(scheduler: Scheduler, topic: str) -> None:
    """Forget the events of a topic, of which Dask would keep the last 1,000."""
    scheduler._broker.truncate(topic)


@uses("Scheduler._ongoing_background_tasks")
def set_background_tasks(scheduler: Scheduler, tasks: AsyncTaskGroup) -> None:
    """Replace the group of background tasks of a scheduler that has not started."""
    scheduler._ongoing_background_tasks = tasks


@uses("Scheduler._deque_handler", "Worker._deque_handler")
def log_handler(server: Scheduler | Worker) -> DequeHandler:
    """Return the handler that keeps the log of a scheduler or a worker."""
    handler: DequeHandler = server._deque_handler
    return handler


@uses("Span._total_nthreads_offset")
def shift_threads_history(spans: Iterable[Span], gone: int) -> None:
    """Adjust spans after the oldest entries of the history of thread counts were removed."""
    for span in spans:
        span._total_nthreads_offset = max(0, span._total_nthreads_offset - gone)


# Workers


@uses(
    "Worker._last_tick",
    "Worker._last_tick_cycle",
    "Worker._last_tick_counter",
    "Worker._tick_counter",
)
def restart_ticks(worker: Worker) -> None:
    """Restart the measurement of the event loop's delays after an intended pause."""
    worker._last_tick = worker._last_tick_cycle = time()
    worker._last_tick_counter = worker._tick_counter


@uses("Worker._initialized_clients")
def adopt_client(client: Client) -> None:
    """Let a worker close this client when it closes, as it does with its own."""
    Worker._initialized_clients.add(client)


@uses("distributed.threadpoolexecutor.thread_state")
def set_proceed(proceed: bool) -> None:
    """Set whether the current thread of a worker's executor takes another task."""
    thread_state.proceed = proceed


# Servers


@uses("TCPServer._sockets")
def listens_on(server: TCPServer) -> list[str]:
    """Return the addresses that a server listens on."""
    return [str(sock.getsockname()[0]) for sock in server._sockets.values()]


@uses("TCPServer._sockets", "TCPServer._handlers", "TCPServer._handle_connection")
def accept_by(
    tcp: TCPServer, accept: Callable[[Any, Callable[..., Any]], Callable[[], None]]
) -> None:
    """Replace the function that accepts a server's connections.

    Parameters
    ----------
    tcp : tornado.tcpserver.TCPServer
    accept : callable
        Takes a listening socket and the handler of a connection; returns a function that stops it.
    """
    for descriptor, sock in tcp._sockets.items():
        tcp._handlers.pop(descriptor)()
        tcp._handlers[descriptor] = accept(sock, tcp._handle_connection)

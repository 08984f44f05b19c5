"""What is relied on of distributed's inside is there; a release that moves it fails here first."""

from __future__ import annotations

import inspect
from typing import Any

import distributed
import pytest
from distributed import Client, Future, Scheduler, Worker
from distributed.active_memory_manager import ActiveMemoryManagerExtension, ReduceReplicas
from distributed.batched import BatchedSend
from distributed.core import ConnectionPool, PooledRPCCall, Server, send_recv
from distributed.deploy.cluster import Cluster
from distributed.protocol import Serialized, serialize
from distributed.protocol.serialize import merge_and_deserialize
from distributed.scheduler import (
    DEFAULT_EXTENSIONS,
    ClientState,
    SchedulerState,
    TaskState,
    WorkerState,
)
from distributed.threadpoolexecutor import ThreadPoolExecutor
from distributed.utils_comm import gather_from_workers
from distributed.worker_state_machine import LongRunningMsg

from dask_flame.runner.interrupt import InterruptibleThreadPoolExecutor
from dask_flame.runner.nested import WAITS
from dask_flame.runner.worker import RunnerWorker
from dask_flame.scheduler.home.worker import HomeWorker
from dask_flame.scheduler.scheduler import FlameScheduler


@pytest.mark.process
@pytest.mark.parametrize(
    ("owner", "name", "takes"),
    [
        (SchedulerState, "is_rootish", ["ts"]),
        (SchedulerState, "decide_worker_non_rootish", ["ts"]),
        (SchedulerState, "valid_workers", ["ts"]),
        (SchedulerState, "worker_objective", ["ts", "ws"]),
        (SchedulerState, "bulk_schedule_unrunnable_after_adding_worker", ["ws"]),
        (Scheduler, "stimulus_queue_slots_maybe_opened", ["stimulus_id"]),
        (Scheduler, "restart_workers", ["workers", "wait_for_workers"]),
        (Scheduler, "gather_on_worker", ["worker_address", "who_has"]),
        (Scheduler, "remove_worker", ["address", "stimulus_id", "expected", "close"]),
        (Scheduler, "heartbeat_worker", ["address", "metrics"]),
        (Scheduler, "broadcast", ["workers", "hosts", "serializers"]),
        (Scheduler, "handle_long_running", ["key", "worker"]),
        (Scheduler, "handle_task_erred", ["key", "stimulus_id"]),
        (Scheduler, "handle_worker_status_change", ["status", "worker", "stimulus_id"]),
        (SchedulerState, "check_idle_saturated", ["ws", "occ"]),
        (Scheduler, "worker_send", ["worker", "msg"]),
        (Scheduler, "add_replica", ["ts", "ws"]),
        (Scheduler, "request_remove_replicas", ["addr", "keys", "stimulus_id"]),
        (Scheduler, "rebalance", ["workers"]),
        (ActiveMemoryManagerExtension, "add_policy", ["policy"]),
        (ReduceReplicas, "run", []),
        (Worker, "update_data", ["data", "stimulus_id"]),
        (Worker, "gather", ["who_has"]),
        (Worker, "get_data", ["comm", "keys", "who", "serializers"]),
        (Scheduler, "add_client", ["comm", "client", "versions"]),
        (Scheduler, "remove_client", ["client", "stimulus_id"]),
        (Scheduler, "client_desires_keys", ["keys", "client"]),
        (Scheduler, "report_on_key", ["ts", "client"]),
        (Scheduler, "client_send", ["client", "msg"]),
        (Client, "_ensure_connected", ["timeout"]),
        (Client, "_reconnect", []),
        (Client, "_send_to_scheduler_safe", ["msg"]),
        (Client, "_close", []),
        (BatchedSend, "send", ["msgs"]),
        (BatchedSend, "abort", []),
        (ConnectionPool, "remove", ["addr", "reason"]),
        (ConnectionPool, "connect", ["addr"]),
        (ConnectionPool, "reuse", ["addr", "comm"]),
        (Scheduler, "get_who_has", ["keys"]),
        (Scheduler, "scatter", ["data", "workers", "client", "broadcast", "timeout"]),
        (Scheduler, "gather", ["keys"]),
        (Worker, "plugin_add", ["plugin"]),
        (Worker, "execute", ["key", "stimulus_id"]),
        (Worker, "_get_client", ["timeout"]),
        (Worker, "batched_send", ["msg"]),
        (Worker, "close", ["timeout", "executor_wait"]),
        (Cluster, "_update_worker_status", ["op", "msg"]),
        (Cluster, "_get_logs", ["cluster", "scheduler", "workers"]),
        (Cluster, "_repr_html_", ["cluster_status"]),
        (Cluster, "_widget", []),
    ],
)
def test_methods_that_are_overridden_or_called(owner: type, name: str, takes: list[str]) -> None:
    parameters = inspect.signature(getattr(owner, name)).parameters
    assert set(takes) <= set(parameters)


@pytest.mark.unit
def test_results_are_passed_on_as_frames() -> None:
    assert "deserialize" in inspect.signature(Server).parameters
    assert list(inspect.signature(Serialized).parameters) == ["header", "frames"]
    assert {"comm", "serializers", "deserializers"} <= set(inspect.signature(send_recv).parameters)
    assert {"who_has", "rpc", "who"} <= set(inspect.signature(gather_from_workers).parameters)
    header, frames = serialize(print, serializers=[])
    assert header == {"serializer": "error"}
    with pytest.raises(TypeError, match="Could not serialize"):
        merge_and_deserialize(header, frames)


@pytest.mark.unit
def test_state_that_is_read() -> None:
    task = {
        "run_id",
        "_queueable",
        "loose_restrictions",
        "worker_restrictions",
        "host_restrictions",
    }
    task |= {"resource_restrictions", "processing_on", "who_has", "actor", "priority"}
    assert task <= {name for cls in TaskState.__mro__ for name in getattr(cls, "__slots__", ())}
    worker = {"processing", "long_running", "actors", "used_resources", "extra", "_has_what"}
    assert worker <= {name for c in WorkerState.__mro__ for name in getattr(c, "__slots__", ())}
    assert {"amm", "stealing"} <= set(DEFAULT_EXTENSIONS)


@pytest.mark.process
def test_what_a_runner_relies_on() -> None:
    owners = (Future, Client, distributed.client)
    assert all(any(hasattr(owner, name) for owner in owners) for name in WAITS)
    assert {"sync", "_gather"} <= set(dir(Client))
    assert {"_initialized_clients", "_run_task"} <= set(dir(Worker)) | set(dir(distributed.worker))
    pool = ThreadPoolExecutor(1)
    assert pool._rejoin_list == []
    assert pool._threads == set()
    with pool._rejoin_lock:
        pass
    # A worker tells threads from processes by this.
    assert "ThreadPoolExecutor" in str(InterruptibleThreadPoolExecutor)
    assert "'ThreadPoolExecutor' in str(type(e))" in inspect.getsource(Worker.execute).replace(
        '"', "'"
    )
    again = LongRunningMsg(key="x", run_id=1, compute_duration=None, stimulus_id="s").to_dict()
    assert set(again) == {"op", "key", "run_id", "compute_duration", "stimulus_id"}


@pytest.mark.process
@pytest.mark.asyncio
async def test_what_a_running_scheduler_has() -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        assert scheduler.WORKER_SATURATION > 0
        assert scheduler.no_workers_timeout is None
        for name in ("idle_task_count", "running", "aliases", "client_comms", "stream_handlers"):
            assert len(getattr(scheduler, name)) >= 0


@pytest.mark.process
@pytest.mark.asyncio
async def test_what_keeping_and_coming_back_rely_on() -> None:
    assert {"wants_what", "last_seen", "versions"} <= set(ClientState.__slots__)
    async with (
        Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler,
        Client(scheduler.address, asynchronous=True, name="named") as client,
    ):
        # By these a client's stream is counted, and its end and its next beginning are seen.
        assert scheduler.handlers["register-client"] == scheduler.add_client
        assert scheduler.handlers["events"] == scheduler.get_events
        assert scheduler.stream_handlers["close-client"] == scheduler.remove_client
        assert "heartbeat-client" in scheduler.stream_handlers
        assert callable(scheduler.client_comms[client.id].comm.read)
        assert client.id.startswith("Client-named-")
        state = scheduler.clients[client.id]
        assert state == ClientState(client.id)
        assert hash(state) == hash(ClientState(client.id))
        # By these a Client is led through a drop.
        assert isinstance(client.extensions, dict)
        assert isinstance(client.scheduler, PooledRPCCall)
        assert client in Client._instances
        assert client._timeout > 0
        assert isinstance(client.scheduler_comm, BatchedSend)
        handlers = {"event", "key-in-memory", "lost-data", "cancelled-keys", "task-erred"}
        assert handlers <= set(client._stream_handlers)
        assert {"print", "warn"} <= set(client._event_handlers)
        assert "heartbeat" in client._periodic_callbacks
        with client._refcount_lock:
            assert client.futures == {}


@pytest.mark.process
def test_what_closing_a_cluster_relies_on() -> None:
    with Client(processes=False, dashboard_address=":0") as client:
        assert client in Client._instances
        runner = client._loop_runner
    runner.stop()  # once more is once


@pytest.mark.process
@pytest.mark.parametrize(
    ("ours", "stock"),
    [(FlameScheduler, Scheduler), (RunnerWorker, Worker), (HomeWorker, Worker)],
)
def test_handlers_name_what_distributed_looks_for_in_their_signature(
    ours: type, stock: type
) -> None:
    # It gives its connection, and a client's serializers, to those handlers alone that name them.
    changed = [n for n, f in inspect.getmembers(ours, inspect.isfunction) if hasattr(stock, n)]
    changed = [n for n in changed if getattr(ours, n) is not getattr(stock, n)]
    assert changed
    for name in changed:
        mine, theirs = (inspect.signature(getattr(c, name)).parameters for c in (ours, stock))
        for parameter in ("serializers", "comm"):
            assert (parameter in mine) == (parameter in theirs), (name, parameter)


@pytest.mark.process
def test_a_client_with_serializers_of_its_own_has_answers_in_them(flame: Any) -> None:
    cluster, _ = flame(min=2, max=2)
    with Client(cluster, serializers=["dask", "msgpack"], set_as_default=False) as client:
        client.wait_for_workers(2)
        assert list(client.run(lambda: 1).values()) == [1, 1]
        assert client.run_on_scheduler(lambda: 1) == 1
        assert client.submit(sum, [1, 2]).result() == 3
        with pytest.raises(TypeError, match="only able to deserialize data with"):
            client.run(lambda: sum)

"""Clusters close without a line, however many there are."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dask_flame import FlameCluster
from dask_flame.driver.log_filter import QuietLogs, logs_of

DRIVER = """
import sys, time
from dask.distributed import Client
from dask_flame import FlameCluster

if __name__ == "__main__":
    how = sys.argv[1]
    a = FlameCluster(max=1, dashboard_address="127.0.0.1:0")
    first = Client(a)
    assert first.submit(int, 1).result() == 1
    if how == "one after the other":
        a.close()
    b = FlameCluster(max=1, dashboard_address="127.0.0.1:0")
    second = Client(b)
    assert second.submit(int, 2).result() == 2
    if how == "busy":
        running = first.submit(time.sleep, 60), second.submit(time.sleep, 60)
        while sum(m.busy for c in (a, b) for m in c.runners.values()) < 2:
            time.sleep(0.01)
    if how == "clients first":
        first.close()
        second.close()
    if how != "at exit":
        for cluster in (b, a) if how == "last first" else (a, b):
            cluster.close()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "how",
    ["one after the other", "first first", "last first", "clients first", "busy", "at exit"],
)
def test_two_clusters_in_a_script_close_without_a_line(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, how], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Written(logging.StreamHandler[Any]):
    """The messages that a handler has written."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name} {record.levelname}")


@pytest.fixture
def handler() -> Iterator[Written]:
    """A handler of Dask's messages, of Bokeh's, and of all others."""
    names = ("distributed", "bokeh", "")
    handler = Written()
    before = [logging.getLogger(name).propagate for name in names]
    for name in names:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).propagate = False
    try:
        yield handler
    finally:
        for name, propagate in zip(names, before, strict=True):
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).propagate = propagate


def written(handler: Written, *levels: int) -> list[str]:
    """Which levels of a message of Dask's the handler writes."""
    handler.messages.clear()
    for level in levels or (logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.getLogger("distributed.scheduler").log(level, "lost")
    return [message.split()[1] for message in handler.messages]


@pytest.mark.unit
def test_all_is_written_again_when_the_last_one_has_gone(handler: Written) -> None:
    quiet = QuietLogs()
    first, second = quiet.held(logging.CRITICAL, "a"), quiet.held(logging.ERROR, "b")
    with first:
        assert written(handler) == ["CRITICAL"]
        second.__enter__()
        assert written(handler) == ["ERROR", "CRITICAL"]
    assert written(handler) == ["ERROR", "CRITICAL"]
    second.__exit__(None, None, None)
    assert written(handler) == ["WARNING", "ERROR", "CRITICAL"]
    assert handler.filters == []


@pytest.mark.unit
def test_a_request_may_change_and_the_lowest_level_still_applies(handler: Written) -> None:
    quiet = QuietLogs()
    with quiet.held(logging.WARNING, "a") as request:
        request(logging.CRITICAL)
        assert written(handler) == ["CRITICAL"]
        with quiet.held(logging.ERROR, "b"):
            assert written(handler) == ["ERROR", "CRITICAL"]
        assert written(handler) == ["CRITICAL"]


@pytest.mark.unit
def test_nothing_is_requested_any_more_after_the_end(handler: Written) -> None:
    quiet = QuietLogs()
    with quiet.held(logging.WARNING, object()) as request:
        pass
    request(logging.CRITICAL)
    assert written(handler) == ["WARNING", "ERROR", "CRITICAL"]
    assert handler.filters == []


@pytest.mark.process
def test_a_cluster_that_is_closed_twice_leaves_the_messages_of_others(handler: Written) -> None:
    cluster = FlameCluster(max=1, dashboard_address=None)
    cluster.close()
    cluster.close()
    assert written(handler) == ["WARNING", "ERROR", "CRITICAL"]
    assert handler.filters == []


@pytest.mark.unit
def test_messages_of_others_and_levels_of_handlers_are_left_alone(handler: Written) -> None:
    with QuietLogs().held(logging.CRITICAL, "a"):
        logging.getLogger("dask_flame").warning("lost: runner-1")
        logging.getLogger("bokeh.server").error("gone")
        handler.setLevel(logging.WARNING)  # somebody else's wish
    assert handler.messages == ["dask_flame WARNING"]
    assert handler.level == logging.WARNING


@pytest.mark.unit
def test_each_cluster_has_a_level_of_its_own(handler: Written) -> None:
    quiet, closing = QuietLogs(), contextvars.Context()
    closing.run(logs_of.set, "closing")
    with quiet.held(logging.CRITICAL, "closing"), quiet.held(logging.WARNING, "going on"):
        assert closing.run(written, handler) == ["CRITICAL"]
        assert written(handler) == ["WARNING", "ERROR", "CRITICAL"]


@pytest.mark.unit
def test_what_cannot_be_done_at_exit_is_not_told(handler: Written) -> None:
    with QuietLogs().held(logging.WARNING, "a"):
        logs = logging.getLogger("distributed.scheduler")
        logs.error(RuntimeError("cannot schedule new futures after interpreter shutdown"))
        try:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        except RuntimeError:
            logs.exception("Exception in callback %r", len)
        logs.error(RuntimeError("cannot schedule new futures after shutdown"))
    assert handler.messages == ["distributed.scheduler ERROR"]


LOSING = """
import logging, sys, time
from dask.distributed import Client, SchedulerPlugin
from dask_flame import FlameCluster

class Complains(SchedulerPlugin):
    # As distributed does when a worker goes with scattered data.
    def remove_worker(self, scheduler, worker, **kwargs):
        logging.getLogger("distributed.scheduler").warning("the cluster has lost %s", worker)

def holds(seconds, data):
    time.sleep(seconds)

if __name__ == "__main__":
    cluster = FlameCluster(max=2, min=2, dashboard_address=None)
    client = Client(cluster)
    cluster.scheduler.add_plugin(Complains())
    client.wait_for_workers(2)
    worker = next(iter(cluster.scheduler.workers))
    cluster.sync(cluster.scheduler.remove_worker, worker, stimulus_id="test")
    print("closing", file=sys.stderr, flush=True)
    data = client.scatter(list(range(100)))
    running = client.map(holds, [60, 60], data[:2])
    while not any(member.busy for member in cluster.runners.values()):
        time.sleep(0.01)
    client.close()
    cluster.close()
    print("closed", file=sys.stderr)
"""


@pytest.mark.process
def test_only_a_cluster_that_goes_on_tells_of_lost_data() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSING], capture_output=True, text=True, timeout=120
    )
    before, _, after = done.stderr.partition("closing\n")
    assert "WARNING - the cluster has lost flame://" in before
    assert (done.returncode, after[-7:]) == (0, "closed\n")
    assert "distributed" not in after

"""A kernel to which a test sends cells as a front end does."""

from __future__ import annotations

import contextlib
import os
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from jupyter_client.manager import KernelManager

from dask_flame.testing import marked_processes
from tests.support.waiting import wait_for

_TOKEN = "DASK_FLAME_TEST_KERNEL"

#: The first cell of most tests, which share a kernel and its runner.
CLUSTER = """
%load_ext dask_flame
%colors nocolor
from dask.distributed import Client
from dask_flame import FlameCluster, report, watch
client = Client(FlameCluster(min=1, max=1, dashboard_address=None))
client.wait_for_workers(1)
"""


class Cell:
    """What a cell has sent.

    Attributes
    ----------
    messages : list of (str, dict)
        Types and contents of the messages, in order.
    """

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []

    @property
    def text(self) -> str:
        """What it has printed, and its traceback."""
        parts = []
        for kind, content in self.messages:
            if kind == "stream":
                parts.append(content["text"])
            elif kind == "error":
                parts += content["traceback"]
        return "\n".join(parts) if len(parts) == 1 else "".join(parts)

    @property
    def displayed(self) -> list[dict[str, Any]]:
        """The data of its displays and of its value."""
        kinds = ("display_data", "update_display_data", "execute_result")
        return [content["data"] for kind, content in self.messages if kind in kinds]

    @property
    def failed(self) -> bool:
        return any(kind == "error" for kind, _ in self.messages)


class Kernel:
    """A real kernel of IPython.

    Attributes
    ----------
    manager : KernelManager
    client : BlockingKernelClient
    """

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager = manager
        self.client = client

    def run(
        self,
        code: str,
        *,
        metadata: dict[str, Any] | None = None,
        allow_stdin: bool = False,
        seen: Callable[[Cell], object] | None = None,
        within: float = 120,
    ) -> Cell:
        """Run a cell; call `seen` after each of its messages."""
        content = {
            "code": code.strip("\n"),
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": True,
        }
        message = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(message)
        cell, deadline = Cell(), time.monotonic() + within
        while True:
            assert time.monotonic() < deadline, (code, cell.messages[-5:])
            with contextlib.suppress(queue.Empty):
                answer = self.client.get_iopub_msg(timeout=1)
                if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                    continue
                kind, told = answer["msg_type"], answer["content"]
                if kind == "status":
                    if told["execution_state"] == "idle":
                        return cell
                elif kind != "execute_input":
                    cell.messages.append((kind, told))
                    if seen is not None:
                        seen(cell)

    def ok(self, code: str, **options: Any) -> Cell:
        """Run a cell that succeeds."""
        cell = self.run(code, **options)
        assert not cell.failed, cell.text
        return cell

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()


@contextlib.contextmanager
def kernel(*cells: str) -> Iterator[Kernel]:
    """Start a kernel, run some cells, and shut it down; nothing is left of it."""
    token = uuid.uuid4().hex
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {_TOKEN: token})
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        made = Kernel(manager, client)
        for cell in cells:
            made.ok(cell)
        yield made
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.cleanup_resources()
        try:
            wait_for(lambda: not marked_processes(token, variable=_TOKEN), 30)
        finally:
            for process in marked_processes(token, variable=_TOKEN):
                process.kill()

"""A kernel runs its cells in an application, and leaves it as it was."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from jupyter_client.session import Session

import dask_flame
from dask_flame.errors import AttachError
from tests.notebook.kernels import Cell, Kernel
from tests.support import exposed as support
from tests.support.exposed import Exposed, attached, exposed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process
#: Kernels that a test starts one after the other, to find what they leave behind.
ROUNDS = int(os.environ.get("FLAME_TEST_ROUNDS", "3"))


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("environment")
    with support.own_sockets(folder / "sockets"), support.installed(folder / "site"):
        yield


@pytest.fixture(scope="module")
def shop(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposed]:
    with exposed(tmp_path_factory.mktemp("shop")) as program:
        yield program


@pytest.fixture(scope="module")
def kernel(shop: Exposed) -> Iterator[Kernel]:
    with attached() as kernel:
        yield kernel


def test_cells_run_inside(kernel: Kernel, shop: Exposed) -> None:
    assert kernel.ok("import os; os.getpid()").displayed == [{"text/plain": str(shop.pid)}]
    assert kernel.ok("till.ring_up(2, count=3)").displayed == [{"text/plain": "6"}]
    assert kernel.ok("display({'tea': 1})").displayed == [{"text/plain": "{'tea': 1}"}]
    assert kernel.ok("import asyncio; await asyncio.sleep(0, 'slept')").displayed == [
        {"text/plain": "'slept'"}
    ]
    printed = kernel.ok("import sys\nprint('out'); print('err', file=sys.stderr)").messages
    assert [(c["name"], c["text"]) for _, c in printed] == [
        ("stdout", "out\n"),
        ("stderr", "err\n"),
    ]

    figure = "from matplotlib.figure import Figure\nf = Figure(figsize=(1, 1))\nf.subplots()\nf"
    (data,) = kernel.ok(figure).displayed
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")

    failed = kernel.run("half = 1\nhalf / 0")
    assert failed.failed
    ((_, error),) = failed.messages
    assert error["ename"] == "ZeroDivisionError"
    assert "    half / 0" in error["traceback"]


def test_what_does_not_work_is_refused_with_what_does(kernel: Kernel) -> None:
    assert "cannot ask for input" in kernel.run("input()").text
    assert "%matplotlib does not work here" in kernel.run("%matplotlib inline").text
    assert "!ls does not work here" in kernel.run("!ls -l").text
    widget = """
class Widget:
    def _repr_mimebundle_(self, **_):
        return {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "W()"}
display(Widget())
"""
    (data,) = kernel.ok(widget).displayed
    assert data == {"text/plain": "W() (a widget, which does not work in an attached kernel)"}
    # The front end is told that what it has opened is closed.
    opened = kernel.client.session.msg("comm_open", {"comm_id": "c1", "target_name": "t"})
    kernel.client.shell_channel.send(opened)
    while (answer := kernel.client.get_iopub_msg(timeout=60))["msg_type"] != "comm_close":
        pass
    assert answer["content"]["comm_id"] == "c1"


def test_a_time_limit_is_set_for_a_cell_or_for_all(kernel: Kernel) -> None:
    loop = "while True: pass"
    said = kernel.run(f"%timeout 50ms\n{loop}").text
    assert "time limit of 0.05 s" in said
    assert '"%timeout 10m"' in said
    kernel.ok("%timeout 60ms")
    assert "time limit of 0.06 s" in kernel.run(loop).text
    kernel.ok("%timeout 1h")
    assert "is not a duration" in kernel.run("%timeout soon\nbasket").text


def test_names_and_documentation_are_those_of_live_objects(kernel: Kernel) -> None:
    client = kernel.client
    kernel.ok("till.discount = 0.1; mine = till")
    answer = client.complete("mine.", reply=True, timeout=60)["content"]
    assert set(answer["matches"]) == {"discount", "open_since", "ring_up", "total"}
    assert (answer["cursor_start"], answer["cursor_end"]) == (5, 5)
    told = answer["metadata"]["_jupyter_types_experimental"]
    assert {one["text"] for one in told} == set(answer["matches"])
    kernel.ok("del till.discount")

    shown = client.inspect("till.ring_up(", reply=True, timeout=60)["content"]
    assert shown["found"]
    assert "price: float, count: int = 1" in shown["data"]["text/plain"]
    assert not client.inspect("nothing_there", reply=True, timeout=60)["content"]["found"]
    asked = client.execute("till.ring_up?", reply=True, timeout=60)["content"]
    (page,) = asked["payload"]
    assert page["source"] == "page"
    assert "Ring up some pieces" in page["data"]["text/plain"]
    assert "is not found in shop" in kernel.run("nothing_there?").text

    sent = client.is_complete("for x in y:")
    while (answer := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != sent:
        pass
    assert answer["content"] == {"status": "incomplete", "indent": "    "}
    told = client.kernel_info(reply=True, timeout=60)["content"]
    assert "process" in told["banner"]
    assert told["supported_features"] == []
    history = client.history(hist_access_type="tail", n=1, reply=True, timeout=60)["content"]
    assert history["history"][0][2] == "nothing_there?"


def test_output_comes_while_the_cell_runs_and_an_interrupt_ends_it(
    kernel: Kernel, tmp_path: Path
) -> None:
    go = tmp_path / "go"

    def seen(cell: Cell) -> None:
        # The cell ends only after its first output has come.
        go.touch()

    cell = f"print('first')\nwhile not __import__('os').path.exists({str(go)!r}): pass\nprint(2)"
    assert kernel.ok(cell, seen=seen).text == "first\n2\n"

    def interrupt(cell: Cell) -> None:
        if len(cell.messages) == 1:
            kernel.interrupt()

    stopped = kernel.run("print('begun')\nwhile True: pass", seen=interrupt)
    assert [c.get("ename") for _, c in stopped.messages] == [None, "KeyboardInterrupt"]
    # A front end that sends the signal instead.
    stopped = kernel.run(
        "print('begun')\nwhile True: pass",
        seen=lambda cell: (
            len(cell.messages) > 1 or os.kill(kernel.manager.provisioner.pid, signal.SIGINT)
        ),
    )
    assert stopped.messages[-1][1]["ename"] == "KeyboardInterrupt"
    kernel.ok("basket")


def test_only_who_has_the_connection_file_reads_the_output(kernel: Kernel) -> None:
    info = kernel.manager.get_connection_info()
    context = zmq.Context()
    stranger, friend = context.socket(zmq.SUB), context.socket(zmq.SUB)
    try:
        friend.curve_serverkey = friend.curve_publickey = info["curve_publickey"].encode()
        friend.curve_secretkey = info["curve_secretkey"].encode()
        for sock in (stranger, friend):
            sock.subscribe(b"")
            sock.connect(f"tcp://{info['ip']}:{info['iopub_port']}")

        def arrived() -> bool:
            kernel.ok("print('secret')")
            return bool(friend.poll(100))

        wait_for(arrived)
        assert stranger.poll(0) == 0
    finally:
        context.destroy(linger=0)


def test_a_restart_attaches_anew(shop: Exposed) -> None:
    with attached() as kernel:
        kernel.ok("mine = 1; basket['milk'] = 2; mine")
        kernel.manager.restart_kernel()
        kernel.client.wait_for_ready(timeout=120)
        assert "NameError" in kernel.run("mine").text
        assert kernel.ok("basket.pop('milk')").displayed == [{"text/plain": "2"}]


def test_nothing_is_left_in_the_application(tmp_path: Path) -> None:
    with exposed(tmp_path, "other") as program:

        def once() -> None:
            with attached("other") as kernel:
                kernel.ok("mine = bytearray(10_000_000); basket")

        once()
        wait_for(lambda: program.detached(1))
        wait_for(lambda: program.state()[0] <= 4, what="the end of the threads")
        before = program.state()
        for done in range(ROUNDS):
            once()
            wait_for(lambda done=done: program.detached(done + 2))
        wait_for(lambda: program.state() <= before, what=f"{program.state()} <= {before}")

        # Whatever ends the kernel.
        with attached("other") as kernel:
            endless = kernel.client.session.msg(
                "execute_request", {"code": "print('begun')\nwhile True: pass", "silent": False}
            )
            kernel.client.shell_channel.send(endless)
            while kernel.client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
                pass
            os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
            wait_for(lambda: program.detached(ROUNDS + 2))
            wait_for(lambda: program.state() <= before, what=f"{program.state()} <= {before}")
        assert program.process.poll() is None
        with dask_flame.attach("other") as app:
            assert app.names() == []


def test_the_end_of_the_application_is_said_and_a_restart_attaches_to_the_next(
    tmp_path: Path,
) -> None:
    with exposed(tmp_path, "short") as program, attached("short") as kernel:
        kernel.ok("basket")
        program.kill()
        # Nobody has asked: it is shown with the last cell.
        while (told := kernel.client.get_iopub_msg(timeout=60))["msg_type"] != "stream":
            pass
        said = f"short (process {program.pid}) has ended"
        assert said in told["content"]["text"]
        assert said in kernel.run("basket").text
        with pytest.raises(AttachError, match="no application of this user is exposed as"):
            kernel.manager.restart_kernel()

        with exposed(tmp_path, "short") as another:
            kernel.manager.restart_kernel()
            kernel.client.wait_for_ready(timeout=120)
            assert kernel.ok("__import__('os').getpid()").displayed == [
                {"text/plain": str(another.pid)}
            ]
            cell = kernel.run("print(1)\nwhile True: pass", seen=lambda _: another.process.kill())
            assert f"short (process {another.pid}) has ended" in cell.text
            assert cell.messages[-1][1]["ename"] == "AttachError"
        assert kernel.manager.is_alive()


def test_a_readonly_application_says_so(tmp_path: Path) -> None:
    with exposed(tmp_path, "vault", "readonly"), attached("vault") as kernel:
        assert "readonly" in kernel.client.kernel_info(reply=True, timeout=60)["content"]["banner"]
        assert "readonly=True" in kernel.run("basket").text
        answer = kernel.client.complete("basket.", reply=True, timeout=60)["content"]
        assert answer["matches"] == []


def test_an_application_that_does_not_run_is_named(shop: Exposed) -> None:
    made = support.manager()
    made.kernel_spec.metadata["kernel_provisioner"]["config"]["application"] = "shup"
    with pytest.raises(AttachError, match=r"'shup' \(exposed are shop\)"):
        made.start_kernel()


def test_a_session_of_jupyter_cannot_be_forged(kernel: Kernel) -> None:
    """Without the key of the connection file, a message is not a cell."""
    other = Session(key=b"another")
    message = other.msg("execute_request", {"code": "basket['forged'] = 1", "silent": False})
    kernel.client.shell_channel.socket.send_multipart(other.serialize(message))
    assert "forged" not in kernel.ok("basket").displayed[0]["text/plain"]

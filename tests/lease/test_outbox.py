from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.core.messages import MARK
from dask_flame.lease.clients import ClientRecord
from dask_flame.lease.outbox import Outbox

pytestmark = pytest.mark.unit


class Wire:
    """A connection that loses its end at any moment, and who reads from it."""

    def __init__(self) -> None:
        self.record = ClientRecord(state=None)
        self.read: list[int] = []
        self.way: list[dict[str, Any]] = []

    def send(self, *messages: dict[str, Any]) -> None:
        self.way.extend(messages)

    def arrive(self, some: int) -> None:
        batch, self.way = self.way[:some], self.way[some:]
        self.record.count(batch)
        self.read.extend(message["what"] for message in batch if "what" in message)


@given(st.lists(st.tuples(st.sampled_from(["say", "arrive", "ack", "cut"]), st.integers(0, 9))))
def test_each_message_is_read_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    outbox, wire, up, said = Outbox(), Wire(), False, 0

    def back() -> None:
        if wire.record.taken is not None:
            outbox.forget(wire.record.taken)
        wire.send({"op": MARK, "n": outbox.start}, *outbox.hand_over())

    for step, n in [*steps, ("cut", 0), ("say", 0), ("arrive", 1000)]:
        if step == "say":
            outbox.note({"op": "say", "what": said})
            said += 1
            if up:
                wire.send({"op": "say", "what": said - 1}, {"op": "heartbeat-client"})
                outbox.handed_last()
        elif step == "arrive":
            wire.arrive(n)
        elif step == "ack" and wire.record.taken is not None:
            outbox.forget(wire.record.taken)
        elif step == "cut":
            wire.way.clear()
            up = n != 9
            if up:
                back()
    assert wire.read == list(range(said))


def test_what_is_too_much_is_forgotten_oldest_first_and_only_what_was_sent() -> None:
    outbox = Outbox(limit=1000)
    for n in range(10):
        outbox.note({"op": "say", "n": n})
    assert len(outbox) == 10
    assert [message["n"] for message in outbox.hand_over()] == list(range(10))
    assert (outbox.start, outbox.handed, outbox.next) == (7, 10, 10)
    outbox.note({"op": "update-graph", "keys": {"a"}, "expr_ser": _Frames()})
    assert outbox.submitted() == {"a"}
    outbox.renumber()
    assert (outbox.start, outbox.handed, outbox.next) == (0, 0, 1)
    outbox.handed_last()
    assert outbox.submitted() == set()
    assert len(outbox) == 1


class _Frames:
    frames = (bytes(10_000),)

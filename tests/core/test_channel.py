"""The conversation between a driver and its scheduler's pod, over connections that break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from distributed.comm import Comm, connect, listen
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.core.channel import Channel, Refused
from tests.support.examples import examples

pytestmark = pytest.mark.process


class Pair:
    """Two links, and a port of this machine on which they meet."""

    def __init__(
        self, here: dict[str, Any], there: dict[str, Any], *, silence: float = 5.0
    ) -> None:
        self.here = Channel(here, silence=silence)
        self.there = Channel(there, silence=silence)
        self.comms: list[Comm] = []
        self._serving: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Pair:
        self._listener = await listen("tcp://127.0.0.1:0", self.there.serve)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.here.close()
        await self.there.close()
        await asyncio.gather(*self._serving)
        self._listener.stop()

    async def meet(self) -> None:
        comm = await connect(self._listener.contact_address)
        self.comms.append(comm)
        self._serving.append(asyncio.create_task(self.here.serve(comm)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - each looks at what the other does
                await asyncio.sleep(0.001)


@settings(max_examples=examples(15))
@given(
    st.lists(
        st.sampled_from(["here", "there", "cut", "cut", "meet", "breathe", "breathe"]), max_size=60
    )
)
def test_all_is_heard_once_and_in_order(acts: list[str]) -> None:
    async def play() -> None:
        heard: dict[str, list[int]] = {"here": [], "there": []}
        said = {"here": 0, "there": 0}
        async with Pair(
            {"word": lambda n: heard["there"].append(n)},
            {"word": lambda n: heard["here"].append(n)},
        ) as pair:
            links = {"here": pair.here, "there": pair.there}
            for act in acts:
                if act in links:
                    said[act] += 1
                    links[act].send("word", n=said[act])
                elif act == "cut":
                    (pair.here if len(acts) % 2 else pair.there).cut()
                elif act == "meet":
                    await pair.meet()
                else:
                    await asyncio.sleep(0.002)
            await pair.meet()
            await pair.until(lambda: all(len(heard[side]) >= said[side] for side in links))
            for side in links:
                assert heard[side] == list(range(1, said[side] + 1))
            await pair.until(lambda: not pair.here.waiting and not pair.there.waiting)

    asyncio.run(play())


@pytest.mark.asyncio
async def test_answers_and_errors_come_back() -> None:
    async def double(n: int) -> int:
        if n < 0:
            raise ValueError(f"{n} is too little")
        await asyncio.sleep(0.05 / (n + 1))  # the first are answered last
        return 2 * n

    async with Pair({}, {"double": double}) as pair:
        asked = [asyncio.ensure_future(pair.here.ask("double", n=n)) for n in (1, 2, 3, -1)]
        await asyncio.sleep(0)
        await pair.meet()
        assert await asyncio.gather(*asked[:3]) == [2, 4, 6]
        with pytest.raises(ValueError, match="-1 is too little"):
            await asked[3]


@pytest.mark.asyncio
async def test_an_error_that_cannot_be_sent() -> None:
    class Local(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("not this one")

    async def fail() -> None:
        raise Local("a word")

    async with Pair({}, {"fail": fail}) as pair:
        await pair.meet()
        with pytest.raises(RuntimeError, match="Local: a word"):
            await pair.here.ask("fail")


class Mine:
    """What only one side has: its pickle cannot be read."""

    def __reduce__(self) -> Any:
        return _no_such_module, ()


class MineToo(Mine, Exception):
    pass


def _no_such_module() -> None:
    raise ModuleNotFoundError("No module named 'mine'")


@pytest.mark.asyncio
async def test_what_cannot_be_read_is_said_and_holds_nothing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Any] = []

    async def fail() -> None:
        raise MineToo("a word")

    def at_once(n: int) -> int:
        return 2 * n

    async def mine() -> Any:
        return Mine()

    handlers = {
        "word": lambda thing: heard.append(thing),
        "at_once": at_once,
        "fail": fail,
        "mine": mine,
    }
    async with Pair({}, handlers) as pair:
        await pair.meet()
        pair.here.send("word", thing=Mine())
        pair.here.send("nonsense")
        pair.here.send("word", thing=1)
        for question, values, words in (
            ("word", {"thing": Mine()}, "No module named 'mine'"),
            ("mine", {}, "No module named 'mine'"),
            ("fail", {}, "MineToo: a word"),
            ("at_once", {"m": 1}, "unexpected keyword"),
            ("nonsense", {}, "nonsense"),
        ):
            with pytest.raises(Exception, match=words):
                await asyncio.wait_for(pair.here.ask(question, **values), 40)
        assert await pair.here.ask("at_once", n=2) == 4
        assert pair.comms[0] is pair.here._comm  # the connection is the first one
    assert heard == [1]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@pytest.mark.asyncio
async def test_nonsense_on_a_connection_ends_that_one_only() -> None:
    async def talk(comm: Comm) -> None:
        await comm.read()
        for message in (0, {"status": "error"}):
            await comm.write(message)
        await comm.read()

    async with Pair({}, {}) as pair:
        listener = await listen("tcp://127.0.0.1:0", talk)
        try:
            async with asyncio.timeout(60):
                await pair.here.serve(await connect(listener.contact_address))
        finally:
            listener.stop()
        await pair.meet()
        await pair.until(lambda: pair.here.connected and pair.there.connected)


@pytest.mark.asyncio
async def test_what_is_asked_is_given_up_at_the_end() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async with Pair({}, {"never": never}) as pair:
        await pair.meet()
        asked = asyncio.ensure_future(pair.here.ask("never"))
        await pair.until(lambda: bool(pair.there._tasks))
        await pair.here.close("enough")
        with pytest.raises(ConnectionError, match="enough"):
            await asked
        with pytest.raises(ConnectionError, match="enough"):
            await pair.here.ask("never")


@pytest.mark.asyncio
async def test_a_connection_on_which_nothing_comes_is_dead() -> None:
    async with Pair({}, {}, silence=1.5) as pair:
        await pair.meet()
        await pair.until(lambda: pair.here.connected and pair.there.connected)
        await asyncio.sleep(3.5)  # more than twice the silence: both say that they are there
        assert pair.here.connected
        assert pair.there.connected

        async def mute(comm: Comm) -> None:
            await comm.read()
            await comm.write(0)
            await asyncio.Event().wait()

        listener = await listen("tcp://127.0.0.1:0", mute)
        try:
            comm = await connect(listener.contact_address)
            async with asyncio.timeout(60):
                await pair.here.serve(comm)
            assert comm.closed()
        finally:
            listener.stop()


@pytest.mark.asyncio
async def test_another_process_is_asked_what_the_first_has_not_answered() -> None:
    asked: list[str] = []
    never = asyncio.Event()

    async def boot(n: int) -> str:
        asked.append(f"first {n}")
        await never.wait()
        return "from the first"

    def heard(which: str) -> Callable[..., Any]:
        return lambda n: asked.append(f"{which} {n}")

    def twice(n: int) -> int:
        return 2 * n

    waits = asyncio.Event()

    async def wait() -> str:
        waits.set()
        await never.wait()
        return "too late"

    async with Pair({"boot": boot, "note": heard("note")}, {"wait": wait, "twice": twice}) as pair:
        await pair.meet()
        boots = asyncio.create_task(pair.there.ask("boot", n=1))
        await pair.until(lambda: asked == ["first 1"])
        # The first process asks something as well, and dies before it is answered.
        pair.here.send("twice", n=0)  # so that it has the number of a question of the second one
        lost = asyncio.create_task(pair.here.ask("wait"))
        await asyncio.wait_for(waits.wait(), 10)
        pair.here.cut()
        await pair.here.close()
        with pytest.raises(ConnectionError):
            await lost
        await pair.until(lambda: not pair.there.connected)
        pair.there.send("note", n=2)
        pair.there.send("over", n=3)
        pair.there.renew({"over"})
        handlers = {"note": heard("note"), "over": heard("over"), "boot": lambda n: f"second {n}"}
        second = Channel({**handlers, "last": heard("last")}, silence=5.0)
        serving = asyncio.create_task(second.serve(await connect(pair._listener.contact_address)))
        assert await asyncio.wait_for(boots, 10) == "second 1"
        # An answer for the first process must not be taken for this one.
        never.set()
        assert await asyncio.wait_for(second.ask("twice", n=4), 10) == 8
        pair.there.send("last", n=4)
        await pair.until(lambda: asked[-1] == "last 4")
        assert asked == ["first 1", "over 3", "last 4"]
        await second.close()
        await serving


@pytest.mark.asyncio
async def test_one_that_is_refused_is_told_why() -> None:
    async def refuse(comm: Comm) -> None:
        await comm.write("another one is there")
        await comm.close()

    listener = await listen("tcp://127.0.0.1:0", refuse)
    link = Channel({}, silence=5.0)
    with pytest.raises(Refused, match="another one is there"):
        await link.serve(await connect(listener.contact_address))
    assert not link.has_connected
    await link.close()
    listener.stop()

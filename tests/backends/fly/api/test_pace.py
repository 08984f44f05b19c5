"""The pace of requests: never more than Fly allows, and no slower than it has to be."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame.backends.fly.api.pace import _KEPT, Pace, Rate, TokenBucket

pytestmark = pytest.mark.unit

RATES = st.builds(
    Rate,
    per_second=st.sampled_from([0.5, 1.0, 5.0, 20.0]),
    burst=st.integers(min_value=1, max_value=10),
)
PAUSES = st.lists(st.floats(min_value=0, max_value=5), min_size=1, max_size=60)


class Server:
    """A token bucket as Fly may keep it, written in another way."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = 0.0

    def allows(self, now: float) -> bool:
        gained = (now - self._at) * self._rate.per_second
        self._tokens, self._at = min(self._rate.burst, self._tokens + gained), now
        if self._tokens < 1 - 1e-6:
            return False
        self._tokens -= 1
        return True


@given(RATES, PAUSES)
def test_no_request_is_made_that_the_server_would_refuse(rate: Rate, pauses: list[float]) -> None:
    bucket, server, now = TokenBucket(rate), Server(rate), 0.0
    for pause in pauses:
        now += pause
        now += bucket.wait(now)
        bucket.take(now)
        assert server.allows(now)


@given(RATES, PAUSES)
def test_no_request_waits_that_the_server_would_allow(rate: Rate, pauses: list[float]) -> None:
    bucket, server, now = TokenBucket(rate), Server(rate), 0.0
    for pause in pauses:
        now += pause
        if (wait := bucket.wait(now)) > 1e-3:
            assert not Server.allows(_copy(server), now + wait - 1e-3)
        now += wait
        bucket.take(now)
        server.allows(now)


@given(RATES, PAUSES, st.floats(min_value=0, max_value=30))
def test_after_a_refusal_the_bucket_is_empty_for_as_long_as_was_asked(
    rate: Rate, pauses: list[float], asked: float
) -> None:
    bucket, now = TokenBucket(rate), 0.0
    for pause in pauses:
        now += pause + bucket.wait(now + pause)
        bucket.take(now)
    bucket.refused(now, asked)
    assert bucket.wait(now) >= max(asked, 1 / rate.per_second) - 1e-6
    assert bucket.wait(now) <= max(asked, (rate.burst + 2) / rate.per_second) + 1e-6
    assert not bucket.is_full(now)


def _copy(server: Server) -> Server:
    copy = Server(server._rate)
    copy._tokens, copy._at = server._tokens, server._at
    return copy


class Clock:
    """A clock that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


def test_requests_of_one_kind_wait_for_each_other_in_their_order() -> None:
    clock, passed = Clock(), []
    pace = Pace(clock=clock, sleep=clock.sleep)

    async def request(number: int, identifier: str) -> None:
        await pace.turn("create", identifier)
        passed.append((number, identifier, clock.now))

    async def main() -> None:
        await asyncio.gather(*(request(n, "app") for n in range(64)))

    asyncio.run(main())
    assert [number for number, _, _ in passed] == list(range(64))
    # One a second after the burst, of which one is left to spare.
    assert clock.now == pytest.approx(62)


def test_other_machines_and_actions_do_not_wait() -> None:
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)

    async def main() -> None:
        await asyncio.gather(*(pace.turn("start", f"m-{n}") for n in range(64)))
        await asyncio.gather(pace.turn("stop", "m-1"), pace.turn("create", "app"))

    asyncio.run(main())
    assert clock.now == 0


def test_a_request_that_is_cancelled_takes_no_place() -> None:
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)

    async def main() -> None:
        waiting = [asyncio.ensure_future(pace.turn("create", "app")) for _ in range(64)]
        await asyncio.sleep(0)
        for task in waiting[2:]:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await pace.turn("create", "app")

    asyncio.run(main())
    assert clock.now <= 2


def test_fly_may_allow_more() -> None:
    assert Pace(5).rate("create") == Rate(5.0, 2)
    assert Pace().rate("get") == Rate(5.0, 9)


def test_machines_of_the_past_are_forgotten() -> None:
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)

    async def main() -> None:
        for number in range(10 * _KEPT):
            clock.now += 10
            await pace.turn("start", f"m-{number}")

    asyncio.run(main())
    assert len(pace._buckets) <= _KEPT
    assert len(pace._turns) <= _KEPT

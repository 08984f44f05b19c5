"""The shelf forgets nothing, keeps to its memory, and leaves no file behind."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame.scheduler.home.store import Parcel, ResultStore
from tests.support.examples import examples

pytestmark = pytest.mark.unit

SIZES = st.integers(0, 120)
KEYS = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.lists(SIZES, min_size=1, max_size=3)),
    st.tuples(st.just("drop"), KEYS, st.none()),
    st.tuples(st.just("load"), KEYS, st.none()),
    st.tuples(st.just("settle"), st.none(), st.none()),
    st.tuples(st.just("begin to settle"), st.none(), st.none()),
)


def parcel(fill: int, lengths: list[int]) -> Parcel:
    return Parcel({"n": fill}, [bytes([fill % 256]) * n for n in lengths])


def content(p: Parcel) -> tuple[Any, list[bytes]]:
    return p.header, [bytes(f) for f in p.frames]


@settings(max_examples=examples(60))
@given(steps=st.lists(STEPS, max_size=30), memory=st.none() | st.integers(0, 200))
def test_accounting(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], memory: int | None
) -> None:
    folder = tmp_path_factory.mktemp("shelf") / "results"

    async def run() -> None:
        shelf = ResultStore(folder, memory=memory)
        model: dict[int, Parcel] = {}
        begun: list[asyncio.Task[None]] = []
        for i, (what, key, lengths) in enumerate(steps):
            if what == "put":
                shelf[key] = model[key] = parcel(i, lengths)
            elif what == "drop":
                assert shelf.pop_silently(key) is (model.pop(key, None) is not None)
            elif what == "load":
                loaded = await shelf.load([key])
                assert set(loaded) == ({key} & set(model))
                assert all(content(loaded[k]) == content(model[k]) for k in loaded)
            elif what == "settle":
                await shelf.settle()
                assert memory is None or shelf.memory <= memory
            else:
                begun.append(asyncio.create_task(shelf.settle()))
                await asyncio.sleep(0)
            assert set(shelf) == set(model)
            assert len(shelf) == len(model)
            assert shelf.memory + shelf.disk == sum(p.nbytes for p in model.values())
            assert shelf.weigh(list(range(6))) == shelf.memory + shelf.disk
        await asyncio.gather(*begun)
        await shelf.settle()
        assert memory is None or shelf.memory <= memory
        assert {k: content(p) for k, p in shelf.items()} == {
            k: content(p) for k, p in model.items()
        }
        await asyncio.wrap_future(shelf._thread.submit(int))  # removals are done before it
        assert sum(f.stat().st_size for f in _files(folder)) == shelf.disk
        for key in model:
            del shelf[key]
        assert (shelf.memory, shelf.disk) == (0, 0)
        await asyncio.wrap_future(shelf._thread.submit(int))
        assert not _files(folder)
        await shelf.close()
        assert not folder.exists()

    asyncio.run(run())


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.asyncio
async def test_the_least_recently_used_go_to_files(tmp_path: Path) -> None:
    shelf = ResultStore(tmp_path / "results", memory=30)
    for key in "abc":
        shelf[key] = parcel(1, [10])
    await shelf.load(["a"])
    shelf["d"] = parcel(1, [10])
    await shelf.settle()
    assert set(shelf._files) == {"b"}
    shelf["large"] = parcel(1, [100])
    await shelf.settle()
    assert set(shelf._files) == {"b", "large"}
    await shelf.close()


@pytest.mark.asyncio
async def test_what_cannot_be_written_stays_in_memory_and_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("not a folder")
    shelf = ResultStore(tmp_path / "results", memory=10)
    shelf["a"], shelf["b"] = parcel(1, [10]), parcel(2, [10])
    for _ in range(2):
        with pytest.raises(OSError, match="results"):
            await shelf.settle()
    assert (shelf.memory, shelf.disk) == (20, 0)
    (tmp_path / "results").unlink()
    await shelf.settle()
    assert (shelf.memory, shelf.disk) == (10, 10)
    assert [content(p)[1] for p in (await shelf.load("ab")).values()] == [
        [b"\1" * 10],
        [b"\2" * 10],
    ]
    await shelf.close()


@pytest.mark.asyncio
async def test_closing_while_a_file_is_written_or_read(tmp_path: Path) -> None:
    shelf = ResultStore(tmp_path / "results", memory=0)
    shelf["a"] = Parcel({}, [bytes(50_000_000)])
    settling = asyncio.create_task(shelf.settle())
    await asyncio.sleep(0)
    await shelf.close()
    await settling
    assert not (tmp_path / "results").exists()
    assert await shelf.load(["a"]) in ({}, {"a": shelf._kept.get("a")})
    await shelf.close()
    del shelf["a"]
    assert not any(t.name.startswith("flame-home") and t.is_alive() for t in _threads())


def _threads() -> list[threading.Thread]:
    for thread in threading.enumerate():
        if thread.name.startswith("flame-home"):
            thread.join(40)
    return threading.enumerate()


@pytest.mark.asyncio
async def test_settling_goes_on_when_who_asked_for_it_is_gone(tmp_path: Path) -> None:
    shelf = ResultStore(tmp_path / "results", memory=0)
    shelf["a"] = Parcel({}, [bytes(1_000_000)])
    task = asyncio.create_task(shelf.settle())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await shelf.settle()
    assert (shelf.memory, shelf.disk) == (0, 1_000_000)
    await shelf.close()


def test_a_small_part_of_a_message_does_not_keep_all_of_it() -> None:
    message = bytearray(1_000_000)
    whole = memoryview(message)
    small = Parcel({}, [whole[:10], whole[10:20]])
    assert not any(memoryview(f).obj is message for f in small.frames)
    most = Parcel({}, [whole[:10], whole[10:400_000], whole[400_000:]])
    assert all(memoryview(f).obj is message for f in most.frames)


def test_a_result_that_its_runner_could_not_serialize_is_none() -> None:
    assert Parcel(*serialize(np.arange(10))).problem() is None
    assert Parcel(*serialize([np.arange(10), "x"])).problem() is None
    lock = threading.Lock()
    why = Parcel(*serialize(lock)).problem()
    assert why is not None
    assert "type lock" in why
    assert "cannot pickle" in why
    assert Parcel(*serialize([np.arange(10), lock])).problem() is not None


def test_frames_are_what_they_were() -> None:
    p = Parcel(*serialize({"a": np.arange(1000), "b": [np.ones(3), "x"]}))
    back = deserialize(p.header, p.frames)
    assert back["a"].sum() == 499_500
    assert back["b"][1] == "x"

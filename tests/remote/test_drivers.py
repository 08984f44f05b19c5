"""Who may become the driver of a cluster whose driver is gone."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from dask_flame.remote.drivers import Drivers

pytestmark = [pytest.mark.unit, pytest.mark.asyncio]

PROOF = "proof"


class Link:
    """The channel to the driver, as far as it matters here."""

    def __init__(self) -> None:
        self.connected = False
        self.renewed = 0

    def renew(self, kept: Any) -> None:
        self.renewed += 1


class Claimant:
    """The connection of a process that wants to be the driver."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def write(self, answer: dict[str, Any]) -> None:
        self.answers.put_nowait(answer)

    async def read(self) -> None:
        await self.gone.wait()
        raise OSError("closed")


def drivers(*, handover: bytes = b"sealed") -> tuple[Drivers, Link]:
    link: Any = Link()
    digest = hashlib.sha256(PROOF.encode()).hexdigest()
    found = Drivers(link, "first", digest)
    found.who, found.handover = "process 1 on laptop", handover
    return found, link


def claim(of: Drivers, id: str, proof: str = PROOF) -> tuple[Claimant, asyncio.Task[None]]:
    comm: Any = Claimant()
    who = f"process {id} on laptop"
    return comm, asyncio.ensure_future(
        of.claim(comm, proof, id, who, within=600, begin=lambda: None)
    )


async def refused(of: Drivers, proof: str = PROOF) -> str:
    comm, task = claim(of, "3", proof)
    answer = await comm.answers.get()
    comm.gone.set()  # a claim that is accepted by mistake ends, too
    await task
    return str(answer["refused"])


async def test_a_driver_that_is_there_is_not_replaced() -> None:
    there, link = drivers()
    link.connected = True
    assert "its driver is there: process 1 on laptop" in await refused(there)
    assert (link.renewed, there.refusal("first")) == (0, "")


@pytest.mark.parametrize("proof", ["", "another"])
async def test_a_process_without_the_proof_is_refused(proof: str) -> None:
    there, link = drivers()
    assert await refused(there, proof) == "it has no proof that it may"
    assert link.renewed == 0


async def test_a_cluster_without_a_proof_has_no_other_driver() -> None:
    there, _ = drivers()
    there._proof = ""
    assert await refused(there) == "it has no proof that it may"


async def test_a_driver_that_was_not_ready_leaves_nothing() -> None:
    there, _ = drivers(handover=b"")
    assert "had not finished its start" in await refused(there)


async def test_one_of_two_claims_wins_and_the_earlier_driver_is_turned_away() -> None:
    there, link = drivers()
    comm, task = claim(there, "2")
    assert await comm.answers.get() == {"refused": "", "handover": b"sealed"}
    assert "at this moment: process 2 on laptop" in await refused(there)
    assert there.refusal("2") == ""
    assert there.refusal("first").endswith("become its driver: process 2 on laptop")
    link.connected, there.who = True, "process 2 on laptop"
    await task
    assert (there.claimed_by, there.holder, link.renewed) == ("", "process 2 on laptop", 1)
    assert there.refusal("first").endswith("become its driver: process 2 on laptop")


async def test_a_claimant_that_dies_blocks_nobody() -> None:
    there, _ = drivers()
    comm, task = claim(there, "2")
    await comm.answers.get()
    comm.gone.set()
    await task
    assert (there.claimed_by, there.holder) == ("", "")
    comm, task = claim(there, "3")
    assert (await comm.answers.get())["refused"] == ""
    comm.gone.set()
    await task

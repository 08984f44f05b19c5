"""The Slurm backend on real daemons: refusals, what a job waits for, and the causes of ends."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client

from dask_flame import BootError, FlameCluster
from dask_flame.backends.slurm import SlurmBackend
from dask_flame.errors import BackendError
from dask_flame.testing.conformance import Said
from tests.backends.slurm.stage import NOWHERE, WHOLE_NODE, end_of, has_step, spec, started
from tests.support.slurm_world import NODES, SlurmWorld
from tests.support.waiting import until, wait_for

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


def shared() -> Path:
    """Return the folder of the only cluster."""
    (folder,) = Path(dask.config.get("flame.slurm.folder")).iterdir()
    return folder


async def test_a_refusal_is_in_the_words_of_sbatch(slurm: SlurmWorld) -> None:
    async with started() as (backend, said):
        await backend.boot([spec("one", options={"partition": "none-such"})])
        ended = await end_of("one", said)
    assert "invalid partition specified: none-such" in ended.why
    assert ended.why.endswith("; relevant settings: partition")
    assert ended.final


async def test_a_wave_is_one_array_and_its_jobs_say_what_they_wait_for(slurm: SlurmWorld) -> None:
    async with started() as (backend, said):
        # One more than there are nodes, and another kind of runner.
        await backend.boot([spec(f"r{n}", cpus=WHOLE_NODE) for n in range(3)])
        await backend.boot([spec("late", options={"partition": "short"})])
        late = await end_of("late", said)
        await until(lambda: said.troubles, what="a reason")
        arrays = {line.split()[0] for line in slurm.command("squeue", "-h", "-o", "%F").split()}
        files = [path for path in shared().iterdir() if path.suffix == ".json"]
        modes = {stat.S_IMODE(path.stat().st_mode) for path in files}
        assert stat.S_IMODE(shared().stat().st_mode) == 0o700
        assert modes == {0o600}
    assert len(arrays) == 1
    # Its time limit is above that of the partition.
    assert "PartitionTimeLimit" in late.why
    assert late.why.endswith("relevant settings: time and partition")
    assert late.final
    reasons = [why for _, why in said.troubles if why]
    assert all(why.startswith("its job waits in the queue: ") for why in reasons), reasons


async def test_a_kind_without_capacity_is_given_up_and_others_are_not(slurm: SlurmWorld) -> None:
    async with started() as (backend, said):
        waits = {"cpus": WHOLE_NODE, "scheduler": "tcp://127.0.0.2:1", "capacity_wait": 0.5}
        await backend.boot([spec(f"r{n}", **waits) for n in range(3)])
        await until(lambda: any(ended.no_capacity for ended in said.ended), within=120)
        (ended,) = [ended for ended in said.ended if ended.no_capacity]
        assert "Resources" in ended.why
        assert ended.name not in await backend.list()


async def test_behind_other_jobs_the_last_kind_alone_keeps_its_place(slurm: SlurmWorld) -> None:
    other = ("sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=exec sleep 600")
    # Two run. The third is the first that waits, so that what is behind it has Priority.
    others = [slurm.command(*other).strip() for _ in range(3)]
    try:
        async with started() as (backend, said):
            wait = {"capacity_wait": 0.5, "cpus": WHOLE_NODE}
            await backend.boot([spec("last", **wait, last_kind=True)])
            await backend.boot([spec("first", **wait)])
            ended = await end_of("first", said)
            assert ended.no_capacity
            assert "Priority" in ended.why
            later = time.monotonic() + 3
            await until(lambda: time.monotonic() > later, what="its time would be over")
            assert await backend.list() == {"last"}
    finally:
        slurm.command("scancel", *others)


async def test_a_driver_that_is_gone_or_out_of_reach_ends_the_job(slurm: SlurmWorld) -> None:
    async with started() as (backend, said):
        await backend.boot([spec("one")])
        ended = await end_of("one", said)
        assert not list(shared().glob("[0-9]*.json"))
    assert f"{NOWHERE}, cannot be reached from node n" in ended.why
    assert ended.why.endswith("relevant settings: interface")


async def test_the_folder_may_have_signs_that_slurm_replaces(
    slurm: SlurmWorld, tmp_path: Path
) -> None:
    with dask.config.set({"flame.slurm.folder": str(tmp_path / "50% of %a %j")}):
        async with started() as (backend, said):
            await backend.boot([spec("one")])
            ended = await end_of("one", said)
    assert "cannot be reached from node n" in ended.output


async def test_a_job_that_somebody_cancels_or_that_takes_too_much_memory(slurm: SlurmWorld) -> None:
    holds = {"job_script_prologue": ["sleep 600"]}
    eats = f"{sys.executable} -c 'import time; x = b\"1\" * 400_000_000; time.sleep(600)'"
    async with started() as (backend, said):
        await backend.boot([spec("cancelled", options=holds)])
        await backend.boot(
            [spec("large", memory=100 * 2**20, options={"job_script_prologue": [eats]})]
        )
        await until(has_step(said, "cancelled", "started"))
        large = await end_of("large", said)
        jobs = slurm.command("squeue", "-h", "-r", "-o", "%F_%K").split()
        slurm.command("scancel", *jobs)
        cancelled = await end_of("cancelled", said)
    assert cancelled.why == "its job was cancelled by somebody else (CANCELLED)"
    assert large.why == "ran out of memory (limit 100M); relevant settings: memory"


async def test_a_node_that_is_lost_and_one_that_does_not_see_the_folder(
    own_slurm: SlurmWorld, tmp_path: Path
) -> None:
    slurm = own_slurm
    slurm.kill("n1")
    slurm.start_node("n1", hides=str(tmp_path))
    wait_for(lambda: slurm.states().get("n1") == "idle", what="n1 is back")
    options = {"job_script_prologue": ["sleep 600"], "job_extra_directives": ["--nodelist=n2"]}
    async with started() as (backend, said):
        await backend.boot([spec("lost", options=options)])
        options = {"job_extra_directives": ["--nodelist=n1"]}
        await backend.boot([spec("blind", options=options)])
        blind = await end_of("blind", said)
        await until(has_step(said, "lost", "started"))
        slurm.kill("n2")
        slurm.command("scontrol", "update", "nodename=n2", "state=DOWN", "reason=test")
        lost = await end_of("lost", said)
    assert lost.why == "its node n2 failed (NODE_FAIL)"
    assert "is not there on node n1; write folder=" in blind.why
    assert blind.final


async def test_without_slurm_or_with_another_interface(
    slurm: SlurmWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = pytest.raises(BackendError, match=r"interface='nosuch0'.*write interface= .*\blo\b")
    with dask.config.set({"flame.slurm.interface": "nosuch0"}), refused:
        async with started():
            pass
    backend = SlurmBackend(Said().context)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(BackendError, match="there is no command 'sbatch'"):
            await backend.start()
    await backend.close()


async def test_a_cluster_with_calls_over_tls(slurm: SlurmWorld) -> None:
    def where(n: int) -> tuple[str, str | None]:
        return os.environ["SLURMD_NODENAME"], os.environ.get("CUDA_VISIBLE_DEVICES")

    options = {"gpus": 1, "gpu_kind": "tesla", "max": 4, "dashboard_address": None}
    async with (
        FlameCluster(
            backend="slurm", secrets={"KEY": "not-a-key-1234"}, asynchronous=True, **options
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        assert cluster.scheduler_address.startswith("tls://")
        done = await client.gather(client.map(where, range(8)))
        said = slurm.command("scontrol", "show", "job")
        said += "".join(path.read_text() for path in shared().glob("*-*.out"))
        manifest = repr(cluster.manifest())
        ready = [event for event in cluster.events if event.kind == "ready"]
    assert {device for _, device in done} <= {"0", "1"}
    assert "not-a-key" not in said + manifest
    assert "PRIVATE KEY" not in said + manifest
    assert "#SBATCH --gres=gpu:tesla:1" in manifest
    assert "queued" in ready[0].text
    assert "started" in ready[0].text


async def test_a_job_may_wait_in_the_queue_for_longer_than_a_boot_may_take(
    slurm: SlurmWorld,
) -> None:
    other = ("sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=exec sleep 600")
    others = [slurm.command(*other).strip() for _ in NODES]
    try:
        async with (
            FlameCluster(
                backend="slurm", boot_timeout="5m", dashboard_address=None, asynchronous=True
            ) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            future = client.submit(abs, -1)
            await until(lambda: "waits in the queue" in repr(cluster.events), what="a reason")
            # Only while it waits, because to start may take longer here.
            cluster.resize(boot_timeout="1s")
            later = time.monotonic() + 4
            await until(lambda: time.monotonic() > later, what="its time would be over")
            assert [line for line in slurm.jobs() if line.endswith("PENDING")]
            assert cluster.runners["runner-1"].phase.value == "booting"
            assert cluster.cost().runner_seconds == 0
            cluster.resize(boot_timeout="5m")
            slurm.command("scancel", *others)
            assert await future == 1
            (boot,) = cluster.boots
            paid, whole = cluster.cost().runner_seconds, time.time() - boot.at
            events = [event.kind for event in cluster.events]
    finally:
        slurm.command("scancel", *others)
    assert boot.name == "runner-1"
    assert boot.phases["started"] > 4
    assert 0 < paid <= whole - 4
    assert events.count("boot") == 1


async def test_a_job_that_is_killed_leaves_its_folder_to_the_next_one_on_its_node(
    slurm: SlurmWorld, tmp_path: Path
) -> None:
    def folder() -> str:
        return os.environ["TMPDIR"]

    def inherited() -> list[str]:
        there = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                there.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return there

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with (
        FlameCluster(
            backend="slurm",
            max=1,
            local_directory=str(scratch),
            job_extra_directives=["--nodelist=n1"],
            dashboard_address=None,
            asynchronous=True,
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        first = await client.submit(folder, pure=False)
        assert list(scratch.iterdir()) == [Path(first)]
        # What it was started with has private keys.
        assert not [file for file in await client.submit(inherited) if "memfd:dask-flame" in file]
        (runner,) = _with_variable(f"TMPDIR={first}")
        shell = runner.parent()
        assert shell is not None
        shell.kill()  # as a node does whose memory has run out
        runner.kill()
        second = await client.submit(folder, pure=False)
        assert list(scratch.iterdir()) == [Path(second)]
    assert first != second
    assert not list(scratch.iterdir())


def _with_variable(text: str) -> list[psutil.Process]:
    """Return the processes that have begun with a variable, but not their children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if text.encode() in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return [process for process in found if process.parent() not in found]


async def test_calls_fail_with_the_refusal(slurm: SlurmWorld) -> None:
    async with (
        FlameCluster(
            backend="slurm", partition="none-such", dashboard_address=None, asynchronous=True
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        with pytest.raises(BootError, match="invalid partition specified: none-such"):
            await client.submit(abs, -1)


async def test_a_runner_is_drained_before_its_time_is_up(slurm: SlurmWorld) -> None:
    # The least that Slurm knows is a minute.
    async with (
        FlameCluster(
            backend="slurm", time="1m", min=1, max=1, dashboard_address=None, asynchronous=True
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        kept = client.submit(abs, -5, workers=["runner-1"], allow_other_workers=True)
        await kept
        await until(lambda: "runner-2" in cluster.runners, within=150, what="its successor")
        assert await client.gather(kept) == 5
        texts = [event.text for event in cluster.events]
    assert not [text for text in texts if "TIMEOUT" in text], texts

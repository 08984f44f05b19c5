"""What is pure in the Slurm backend: options, the script, and what Slurm says of jobs."""

from __future__ import annotations

from typing import Any

import dask
import pytest

from dask_flame import Pool, PoolError
from dask_flame.backends import RunnerSpec
from dask_flame.backends.slurm import commands, refusals
from dask_flame.backends.slurm.identity import Identity, lives, this_process
from dask_flame.backends.slurm.job_states import FORMAT, Job, parse, why_ended
from dask_flame.backends.slurm.options import SlurmOptions, check_time, complete
from dask_flame.backends.slurm.runner import launch_file
from dask_flame.backends.slurm.script import group_key, script

pytestmark = pytest.mark.unit


def spec(**more: Any) -> RunnerSpec:
    base: dict[str, Any] = {"name": "r", "scheduler": "tls://h:1", "concurrency": 2}
    return RunnerSpec(**{**base, "boot_timeout": 600, **more})


def directives(runner: RunnerSpec, **options: Any) -> list[str]:
    text = script([runner], complete(options), Identity.new("my shop"), "/f", wave=3, drain=90)
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH ")]


def job(state: str, **more: Any) -> Job:
    base = {"wave": "7", "task": "0", "id": "8", "code": 0, "node": "n1", "reason": "None"}
    return Job(**{**base, "state": state, "start": "", "name": "", "comment": "", **more})


def why(one: Job, **more: Any) -> str:
    base: dict[str, Any] = {"ending": False, "limit": 7200, "memory": "8G", "output": "x"}
    return why_ended(one, **{**base, "folder": "/f", **more})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("2h", 7200), ("90:00", 5400), ("00:30:00", 1800), ("1-0", 86_400), (3600, 3600)],
)
def test_a_time_limit_in_seconds(given: Any, seconds: int) -> None:
    assert check_time("time", given) == seconds


@pytest.mark.parametrize("given", ["5s", "30", "1:2:3:4", "soon", 0, None])
def test_no_time_limit(given: Any) -> None:
    with pytest.raises(PoolError, match="time"):
        check_time("time", given)


def test_what_a_pool_wants_becomes_directives() -> None:
    pool = Pool(gpus=2, gpu_kind="a100", cpus=3.5, memory="4 GiB", time="90m", partition="gpu")
    runner = spec(cpus=pool.cpus, gpus=pool.gpus, memory=pool.memory)
    found = directives(runner, **pool.options)
    assert "--gres=gpu:a100:2" in found
    assert "--cpus-per-task=4" in found
    assert "--mem=4096M" in found
    assert "--time=90" in found
    assert "--partition=gpu" in found
    assert "--no-requeue" in found
    assert "--signal=B:TERM@90" in found
    # 90 minutes, and 30 days in which it may wait, whatever its boot_timeout.
    assert "--deadline=now+43290minutes" in found
    assert any(line.startswith("--job-name=flame-my-shop-") for line in found)


def test_the_configuration_of_dask_jobqueue_is_read_where_it_means_the_same() -> None:
    theirs = {
        "queue": "batch",
        "walltime": "00:30:00",
        "cores": 12,
        "memory": "24 GiB",
        "job-script-prologue": ["module load cuda"],
        "job-extra-directives": ["--exclusive"],
        "job-directives-skip": ["--mem"],
    }
    with dask.config.set({"jobqueue.slurm": theirs, "flame.slurm.partition": None}):
        found = directives(spec())
        assert {"--partition=batch", "--time=30", "--cpus-per-task=12", "--exclusive"} <= {*found}
        assert not [line for line in found if "--mem" in line]
        # What is said here counts more.
        assert "--cpus-per-task=1" in directives(spec(cpus=1))
        with dask.config.set({"flame.slurm.partition": "ours"}):
            assert "--partition=ours" in directives(spec())
            assert "--partition=mine" in directives(spec(), partition="mine")


def test_a_script_is_shell_and_holds_no_secret() -> None:
    runner = spec(secrets={"KEY": "s3cret-value"}, env={"MODE": "hidden-value"})
    options = complete({"job_script_epilogue": ["echo end"], "local_directory": "/a b"})
    text = script([runner], options, Identity.new("x"), "/f o", wave=1, drain=90)
    assert "value" not in text
    assert "mktemp -d '/a b'/dask-flame-" in text
    assert "--output='/f o/1-%a.out'" in text
    assert text.endswith('echo end\nexit "$flame_code"\n')
    assert b"s3cret-value" in launch_file(runner)
    assert group_key(runner, options) == group_key(spec(name="other"), options)
    assert group_key(runner, options) != group_key(spec(gpus=1), options)


def test_a_list_of_jobs_is_read_by_its_columns() -> None:
    columns = [column.split(":") for column in FORMAT.split(",")]
    values = {"ArrayJobID": "12", "ArrayTaskID": "3", "JobID": "15", "State": "PENDING"}
    values |= {"exit_code": "0", "Reason": "ReqNodeNotAvail, UnavailableNodes:n1"}
    line = "".join(values.get(name, "").ljust(int(width)) for name, width in columns)
    (found,) = parse(line + "\n\n")
    assert found.target == "12_3"
    assert found.lacks_capacity
    assert found.waits_for == "its job waits in the queue: ReqNodeNotAvail, UnavailableNodes:n1"
    assert not found.hopeless
    assert job("PENDING", reason="Priority").lacks_capacity
    assert not job("PENDING", reason="QOSMaxJobsPerUserLimit").lacks_capacity
    assert "time and partition" in job("PENDING", reason="PartitionTimeLimit").hopeless


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (job("COMPLETED"), "exit code 0"),
        (job("FAILED", code=7 << 8), "exit code 7"),
        (job("FAILED", code=137 << 8), "killed by SIGKILL"),
        (job("TIMEOUT"), "reached its time limit of 2:00:00 (TIMEOUT); relevant settings: time"),
        (job("OUT_OF_MEMORY"), "ran out of memory (limit 8G); relevant settings: memory"),
        (job("NODE_FAIL"), "its node n1 failed (NODE_FAIL)"),
        (job("PREEMPTED"), "was preempted by another job (PREEMPTED)"),
        (job("CANCELLED"), "its job was cancelled by somebody else (CANCELLED)"),
        (job("DEADLINE"), "its job has waited for so long that it could not end before its"),
        (job("FAILED", code=53), "the folder /f is not there on node n1"),
    ],
)
def test_the_cause_of_an_end(one: Job, text: str) -> None:
    assert why(one).startswith(text)


def test_an_end_that_was_asked_for() -> None:
    assert why(job("CANCELLED", code=9), ending=True) == "ended by force"
    assert why(job("COMPLETED"), ending=True) == "exit code 0"


def test_what_a_refusal_means() -> None:
    limit = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
    assert refusals.no_room(limit)
    assert not refusals.is_final(limit)
    assert not refusals.is_final("Unable to contact slurm controller (connect failure)")
    wrong = "Batch job submission failed: Invalid account or account/partition combination"
    assert refusals.is_final(wrong)
    assert refusals.refusal(wrong).endswith("relevant settings: account and partition")


def test_a_command_gets_neither_secrets_nor_the_variables_of_an_outer_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"SLURM_JOB_ID": "1", "SBATCH_ACCOUNT": "x", "HF_TOKEN": "hf_x", "SLURM_CONF": "/c"}
    for name, value in {**given, "DATA": "/data"}.items():
        monkeypatch.setenv(name, value)
    found = commands.environment()
    assert found["DATA"] == "/data"
    assert found["SLURM_CONF"] == "/c"
    assert not {"SLURM_JOB_ID", "SBATCH_ACCOUNT", "HF_TOKEN"} & found.keys()
    # What a pool calls a secret is one, whatever its variable is called here.
    assert "DATA" not in commands.environment(["/data"])


def test_a_process_is_known_on_its_computer_alone() -> None:
    assert lives(this_process()) is True
    where, number, _ = this_process().split(":")
    assert lives(f"{where}:{number}:0.0") is False
    assert lives("elsewhere:1:0.0") is None


def test_options_are_refused_with_a_line_to_write() -> None:
    with pytest.raises(PoolError, match=r"folder=.*absolute"):
        SlurmOptions(folder="here")
    for path in ("/a\\b", "/a\nb"):
        with pytest.raises(PoolError, match=r"folder=.*without backslashes"):
            SlurmOptions(folder=path)
    with pytest.raises(PoolError, match="job_extra_directives"):
        SlurmOptions(job_extra_directives="--exclusive")

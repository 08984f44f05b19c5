"""Write reports in the formats of experiment trackers (driver)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dask.typing import Key

from dask_flame.reports.series import CallReports, Parameter, merged

#: Suffix of the files that dask-flame writes into a TensorBoard folder.
_SUFFIX = ".dask-flame"
#: Name of the MLflow experiment and of the W&B project.
_PROJECT = "dask-flame"
#: Maximum number of values in one request to MLflow.
_MLFLOW_BATCH = 1_000
#: Maximum number of characters of a parameter in MLflow, and of parameters in one request.
_MLFLOW_TEXT, _MLFLOW_PARAMETERS = 500, 100
#: State of an MLflow run by the state of its call.
_MLFLOW_STATES = {"done": "FINISHED", "failed": "FAILED", "waiting": "SCHEDULED"} | dict.fromkeys(
    ("cancelled", "lost"), "KILLED"
)


def write_tensorboard(
    folder: Path, calls: Iterable[CallReports], names: Mapping[Key, str]
) -> list[Path]:
    """Write a TensorBoard run for each attempt; see :meth:`Exports.to_tensorboard`."""
    open_writer, hparams = _tensorboard()
    made: list[Path] = []
    for name, call in _attempts_by_name(calls):
        run = Path(folder, name)
        for old in run.glob(f"events.out.tfevents.*{_SUFFIX}"):
            old.unlink()
        writer = open_writer(str(run), filename_suffix=_SUFFIX)
        try:
            if call.parameters:
                # Its add_hparams() would write a run of its own.
                told = {n: "None" if v is None else v for n, v in call.parameters.items()}
                for summary in hparams(
                    {"name": names[call.key], **told}, dict.fromkeys(call.series, 0)
                ):
                    writer.file_writer.add_summary(summary)
            for metric, series in call.series.items():
                for step, value, at in zip(series.steps, series.values, series.times, strict=True):
                    writer.add_scalar(metric, value, step, at)
        finally:
            writer.close()
        made.append(run)
    return made


def _tensorboard() -> tuple[Any, Any]:
    """Return a class that writes TensorBoard logs, and its summary of hyper-parameters."""
    try:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams
        except ImportError:
            raise ImportError(
                "to_tensorboard() needs a writer: pip install 'dask-flame[tensorboard]'"
            ) from None
    return SummaryWriter, hparams


def write_mlflow(folder: Path, calls: Iterable[CallReports], names: Mapping[Key, str]) -> list[str]:
    """Write an MLflow run for each attempt; see :meth:`Exports.to_mlflow`."""
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError:
        raise ImportError("to_mlflow() needs MLflow: pip install mlflow") from None
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    known = client.get_experiment_by_name(_PROJECT)
    if known is not None:
        experiment = known.experiment_id
    else:
        artifacts = (folder.absolute() / "artifacts").as_uri()
        experiment = client.create_experiment(_PROJECT, artifact_location=artifacts)
    made = []
    for call in _attempts(calls):
        run = client.create_run(
            experiment,
            start_time=int(call.started * 1000),
            tags=_facts(call),
            run_name=_attempt_name(call, names),
        ).info.run_id
        params = [
            Param(_mlflow_name(name), str(value)[:_MLFLOW_TEXT])
            for name, value in call.parameters.items()
        ]
        for i in range(0, len(params), _MLFLOW_PARAMETERS):
            client.log_batch(run, params=params[i : i + _MLFLOW_PARAMETERS])
        metrics = [
            Metric(_mlflow_name(name), value, int(at * 1000), step)
            for name, series in call.series.items()
            for step, value, at in zip(series.steps, series.values, series.times, strict=True)
        ]
        for i in range(0, len(metrics), _MLFLOW_BATCH):
            client.log_batch(run, metrics=metrics[i : i + _MLFLOW_BATCH])
        if call.state in _MLFLOW_STATES:
            ended = None if call.finished is None else int(call.finished * 1000)
            client.set_terminated(run, _MLFLOW_STATES[call.state], end_time=ended)
        made.append(run)
    return made


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w./ :-]", "_", name)[:250]


def write_wandb(folder: Path, calls: Iterable[CallReports], names: Mapping[Key, str]) -> list[Path]:
    """Write a W&B offline run for each attempt; see :meth:`Exports.to_wandb`."""
    try:
        import wandb
    except ImportError:
        raise ImportError("to_wandb() needs W&B: pip install wandb") from None
    folder.mkdir(parents=True, exist_ok=True)
    own = wandb.run is None
    made = []
    try:
        for call in _attempts(calls):
            with warnings.catch_warnings():
                # Its own use of other libraries.
                warnings.simplefilter("ignore")
                run = wandb.init(
                    mode="offline",
                    dir=folder,
                    project=_PROJECT,
                    group=call.run or None,
                    name=_attempt_name(call, names),
                    config={**call.parameters, _PROJECT: _facts(call)},
                    reinit="create_new",
                    settings=wandb.Settings(
                        console="off", silent=True, x_disable_stats=True, disable_git=True
                    ),
                )
                run.define_metric("*", step_metric="step")
                for (at, step), values in merged(call).items():
                    run.log({**values, "step": step, "_timestamp": at})
                made.append(Path(run.settings.sync_dir))
                run.finish(exit_code=int(call.state == "failed"))
    finally:
        if own:
            # End the process that it has started.
            wandb.teardown()
    return made


def _facts(call: CallReports) -> dict[str, Any]:
    """Return the facts of an attempt that are neither parameters nor metrics."""
    told: dict[str, Parameter] = {
        "call": str(call.key),
        "function": call.function,
        "label": call.label,
        "run": call.run,
        "runner": call.runner,
        "pool": call.pool,
        "state": call.state,
        "why": call.why,
    }
    return {name: value for name, value in told.items() if value} | {"attempt": call.attempt}


def _attempts(calls: Iterable[CallReports]) -> Iterator[CallReports]:
    for call in calls:
        yield from call.earlier
        yield call


def _attempt_name(call: CallReports, names: Mapping[Key, str]) -> str:
    name = names[call.key]
    return name if call.attempt == 1 else f"{name} (attempt {call.attempt})"


def _attempts_by_name(calls: Iterable[CallReports]) -> Iterator[tuple[str, CallReports]]:
    """Return the attempts with unique folder names."""
    taken: set[str] = set()
    for call in calls:
        key = call.key if isinstance(call.key, str) else repr(call.key)
        base = re.sub(r"[^\w.=+@, -]+", "_", key).strip(" .")[:120] or "call"
        name, n = base, 1
        # Some file systems ignore case.
        while name.lower() in taken:
            n += 1
            name = f"{base}-{n}"
        taken.add(name.lower())
        for attempt in call.earlier:
            yield f"{name}-attempt-{attempt.attempt}", attempt
        yield name, call

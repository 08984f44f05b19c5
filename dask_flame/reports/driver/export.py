"""What calls have reported, as others want it: a data frame, a CSV file, TensorBoard's logs."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.typing import Key

from dask_flame.reports.changes import State
from dask_flame.reports.series import CallReports, merged

if TYPE_CHECKING:
    import pandas as pd

#: The columns before those of the values.
COLUMNS = ("call", "attempt", "runner", "pool", "state", "step", "time")
#: What spreadsheets take a cell for a formula by.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: Of the files that are ours in a folder of TensorBoard's.
_OURS = ".dask-flame"


class Exports:
    """What a store of reports can be turned into."""

    @property
    def calls(self) -> dict[Key, CallReports]:
        """What is known now."""
        raise NotImplementedError

    def select(
        self,
        *,
        call: Key | Collection[Key] | None = None,
        runner: str | Collection[str] | None = None,
        pool: str | Collection[str] | None = None,
        metric: str | Collection[str] | None = None,
        state: State | Collection[State] | None = None,
    ) -> dict[Key, CallReports]:
        """What is known now of some calls.

        Parameters
        ----------
        call, runner, pool, state : optional
            Calls with one of these keys, on one of these runners, of one of these pools, in one of
            these states: one, or a list or set of them. By default all.
        metric : str or collection of str, optional
            Only the series of these names, and calls that have one of them.

        Returns
        -------
        dict
            By key, in the order of the calls' first reports.

        Examples
        --------
        >>> found = cluster.reports.select(pool="gpu", metric="loss", state=["running", "done"])
        """
        wanted = {"key": _any_of(call), "runner": _any_of(runner), "pool": _any_of(pool)}
        wanted["state"], names = _any_of(state), _any_of(metric)
        found = {}
        for key, known in self.calls.items():
            if all(values is None or getattr(known, n) in values for n, values in wanted.items()):
                if names is not None:
                    known = _only(known, names)
                if names is None or known.series or known.earlier:
                    found[key] = known
        return found

    def to_pandas(self, **which: Any) -> pd.DataFrame:
        """What was reported, as a data frame with a row for each report.

        Parameters
        ----------
        **which
            As in :meth:`select`; by default all.

        Returns
        -------
        pandas.DataFrame
            ``call``: the key. ``attempt``: 1, and one more each time the call has run again.
            ``runner``, ``pool``: their names; the pool's is empty on other clusters than ours.
            ``state``: running, done, failed, cancelled or lost, of this attempt. ``step``: int.
            ``time``: when it was reported, UTC, by the runner's clock. Then a column for each name
            that was reported, NaN where a report did not have it; a name that is one of those
            before gets an underscore at its end. Ordered by call, attempt and time.

        Raises
        ------
        ImportError
            pandas is not installed.

        Notes
        -----
        A series of more than 4,000 points was thinned: its first, last and extreme values are
        there. Of earlier attempts the last three are there.

        Examples
        --------
        >>> frame = cluster.reports.to_pandas()
        >>> best = frame.groupby("call").loss.min()
        >>> curves = frame.pivot(index="step", columns="call", values="loss")
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError(
                "to_pandas() needs pandas: pip install 'dask-flame[data]'; to_csv() does not"
            ) from None
        names, rows = _table(self.select(**which).values())
        frame = pd.DataFrame(list(rows), columns=names)
        frame["time"] = pd.to_datetime(frame["time"].astype(float), unit="s", utc=True)
        return frame.astype({"attempt": "int64", "step": "int64"}).astype(
            dict.fromkeys(names[len(COLUMNS) :], "float64")
        )

    def to_csv(self, path: str | os.PathLike[str], **which: Any) -> None:
        """Write what was reported to a CSV file, with a line for each report.

        Parameters
        ----------
        path : path
            It is replaced if it is there.
        **which
            As in :meth:`select`; by default all.

        Notes
        -----
        The columns are those of :meth:`to_pandas`. Times are in ISO 8601, UTC; a value that a
        report did not have is empty, and one that was not a number is ``nan``. What a spreadsheet
        would take for a formula, as a key or a name that begins with ``=``, gets a ``'`` before it.
        """
        names, rows = _table(self.select(**which).values())
        at = COLUMNS.index("time")
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(map(_inert, names))
            for row in rows:
                row[at] = datetime.fromtimestamp(row[at], UTC).isoformat(timespec="microseconds")
                writer.writerow(map(_inert, row))

    def to_tensorboard(self, folder: str | os.PathLike[str], **which: Any) -> list[Path]:
        """Write what was reported as logs for TensorBoard, with a run for each call.

        Parameters
        ----------
        folder : path
            Made if it is not there. What this has written there before for the same calls is
            replaced; nothing else is touched.
        **which
            As in :meth:`select`; by default all.

        Returns
        -------
        list of Path
            The runs' folders, named after the calls' keys; of an earlier attempt with
            ``-attempt-1`` behind.

        Raises
        ------
        ImportError
            Neither tensorboardX nor PyTorch's TensorBoard is installed.

        Examples
        --------
        >>> folders = cluster.reports.to_tensorboard("runs")
        >>> # tensorboard --logdir runs
        """
        open_writer = _writer()
        made: list[Path] = []
        for name, call in _runs(self.select(**which).values()):
            run = Path(folder, name)
            for old in run.glob(f"events.out.tfevents.*{_OURS}"):
                old.unlink()
            writer = open_writer(str(run), filename_suffix=_OURS)
            try:
                for metric, series in call.series.items():
                    for step, value, at in zip(
                        series.steps, series.values, series.times, strict=True
                    ):
                        writer.add_scalar(metric, value, step, at)
            finally:
                writer.close()
            made.append(run)
        return made


def _any_of(wanted: Any) -> Collection[Any] | None:
    """What was asked for as a collection; a tuple is a key, as Dask has such keys."""
    if wanted is None:
        return None
    if isinstance(wanted, (list, set, frozenset)) or hasattr(wanted, "keys"):
        return set(wanted)
    return {wanted}


def _only(call: CallReports, names: Collection[str]) -> CallReports:
    earlier = tuple(e for e in (_only(e, names) for e in call.earlier) if e.series)
    series = {name: s for name, s in call.series.items() if name in names}
    return replace(call, series=series, earlier=earlier)


def _attempts(calls: Iterable[CallReports]) -> Iterator[CallReports]:
    for call in calls:
        yield from call.earlier
        yield call


def _table(calls: Iterable[CallReports]) -> tuple[list[str], Iterator[list[Any]]]:
    attempts = list(_attempts(calls))
    metrics = list(dict.fromkeys(name for call in attempts for name in call.series))

    # One at a time: where each call reports names of its own, all together are their square.
    def rows() -> Iterator[list[Any]]:
        for call in attempts:
            of_call = [call.key, call.attempt, call.runner, call.pool, call.state]
            for (at, step), values in merged(call).items():
                yield [*of_call, step, at, *map(values.get, metrics)]

    return [*COLUMNS, *_names(metrics)], rows()


def _inert(cell: Any) -> Any:
    """A cell that a spreadsheet takes for no formula, as OWASP says; numbers are as they are."""
    if isinstance(cell, (int, float)) or cell is None:
        return cell
    text = str(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _names(metrics: Iterable[str]) -> Iterator[str]:
    taken = {*COLUMNS, *metrics}
    for metric in metrics:
        name = metric
        while name in COLUMNS or (name != metric and name in taken):
            name += "_"
        taken.add(name)
        yield name


def _runs(calls: Iterable[CallReports]) -> Iterator[tuple[str, CallReports]]:
    """Attempts with the names of their folders, no two of which are alike."""
    taken: set[str] = set()
    for call in calls:
        key = call.key if isinstance(call.key, str) else repr(call.key)
        base = re.sub(r"[^\w.=+@, -]+", "_", key).strip(" .")[:120] or "call"
        name, n = base, 1
        # Some file systems do not tell capitals from small letters.
        while name.lower() in taken:
            n += 1
            name = f"{base}-{n}"
        taken.add(name.lower())
        for attempt in call.earlier:
            yield f"{name}-attempt-{attempt.attempt}", attempt
        yield name, call


def _writer() -> Any:
    """A class that writes TensorBoard's logs; which of the two writes them makes no difference."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                "to_tensorboard() needs a writer: pip install 'dask-flame[tensorboard]'"
            ) from None
    return SummaryWriter

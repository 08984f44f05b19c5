"""Export reports to a data frame, a CSV file or TensorBoard logs (driver)."""

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

#: Columns before the metrics.
COLUMNS = ("call", "attempt", "runner", "pool", "state", "step", "time")
#: A cell that starts with one of these is a formula to spreadsheets.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: Suffix of the files that dask-flame writes into a TensorBoard folder.
_SUFFIX = ".dask-flame"


class Exports:
    """Selection and export of the reports in a store."""

    @property
    def calls(self) -> dict[Key, CallReports]:
        """Return the current reports of each call."""
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
        """Return the current reports of some calls.

        Parameters
        ----------
        call, runner, pool, state : optional
            Keep calls with one of these keys, runners, pools or states. Each is one value, or a
            list or set of values. By default all calls.
        metric : str or collection of str, optional
            Keep the series of these names, and calls that have at least one of them. By default
            all series.

        Returns
        -------
        dict
            Mapping of key to :class:`CallReports`, ordered by the calls' first reports.

        Examples
        --------
        >>> store.select(pool="gpu", metric="loss", state=["running", "done"])  # doctest: +SKIP
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
        """Return the reports as a data frame with a row for each report.

        Parameters
        ----------
        **which
            Filters of :meth:`select`. By default all reports.

        Returns
        -------
        pandas.DataFrame
            Ordered by call, attempt and time, with these columns:

            - ``call``: key of the call.
            - ``attempt``: 1, plus one for each time the call has run again.
            - ``runner``, ``pool``: their names. ``pool`` is empty on clusters without pools.
            - ``state``: state of the attempt: running, done, failed, cancelled or lost.
            - ``step``: int.
            - ``time``: time of the report, UTC, by the runner's clock.
            - One column for each metric, NaN where a report did not include it. A metric with the
              name of another column gets an underscore at its end.

        Raises
        ------
        ImportError
            pandas is not installed.

        Notes
        -----
        A series of more than 4,000 points is downsampled and keeps its first, last and extreme
        values. The last three earlier attempts are included.

        Examples
        --------
        >>> df = cluster.reports.to_pandas()                                 # doctest: +SKIP
        >>> df.groupby("call").loss.min()                                    # doctest: +SKIP
        >>> df.pivot(index="step", columns="call", values="loss").plot()     # doctest: +SKIP
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
        """Write the reports to a CSV file, with a line for each report.

        Parameters
        ----------
        path : path
            An existing file is replaced.
        **which
            Filters of :meth:`select`. By default all reports.

        Notes
        -----
        The columns are those of :meth:`to_pandas`. Times are ISO 8601, UTC. A missing value is
        empty; NaN is ``nan``. Text that a spreadsheet would read as a formula, such as a key that
        begins with ``=``, is prefixed with ``'``.
        """
        names, rows = _table(self.select(**which).values())
        at = COLUMNS.index("time")
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(map(_escaped, names))
            for row in rows:
                row[at] = datetime.fromtimestamp(row[at], UTC).isoformat(timespec="microseconds")
                writer.writerow(map(_escaped, row))

    def to_tensorboard(self, folder: str | os.PathLike[str], **which: Any) -> list[Path]:
        """Write the reports as TensorBoard logs, with a run for each call.

        Parameters
        ----------
        folder : path
            Created if it does not exist. Files that this method wrote there earlier for the same
            calls are replaced; other files are not touched.
        **which
            Filters of :meth:`select`. By default all reports.

        Returns
        -------
        list of Path
            Folders of the runs, named by the calls' keys. Folders of earlier attempts end in
            ``-attempt-1`` and so on.

        Raises
        ------
        ImportError
            Neither tensorboardX nor PyTorch's TensorBoard is installed.

        Examples
        --------
        >>> cluster.reports.to_tensorboard("runs")     # doctest: +SKIP
        >>> # tensorboard --logdir runs
        """
        open_writer = _writer()
        made: list[Path] = []
        for name, call in _runs(self.select(**which).values()):
            run = Path(folder, name)
            for old in run.glob(f"events.out.tfevents.*{_SUFFIX}"):
                old.unlink()
            writer = open_writer(str(run), filename_suffix=_SUFFIX)
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
    """Return one value or several as a set; a tuple is one key, as in Dask."""
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

    # Rows are generated one at a time: if each call has metrics of its own, the full table is
    # quadratic in the number of calls.
    def rows() -> Iterator[list[Any]]:
        for call in attempts:
            of_call = [call.key, call.attempt, call.runner, call.pool, call.state]
            for (at, step), values in merged(call).items():
                yield [*of_call, step, at, *map(values.get, metrics)]

    return [*COLUMNS, *_names(metrics)], rows()


def _escaped(cell: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula (CSV injection, see OWASP)."""
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


def _writer() -> Any:
    """Return a class that writes TensorBoard logs, from either of two packages."""
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

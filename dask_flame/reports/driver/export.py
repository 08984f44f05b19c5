"""Export reports to a data frame, a CSV file or the logs of experiment trackers (driver)."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.typing import Key

from dask_flame.reports.changes import State
from dask_flame.reports.driver.trackers import write_mlflow, write_tensorboard, write_wandb
from dask_flame.reports.names import names as names_of
from dask_flame.reports.series import CallReports, merged

if TYPE_CHECKING:
    import pandas as pd

#: Columns before the parameters and the metrics.
COLUMNS = (
    *("call", "attempt", "runner", "pool", "state", "step", "time"),
    *("name", "function", "run", "label", "run_id"),
)
#: A cell that starts with one of these is a formula to spreadsheets.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


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

    def names(self) -> dict[Key, str]:
        """Return the name of each call, as on the page.

        A call is named by the arguments in which it differs from the other calls of its run, so a
        name may change when there are more calls.

        Returns
        -------
        dict
            Mapping of key to name.

        Examples
        --------
        >>> names = cluster.reports.names()
        >>> states = {names[call.key]: call.state for call in cluster.reports.calls.values()}
        """
        # Of all calls, so that a call has one name whichever others are selected.
        return names_of(self.calls.values())

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
            - ``name``: name of the call, as on the page.
            - ``function``, ``run``, ``label``: name of the function, name of the run, and the label
              that the call gave itself; empty if there is none.
            - ``run_id``: id of the run. Two runs may have the same name.
            - One column for each parameter of a call, such as ``rate`` or ``model.layers``, None
              where a call does not have it. A parameter with the name of another column or of a
              metric gets an underscore at its end.
            - One column for each metric, NaN where a report did not include it. A metric with the
              name of a column above gets an underscore at its end.

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
        >>> frame = cluster.reports.to_pandas()
        >>> best = frame.groupby("call").loss.min()
        >>> curves = frame.pivot(index="step", columns="name", values="loss")
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError(
                "to_pandas() needs pandas: pip install 'dask-flame[data]'; to_csv() does not"
            ) from None
        names, parameters, rows = self._table(which)
        frame = pd.DataFrame(list(rows), columns=names)
        frame["time"] = pd.to_datetime(frame["time"].astype(float), unit="s", utc=True)
        return frame.astype({"attempt": "int64", "step": "int64"}).astype(
            dict.fromkeys(names[len(COLUMNS) + parameters :], "float64")
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
        names, _, rows = self._table(which)
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
            ``-attempt-1`` and so on. The parameters of the calls are in TensorBoard's tab HPARAMS.

        Raises
        ------
        ImportError
            Neither tensorboardX nor PyTorch's TensorBoard is installed.

        Examples
        --------
        >>> folders = cluster.reports.to_tensorboard("runs")
        >>> # tensorboard --logdir runs
        """
        calls = self.select(**which)
        return write_tensorboard(Path(folder), calls.values(), self.names())

    def to_mlflow(self, folder: str | os.PathLike[str], **which: Any) -> list[str]:
        """Write the reports into an MLflow database, with a run for each attempt of a call.

        Parameters
        ----------
        folder : path
            Created if it does not exist. The runs are added to its ``mlflow.db``, to the experiment
            ``dask-flame``. No server is needed.
        **which
            Filters of :meth:`select`. By default all reports.

        Returns
        -------
        list of str
            Ids of the runs.

        Raises
        ------
        ImportError
            MLflow is not installed.

        Examples
        --------
        >>> ids = cluster.reports.to_mlflow("tracked")                        # doctest: +SKIP
        >>> # mlflow ui --backend-store-uri sqlite:///tracked/mlflow.db
        """
        return write_mlflow(Path(folder), self.select(**which).values(), self.names())

    def to_wandb(self, folder: str | os.PathLike[str], **which: Any) -> list[Path]:
        """Write the reports as offline runs of Weights & Biases, one for each attempt of a call.

        Parameters
        ----------
        folder : path
            Created if it does not exist. The runs are added to its folder ``wandb``. Reports
            are not sent; ``wandb sync`` does that.
        **which
            Filters of :meth:`select`. By default all reports.

        Returns
        -------
        list of Path
            Folders of the runs.

        Raises
        ------
        ImportError
            wandb is not installed.

        Examples
        --------
        >>> folders = cluster.reports.to_wandb("tracked")                     # doctest: +SKIP
        >>> # wandb sync tracked/wandb/offline-run-*
        """
        return write_wandb(Path(folder), self.select(**which).values(), self.names())

    def _run_names(self) -> Mapping[str, str]:
        """Return the names of the runs by their ids, as far as they are known."""
        return {}

    def _table(self, which: dict[str, Any]) -> tuple[list[str], int, Iterator[list[Any]]]:
        """Return the names of the columns, the number of parameters, and the rows."""
        return _table(self.select(**which).values(), self.names(), self._run_names())


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


def _table(
    calls: Iterable[CallReports], called: Mapping[Key, str], runs: Mapping[str, str]
) -> tuple[list[str], int, Iterator[list[Any]]]:
    attempts = list(_attempts(calls))
    metrics = list(dict.fromkeys(name for call in attempts for name in call.series))
    parameters = list(dict.fromkeys(name for call in attempts for name in call.parameters))

    # Rows are generated one at a time: if each call has metrics of its own, the full table is
    # quadratic in the number of calls.
    def rows() -> Iterator[list[Any]]:
        for call in attempts:
            of_call = [call.key, call.attempt, call.runner, call.pool, call.state]
            # A copy in another process may not know the names of runs.
            run = runs.get(call.run, call.function if call.run else "")
            about: list[Any] = [called[call.key], call.function, run, call.label, call.run]
            about += [call.parameters.get(name) for name in parameters]
            for (at, step), values in merged(call).items():
                yield [*of_call, step, at, *about, *map(values.get, metrics)]

    of_metrics = list(_apart(metrics, COLUMNS))
    of_parameters = _apart(parameters, (*COLUMNS, *of_metrics))
    return [*COLUMNS, *of_parameters, *of_metrics], len(parameters), rows()


def _escaped(cell: Any) -> Any:
    """Return a cell that no spreadsheet reads as a formula (CSV injection, see OWASP)."""
    if isinstance(cell, (int, float)) or cell is None:
        return cell
    text = str(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _apart(names: Iterable[str], others: Collection[str]) -> Iterator[str]:
    """Return the names, with underscores at the end of those that are taken."""
    taken = {*others, *names}
    for given in names:
        name = given
        while name in others or (name != given and name in taken):
            name += "_"
        taken.add(name)
        yield name

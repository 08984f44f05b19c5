"""``dask flame``: list and stop clusters of any driver from a terminal (command line).

Imported with every ``dask`` command, so slow imports are made inside of functions.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dask_flame.attached.looking.values import Stacks
    from dask_flame.backends.inspector import ClusterListing, Inspector, Orphan

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--backend",
        help="Backend of the clusters: local, kubernetes, fly, ssh, slurm or another installed "
        "one. By default flame.backend of Dask's configuration.",
    ),
    click.option(
        "--namespace",
        "-n",
        help="Kubernetes namespace. By default that of the context, or of the pod.",
    ),
    click.option("--context", help="Context of the kubeconfig. By default its current context."),
    click.option("--app", help="App of the machines on Fly. By default flame.fly.app."),
    click.option(
        "--hosts",
        help="Machines that answer to ssh, with commas between, or a configuration of ssh. "
        "By default flame.ssh.hosts.",
    ),
)
_OUTPUT = click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True
)


def _a_number(context: click.Context, option: click.Parameter, value: float) -> float:
    # click's range accepts NaN, because every comparison with it is false.
    if math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds; write --timeout 30")
    return value


def _where(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def flame() -> None:
    """List and stop clusters of dask-flame, also those whose drivers have ended.

    Only your own clusters are listed: those of your user on this machine, on machines that answer
    to ssh or on Slurm, those of a namespace on Kubernetes, or those of an app on Fly.
    """


@flame.command()
@_where
@_OUTPUT
@click.option("--runners", "-r", is_flag=True, help="List the runners as well.")
def ps(output: str, runners: bool, **where: str | None) -> None:
    """List clusters with their drivers, states and runners, and exposed applications.

    Applications are those of your user on this machine that have called dask_flame.expose. JSON has
    the clusters only: add --output json to dask flame apps for these.
    """

    async def show(inspector: Inspector) -> None:
        clusters = await inspector.clusters()
        if output == "json":
            click.echo(json.dumps([asdict(cluster) for cluster in clusters], indent=2))
            return
        from dask_flame.cli.applications import applications, of_applications
        from dask_flame.cli.tables import of_clusters, of_runners

        click.echo(of_clusters(clusters) if clusters else "no clusters")
        if runners and any(cluster.runners for cluster in clusters):
            click.echo("\n" + of_runners(clusters))
        if found := applications():
            click.echo("\n" + of_applications(found))

    _inspect(show, where, whole=True)


@flame.command()
@_OUTPUT
def apps(output: str) -> None:
    """List the applications of your user on this machine that have called dask_flame.expose."""
    from dask_flame.cli.applications import applications, of_applications

    found = applications()
    if output == "json":
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    click.echo(of_applications(found) if found else "no applications")


@flame.command()
@_where
@click.argument("cluster")
@click.argument("runner", required=False)
@click.option(
    "--tail",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Number of last lines of each runner.",
)
def logs(cluster: str, runner: str | None, tail: int, **where: str | None) -> None:
    """Show the output of the runners of CLUSTER, or of one RUNNER.

    With several runners, each line begins with the name of its runner.
    """

    async def read(inspector: Inspector) -> dict[str, str]:
        found = _named(cluster, await inspector.clusters())
        names = [one.name for one in found.runners]
        if runner is not None and runner not in names:
            there = ", ".join(names) or "none"
            raise click.ClickException(f"{found.id} has no runner {runner}; there are: {there}")
        chosen = tuple(one for one in found.runners if runner in (None, one.name))
        return dict(await inspector.logs(replace(found, runners=chosen), lines=tail))

    from dask_flame.core.terminal_text import plain, tame

    for name, text in _inspect(read, where).items():
        for line in text.splitlines():
            line = tame(line)
            click.echo(line if runner is not None else f"[{plain(name)}] {line}")


@flame.command()
@_where
@click.argument("name")
@click.argument("runner", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with an item a process.")
def stacks(name: str, runner: str | None, as_json: bool, **where: str | None) -> None:
    """Show what the threads and tasks of the application NAME execute, in all its processes.

    Or, of a local cluster NAME, what its RUNNER executes, or all its runners: calls come first.

    A process answers itself. If code holds its interpreter, it is read by py-spy, where that is
    installed and may look at processes.
    """
    found = (_stacks_of_application(name) if runner is None else None) or _inspect(
        partial(_stacks_of_runners, name, runner), where
    )
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        click.echo("\n\n".join(map(repr, found)) if found else "no runners")


def _stacks_of_application(name: str) -> list[Stacks]:
    from dask_flame.cli import applications
    from dask_flame.errors import AttachError

    found = []
    for instance in applications.applications(name):
        try:
            found.append(applications.stacks(instance))
        except AttachError as error:
            click.echo(f"note: {error}", err=True)
    return found


async def _stacks_of_runners(
    cluster: str, runner: str | None, inspector: Inspector
) -> list[Stacks]:
    found = _named(cluster, await inspector.clusters(), also="application or cluster")
    names = [one.name for one in found.runners]
    if runner is not None and runner not in names:
        there = ", ".join(names) or "none"
        raise click.ClickException(f"{found.id} has no runner {runner}; there are: {there}")
    return [await inspector.stacks(found, one) for one in ([runner] if runner else names)]


@flame.command()
@_where
@click.argument("clusters", nargs=-1, required=True, metavar="CLUSTER...")
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0, 86_400),
    callback=_a_number,
    help="Maximum seconds to wait.",
)
def stop(clusters: Sequence[str], timeout: float, **where: str | None) -> None:
    """Stop each CLUSTER: end its runners, and delete the objects made for it.

    Drivers are not ended. Their calls fail with an error that says that the cluster was stopped,
    and no more runners boot for them. Results that a driver already holds remain readable there.
    """

    from dask_flame.core.terminal_text import tame

    async def end(inspector: Inspector) -> None:
        there = await inspector.clusters()
        for found in [_named(name, there) for name in clusters]:
            outcome = await inspector.stop(found, within=timeout)
            click.echo(tame(f"{found.id}: {outcome}"))

    _inspect(end, where, whole=True)


@flame.command()
@_where
@_OUTPUT
@click.option("--dry-run", is_flag=True, help="Only list the orphans.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.argument("clusters", nargs=-1, metavar="[CLUSTER]...")
def sweep(
    clusters: Sequence[str], output: str, dry_run: bool, yes: bool, **where: str | None
) -> None:
    """End orphans: what is left of clusters whose drivers have ended.

    There should never be any. Orphans that may still end by themselves are given a moment to do so.
    With the name of a CLUSTER, only its orphans.
    """
    if output == "json" and not (dry_run or yes):
        raise click.UsageError("--output json does not ask: add --yes, or --dry-run")

    async def clean(inspector: Inspector) -> None:
        orphans = [o for o in await inspector.orphans() if not clusters or _is_of(o, clusters)]
        if output == "json":
            shown = [{"what": o.what, "cluster": o.cluster, "why": o.why} for o in orphans]
            click.echo(json.dumps(shown, indent=2))
        else:
            from dask_flame.cli.tables import of_orphans

            click.echo(of_orphans(orphans) if orphans else "nothing to sweep")
        if dry_run or not orphans:
            return
        if not yes:
            click.confirm(f"End {'it' if len(orphans) == 1 else 'these'}?", abort=True)
        if left := await inspector.end(orphans):
            raise click.ClickException("still there: " + "; ".join(orphan.what for orphan in left))
        if output == "table":
            click.echo("ended")

    _inspect(clean, where, whole=True)


@flame.command()
@_OUTPUT
@click.option("--delete", is_flag=True, help="Remove the run NAME from the file.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.argument("name", required=False)
def runs(output: str, name: str | None, delete: bool, yes: bool) -> None:
    """List the runs that are kept in the file flame.reports.keep, or the calls of the run NAME.

    NAME may also be the id of a run, or its beginning in the list. If several runs have the same
    name, the latest is meant.
    """
    if delete and name is None:
        raise click.UsageError("--delete needs the name or the id of a run")
    if delete and output == "json" and not yes:
        raise click.UsageError("--output json does not ask: add --yes")
    from dask_flame.cli.tables import of_calls, of_runs
    from dask_flame.core.terminal_text import tame
    from dask_flame.errors import FlameError
    from dask_flame.reports.driver.kept import delete_kept, kept_runs

    try:
        kept = kept_runs()
        if name is None:
            found = of_runs(kept)
        else:
            named = [run for run in kept if name in (run.id, run.id[:8], run.name)]
            if not named:
                there = ", ".join(dict.fromkeys(run.name for run in kept)) or "none"
                raise FlameError(f"there is no run {name}; there are: {there}")
            found = of_runs(named[-1:]) if delete else of_calls(named[-1])
        if delete:
            if output == "table":
                click.echo(found.text)
            if not yes:
                click.confirm("Remove this run?", abort=True)
            delete_kept(named[-1].id)
            if output == "table":
                click.echo("removed")
                return
    except FlameError as error:
        raise click.ClickException(tame(str(error))) from error
    click.echo(json.dumps(found.items, indent=2) if output == "json" else found.text)


@flame.command()
@click.argument("application")
@click.option(
    "--instance", default=0, metavar="PID", help="Process id of one of several instances."
)
def attach(application: str, instance: int) -> None:
    """Open an IPython inside of a running APPLICATION.

    It has to be exposed: dask_flame.expose("NAME"). Ctrl-C interrupts a cell, and Ctrl-D detaches;
    the application goes on.
    """
    from dask_flame.core.terminal_text import tame
    from dask_flame.errors import FlameError

    try:
        from dask_flame.attached.terminal import interact
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error}: it needs IPython: pip install 'dask-flame[notebook]'"
        ) from None
    try:
        raise SystemExit(interact(application, instance))
    except FlameError as error:
        raise click.ClickException(tame(str(error))) from None


def _is_of(orphan: Orphan, clusters: Sequence[str]) -> bool:
    return not {orphan.cluster, orphan.cluster.rpartition("-")[0]}.isdisjoint(clusters)


def _named(
    name: str, clusters: Sequence[ClusterListing], *, also: str = "cluster"
) -> ClusterListing:
    found = [c for c in clusters if c.id == name] or [c for c in clusters if c.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(cluster.id for cluster in found)
        raise click.ClickException(f"several clusters are called {name}; write one of: {ids}")
    there = ", ".join(cluster.id for cluster in clusters) or "none"
    raise click.ClickException(f"there is no {also} {name}; there are the clusters: {there}")


def _inspect(
    what: Callable[[Inspector], Awaitable[T]],
    where: dict[str, str | None],
    *,
    whole: bool = False,
) -> T:
    """Call a function with the inspector that the options select, and show the notes.

    Raises
    ------
    click.ClickException
        It failed. If `whole` is true, also if it has done its part, but could not see everything.
    """
    from dask_flame.backends.registry import find_backend
    from dask_flame.core import config
    from dask_flame.core.terminal_text import tame
    from dask_flame.errors import FlameError

    given = {name: value for name, value in where.items() if value is not None}
    backend = given.pop("backend", config.get("backend"))

    async def do() -> T:
        factory = find_backend(backend)
        if not hasattr(factory, "inspector"):
            raise click.ClickException(f"--backend {backend} does not list its clusters")
        async with factory.inspector(**given) as inspector:
            try:
                done = await what(inspector)
            finally:
                for note in inspector.notes:
                    click.echo(tame(f"note: {note}"), err=True)
            if whole and inspector.unseen:
                unseen = ", ".join(sorted(inspector.unseen))
                raise click.ClickException(f"this is not all: {unseen} could not be looked at")
            return done

    try:
        return asyncio.run(do())
    except FlameError as error:
        raise click.ClickException(tame(str(error))) from error
    except click.ClickException as error:
        raise click.ClickException(tame(error.message)) from None

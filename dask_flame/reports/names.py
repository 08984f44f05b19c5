"""The names of calls on pages, in notebooks and in terminals; pure (all places)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from dask.typing import Key

from dask_flame.core.terminal_text import plain
from dask_flame.core.text import is_generated, label
from dask_flame.reports.series import CallReports, Parameter

#: Maximum number of characters of a name that is made of arguments.
_LONGEST = 80


def names(calls: Iterable[CallReports]) -> dict[Key, str]:
    """Return the name of each call.

    It is the first of these that exists: the label that the call gave itself, its key if the user
    has chosen it, the arguments in which the calls of its run and function differ, all its
    arguments, its function, and a short form of its key. Names that occur twice in a run get a
    short form of the key, too.

    Parameters
    ----------
    calls : iterable of CallReports
        All known calls of the runs in question.

    Returns
    -------
    dict
        In the order of the calls.
    """
    groups: defaultdict[tuple[str, str], list[CallReports]] = defaultdict(list)
    known = list(calls)
    if len(known) == 1:
        (call,) = known  # as of `client.submit`, where what follows would take most of the time
        return {call.key: _name(call, call.arguments)}
    for call in known:
        groups[call.run, call.function].append(call)
    found: dict[Key, str] = {}
    for group in groups.values():
        found |= zip((call.key for call in group), _of_group(group), strict=True)
    seen = Counter((call.run, found[call.key]) for call in known)
    return {
        call.key: found[call.key]
        if seen[call.run, found[call.key]] == 1
        else f"{found[call.key]} ({label(call.key)})"
        for call in known
    }


def _of_group(calls: Sequence[CallReports]) -> list[str]:
    by_arguments = _by_arguments(calls)
    return [_name(call, told) for call, told in zip(calls, by_arguments, strict=True)]


def _name(call: CallReports, arguments: str) -> str:
    if call.label:
        return call.label
    if not is_generated(call.key):
        return label(call.key)
    return arguments or call.function or label(call.key)


def _by_arguments(calls: Sequence[CallReports]) -> list[str]:
    columns = differing(calls)
    if columns and all(call.parameters for call in calls):
        told = [
            ", ".join(f"{name}={shown(call.parameters.get(name))}" for name in columns)
            for call in calls
        ]
        if all(len(text) <= _LONGEST for text in told):
            return told
    return apart([call.arguments for call in calls])


def differing(calls: Iterable[CallReports]) -> list[str]:
    """Return the parameters that are not the same in all calls, in order of appearance."""
    known = list(calls)
    values: dict[str, set[tuple[type, Parameter]]] = {}
    counts: Counter[str] = Counter()
    for call in known:
        for name, value in call.parameters.items():
            values.setdefault(name, set()).add((type(value), value))
            counts[name] += 1
    described = sum(bool(call.parameters) for call in known)
    return [name for name, own in values.items() if len(own) > 1 or counts[name] < described]


def shown(value: Parameter) -> str:
    """Return a parameter as a short text."""
    return f"{value:.6g}" if type(value) is float else plain(str(value))


def apart(arguments: Sequence[str]) -> list[str]:
    """Drop the arguments that are the same in all calls.

    Examples
    --------
    >>> apart(["rate=0.1, layers=4", "rate=0.2, layers=4"])
    ['rate=0.1', 'rate=0.2']
    """
    parts = [text.split(", ") for text in arguments]
    columns = {tuple(part.partition("=")[0] for part in own) for own in parts}
    if len(set(arguments)) < 2 or len(columns) != 1:
        return list(arguments)
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    return [", ".join(p for p, own in zip(part, differ, strict=True) if own) for part in parts]

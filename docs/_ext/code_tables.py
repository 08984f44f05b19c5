"""Tables of the reference that are read from the code: settings, options, events, metrics, labels.

Each function returns the header and the rows of a table. It needs no Sphinx, so tests can call it,
and ``python docs/_ext/code_tables.py NAME`` prints a table.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "dask_flame"
Rows = list[tuple[str, ...]]
_SETTING = re.compile(r"^(?P<indent> *)(?P<name>[\w-]+):(?P<value>[^#]*)(?:# ?(?P<comment>.*))?$")
#: The header of an option in a docstring, with the settings that are its defaults.
_DOCUMENTED = re.compile(r"^    (?P<names>\w+(?:, \w+)*) : .*\(``flame\.(?P<settings>.*)``\)$")


def options() -> Iterator[tuple[str, str, str]]:
    """Return the class, the name and the setting (empty: none) of each option.

    Pools and backends declare the settings of their options; the docstring of the cluster has those
    of its own.
    """
    from dask_flame import FlameCluster, Pool

    documented: dict[str, str] = {}
    for line in (FlameCluster.__doc__ or "").splitlines():
        if match := _DOCUMENTED.match(line):
            first, *more = match["settings"].split("``, ``.")
            section = first.rpartition(".")[0]
            settings = [first, *(f"{section}.{name}" for name in more)]
            documented |= zip(match["names"].split(", "), settings, strict=True)
    for name in inspect.signature(FlameCluster).parameters:
        if name not in {*Pool.declared(), "options"}:
            yield "FlameCluster", name, documented.get(name, "")
    for backend in ("", "fly", "kubernetes", "local", "slurm", "ssh"):
        kind = Pool if not backend else _options_of(backend)
        for name, known in kind.declared().items():
            setting = f"{known.section}.{name.replace('_', '-')}" if known.section else ""
            yield kind.__name__, name, setting


def _options_of(backend: str) -> Any:
    module = import_module(f"dask_flame.backends.{backend}.options")
    return getattr(module, f"{backend.title()}Options")


def unconfigured() -> Rows:
    """Return the options that have no setting, by the class that they belong to."""
    rows: dict[str, list[str]] = {}
    for owner, name, setting in options():
        if not setting:
            rows.setdefault(owner, []).append(f"`{name}`")
    return [
        ("Of", "Options"),
        *((f"`{owner}`", ", ".join(sorted(names))) for owner, names in rows.items()),
    ]


def settings() -> Rows:
    """Return the settings of ``flame.yaml``, with their options, defaults and comments."""
    rows = _settings()
    # Who looks for an option, with its underscores, finds its setting.
    by_setting = {f"`flame.{setting}`": f"`{name}`" for _, name, setting in options()}
    return [
        ("Setting", "Option", "Default", "Meaning"),
        *((name, by_setting.get(name, ""), *more) for name, *more in rows[1:]),
    ]


def _settings() -> Rows:
    rows: Rows = [("Setting", "Default", "Meaning")]
    section: list[tuple[int, str]] = []
    for line in (PACKAGE / "flame.yaml").read_text().splitlines():
        match = _SETTING.match(line)
        if match is None:
            more = re.match(r" +# (.*)$", line)
            if more and len(rows) > 1:  # the comment of the line above goes on
                name, value, comment = rows[-1]
                rows[-1] = (name, value, f"{comment} {more[1].strip()}")
            continue
        indent, value = len(match["indent"]), match["value"].strip()
        section = [each for each in section if each[0] < indent]
        if value:
            name = ".".join([name for _, name in section] + [match["name"]])
            rows.append((f"`{name}`", f"`{value}`", (match["comment"] or "").strip()))
        section.append((indent, match["name"]))
    return [rows[0], *((name, value, _sentence(text)) for name, value, text in rows[1:])]


def _sentence(text: str) -> str:
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", text[:1].upper() + text[1:])


def events() -> Rows:
    """Return the kinds of events."""
    from dask_flame.history.journal import KINDS

    return [("Kind", "When"), *((f"`{kind}`", when) for kind, when in KINDS.items())]


def metrics() -> Rows:
    """Return the names, labels and descriptions of the Prometheus metrics."""
    from dask_flame.driver import metrics

    rows: Rows = [("Metric", "Type", "Labels", "Meaning")]
    for family in (*metrics._gauges([]), *metrics._counters([])):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in family._labelnames)
        rows.append((f"`{name}`", family.type, labels, family.documentation))
    return rows


def _constants(path: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Return the constants of a module with such a value, and the ``#:`` comment above each.

    Several constants below one comment have it together.
    """
    text, said = (PACKAGE / path).read_text(), ""
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            value, line = node.value.value, node.lineno - 2
            if isinstance(value, str) and value.startswith(prefix):
                comment: list[str] = []
                while lines[line].startswith("#: "):
                    comment.insert(0, lines[line][3:])
                    line -= 1
                said = " ".join(comment) or said
                yield value, re.sub(r":\w+:`(\w+)`", r"`\1`", said)


def kubernetes_labels() -> Rows:
    """Return the labels and annotations of objects on Kubernetes."""
    from dask_flame.backends.kubernetes.objects import context

    site = context.ObjectContext(cluster="CLUSTER", namespace="NAMESPACE")
    common = context.labels(site, "COMPONENT")
    return [
        ("Name", "Kind", "Value or meaning"),
        *((f"`{name}`", "label", f"`{value}`") for name, value in common.items()),
        *(
            (f"`{name}`", "annotation", text)
            for name, text in _constants("backends/kubernetes/objects/context.py", "dask-flame/")
        ),
    ]


def fly_metadata() -> Rows:
    """Return the metadata of machines on Fly."""
    rows = _constants("backends/fly/metadata.py", "dask_flame_")
    return [("Metadata", "Meaning"), *((f"`{name}`", text) for name, text in rows)]


_VARIABLE = re.compile(r"^((?:    #: .*\n)+)    (\w+): ClassVar\S*(.*)$", re.MULTILINE)
_CALLED = re.compile(r"; for (a backend to call, on the event loop|`boot` of a subclass)")
_PARTS = ("must have it", "may have it", "must call it", "may call it")


def _described(owner: type) -> Iterator[tuple[str, bool, str]]:
    """Return the public class variables and methods of a class: name, whether needed, docstring."""
    for said, name, value in _VARIABLE.findall(inspect.getsource(owner)):
        yield name, "=" not in value, " ".join(re.findall(r"#: (.*)", said))
    for name, value in vars(owner).items():
        told = getattr(value, "__func__", getattr(value, "fget", value))
        if not name.startswith("_") and inspect.isfunction(told) and told.__doc__:
            shown = name if isinstance(value, property) else f"{name}()"
            needed = getattr(told, "__isabstractmethod__", False)
            yield shown, needed, inspect.cleandoc(told.__doc__)


def contract(owner: type) -> Rows:
    """Return what a subclass has and calls, with the beginning of each docstring."""
    rows: Rows = []
    for name, needed, said in _described(owner):
        text = " ".join(said.partition("\n\n")[0].split())
        text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text).replace("``", "`")
        if calls := _CALLED.search(text):
            needed, text = "exactly once" in said, text.replace(calls[0], "")
        part = ("must" if needed else "may") + (" call it" if calls else " have it")
        rows.append((f"`{name}`", part, text))
    return [("Name", "You", "Meaning"), *sorted(rows, key=lambda row: _PARTS.index(row[1]))]


def backend() -> Rows:
    """Return the names of the contract of a backend."""
    from dask_flame.backends import Backend

    return contract(Backend)


def inspector() -> Rows:
    """Return the methods of an inspector."""
    from dask_flame.backends.inspector import Inspector

    return contract(Inspector)


TABLES: dict[str, Callable[[], Rows]] = {
    "settings": settings,
    "unconfigured": unconfigured,
    "events": events,
    "metrics": metrics,
    "kubernetes-labels": kubernetes_labels,
    "fly-metadata": fly_metadata,
    "backend": backend,
    "inspector": inspector,
}


def as_markdown(rows: Rows) -> list[str]:
    """Return the lines of a table."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


if __name__ == "__main__":
    print(*as_markdown(TABLES[sys.argv[1]]()), sep="\n")

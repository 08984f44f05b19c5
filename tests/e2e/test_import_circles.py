"""Modules that import each other are few, and of one package."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import grimp
import pytest

pytestmark = pytest.mark.unit

MOST = 3
#: Circles that may be otherwise.
ALLOWED = [
    # RunnerLost is one of distributed's errors as well, so that `errors` imports it when it is
    # first named.
    {"dask_flame.errors", "dask_flame.core.runner_lost"},
]


def circles(graph: Mapping[str, Collection[str]]) -> Iterator[set[str]]:
    """Give the strongly connected components that have several nodes, after Tarjan."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    for root in graph:
        if root in order:
            continue
        order[root] = lowest[root] = len(order)
        path.append(root)
        work = [(root, iter(sorted(graph[root])))]
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in order:
                    order[successor] = lowest[successor] = len(order)
                    path.append(successor)
                    work.append((successor, iter(sorted(graph[successor]))))
                    break
                if successor in path:
                    lowest[node] = min(lowest[node], order[successor])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    component = set(path[path.index(node) :])
                    del path[path.index(node) :]
                    if len(component) > 1:
                        yield component


def packages(component: set[str]) -> set[str]:
    return {module.rpartition(".")[0] for module in component}


def too_large(component: set[str]) -> bool:
    """Whether modules that import each other are of several packages, or too many."""
    return len(component) > MOST or len(packages(component)) > 1


def test_circles_are_found() -> None:
    graph = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["e"], "e": ["d", "f"], "f": []}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["d", "e"]]
    assert not list(circles({"a": ["b", "c"], "b": ["c"], "c": []}))


def test_a_circle_of_several_packages_or_many_modules_is_too_large() -> None:
    assert not too_large({"p.a", "p.b", "p.c"})
    assert too_large({"p.a", "p.b", "p.c", "p.d"})
    assert too_large({"p.a", "q.b"})


def test_modules_that_import_each_other_are_few_and_of_one_package() -> None:
    # Imports inside of functions and those for typing are among them.
    graph = grimp.build_graph("dask_flame", exclude_type_checking_imports=False, cache_dir=None)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in sorted(graph.modules)}
    assert "dask_flame.driver.hosts.remote" in imports["dask_flame.driver.hosted_cluster"]  # lazy
    assert "dask_flame.driver.widget" in imports["dask_flame.driver.cluster"]  # one for typing
    found = [c for c in circles(imports) if c not in ALLOWED]
    assert [sorted(c) for c in found if too_large(c)] == []

"""The pages whose output is compared, and what the site of docs/ needs to be built."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import dask_flame
from dask_flame import FlameCluster, Pool
from dask_flame.attached.client.channel import Silent
from dask_flame.backends.slurm.commands import SlurmLate
from dask_flame.core.runner_lost import RunnerLost
from dask_flame.errors import BootTimeout, CallTimeout, FlameError, PoolError
from dask_flame.history.journal import KINDS
from tests.support.kubernetes_help import driver_outside
from tests.support.pages import DOCS, Block, all_pages, check_pages, python_blocks
from tests.support.paths import ROOT

sys.path.append(str(DOCS / "_ext"))
import code_tables
import listed_pages
import outside_pages

sys.path.append(str(ROOT / "scripts"))
import check_site

PACKAGE = ROOT / "dask_flame"
#: Pages that need a Kubernetes.
KUBERNETES = [
    DOCS / "kubernetes.md",
    DOCS / "tutorial/7-kubernetes.md",
    DOCS / "tutorial/8-gpus.md",
    DOCS / "migration/dask-kubernetes.md",
]
#: Pages that need hosts, or a Slurm: tests/e2e/test_readme.py runs them.
SUBSTRATES = [DOCS / "migration/slurm-cluster.md", DOCS / "migration/ssh-cluster.md"]
TUTORIAL = [page for page in sorted(DOCS.glob("tutorial/[1-9]*.md")) if page not in KUBERNETES]
MIGRATION = [
    page for page in sorted(DOCS.glob("migration/*.md")) if page not in {*KUBERNETES, *SUBSTRATES}
]
REFERENCE = [page for page in sorted(DOCS.glob("reference/*.md")) if python_blocks(page)]
GUIDES = [
    DOCS / f"{name}.md"
    for name in (
        "comparison",
        "errors",
        "index",
        "leases",
        "libraries",
        "life-of-a-call",
        "limits",
        "own-tests",
        "quickstart",
        "zero",
    )
]
#: Pages of which each block runs, and prints what the page shows below it.
SHOWN = [*GUIDES, *MIGRATION, *REFERENCE, *TUTORIAL, *KUBERNETES]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "pages", [TUTORIAL, GUIDES, [*MIGRATION, *REFERENCE]], ids=["tutorial", "guides", "others"]
)
def test_pages_print_what_they_show(pages: list[Path]) -> None:
    check_pages(pages)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_of_kubernetes_print_what_they_show(tmp_path: Path) -> None:
    with driver_outside(tmp_path) as env:
        check_pages(KUBERNETES, DASK_FLAME__BACKEND="kubernetes", **env)


@pytest.mark.unit
def test_the_tutorial_has_eight_steps() -> None:
    steps = sorted(DOCS.glob("tutorial/[1-9]*.md"))
    assert [page.name[0] for page in steps] == [str(n) for n in range(1, 9)]
    for page, following in itertools.pairwise(steps):
        assert f"]({following.name})" in page.read_text()


@pytest.mark.unit
@pytest.mark.parametrize("page", all_pages(), ids=lambda page: str(page.relative_to(DOCS)))
def test_no_page_is_without_an_example(page: Path) -> None:
    assert re.search(r"^ *```(python|ipython|sh|text|yaml)$", page.read_text(), re.MULTILINE)


@pytest.mark.unit
def test_output_may_have_gaps_and_lines_of_runners() -> None:
    assert Block("", "a … c\n").fits("a b c\n", "")
    assert not Block("", "a … c\n").fits("a b d\n", "")
    assert Block("", "1\n").fits("[runner-1] f(x=0) failed\n1\n", "")
    assert not Block("", "[runner-… f] hello\n").fits("", "other\n")
    assert Block("", "[runner-… f] hello\n").fits("", "[runner-2 f] hello\n")
    assert Block("", "").fits("[runner-2 f] hello\n", "")
    assert not Block("", "").fits("[runner-2 f] hello\n1\n", "")
    told = Block("", "19:02:11.204 boot runner-1: 4 slots, 0.08 s\n", vary=True)
    assert told.fits("07:00:00.001 boot runner-12: 16 slots, 12.5 s\n", "")
    assert not told.fits("07:00:00.001 boot runner-12: 16 rooms, 12.5 s\n", "")
    assert not told.fits("07:00:00.001 boot runner-12: no slots, 12.5 s\n", "")
    assert Block("", "[0.6050, …, 1.79…]\n", vary=True).fits("[0.605, 0.2, 1.7e-08]\n", "")


@pytest.mark.unit
def test_a_block_may_say_that_its_numbers_vary(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code, shown = "```python\nprint(1)\n```\n", "```text\n1\n```\n"
    page.write_text(f"{code}\n{shown}\n{code}\n<!-- numbers vary -->\n{shown}\n{code}")
    found = [(block.shown, block.vary) for block in python_blocks(page)]
    assert found == [("1\n", False), ("1\n", True), ("", False)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("shown", "fits"), [("```text\n1\n```\n", True), ("```text\n2\n```\n", False), ("", False)]
)
def test_a_page_that_shows_another_line_is_noticed(tmp_path: Path, shown: str, fits: bool) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```python\nprint(1)\n```\n\n{shown}")
    with contextlib.nullcontext() if fits else pytest.raises(AssertionError, match=r"and not\s+1"):
        check_pages([page])


@pytest.mark.unit
def test_links_to_other_files_of_the_repository_are_those_of_the_site() -> None:
    page = DOCS / "tutorial/7-kubernetes.md"
    same = "`[b](../../README.md)` [`c`](../../LICENSE) [d](../gpus.md)"
    made = outside_pages.on_site(f"[a](../../deploy/README.md#x) {same}", page, page)
    assert made == f"[a](../project/deployment.md#x) {same}"
    readme = outside_pages.on_site(
        "![x](docs/a.png) [e](examples)", ROOT / "README.md", DOCS / "project/readme.md"
    )
    assert readme == "![x](../a.png) e"
    assert all((ROOT / file).exists() for file in outside_pages.PAGES)


@pytest.mark.unit
def test_an_index_page_has_a_toctree_for_each_section() -> None:
    made = listed_pages.with_toctrees("# T\n\n[x](x.md)\n\n## S\n\n- [a](a.md): b, [c](c.md)\n")
    assert made.endswith("```{toctree}\n:hidden:\n:caption: S\n\na\n```\n\n")
    assert made.count("toctree") == 1


@pytest.mark.unit
def test_every_public_name_is_in_the_reference() -> None:
    listed = set(
        re.findall(r"^   ([\w.]+)$", (DOCS / "reference/index.md").read_text(), re.MULTILINE)
    )
    assert set(dask_flame.__all__) - {"__version__"} <= listed
    from dask_flame import backends, errors, testing

    for module in (backends, testing):
        assert {f"{module.__name__.split('.')[1]}.{name}" for name in module.__all__} <= listed
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in raised if name not in listed} <= {
        f"{name}" for name in raised if f"errors.{name}" in listed
    }


@pytest.mark.unit
def test_the_tables_of_the_reference_are_complete() -> None:
    settings = {row[0].strip("`"): row for row in code_tables.settings()[1:]}
    known = [
        f"flame.{name}" if not isinstance(value, dict) or not value else f"flame.{name}.{inner}"
        for name, value in flame_defaults().items()
        for inner in (value or [""] if isinstance(value, dict) else [""])
    ]
    assert list(settings) == known
    assert all(row[3] for row in settings.values()), "each setting has a comment"
    assert settings["flame.pool.idle-timeout"][1:3] == ("`idle_timeout`", "`60s`")
    assert settings["flame.kubernetes.context"][1] == "`context`"
    assert len(code_tables.metrics()) > 12
    assert ("`dask-flame/stopped`", "annotation") in {
        row[:2] for row in code_tables.kubernetes_labels()
    }
    assert "`dask_flame_cluster`" in {row[0] for row in code_tables.fly_metadata()}
    for table in code_tables.TABLES.values():
        assert all(all(row) for row in table() if len(row) != 4)


@pytest.mark.unit
@pytest.mark.parametrize("name", ["backend", "inspector"])
def test_the_page_of_backends_has_the_contract(name: str) -> None:
    made = "\n".join(code_tables.as_markdown(code_tables.TABLES[name]()))
    again = f"docs/backends.md is not what `python docs/_ext/code_tables.py {name}` prints"
    assert f"<!-- {name} -->\n{made}\n\n" in (DOCS / "backends.md").read_text(), again


@pytest.mark.unit
def test_a_page_says_where_else_its_tables_are() -> None:
    made = [
        (page.read_text(), name)
        for page in all_pages()
        for name in re.findall(r"^```{flame-table} (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(made) == len(code_tables.TABLES) - 2
    for text, name in made:
        assert f"`python docs/_ext/code_tables.py {name}` prints it" in text


@pytest.mark.process
def test_a_table_is_printed_as_the_page_says() -> None:
    command = [sys.executable, DOCS / "_ext/code_tables.py", "events"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == code_tables.as_markdown(code_tables.events())


@pytest.mark.unit
def test_each_option_is_in_a_table_of_the_configuration() -> None:
    options = list(code_tables.options())
    known = {row[0].strip("`") for row in code_tables.settings()[1:]}
    assert {f"flame.{setting}" for _, _, setting in options if setting} <= known
    without = {row[0].strip("`"): row[1] for row in code_tables.unconfigured()[1:]}
    assert all(f"`{name}`" in without[owner] for owner, name, setting in options if not setting)
    cluster = {name for owner, name, _ in options if owner == "FlameCluster"}
    others = {*signature(FlameCluster).parameters} - cluster
    assert others <= {*Pool.declared(), "options"}


@pytest.mark.unit
def test_an_option_that_a_search_does_not_find_is_noticed(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    terms: dict[str, Any] = {"idle": [0, 1], "idle_timeout": 0, "spare": [0, 1], "single_us": 1}
    index = {"docnames": ["pools", "reference/configuration"], "terms": terms}
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(index)})")
    names = ["idle_timeout", "spare", "single_use", "price"]
    found = list(check_site.not_found(tmp_path, names))
    assert [line.split()[3] for line in found] == ["idle_timeout", "price"]


def flame_defaults() -> dict[str, object]:
    from dask_flame.core.config import DEFAULTS

    found: dict[str, object] = DEFAULTS["flame"]
    return found


@pytest.mark.unit
def test_every_kind_of_event_is_described() -> None:
    source = "\n".join(path.read_text() for path in (PACKAGE / "driver").rglob("*.py"))
    source += "\n".join(path.read_text() for path in (PACKAGE / "scheduler").rglob("*.py"))
    used = set(re.findall(r'(?:journal\.note|event_now|happened|_over)\(\s*"(\w+)"', source))
    assert len(used) > 10
    assert used <= set(KINDS)


def below(error: type[FlameError]) -> Iterator[type[FlameError]]:
    yield error
    for each in error.__subclasses__():
        yield from below(each)


# Modules with more errors may be imported already when tests are collected, or not.
ERRORS = {error for error in below(FlameError) if error.__module__ == "dask_flame.errors"}


@pytest.mark.unit
@pytest.mark.parametrize(
    "error", sorted({*ERRORS, RunnerLost, Silent, SlurmLate}, key=lambda e: e.__name__)
)
def test_every_error_leads_to_its_section_of_the_page(error: type[FlameError]) -> None:
    page, _, anchor = error.help_link.partition("#")
    text = (ROOT / page).read_text()
    sections = {head.lower() for head in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert anchor in sections
    if error.__module__ in {"dask_flame.errors", "dask_flame.core.runner_lost"}:
        assert anchor == error.__name__.lower()


@pytest.mark.unit
@pytest.mark.parametrize(
    "error",
    [
        BootTimeout("no runner"),
        CallTimeout("late"),
        PoolError("max=-1"),
        RunnerLost("key", "runner-1", "killed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_traceback_ends_with_a_link_also_after_a_journey(error: FlameError) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error)
    assert str(there) == str(error)
    last = traceback.format_exception(there)[-1].splitlines()[-1]
    assert last == f"About this error: {error.help_link} in dask-flame's documentation"
    assert "About this error" not in str(error)


@pytest.mark.unit
def test_a_site_with_a_broken_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a id="x" href="b.html#y">b</a><a href="#x">x</a><a href="c.html">c</a>'
        '<img src="https://example.com/x.png"><a href="https://example.com">out</a>'
    )
    (tmp_path / "b.html").write_text('<p id="z">')
    found = "\n".join(check_site.faults(tmp_path))
    assert "b.html#y has no such anchor" in found
    assert "c.html does not exist" in found
    assert "loads https://example.com/x.png" in found
    assert found.count("\n") == 2

"""`help(FlameCluster)` and `help(Pool)`: each option with default, setting and page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask.config
import pytest
import yaml

from dask_flame import FlameCluster, Pool
from dask_flame.core.config import DEFAULTS
from tests.support.paths import ROOT

pytestmark = pytest.mark.unit

_ENTRY = re.compile(r"^(?P<names>[\w, *]+?) : (?P<type>.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """What a docstring says of an option: its type with default, and its settings."""

    type: str
    settings: tuple[str, ...]

    @property
    def default(self) -> str | None:
        found = re.search(r"default ([^:].*?)(?: \(``.*)?$", self.type)
        return found[1] if found else None


def entries(cls: type) -> dict[str, Entry]:
    text = inspect.getdoc(cls) or ""
    parameters = text.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found = {}
    for match in _ENTRY.finditer(parameters):
        settings = re.findall(r"``(flame\.[\w.-]+|\.[\w.-]+)``", match["type"])
        for number, name in enumerate(match["names"].split(", ")):
            own = settings[min(number, len(settings) - 1) :][:1]
            if own and own[0].startswith("."):
                own = [settings[0].rpartition(".")[0] + own[0]]
            found[name] = Entry(match["type"], tuple(own))
    return found


def notes(cls: type) -> str:
    text = inspect.getdoc(cls) or ""
    return text.partition("Notes\n-----\n")[2].partition("\n\n")[0]


def options(cls: type) -> list[str]:
    return [
        name for name, p in inspect.signature(cls).parameters.items() if p.kind is p.KEYWORD_ONLY
    ]


def own_options() -> Iterator[tuple[type, str]]:
    yield from ((Pool, name) for name in options(Pool))
    yield from ((FlameCluster, n) for n in options(FlameCluster) if n not in Pool.declared())


EACH = [pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls, name in own_options()]


@pytest.mark.parametrize(("cls", "name"), EACH)
def test_each_option_is_in_the_docstring_with_its_default(cls: type, name: str) -> None:
    entry = entries(cls)[name]
    for setting in entry.settings:
        default: Any = dask.config.get(setting, config=DEFAULTS)
        if default is not None:
            said = yaml.safe_load((entry.default or "").replace("(", "[").replace(")", "]"))
            assert said == default, "as in flame.yaml"
    if name in Pool.declared() and Pool.declared()[name].section:
        assert entry.settings == (f"flame.pool.{name.replace('_', '-')}",)
    elif not entry.settings:
        signature = inspect.signature(cls).parameters[name].default
        assert entry.default or "optional" in entry.type
        assert signature is None or entry.default


def test_the_options_of_a_cluster_with_one_pool_are_those_of_a_pool() -> None:
    assert "min, max, concurrency, idle_timeout, **options" in (inspect.getdoc(FlameCluster) or "")


@pytest.mark.parametrize(("cls", "name"), EACH)
def test_each_option_is_explained_on_a_page(cls: type, name: str) -> None:
    text = notes(cls)
    # The first page is that of all options which no other one names.
    named = [
        page
        for page, words in re.findall(r"docs/([\w-]+)\.md([^;]*)", text)
        if f"``{name}``" in words or page == "pools"
    ]
    pages = [(ROOT / f"docs/{page}.md").read_text() for page in named]
    assert any(re.search(rf"`{name}\b|\b{name}=", page) for page in pages), named


def test_each_setting_of_a_pool_is_an_option() -> None:
    settings = {name.replace("-", "_") for name in DEFAULTS["flame"]["pool"]}
    assert settings == {name for name, known in Pool.declared().items() if known.section}

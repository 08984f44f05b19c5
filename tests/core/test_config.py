"""Where settings come from, whenever the package is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dask.system import CPU_COUNT

from dask_flame.core import config
from dask_flame.core.processes import MARK
from tests.support.pages import all_pages
from tests.support.paths import ROOT

pytestmark = pytest.mark.process

#: Prints what Dask says of three settings, then what a pool takes for them.
_SHOW = """
def show():
    import dask_flame
    pool = dask_flame.Pool()
    print([dask.config.get(f"flame.pool.{name}", "none") for name in ("max", "concurrency")],
          [pool.max, pool.concurrency])
"""


def told(code: str, folder: Path, **environment: str) -> list[str]:
    """Run this code in a process with a configuration of its own: the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"import dask\n{_SHOW}\n{code}"],
        env={**os.environ, "DASK_CONFIG": str(folder), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_defaults_are_there_from_the_import_on(tmp_path: Path) -> None:
    assert told(
        "import dask_flame\nprint(dask.config.get('flame.pool.idle-timeout'))", tmp_path
    ) == ["60s"]


def test_a_process_without_dask_does_not_import_it_for_them() -> None:
    code = "import dask_flame, sys; print('dask' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "setting",
    [
        '{"flame.pool.max": 3}',
        '{"flame.pool": {"max": 3}}',
        '{"flame": {"pool": {"max": 3}}}',
        "flame__pool__max=3",
    ],
)
def test_a_block_around_the_first_import(setting: str, tmp_path: Path) -> None:
    code = f"with dask.config.set({setting}):\n    show()\nshow()\nshow()"
    first, second, third = told(code, tmp_path)
    assert first == "[3, 1] [3, 1]"
    # Dask takes away what has come under the name that it set; the next use brings it back.
    assert second.endswith(f" [{CPU_COUNT}, 1]")
    assert third == f"[None, 1] [{CPU_COUNT}, 1]"


@pytest.mark.parametrize("late", [True, False])
def test_files_and_environment_count_whenever_the_import_comes(late: bool, tmp_path: Path) -> None:
    (tmp_path / "flame.yaml").write_text("flame:\n  pool:\n    concurrency: 5\n")
    code = "import dask_flame\n" * (not late) + (
        'with dask.config.set({"flame.pool.concurrency": 2, "flame.pool.max": 3}):\n'
        "    show()\n"
        "show()\n"
        "dask.config.refresh()\n"
        "show()"
    )
    assert told(code, tmp_path, DASK_FLAME__POOL__MAX="7") == [
        "[3, 2] [3, 2]",
        "[7, 5] [7, 5]",
        "[7, 5] [7, 5]",
    ]


def test_a_configuration_that_was_wiped(tmp_path: Path) -> None:
    inside = 'with dask.config.set({"flame.pool.max": 3}):\n    import dask_flame\n    '
    for code in (
        "import dask_flame\ndask.config.config.clear()",
        "import dask_flame\ndask.config.config['flame'] = None",
        "import dask_flame\ndask.config.config['flame']['pool'] = None",
        inside + "dask.config.refresh()",
        inside + "dask.config.config.clear()",
    ):
        assert told(f"{code}\nshow()", tmp_path)[-1].endswith(f" [{CPU_COUNT}, 1]"), code


def test_clusters_in_and_after_a_block(tmp_path: Path) -> None:
    code = """
with dask.config.set({"flame.pool.max": 3, "flame.home.memory": "1 MiB"}):
    from dask_flame import FlameCluster
    with FlameCluster(dashboard_address=None) as cluster:
        print(cluster.fleets.policies["default"].max)
with FlameCluster(dashboard_address=None, max=4) as cluster:
    print(cluster.fleets.policies["default"].max, dask.config.get("flame.home.memory"))
"""
    assert told(code, tmp_path) == ["3", "4 1 GiB"]


def test_a_setting_that_there_is_not() -> None:
    with pytest.raises(KeyError):
        config.get("pool.nonsense")


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("DASK_FLAME__POOL__MAX", "many", "flame.pool.max"),
        ("DASK_FLAME__POOL__IDLE_TIMEOUT", "''", "flame.pool.idle-timeout"),
        ("DASK_FLAME__HOME__LIMIT", "1", "flame.home.limit"),
    ],
)
def test_a_wrong_variable_or_file_is_refused_with_the_setting_to_change(
    variable: str, value: str, line: str, tmp_path: Path
) -> None:
    code = """
import dask_flame
try:
    dask_flame.FlameCluster(dashboard_address=None)
except dask_flame.PoolError as error:
    print(error)
"""
    section, name = line.split(".")[1:]
    (said,) = told(code, tmp_path, **{variable: value})
    (tmp_path / "flame.yaml").write_text(f"flame:\n  {section}:\n    {name}: {value}\n")
    assert told(code, tmp_path) == [said]
    assert said.startswith(f"{line}=")
    assert f'write dask.config.set({{"{line}": ' in said


@pytest.mark.parametrize("mark", ["", "cluster/1/runner-1"])
def test_a_file_shows_the_defaults_to_drivers_alone(mark: str, tmp_path: Path) -> None:
    env = {**os.environ, "DASK_CONFIG": str(tmp_path), **({MARK: mark} if mark else {})}
    subprocess.run([sys.executable, "-c", "from dask_flame import Pool"], env=env, check=True)
    assert (tmp_path / "flame.yaml").exists() is not bool(mark)


_WARNED = """
import warnings, dask_flame
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    dask_flame.FlameCluster(dashboard_address=None).close()
for one in caught:
    if one.category is UserWarning:
        print(one.message, one.filename)
"""


@pytest.mark.parametrize(
    ("text", "name", "below"),
    [
        # One line of the file with the defaults, without its comment sign.
        ("  backend: kubernetes\n# flame:", "backend", "  backend: …"),
        ("flame:\n  pool: {max: 3}\ndashboard:\n  token: abc", "dashboard", "  dashboard: …"),
        ("flame.pool.max: 3", "flame.pool.max", "  pool:\n    max: …"),
    ],
)
def test_a_setting_at_the_top_of_the_file_is_warned_of(
    text: str, name: str, below: str, tmp_path: Path
) -> None:
    (tmp_path / "flame.yaml").write_text(text)
    said = "\n".join(told(_WARNED, tmp_path))
    file = tmp_path / "flame.yaml"
    assert said == (
        f"{name} has no effect at the top of {file}; write it below flame, indented:\n"
        f"flame:\n{below} <string>"
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("flame.yaml", "scheduler: threads\ndistributed:\n  dashboard: {link: ''}"),
        # Of another package, or of Dask.
        ("kubernetes.yaml", "kubernetes:\n  name: mine"),
    ],
)
def test_settings_of_others_are_not_warned_of(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert told(_WARNED, tmp_path) == []


def test_pages_show_settings_below_flame() -> None:
    for page in [ROOT / "README.md", ROOT / "deploy/README.md", *all_pages()]:
        text = page.read_text()
        blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
        shown = [yaml.safe_load(block) for _, block in blocks]
        keys = {key for block in shown if isinstance(block, dict) for key in block}
        assert not [key for key in keys - {"flame"} if config._path_of(key)], page
        if "~/.config/dask/flame.yaml" in text:
            assert "flame" in keys or "`flame: {" in text, page

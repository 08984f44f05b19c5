"""The code of the README and of docs/ runs as it stands, and CI runs the README's test command."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.e2e.test_site import SHOWN
from tests.fakes.fly import FakeFly
from tests.support.pages import DOCS, NOT_RUN, all_pages, check_pages, python_blocks
from tests.support.paths import ROOT
from tests.support.slurm_world import slurm_world, why_impossible
from tests.support.ssh_hosts import missing, ssh_hosts
from tests.support.waiting import wait_for

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *all_pages()]


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks in a language, without those that are marked as not run."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block[1] for block in found if not NOT_RUN.search(text[: block.start()])]


#: Pages that need a process of their own, and nothing else.
ALONE = [
    README,
    DOCS / "attach.md",
    DOCS / "calls.md",
    DOCS / "code.md",
    DOCS / "connect.md",
    DOCS / "dask.md",
    DOCS / "inspect.md",
    DOCS / "lifetime.md",
    DOCS / "local.md",
    DOCS / "packages.md",
    DOCS / "pools.md",
    DOCS / "reports.md",
    DOCS / "security.md",
]


@pytest.mark.process
@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.stem)
def test_a_page_prints_what_it_shows(page: Path) -> None:
    check_pages([page])


@pytest.mark.process
def test_the_page_of_gpus_prints_what_it_shows() -> None:
    check_pages([DOCS / "gpus.md"], CUDA_VISIBLE_DEVICES="")


@pytest.mark.process
def test_the_page_of_files_prints_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").write_text("1,2\n")
    (tmp_path / "config.toml").write_text("rate = 0.1\n")
    check_pages([ROOT / "docs/files.md"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-weights.txt",
        "config.toml",
        "data",
        *(f"model-0.{n}.txt" for n in (1, 2, 3)),
        "results",
    ]


@pytest.mark.process
def test_the_page_of_fly_prints_what_it_shows() -> None:
    with FakeFly(apps=["my-runners"], speed=20, private_ip="::1") as fly:
        check_pages(
            [DOCS / "fly.md"],
            FLY_API_TOKEN=fly.token,
            FLY_API_HOSTNAME=fly.url,
            FLY_PRIVATE_IP="::1",
            DASK_FLAME__FLY__RATE="10",
            DASK_FLAME__FLY__LOGS_API=fly.url,
        )
        wait_for(lambda: fly.left() == [])


@pytest.mark.process
def test_the_pages_of_slurm_print_what_they_show(tmp_path: Path) -> None:
    if why := why_impossible():
        pytest.skip(f"no Slurm: {why}")
    with slurm_world() as slurm:
        env = {
            **slurm.environment,
            "DASK_FLAME__SLURM__INTERFACE": "lo",
            "DASK_FLAME__SLURM__FOLDER": str(tmp_path / "shared"),
        }
        check_pages([DOCS / "slurm.md", DOCS / "migration/slurm-cluster.md"], **env)
        wait_for(lambda: not slurm.jobs(), what="no job is left")
    assert not list((tmp_path / "shared").iterdir())


@pytest.mark.process
def test_the_pages_of_ssh_print_what_they_show() -> None:
    if why := missing():
        pytest.skip(why)
    with ssh_hosts() as hosts:
        pages = [DOCS / "ssh.md", DOCS / "migration/ssh-cluster.md"]
        check_pages(pages, **hosts.environment())
        wait_for(lambda: hosts.left() == [])


#: Pages that a test above gives what they need, or tests/backends/test_backend_package.py.
IN_A_WORLD = [
    *(DOCS / f"{name}.md" for name in ("backends", "files", "fly", "gpus", "slurm", "ssh")),
    *(DOCS / f"migration/{name}-cluster.md" for name in ("slurm", "ssh")),
]
COMPARED = [*ALONE, *IN_A_WORLD, *SHOWN]


@pytest.mark.unit
def test_the_output_of_every_page_is_compared() -> None:
    assert {page for page in PAGES if python_blocks(page)} == {*COMPARED}


@pytest.mark.unit
@pytest.mark.parametrize("page", COMPARED, ids=lambda page: page.stem)
def test_a_page_shows_what_it_prints(page: Path) -> None:
    for block in python_blocks(page):
        prints = re.search(r"^ *print\(", block.code, re.MULTILINE)
        assert block.shown or not prints, block.code


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_block_of_python_escapes(page: Path) -> None:
    """One that is indented, or has other words behind its language, would not be found."""
    started = re.findall(r"^\W*(?:```|~~~) *(?:py|python3?)\b", page.read_text(), re.MULTILINE)
    skipped = re.findall(r"^<!-- not run here: .*-->\n```python$", page.read_text(), re.MULTILINE)
    assert len(started) == len(python_blocks(page)) + len(skipped)


@pytest.mark.process
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_other_blocks_can_be_read(page: Path) -> None:
    for text in blocks(page, "yaml"):
        assert yaml.safe_load(text)
    for text in blocks(page, "toml"):
        assert tomllib.loads(text)
    for text in blocks(page, "sh"):
        checked = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True)
        assert checked.stderr == "", text
    languages = set(re.findall(r"^ *```(\w*)$", page.read_text(), re.MULTILINE)) - {""}
    assert languages <= {"elixir", "python", "ipython", "sh", "toml", "yaml", "text"}


@pytest.mark.unit
def test_the_two_commands_install_by_the_constraints_and_run_what_they_say() -> None:
    example, tests = blocks(README, "sh")
    assert example.strip().endswith("examples/bert_tuning.py")
    assert tests.strip().endswith("-m pytest -n 4")
    for command in (example, tests):
        assert "-c constraints.txt" in command
        assert command.count("\n") == 1


@pytest.mark.unit
def test_the_readme_has_the_line_for_each_place() -> None:
    lines = re.findall(r"`(flame: \{.*\})` \|$", README.read_text(), re.MULTILINE)
    defaults = yaml.safe_load((ROOT / "dask_flame/flame.yaml").read_text())["flame"]
    places = [yaml.safe_load(line)["flame"] for line in lines]
    assert {"local", "ssh", "slurm", "kubernetes", "fly"} == {each["backend"] for each in places}
    for each in places:
        assert set(each) <= {"backend", each["backend"]}
        assert set(each.get(each["backend"], {})) <= set(defaults[each["backend"]])


def found_by_ci(readme: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts/readme_test_command.py"
    return subprocess.run([sys.executable, script, readme], capture_output=True, text=True)


@pytest.mark.process
def test_ci_finds_the_test_command_wherever_it_is(tmp_path: Path) -> None:
    _, tests = blocks(README, "sh")
    assert found_by_ci(README).stdout == tests
    marked = re.search(r"<!-- .*next block.*-->\n```sh\n.*\n```\n", README.read_text())
    assert marked is not None
    other = tmp_path / "README.md"
    for text in (
        marked[0] + README.read_text().replace(marked[0], ""),
        README.read_text().replace(marked[0], "") + marked[0],
    ):
        other.write_text(text)
        assert found_by_ci(other).stdout == tests
    for text, error in (
        (README.read_text() + marked[0], "2 times"),
        (README.read_text().replace(marked[0], ""), "0 times"),
        (README.read_text().replace("-->\n```sh", "-->\n\nwords\n```sh"), "block of one line"),
    ):
        other.write_text(text)
        found = found_by_ci(other)
        assert found.returncode == 1
        assert error in found.stderr
        assert found.stdout == ""


def anchors(page: Path) -> set[str]:
    """The ids that GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.unit
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.unit
def test_the_index_has_every_page() -> None:
    indices = [page for page in PAGES if page.stem == "index"]
    links = {
        (index.parent / link).resolve()
        for index in indices
        for link in re.findall(r"\]\(([^)#]+\.md)\)", index.read_text())
    }
    assert not set(all_pages()) - links - {ROOT / "docs/index.md"}


@pytest.mark.unit
def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150

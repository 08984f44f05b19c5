"""The code of the README and of docs/ runs as it stands, and CI runs the README's test command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.test_site import SHOWN, SUBSTRATES
from tests.fakes.fly import FakeFly
from tests.support.kubernetes_help import driver_outside
from tests.support.pages import NOT_RUN, all_pages, check_pages, python_blocks
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


def run(code: str, **env: str) -> str:
    """Run a script that does not close what its last block has opened; return what it printed."""
    done = subprocess.run(
        # Another cluster on this machine may have the dashboard's usual port.
        [sys.executable, "-W", "error::UserWarning", "-W", "ignore:Port:UserWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=150,
        env=os.environ | env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_page(page: Path) -> str:
    # Nobody waits a minute for idle runners.
    code = "\n".join(blocks(page, "python")).replace('idle_timeout="60s"', 'idle_timeout="1s"')
    return run(code)


@pytest.mark.process
def test_the_readme_runs_from_top_to_bottom() -> None:
    out = run_page(README)
    assert out.startswith("[0, 1, 4, 9, 16, 25, 36, 49]\n")
    assert "/flame\n" in out
    assert re.search(r"^rate=\S+ 25 0\.\d+$", out, re.MULTILINE)
    assert "\n1\n[1, 2]\n" in out
    assert re.search(r"^Thread MainThread$", out, re.MULTILINE)


#: Pages that need a process of their own. What they print is compared with what they show.
ALONE = [
    "attach",
    "calls",
    "code",
    "connect",
    "dask",
    "inspect",
    "local",
    "packages",
    "pools",
    "reports",
    "security",
]


@pytest.mark.process
@pytest.mark.parametrize("name", ALONE)
def test_a_page_prints_what_it_shows(name: str) -> None:
    check_pages([ROOT / "docs" / f"{name}.md"])


@pytest.mark.unit
@pytest.mark.parametrize("name", ALONE)
def test_a_page_shows_what_it_prints(name: str) -> None:
    for block in python_blocks(ROOT / "docs" / f"{name}.md"):
        prints = re.search(r"^ *print\(", block.code, re.MULTILINE)
        assert block.shown or not prints or "cluster.manifest()" in block.code, block.code


@pytest.mark.process
def test_the_page_of_gpus_runs() -> None:
    # Its output depends on the machine.
    assert re.fullmatch(r"(cpu|cuda:\d)\n", run_page(ROOT / "docs/gpus.md"))


@pytest.mark.process
def test_the_page_of_files_runs(tmp_path: Path) -> None:
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


@pytest.mark.unit
def test_every_page_with_code_is_run() -> None:
    with_code = {page.stem for page in PAGES if blocks(page, "python")}
    shown = {page.stem for page in [*SHOWN, *SUBSTRATES]}
    # tests/backends/test_backend_package.py runs those of backends.md.
    run_here = {"README", "backends", "files", "fly", "gpus", "kubernetes", "slurm", "ssh"}
    assert with_code == {*run_here, *ALONE, *shown}


@pytest.mark.process
def test_the_page_of_fly_runs() -> None:
    page = ROOT / "docs/fly.md"
    (first,) = blocks(page, "python")
    with FakeFly(apps=["my-runners"], speed=20, private_ip="::1") as fly:
        out = run(
            first + "\nclient.close()\ncluster.close()\n",
            FLY_API_TOKEN=fly.token,
            FLY_API_HOSTNAME=fly.url,
            FLY_PRIVATE_IP="::1",
            DASK_FLAME__FLY__RATE="10",
            DASK_FLAME__FLY__LOGS_API=fly.url,
        )
        wait_for(lambda: fly.left() == [])
    assert out == "1\n"


@pytest.mark.process
def test_the_page_of_slurm_runs(tmp_path: Path) -> None:
    if why := why_impossible():
        pytest.skip(f"no Slurm: {why}")
    page = ROOT / "docs/slurm.md"
    first, shown = blocks(page, "python")
    with slurm_world() as slurm:
        env = {
            **slurm.environment,
            "DASK_FLAME__SLURM__INTERFACE": "lo",
            "DASK_FLAME__SLURM__FOLDER": str(tmp_path / "shared"),
        }
        out = run(first + shown, **env)
        check_pages([ROOT / "docs/migration/slurm-cluster.md"], **env)
        wait_for(lambda: not slurm.jobs(), what="no job is left")
    assert len(re.findall(r"^\d 0\.\d+$", out, re.MULTILINE)) == 6
    assert "#SBATCH --time=120" in out
    assert not list((tmp_path / "shared").iterdir())


@pytest.mark.process
def test_the_page_of_ssh_runs() -> None:
    if why := missing():
        pytest.skip(why)
    page = ROOT / "docs/ssh.md"
    with ssh_hosts() as hosts:
        close = "\nclient.close()\ncluster.close()\n"
        out = run("\n".join(blocks(page, "python")) + close, **hosts.environment())
        check_pages([ROOT / "docs/migration/ssh-cluster.md"], **hosts.environment())
        wait_for(lambda: hosts.left() == [])
    shown = r"Pool\(.*gpus=1,.*'gpus': 4.*\)"
    assert re.fullmatch(rf"http\S+/flame\n\[0\.5\d+, 0\.1\d+\]\n{shown}\n", out), out


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[dict[str, str]]:
    with driver_outside(tmp_path) as env:
        yield env


@pytest.mark.process
def test_the_page_of_kubernetes_runs(kubernetes: dict[str, str]) -> None:
    page = ROOT / "docs/kubernetes.md"
    first, laptop, manifest, pools = blocks(page, "python")
    call = "\nprint(client.submit(abs, -1).result())\n"
    close = "\nclient.close()\ncluster.close()\n"
    out = run(first + call + manifest + close, **kubernetes)
    assert out.startswith("1\n")
    assert {obj["kind"] for obj in yaml.safe_load_all(out[2:])} >= {"Pod", "Secret"}
    assert re.match(r"http.*/status$", run(laptop + "\nlaptop.close()\n", **kubernetes))
    made = "\ncluster = FlameCluster(pools=pools, backend='kubernetes')\n"
    several = "from dask_flame import FlameCluster\n" + pools + made
    shown = run(several + "print(cluster.manifest())\ncluster.close()\n", **kubernetes)
    assert "NVIDIA-A100-SXM4-40GB" in shown
    assert "hostname: trainer" in shown


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

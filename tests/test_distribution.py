"""What others install: built from a copy of the sources, looked into, used from an empty directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPES = {file.relative_to(ROOT / "recipes").as_posix() for file in (ROOT / "recipes").rglob("*.yaml")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of wheel and source archive; the build leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("source") / "depo"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "*.egg-info", "results"))
    out = copy.parent / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The programs of an environment that has the wheel, and for all else looks where this one does."""
    environment = built.parent / "environment"
    venv.create(environment)
    (site,) = environment.glob("lib/python*/site-packages")
    elsewhere = [place for place in sys.path if place and ROOT not in [Path(place), *Path(place).parents]]
    (site / "others.pth").write_text("\n".join(elsewhere))
    python = environment / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, *map(str, built.glob("*.whl"))], check=True)
    return environment / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of a user, who has modules with the names of our libraries."""
    for name in ("estimators", "reward"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def printed(*command: object, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_depo_with_its_recipes_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"depo", "depo_rl"}
    shipped = "depo/recipe/shipped/"
    assert {name.removeprefix(shipped) for name in names if name.startswith(shipped)} == RECIPES
    for library in ("estimators", "reward"):
        there = {f"depo/{library}/{file.name}" for file in (ROOT / library).glob("*.py")}
        assert there <= set(names)
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        folders = {name.split("/")[1] for name in opened.getnames() if name.count("/") > 1}
    assert folders == {"depo", "depo_rl.egg-info"}


def test_an_index_would_take_it(built: Path) -> None:
    printed(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


def test_it_works_from_an_empty_directory_beside_modules_of_the_same_names(
    installed: Path, elsewhere: Path
) -> None:
    depo, python = installed / "depo", installed / "python"
    assert printed(depo, "--version") == f"depo {PROJECT['version']}\n"
    assert printed(python, "-c", "import depo; print(depo.__file__)").startswith(str(installed.parent))
    listed = set(re.findall(r"^\S+", printed(depo, "recipes"), flags=re.MULTILINE))
    assert listed == {Path(name).stem for name in RECIPES if "/" not in name}
    assert "name: quickstart\n" in printed(python, "-m", "depo", "train", "quickstart", "--dry-run")
    assert {file.name for file in elsewhere.iterdir()} == {"estimators.py", "reward.py"}


@pytest.mark.parametrize(
    ("line", "offered"),
    [("depo re", {"replay", "report", "recipes"}), ("depo train quick", {"quickstart", "quick.yaml"})],
)
def test_a_shell_completes_commands_and_recipes(
    installed: Path, elsewhere: Path, line: str, offered: set[str]
) -> None:
    (elsewhere / "quick.yaml").touch()
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    script = f"{installed / 'depo'} 8>&1 9>/dev/null >/dev/null"
    assert {word.strip() for word in printed("bash", "-c", script, **asked).split("\n")} == offered


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert PROJECT["version"].removesuffix(".dev0") == versions[0]

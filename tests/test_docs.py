"""What the docs tell to type is what the programs take, what they name is there, and the site builds."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from depo.cli import parse
from depo.recipe.loading import load_recipe
from depo.recipe.suites import load_suite

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("docs/*.md"),
    ROOT / "recipes" / "README.md",
]
RECIPES = sorted(ROOT.glob("recipes/**/*.yaml"))
TEXTS = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in [*PAGES, *RECIPES]}
OTHERS = {
    "cd",
    "eval",
    "export",
    "git",
    "lm_eval",
    "mkdocs",
    "pip",
    "pytest",
    "python",
    "ray",
    "source",
    "twine",
    "vllm",
}
"""Programs that a shell block may use besides depo. Their lines are not run here: they install, need a
network, or start what goes on running."""


def typed(file: str) -> list[list[str]]:
    """The words of each command in shell blocks, in code within a line, and in a recipe's comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", TEXTS[file], flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(depo [a-z]+ [^`]+)`", TEXTS[file])
    if file.endswith(".yaml"):
        lines += re.findall(r"^#\s+((?:pip .*&& )?depo .*)$", TEXTS[file], flags=re.MULTILINE)
    commands = [part for line in lines for part in re.split(r" && | -- +(?=python)", line)]
    words = [shlex.split(command.partition(" > ")[0], comments=True) for command in commands]
    return [one for one in words if one]


COMMANDS = {(file, " ".join(words)): words for file in sorted(TEXTS) for words in typed(file)}


@pytest.mark.parametrize(("file", "command"), COMMANDS, ids=lambda value: value)
def test_a_command_is_one_that_its_program_takes(
    file: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = COMMANDS[file, command]
    if [program, *words[:2]] == ["python", "-m", "depo"]:
        program, words = "depo", [word for word in words[2:] if word != "..."]
    if program == "depo" and words[-1] == "--help":
        with pytest.raises(SystemExit, match="0"):
            parse(words)
    elif program == "depo":
        try:
            check_names(parse(words))
        except SystemExit:
            pytest.fail(capsys.readouterr().err)
    elif [program, *words[:2]] == ["python", "-m", "benchmarks"]:
        assert f'"{words[2]}": (' in (ROOT / "benchmarks" / "__main__.py").read_text()
    elif [program, *words[:1]] == ["python", "-m"]:
        assert find_spec(words[1])
    else:
        assert program in OTHERS


def check_names(options: argparse.Namespace) -> None:
    """Recipe, suite and keys; RECIPE stands for any recipe, and a file of the reader's is not here."""
    recipe = getattr(options, "recipe", None)
    if recipe and hasattr(options, "overrides") and (recipe.startswith("recipes/") or "." not in recipe):
        load_recipe("math" if recipe == "RECIPE" else recipe, options.overrides)
    if suite := getattr(options, "suite", None):
        load_suite(suite)


@pytest.mark.parametrize("file", sorted(TEXTS))
def test_recipes_and_extras_that_are_named_exist(file: str) -> None:
    named = set(re.findall(r"\brecipes/[a-z_/]+\.yaml", TEXTS[file]))
    assert named <= {path.relative_to(ROOT).as_posix() for path in RECIPES}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"(?:\.|depo-rl)\[([a-z,-]+)\]\"", TEXTS[file])
    asked = {extra for several in extras for extra in several.split(",")}
    assert asked <= set(project["optional-dependencies"])


def test_tests_that_a_page_names_are_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)` `(test_\w+)`", TEXTS["docs/failures.md"])
    assert len(named) > 20
    assert [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []


@pytest.mark.skipif(find_spec("material") is None, reason='MkDocs is missing: pip install -e ".[docs]"')
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links and anchors that lead nowhere are warnings, and so are names that the Python reference lacks."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "DifficultySampling" in (tmp_path / "docs" / "api" / "index.html").read_text()
    assert (tmp_path / "depo" / "loop.py").read_bytes() == (ROOT / "depo" / "loop.py").read_bytes()

"""Lint, format, types and import arrows, as tests: plain ``pytest`` is the one command that checks all."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        [sys.executable, "-m", "mypy"],
        [str(SCRIPTS / "lint-imports")],
    ],
    ids=["ruff-check", "ruff-format", "mypy", "import-linter"],
)
def test_the_code_passes(command: list[str]) -> None:
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, f"{' '.join(command)}\n{outcome.stdout}{outcome.stderr}"


def test_what_a_dry_run_needs_does_not_import_torch_or_ray() -> None:
    """The import-linter contract follows the source; this follows the interpreter."""
    heavy = ["torch", "ray", "transformers", "vllm", "trl", "datasets"]
    modules = "depo.recipe.schema, depo.recipe.loading, depo.recipe.budget, depo.cli"
    program = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "[]"


@pytest.mark.parametrize("library", ["estimators", "reward"])
def test_the_libraries_import_without_the_rest_of_depo(library: str) -> None:
    program = (
        f"import sys, depo.{library}; "
        "print({name.split('.')[1] for name in sys.modules if name.startswith('depo.')})"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == str({library})


def test_the_tools_are_installed() -> None:
    """Otherwise the failures above read like findings."""
    assert [tool for tool in ("ruff", "mypy", "importlinter") if find_spec(tool) is None] == []


def test_groups_of_tests_reach_the_processes(request: pytest.FixtureRequest) -> None:
    """Else every process starts Ray and makes the runs that tests share, and nothing says so."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process")
    assert request.node.nodeid.endswith("@test_code_quality")

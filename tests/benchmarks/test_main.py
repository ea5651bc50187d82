"""One command for all benchmarks, which are not shipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from setuptools import find_packages

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.report import REPORTS, report_of

ROOT = Path(__file__).parents[2]
HEAVY = ["torch", "ray", "transformers", "vllm", "trl", "datasets", "matplotlib"]


def test_help_names_what_there_is_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('heavy:', [name for name in {HEAVY} if name in sys.modules]))\n"
        "from contextlib import suppress\n"
        "from benchmarks.__main__ import main\n"
        "for arguments in (['--help'], ['model', '--help']):\n"
        "    with suppress(SystemExit): main(arguments)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "heavy: []" in done.stdout
    assert all(name in done.stdout for name in [*BENCHMARKS, "--out"])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_options_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    about = import_module(f"benchmarks.{BENCHMARKS[name][0]}").__doc__.split()
    assert shown.startswith(f"usage: python -m benchmarks {name} ")
    assert " ".join(about[:5]) in shown


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["selection"], ["report", "a", "b"]], ids=" ".join)
def test_a_command_line_that_makes_no_sense_is_one_line(arguments, refused) -> None:
    assert "python -m benchmarks" in refused(arguments)


def test_an_error_in_a_benchmark_is_one_line_with_depos_status(refused, tmp_path) -> None:
    assert "no such directory" in refused(["report", str(tmp_path / "missing")])


@pytest.mark.parametrize("kind", REPORTS)
def test_every_kind_of_result_has_a_report(kind: str) -> None:
    assert callable(report_of(kind))


def test_a_result_of_no_known_kind_is_refused_with_the_known_ones(refused, tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"kind": "nonsense", "provenance": {}}')
    said = refused(["report", str(tmp_path)])
    assert "kind 'nonsense'" in said
    assert all(kind in said for kind in REPORTS)


def test_results_can_be_pages(tmp_path, capsys) -> None:
    shutil.copy(ROOT / "benchmarks" / "results" / "selection_default.json", tmp_path)
    assert main(["report", str(tmp_path), "--html"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "selection_default.html")]
    assert '<div class="wide"><table>' in (tmp_path / "selection_default.html").read_text()


def test_benchmarks_are_not_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    shipped = find_packages(str(ROOT), **settings)
    assert {name.split(".")[0] for name in shipped} == {"depo"}

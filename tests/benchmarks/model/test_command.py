"""The command line ``python -m benchmarks model``. Runs are recorded files here; test_runs.py trains some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.model.arms import CPU, SUMS
from benchmarks.model.runs import Setting, arm_recipe
from benchmarks.report import write_result
from depo.errors import DONE, FAILED
from depo.recipe.loading import dump_recipe

MODEL = "organisation/name"  # a hub id: nothing is looked up before a run starts


def bench(*arguments: str) -> int:
    return main(["model", *arguments])


@pytest.fixture
def finished(tmp_path, record) -> Path:
    """Directories of runs that have ended: two arms, one seed, a horizon of 4 · 16 = 64 rollouts."""
    setting = Setting(MODEL, SUMS, CPU, 4, "transformers")
    for arm in ("grpo", "hybrid"):
        directory = record(tmp_path / "runs" / "seed_0" / arm)
        (directory / "recipe.yaml").write_text(dump_recipe(arm_recipe(setting, arm, 0)))
    return tmp_path


def options(directory: Path, *more: str) -> list[str]:
    common = f"--out {directory}/r.json --runs {directory}/runs --model {MODEL} --form cpu --steps 4"
    return [*common.split(), *more]


def test_finished_arms_are_read_and_not_run_again(finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*")}
    assert bench(*options(finished, "--arm", "grpo", "--arm", "hybrid")) == DONE
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*")} == before
    document = json.loads((finished / "r.json").read_text())
    assert document["kind"] == "model"
    assert [(run["arm"], run["status"]) for run in document["runs"]] == [("grpo", "done"), ("hybrid", "done")]
    assert document["comparisons"][0]["differences"] == [0.0]
    assert document["setting"]["horizon"] == 64
    assert (finished / "r.md").exists()


def test_a_failed_arm_does_not_lose_the_others(finished, monkeypatch) -> None:
    """The child process fails at once because this Python cannot import depo's command line."""
    monkeypatch.setattr("sys.executable", "false")
    assert bench(*options(finished, "--arm", "grpo", "--arm", "dapo")) == FAILED
    document = json.loads((finished / "r.json").read_text())
    assert [run["status"] for run in document["runs"]] == ["done", "failed"]


DEPO = """
import sys, time
from pathlib import Path

place = Path(sys.argv[sys.argv.index("--run-dir") + 1])
began = time.time()
# Ends first what was planned last, and only when another one runs beside it.
others = [place.parent / f"{arm}.began" for arm in ("grpo", "dapo", "hybrid") if arm != place.name]
place.with_suffix(".began").touch()
until = time.monotonic() + 30
while {wait} and not any(path.exists() for path in others):
    assert time.monotonic() < until, "nothing else runs"
    time.sleep(0.02)
time.sleep(2 if {wait} and place.name == "grpo" else 0)
if place.name == "dapo":
    sys.exit("the reason")
import shutil
shutil.copytree(Path("recorded"), place, dirs_exist_ok=True)
"""


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_run_side_by_side_and_results_are_kept_as_they_end_in_planned_order(
    jobs: int, tmp_path: Path, record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m depo` is a script here that waits for its neighbours, fails, or leaves a recorded run."""
    (tmp_path / "depo.py").write_text(DEPO.replace("{wait}", str(jobs > 1)))
    record(tmp_path / "recorded")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    written: list[list[str]] = []

    def noted(document, path):
        written.append([run["arm"] for run in document["runs"]])
        return write_result(document, path)

    monkeypatch.setattr("benchmarks.model.command.write_result", noted)
    arms = [word for arm in ("grpo", "dapo", "hybrid") for word in ("--arm", arm)]
    assert bench(*options(tmp_path, *arms, "--jobs", str(jobs))) == FAILED
    assert [len(arms) for arms in written] == [1, 2, 3], "after every run"
    assert written[-1] == ["grpo", "dapo", "hybrid"], "in planned order"
    assert (written[0] == ["grpo"]) == (jobs == 1), "and not in the order of the plan only"
    document = json.loads((tmp_path / "r.json").read_text())
    assert [run["status"] for run in document["runs"]] == ["done", "failed", "done"]
    assert document["setting"]["jobs"] == jobs
    assert document["comparisons"][0]["differences"] == [0.0]
    assert document["runs"][1]["last_lines"] == ["the reason"]
    said = capsys.readouterr().out
    assert "seed 0, dapo: exit status 1, its log ends with\n  the reason\n" in said


def test_jobs_share_cores_and_the_engines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.model.runs.usable_cores", lambda: 16)
    shares = {}
    for jobs in (1, 2, 4):
        recipe = arm_recipe(Setting(MODEL, SUMS, CPU, 4, "vllm", jobs=jobs), "grpo", 0)
        assert recipe.resources.learner_gpus == 0
        shares[jobs] = (recipe.resources.threads, recipe.rollout.vllm.gpu_memory_utilization)
    assert shares == {1: (None, 0.3), 2: (8, 0.3), 4: (4, 0.15)}


def test_a_dry_run_writes_nothing(finished, capsys) -> None:
    before = sorted(finished.rglob("*"))
    assert bench(*options(finished, "--dry-run")) == DONE
    assert sorted(finished.rglob("*")) == before
    out = capsys.readouterr().out
    assert "seed_0/grpo: finished" in out
    assert "seed_0/dapo: to run" in out
    assert "64 rollouts each" in out


def test_result_does_not_say_where_things_lay(finished) -> None:
    assert bench(*options(finished, "--arm", "grpo")) == DONE
    assert str(finished) not in (finished / "r.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "./missing"], "error: --model: no such directory: missing"),
        (["--arm", "depo"], "error: --arm depo and --encoder go together"),
        (["--encoder", "./missing"], "error: --encoder ./missing: no text encoder there"),
        (["--seeds", "a"], "error: --seeds a: must be whole numbers"),
        (["--seeds", "1,1"], "error: --seeds 1,1: must be different numbers"),
        (["--steps", "0"], "error: --steps 0: must be at least 1"),
        (["--steps", "5", "--arm", "grpo"], "holds a run with another steps, max_rollouts, evaluation"),
        (["--jobs", "0"], "error: --jobs 0: must be at least 1"),
        (["--out", "here"], "error: --out here: must end in .json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_one_line(finished, refused, change, message) -> None:
    assert message in refused(["model", *options(finished), *change])
    assert not (finished / "r.json").exists()


@pytest.mark.parametrize("option", ["--arm", "--task", "--form", "--engine"])
def test_unknown_names_are_told_with_the_known_ones(finished, refused, option) -> None:
    said = refused(["model", *options(finished), option, "unknown"])
    assert f"error: argument {option}: invalid choice: 'unknown' (choose from " in said


def test_reasoning_gym_that_is_not_installed_is_told(finished, refused, monkeypatch) -> None:
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "benchmarks.model.command.find_spec", lambda name: None if name == "reasoning_gym" else found(name)
    )
    assert "the package is missing; pip install" in refused(
        ["model", *options(finished), "--task", "reasoning_gym"]
    )

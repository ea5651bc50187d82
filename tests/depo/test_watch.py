"""``depo watch``: a finished run, one that grows, one that goes back; and what is no run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from depo.cli import main

TESTS = Path(__file__).parent
LOG = TESTS / "train" / "quickstart_metrics.jsonl"
LINES = LOG.read_text().splitlines(keepends=True)
STEPS = len(LINES)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    shutil.copy(TESTS.parents[1] / "recipes" / "quickstart.yaml", directory / "recipe.yaml")
    return directory


def end(run_dir: Path, steps: int = STEPS) -> None:
    (run_dir / "summary.json").write_text(json.dumps({"steps": steps, "verdict": ["accuracy rose"]}))


def steps_of(text: str) -> list[int]:
    """Of the lines that tell of a step."""
    firsts = [line.split()[0] for line in text.splitlines() if line.split()]
    return [int(first.partition("/")[0]) for first in firsts if first.partition("/")[0].isdigit()]


def watched_while(monkeypatch: pytest.MonkeyPatch, run_dir: Path, *events: Callable[[], object]) -> int:
    """Watch a run; whenever nothing is left to show, the next thing happens to it."""
    coming = iter(events)
    monkeypatch.setattr("depo.watch.time", SimpleNamespace(sleep=lambda seconds: next(coming)()))
    status = main(["watch", str(run_dir)])
    assert next(coming, None) is None, "it ended too early"
    return status


def test_a_finished_run_is_shown_with_its_verdict(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(LOG, run_dir / "metrics.jsonl")
    end(run_dir)
    before = sorted(path.stat().st_mtime_ns for path in run_dir.iterdir())
    assert main(["watch", str(run_dir), "--last", "5"]) == 0
    shown = capsys.readouterr().out
    assert steps_of(shown) == list(range(STEPS - 4, STEPS + 1))
    assert shown.startswith("reward   mean of this step's rollouts")
    assert shown.splitlines()[-1] == "verdict: accuracy rose"
    assert sorted(path.stat().st_mtime_ns for path in run_dir.iterdir()) == before


def test_it_shows_what_the_training_console_showed(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from depo.recipe.loading import load_recipe
    from depo.trackers.console import Console, columns_for

    shutil.copy(LOG, run_dir / "metrics.jsonl")
    end(run_dir)
    recipe = load_recipe(run_dir / "recipe.yaml")
    with Console(recipe.steps, quiet=False, name="x", columns=columns_for(recipe)) as console:
        for line in LINES:
            console.step(json.loads(line))
    trained = capsys.readouterr().out.splitlines()
    assert main(["watch", str(run_dir), "--last", "1"]) == 0
    *_, last, verdict = capsys.readouterr().out.splitlines()
    assert last == trained[-1], "its accuracy is of rows that were not shown"
    assert verdict.startswith("verdict")


def test_a_run_that_grows_is_followed_to_its_end(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run_dir / "metrics.jsonl").open("w") as log:

        def write(text: str) -> Callable[[], object]:
            return lambda: (log.write(text), log.flush())

        half = LINES[2][:100]  # no step yet
        events = [write("".join(LINES[:2])), write(half), write(LINES[2][100:] + LINES[3])]
        assert watched_while(monkeypatch, run_dir, *events, lambda: end(run_dir, 4)) == 0
    assert steps_of(capsys.readouterr().out) == [1, 2, 3, 4]


def test_a_resumed_run_is_followed_from_where_it_went_back_to(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = run_dir / "metrics.jsonl"
    log.write_text("".join(LINES[:5]))
    end(run_dir, 2)  # of before it was extended: no reason to stop
    events = [
        lambda: log.write_text("".join(LINES[:3])),
        lambda: log.write_text("".join(LINES[:4])),
        lambda: end(run_dir, 4),
    ]
    assert watched_while(monkeypatch, run_dir, *events) == 0
    shown = capsys.readouterr().out
    assert "the run was resumed after step 3" in shown
    assert steps_of(shown) == [1, 2, 3, 4, 5, 4]


def test_ctrl_c_ends_it_without_a_traceback(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(LOG, run_dir / "metrics.jsonl")

    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("depo.watch.time", SimpleNamespace(sleep=pressed))
    assert main(["watch", str(run_dir)]) == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted\n"
    assert steps_of(captured.out)[-1] == STEPS


def test_a_recipe_of_another_version_hides_no_metrics(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "recipe.yaml").write_text("what: was this\n")
    shutil.copy(LOG, run_dir / "metrics.jsonl")
    end(run_dir)
    assert main(["watch", str(run_dir)]) == 0
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: no such directory; expected the directory of a training run"),
        (["."], ".: neither recipe.yaml nor metrics.jsonl in it"),
        (["run", "--last", "0"], "--last 0: must be at least 1"),
    ],
)
def test_what_is_no_run_is_told_in_one_line(
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(run_dir.parent)
    assert main(["watch", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {says}")

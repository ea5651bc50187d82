"""How a failure is told that a real Ray actor raised, as the learner's and the engines' do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from depo.cli import main
from depo.errors import WIDTH, UserError, report_failure, say
from depo.rollout.engine import WeightSyncError


@ray.remote(num_cpus=0)
class Failing:
    """Raises the way the learner's and the engines' actors do."""

    def call(self, error: Exception) -> None:
        raise error

    def stream(self, error: Exception) -> Iterator[int]:
        yield 1
        raise error


@pytest.fixture(scope="module")
def failing(cluster: None) -> Any:
    return Failing.remote()


def in_method(failing: Any, error: Exception) -> None:
    ray.get(failing.call.remote(error))


def in_stream(failing: Any, error: Exception) -> None:
    for reference in failing.stream.options(num_returns="streaming").remote(error):
        ray.get(reference)


@pytest.mark.parametrize("raising", [in_method, in_stream])
def test_a_user_error_in_an_actor_is_still_one_line_and_status_2(
    failing: Any, capsys: pytest.CaptureFixture[str], raising: Callable[[Any, Exception], None]
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Ray's wrappers have no common base but RayError
        raising(failing, UserError("policy.model: x has no tokenizer"))
    capsys.readouterr()
    assert report_failure(caught.value, None) == 2
    assert capsys.readouterr().err == "error: policy.model: x has no tokenizer\n"


def test_another_error_in_an_actor_is_named_as_it_was_raised(
    failing: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEPO_TRACEBACK", raising=False)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        in_method(failing, WeightSyncError("off by 3.2 nats"))
    capsys.readouterr()
    assert report_failure(caught.value, tmp_path) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: WeightSyncError: off by 3.2 nats"
    assert "in call" in (tmp_path / "error.log").read_text()  # where in the actor it was raised


# ---------------------------------------------------------------- the width of what is printed


def test_long_lines_are_wrapped_with_an_indent_and_commands_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.errors.WIDTH", WIDTH)
    command = "depo train --resume --run-dir runs/a-run-with-a-name-that-is-rather-long-20260101T000000Z"
    text = f"  what happened: {'word ' * 20}and what is safe; go on with: {command}"
    say(text)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("  what happened: word")
    assert all(line.startswith(" " * 6) for line in others)
    assert max(map(len, [first, *others])) <= 100
    assert others[-1].strip().endswith(command)
    assert " ".join([first.strip(), *map(str.strip, others)]) == text.strip()


@pytest.mark.parametrize("name", ["quickstart", "math", "math_cpu", "math_mini"])
def test_all_that_a_dry_run_prints_fits_in_100_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("depo.errors.WIDTH", WIDTH)
    monkeypatch.chdir(tmp_path)
    asks_too_much = ("learner.routing_replay=r2", "learner.loss=gspo", "learner.loss.clip_low=0.2")
    assert main(["train", name, *asks_too_much, "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("note: ") for line in printed)
    command = "datasets.load_dataset("  # to be copied: never broken
    assert [line for line in printed if len(line) > 100 and command not in line] == []


def test_all_that_a_run_prints_fits_in_100_columns(finished: Path) -> None:
    printed = [(finished.parent / name).read_text().splitlines() for name in ("stdout.txt", "stderr.txt")]
    assert len(printed[0]) > 20
    assert max(map(len, printed[0] + printed[1])) <= 100

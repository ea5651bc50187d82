"""A run directory: one recipe, one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from depo.errors import WIDTH, UserError, fitted
from depo.recipe.loading import RESUME_MAY_CHANGE, changes_on_resume, load_recipe, write_resolved
from depo.recipe.schema import Evaluation, Recipe
from depo.train.run_directory import check_continuable, claimed
from depo.train.state import check_seen

BASE = {
    "name": "tiny",
    "steps": 200,
    "policy": {"type": "pretrained", "model": "./none"},
    "data": {"train": "sums.jsonl"},
}


def begun(directory: Path, **blocks: object) -> Path:
    write_resolved(Recipe.model_validate(BASE | blocks), directory / "recipe.yaml")
    return directory


def test_an_unchanged_recipe_changes_nothing(tmp_path: Path) -> None:
    assert changes_on_resume(Recipe.model_validate(BASE), begun(tmp_path)) == []


def test_what_may_change_is_told_with_old_and_new_value(tmp_path: Path) -> None:
    evaluation = {"n": 4, "temperature": 0.5, "best": "all"}
    now = Recipe.model_validate(BASE | {"steps": 400, "evaluation": evaluation})
    assert changes_on_resume(now, begun(tmp_path)) == [
        "changed on resume: steps 200 → 400",
        "changed on resume: evaluation.n 1 → 4",
        "changed on resume: evaluation.temperature 0.0 → 0.5",
        "changed on resume: evaluation.best null → all",
    ]


def test_a_schedule_that_spans_the_steps_is_warned_of(tmp_path: Path) -> None:
    cosine = {"learner": {"schedule": "cosine"}}
    now = Recipe.model_validate(BASE | cosine | {"steps": 400})
    assert "the cosine learning rate spans all steps" in changes_on_resume(now, begun(tmp_path, **cosine))[-1]


def test_what_would_make_another_run_of_it_is_refused_by_key_and_values(tmp_path: Path) -> None:
    now = Recipe.model_validate(BASE | {"learner": {"lr": 1e-2}, "batch": {"prompts": 8}})
    with pytest.raises(UserError, match=r"--resume: batch\.prompts \d+ → 8, learner\.lr .* → 0\.01 \(in "):
        changes_on_resume(now, begun(tmp_path))


def test_a_refusal_lists_what_may_change_in_three_lines_and_ends_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.errors.WIDTH", WIDTH)
    with pytest.raises(UserError) as caught:
        changes_on_resume(Recipe.model_validate(BASE | {"learner": {"lr": 1e-2}}), begun(tmp_path))
    refusal, remedy = str(caught.value).splitlines()
    listed = refusal.partition("may only change ")[2]
    assert len(fitted(listed).splitlines()) <= 3
    for key in RESUME_MAY_CHANGE:
        assert key.rpartition(".")[2] in listed
    stored = tmp_path / "recipe.yaml"
    assert remedy.endswith(f"begin another run with it: depo train {stored} learner.lr=0.01")
    assert load_recipe(stored, ["learner.lr=0.01"]).learner.lr == 1e-2


def test_without_a_recipe_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run to resume here"):
        changes_on_resume(Recipe.model_validate(BASE), tmp_path)


def test_a_second_process_is_kept_out_until_the_first_has_died(tmp_path: Path) -> None:
    holds = f"""
import sys, time
from pathlib import Path
from depo.train.run_directory import claimed
with claimed(Path({str(tmp_path / "run")!r})):
    print("in", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(UserError, match="another process is at work on this run"), claimed(tmp_path / "run"):
        pass
    other.kill()
    other.wait()
    with claimed(tmp_path / "run"):
        pass


def test_a_checkpoint_that_only_the_learner_sees_is_none(tmp_path: Path) -> None:
    written = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"--run-dir: the learner wrote .*config\.json.* machines"):
        check_seen(written)
    written.write_text("{}")
    check_seen(written)


def test_only_what_changes_a_measurement_changes_the_yardstick() -> None:
    usual = Evaluation().yardstick
    assert Evaluation(best="all", every=5, at_start=False).yardstick == usual
    for changed in ({"n": 4, "temperature": 1.0}, {"method": "exact"}, {"suite": "math"}):
        assert Evaluation.model_validate(changed).yardstick != usual


@pytest.mark.parametrize("trace", ["metrics.jsonl", "rollouts/step_000001.parquet", "summary.json"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_over_its_remains(tmp_path: Path, trace) -> None:
    begun(tmp_path)
    check_continuable(tmp_path)  # killed before its first checkpoint
    (tmp_path / trace).parent.mkdir(exist_ok=True)
    (tmp_path / trace).write_text('{"step": 7}\n')
    with pytest.raises(UserError, match=r"no checkpoint is left .* got to .*: it cannot be continued"):
        check_continuable(tmp_path)
    (tmp_path / "checkpoints/step_000007").mkdir(parents=True)
    check_continuable(tmp_path)


def test_where_memory_ran_out_the_keys_that_help_may_change(tmp_path: Path) -> None:
    now = Recipe.model_validate(
        BASE
        | {
            "policy": BASE["policy"] | {"gradient_checkpointing": True},
            "learner": {"tokens_per_microbatch": 4096},
            "rollout": {"transformers": {"batch_size": 8}, "vllm": {"gpu_memory_utilization": 0.3}},
        }
    )
    assert len(changes_on_resume(now, begun(tmp_path))) == 4
    other = Recipe.model_validate(BASE | {"rollout": {"max_new_tokens": 7}})
    with pytest.raises(UserError, match=r"rollout\.max_new_tokens"):
        changes_on_resume(other, begun(tmp_path))

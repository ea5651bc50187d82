"""Recipes of every arm, task and form are valid and comparable."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.model.arms import ALLOWED_BLOCKS, ARMS, CPU, FORMS, GPU, GYM_TASKS, TASKS
from benchmarks.model.runs import Setting, arm_recipe
from depo.recipe.schema import Recipe

EVERY = list(itertools.product(TASKS, FORMS, ("transformers", "vllm")))


def recipe(
    arm: str, task: str = "sums", form: str = "cpu", engine: str = "transformers", seed: int = 0
) -> Recipe:
    size = FORMS[form]
    return arm_recipe(Setting("models/m", TASKS[task], size, size.steps, engine, "models/encoder"), arm, seed)


@pytest.mark.parametrize(("task", "form", "engine"), EVERY)
def test_arms_of_a_seed_differ_in_the_allowed_blocks_only(task: str, form: str, engine: str) -> None:
    dumps = [recipe(arm, task, form, engine).model_dump() for arm in ARMS]
    for one, other in itertools.combinations(dumps, 2):
        assert {key for key in one if one[key] != other[key]} <= ALLOWED_BLOCKS
        assert one["estimator"] != other["estimator"] or one["selection"] != other["selection"]


def test_published_methods_have_neither_audit_nor_gate_nor_reserved_places() -> None:
    for arm in ("depo", "greso", "mopps", "dps"):
        selection = recipe(arm, form="gpu").selection
        assert (selection.audit, selection.min_window, selection.revisit_after) == (0.0, 0, None)
    # DEPO (arXiv 2602.06375): pass rates between 0.15 and 0.85. DPS (arXiv 2603.10887): λ = 0.7, flat prior.
    depo, dps = recipe("depo").selection, recipe("dps").estimator
    assert (depo.low, depo.high) == (0.15, 0.85)
    assert (dps.prior_count, dps.discount, dps.confusion, dps.steps_per_transition) == (1, 0.7, 0, 1)


@pytest.mark.parametrize("form", [CPU, GPU], ids=lambda form: form.name)
def test_every_arm_gets_the_rollouts_of_the_steps_without_refill(form) -> None:
    setting = Setting("m", TASKS["sums"], form, 7, "transformers")
    for arm in ("grpo", "dapo", "hybrid"):
        built = arm_recipe(setting, arm, 0)
        assert built.max_rollouts == 7 * form.prompts * form.group_size
        assert built.steps * built.batch.prompts * built.batch.group_size >= built.max_rollouts


def test_seed_decides_pool_and_draws_and_nothing_else() -> None:
    first, second = recipe("hybrid", seed=0).model_dump(), recipe("hybrid", seed=1).model_dump()
    assert {key for key in first if first[key] != second[key]} == {"name", "seed", "data"}
    first["data"]["train"].pop("seed"), second["data"]["train"].pop("seed")
    assert first["data"] == second["data"]


@pytest.mark.parametrize("form", [CPU, GPU], ids=lambda form: form.name)
def test_pool_is_split_over_the_tasks_of_reasoning_gym(form) -> None:
    train = recipe("grpo", "reasoning_gym", form.name).data.train
    assert len(train.tasks) == len(GYM_TASKS)
    assert train.size * len(train.tasks) == form.pool


@pytest.mark.parametrize("task", list(TASKS))
def test_problems_of_a_task_exist_and_differ(task: str) -> None:
    """As many distinct prompts as the form promises: duplicates would be dropped by the pool."""
    from depo.data.prompts import DataReport, unique_problems

    if task == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    source = recipe("grpo", task).data.train
    problems = list(unique_problems(source, DataReport(source="test"), "data.train"))
    if task == "reasoning_gym":
        assert len(problems) >= 0.9 * CPU.pool
    else:
        one_digit = sum(int(problem.reference) <= 18 for problem in problems)
        assert len(problems) > CPU.heldout + 100
        assert 0.4 < one_digit / len(problems) < 0.6


def test_vllm_leaves_the_one_gpu_to_both() -> None:
    built = recipe("grpo", form="gpu", engine="vllm")
    assert built.resources.learner_gpus == 0
    assert built.rollout.vllm.gpu_memory_utilization < 1
    assert recipe("grpo", form="gpu").resources.learner_gpus is None

"""What is compared differs only in what it is said to differ in."""

from __future__ import annotations

import pytest

from benchmarks.selection.arms import ARMS, POOLS, REPORTED, TUNING, WORLDS
from benchmarks.selection.plan import Cell, arm_recipe, plan, warm_recipe
from benchmarks.selection.work import hide
from depo.errors import UserError
from depo.recipe.loading import load_recipe
from depo.toy.grading import candidates
from depo.toy.warm_start import worked_examples
from depo.types import Prompt

CHANGED = {"name", "estimator", "selection", "learner", "batch"}


def recipe_of(arm, pool="mixed", family=REPORTED):
    return arm_recipe(POOLS[pool], family, 0, arm, ARMS[arm], 320_000, "minilm")


@pytest.mark.parametrize("pool", POOLS)
def test_arms_differ_only_in_estimator_selection_batch_baseline_and_learning_rate(pool):
    grpo = recipe_of("grpo", pool).model_dump()
    for arm in ARMS:
        this = recipe_of(arm, pool).model_dump()
        assert {key for key in this if this[key] != grpo[key]} <= CHANGED, arm
        for key in ("lr", "baseline", "min_advantage"):
            this["learner"][key] = grpo["learner"][key]
        assert this["learner"] == grpo["learner"], arm
        rollouts = this["batch"]["prompts"] * this["batch"]["group_size"]
        assert rollouts == (1024 if arm == "grpo_full_batch" else 256), arm


@pytest.mark.parametrize("arm", ARMS)
def test_no_default_of_depo_decides_how_an_arm_chooses(arm):
    recipe = recipe_of(arm)
    assert recipe.selection.model_fields_set == set(type(recipe.selection).model_fields)
    if recipe.estimator.type == "hybrid":
        left = set(type(recipe.estimator).model_fields) - recipe.estimator.model_fields_set
        assert left == {"text_model", "seed"}


def test_a_policy_is_shared_by_exactly_those_pools_whose_warm_start_is_the_same():
    for one in POOLS.values():
        for other in POOLS.values():
            same = one.policy(REPORTED) == other.policy(REPORTED)
            recipes = (warm_recipe(pool, REPORTED, 0).policy for pool in (one, other))
            assert same == (next(recipes) == next(recipes))


def test_tuning_and_report_share_no_problem():
    tuned, reported = (warm_recipe(POOLS["mixed"], family, 0).data.train for family in (TUNING, REPORTED))
    assert not set(tuned.digits) & set(reported.digits)


@pytest.mark.parametrize("pool", POOLS)
def test_whatever_finds_the_mastered_problems_of_mixed_finds_those_of_other_pools(pool):
    """Of the candidates, 3.5 % are mastered (seed 0): `mixed` takes them nearly all."""
    wanted, usual = (warm_recipe(POOLS[name], REPORTED, 0).data for name in (pool, "mixed"))
    needed = wanted.grade.mastered * wanted.grade.pool / (usual.grade.mastered * usual.grade.pool)
    assert wanted.train.size >= needed * usual.train.size


def test_no_prompt_is_chosen_twice_on_a_single_pass():
    pool = POOLS["single_pass"]
    horizon = round(320_000 * pool.horizon)
    recipe = arm_recipe(pool, REPORTED, 0, "hybrid", ARMS["hybrid"], horizon, None)
    groups = horizon // recipe.batch.group_size
    assert (
        pool.prompts * pool.grading["learnable"] >= groups
    )  # nobody runs out of what there is to learn from
    assert recipe.selection.cooldown >= groups


def test_a_plan_warms_up_once_for_all_arms_of_a_seed_and_leaves_out_what_is_done(tmp_path):
    cells = [Cell("mixed", seed, name, ARMS[name], 1000) for seed in (0, 1) for name in ("grpo", "dapo")]
    jobs, where = plan(tmp_path, REPORTED, cells, None)
    assert len(jobs) == 2 + 2 + 4
    assert len(set(where)) == 4
    where[0].mkdir(parents=True)
    (where[0] / "summary.json").write_text("{}")
    assert [job.done for job in jobs].count(True) == 1


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A directory with the plan of all pools, and its jobs."""
    directory = tmp_path_factory.mktemp("together")
    everything = [Cell(name, 0, "grpo", ARMS["grpo"], 1000) for name in POOLS]
    return directory, plan(directory, REPORTED, everything[::-1], None)[0]


@pytest.mark.parametrize("pool", POOLS)
def test_a_policy_is_the_same_whichever_pool_comes_first_and_pools_know_what_it_was_taught(together, pool):
    directory, all_jobs = together
    jobs, _ = plan(directory, REPORTED, [Cell(pool, 0, "grpo", ARMS["grpo"], 1000)], None)
    lessons, policy = jobs[0].arguments[1:]
    same = [one for one in POOLS.values() if one.policy(REPORTED) == POOLS[pool].policy(REPORTED)]
    assert load_recipe(lessons) == warm_recipe(same[0], REPORTED, 0)
    compose = next(job for job in jobs if job.arguments[0].startswith("compose"))
    assert load_recipe(compose.arguments[1]) == warm_recipe(POOLS[pool], REPORTED, 0)
    assert compose.arguments[2:4] == (lessons, policy)
    assert jobs[0].arguments in [job.arguments for job in all_jobs]


def test_no_problem_of_a_pool_was_shown_to_its_policy():
    """The policy that `mixed` makes has seen some of the further candidates of larger pools."""
    shown = {problem for problem, _ in worked_examples(warm_recipe(POOLS["mixed"], REPORTED, 0))}
    usual, larger = (candidates(warm_recipe(POOLS[name], REPORTED, 0)) for name in ("mixed", "impossible_25"))
    assert not shown & {*usual.train, *usual.heldout}
    assert shown & {*larger.train, *larger.heldout}


def test_results_of_other_settings_are_not_mixed_with_todays(tmp_path):
    plan(tmp_path, REPORTED, [Cell("mixed", 0, "grpo", ARMS["grpo"], 1000)], None)
    plan(tmp_path, REPORTED, [Cell("mixed", 0, "grpo", ARMS["grpo"], 1000)], None)
    with pytest.raises(UserError, match=r"grpo\.yaml was made with another steps, max_rollouts, evaluation"):
        plan(tmp_path, REPORTED, [Cell("mixed", 0, "grpo", ARMS["grpo"], 2000)], None)


def test_an_encoder_that_has_moved_with_the_rest_is_the_same_encoder(tmp_path):
    (tmp_path / "one").mkdir()
    cells = [Cell("mixed", 0, "depo", ARMS["depo"], 1000)]
    plan(tmp_path / "one", REPORTED, cells, tmp_path / "one" / "minilm")
    (tmp_path / "one").rename(tmp_path / "two")
    (_, _, job), _ = plan(tmp_path / "two", REPORTED, cells, tmp_path / "two" / "minilm")
    assert load_recipe(job.arguments[1]).estimator.model == str(tmp_path / "two" / "minilm")
    with pytest.raises(UserError, match=r"depo\.yaml was made with another estimator"):
        plan(tmp_path / "two", REPORTED, cells, tmp_path / "two" / "another")


def test_hidden_texts_say_nothing_and_change_nothing_for_the_policy():
    prompts = [Prompt(str(i), f"{i}+{i}=", (i,), str(2 * i)) for i in range(1000)]
    hidden = hide(prompts, 0)
    assert [(p.key, p.token_ids, p.reference) for p in hidden] == [
        (p.key, p.token_ids, p.reference) for p in prompts
    ]
    numbers = [int(prompt.text.removeprefix("problem ")) for prompt in hidden]
    assert sorted(numbers) == list(range(1000))
    # Were the numbers in the pool's order, its first half would have a mean of 249.5.
    assert abs(sum(numbers[:500]) / 500 - 499.5) < 4 * 289 / 500**0.5


@pytest.mark.parametrize("pool", POOLS)
def test_in_the_world_of_chains_the_policy_writes_its_work_out_and_is_measured_by_sampling(pool):
    reported, tuning = WORLDS["chains"].families
    for family in (reported, tuning):
        recipe = recipe_of("grpo", pool, family)
        assert recipe.policy.warm_start.written
        assert recipe.reward.after == "#"
        assert recipe.evaluation.method == "sample"
        assert recipe.data.grade.samples > 0
        assert recipe.data.grade.pool == POOLS[pool].prompts // 4
    digits = [warm_recipe(POOLS[pool], family, 0).data.train.digits for family in (reported, tuning)]
    assert not set(digits[0]) & set(digits[1])

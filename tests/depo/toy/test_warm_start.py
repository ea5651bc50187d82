"""Worked examples, the way into the band, and one real short training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from depo.errors import UserError
from depo.recipe.schema import Recipe, WarmStart
from depo.toy.arithmetic import Family, Problem
from depo.toy.grading import TooFewProblems, candidates, pass_rates, solvable_accuracy
from depo.toy.tiny_moe import build
from depo.toy.warm_start import StopInBand, tokenized, warm_start, worked_examples


def recipe(seed=0, data=None, reward=None, samples=0, **warm) -> Recipe:
    """Small enough to train in seconds: "mastered" is what a policy knows that has seen few batches."""
    return Recipe.model_validate(
        {
            "name": "warm",
            "seed": seed,
            "steps": 1,
            "policy": {
                "type": "tiny_moe",
                "hidden_size": 32,
                "layers": 2,
                "heads": 2,
                "kv_heads": 1,
                "experts": 4,
                "expert_size": 32,
                "warm_start": {
                    "problems": 4000,
                    "batch_size": 32,
                    "lr": 3e-3,
                    "max_steps": 400,
                    "check_every": 20,
                    "attempts": 1,
                    "band": [0.01, 0.06],
                }
                | warm,
            },
            "data": {
                "train": {"type": "arithmetic", "operations": ["+", "*"], "digits": [2], "size": 400}
                | (data or {}),
                "grade": {
                    "pool": 40,
                    "heldout": 40,
                    "mastered_above": 0.02,
                    "learnable_between": [0.004, 0.02],
                    "impossible_below": 0.002,
                    "samples": samples,
                },
                "max_prompt_tokens": 16,
                "raw": True,
            },
            "rollout": {"max_new_tokens": 8},
            "reward": reward or {"type": "exact"},
        }
    )


@pytest.fixture
def silent():
    return lambda line: None


def test_worked_examples_avoid_every_candidate_and_keep_the_shares():
    examples = worked_examples(recipe(families={"+1": 1, "+2": 3}))
    both = candidates(recipe())
    assert not {problem for problem, _ in examples} & {*both.train, *both.heldout}
    assert sum(problem.family == Family("+", 2) for problem, _ in examples) == 3000
    assert sum(problem.family == Family("+", 1) for problem, _ in examples) == 1000
    assert worked_examples(recipe(families={"+1": 1, "+2": 3})) == examples
    assert worked_examples(recipe(seed=1, families={"+1": 1, "+2": 3})) != examples


def test_the_teacher_forgets_the_stated_share_of_carries():
    def forgotten(share):
        examples = worked_examples(recipe(families={"+2": 1}, forgotten_carries=share))
        carrying = [(p, a) for p, a in examples if p.left % 10 + p.right % 10 >= 10]
        others = [(p, a) for p, a in examples if p.left % 10 + p.right % 10 < 10]
        assert all(int(answer) == problem.left + problem.right for problem, answer in others)
        return np.mean([int(answer) == problem.left + problem.right - 10 for problem, answer in carrying])

    assert forgotten(0) == 0
    assert forgotten(1) == 1
    assert forgotten(0.8) == pytest.approx(0.8, abs=0.04)


def test_a_teacher_who_writes_forgets_the_stated_share_of_carries_each_by_itself():
    chains = {"written": True, "families": {"+2": 1}, "forgotten_carries": 0.6}
    reward = {"type": "exact", "after": "#"}
    source = recipe(data={"phrasing": "columns"}, reward=reward, samples=4, **chains)
    told: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    for problem, chain in worked_examples(source):
        told[problem.carries].append(int(chain.rpartition("#")[2]) == problem.left + problem.right)
    assert [np.mean(right) for right in told.values()] == pytest.approx([1, 0.4, 0.16], abs=0.05)


def test_a_family_without_a_problem_left_to_teach_is_bad_input():
    with pytest.raises(UserError, match=r"policy\.warm_start\.families: every problem of \+1"):
        worked_examples(recipe(families={"+1": 1}, data={"digits": [1], "size": 200}))


def test_the_question_is_no_part_of_the_loss(tiny_policy):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    row = tokenized(tokenizer, Problem(Family("+", 2), 12, 34), "46", "digits")
    assert tokenizer.decode(row["input_ids"]) == "12+34=46" + tokenizer.eos_token
    assert row["labels"] == [-100] * 6 + row["input_ids"][6:]


class Slope(torch.nn.Module):
    """A policy whose accuracy is its only weight."""

    def __init__(self, accuracy: float) -> None:
        super().__init__()
        self.accuracy = torch.nn.Parameter(torch.tensor(accuracy))

    def set(self, accuracy: float) -> None:
        with torch.no_grad():
            self.accuracy.fill_(accuracy)


def band_stop(model, silent, measure=None):
    return StopInBand(model, measure or model.accuracy.item, WarmStart(band=(0.40, 0.50)), silent)


@pytest.mark.parametrize("accuracy", [0.41, 0.45, 0.49])
def test_training_stops_inside_the_band(accuracy, silent):
    model = Slope(0.0)
    stop = band_stop(model, silent)
    model.set(0.39)
    stop.check()
    assert stop.reached is None
    model.set(accuracy)
    stop.check()
    assert stop.reached == pytest.approx(accuracy)


@pytest.mark.parametrize("above", [0.51, 0.7, 0.95])
def test_a_jump_over_the_band_is_halved_until_inside(above, silent):
    model = Slope(0.1)
    stop = band_stop(model, silent)
    model.set(above)
    stop.check()
    assert 0.40 <= stop.reached <= 0.50
    assert model.accuracy.item() == pytest.approx(stop.reached)


def test_weights_stay_where_training_left_them_when_there_is_no_way_into_the_band(silent):
    def measure():
        if model.accuracy.item() < 0.6:
            raise TooFewProblems("3 mastered where 100 are wanted")
        return model.accuracy.item()

    model = Slope(0.1)
    stop = band_stop(model, silent, measure)
    model.set(0.8)
    stop.check()
    assert stop.reached is None
    assert model.accuracy.item() == pytest.approx(0.8)


def test_a_warm_start_that_has_mastered_nothing_yet_still_shows_progress():
    def measure():
        stop.sure += 0.25
        raise TooFewProblems("0 mastered where 100 are wanted")

    lines = []
    stop = band_stop(Slope(0.1), lines.append, measure)
    stop.sure = 0.0
    for stop.steps in (100, 200):
        stop.check()
    assert [line.split(",")[0] for line in lines] == [
        "warm start: step 100 of at most 800: 25% sure of a character",
        "warm start: step 200 of at most 800: 50% sure of a character",
    ]


@pytest.mark.slow
def test_a_warm_start_ends_in_its_band_saves_what_it_measured_and_is_the_same_every_time(tmp_path, capfd):
    saved = []
    for name in ("first", "second"):
        directory = tmp_path / name
        build(recipe().policy, directory, seed=0)
        lines = []
        result = warm_start(recipe(), directory, lines.append)
        assert 0.01 <= result.accuracy <= 0.06
        assert 0 < result.steps <= 400
        assert any("worked examples" in line for line in lines)
        sure = [int(line.split("% sure")[0].split()[-1]) for line in lines if "% sure" in line]
        assert 6 < sure[0] <= sure[-1], "an untrained policy gives each of its 17 characters 6%"

        model = AutoModelForCausalLM.from_pretrained(directory).eval()
        both = candidates(recipe())
        rates = pass_rates(model, AutoTokenizer.from_pretrained(directory), both.heldout)
        measured = solvable_accuracy(rates, recipe().data.grade, 40)
        assert measured == pytest.approx(result.accuracy, abs=1e-5)
        saved.append(model.state_dict())
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])
    written = capfd.readouterr()
    assert "loss" not in written.out + written.err
    assert "train_runtime" not in written.out + written.err


@pytest.mark.slow
def test_a_warm_start_that_cannot_reach_its_band_tries_again_and_then_says_so(tmp_path):
    hopeless = recipe(band=[0.98, 0.99], max_steps=2, check_every=1, attempts=2)
    build(hopeless.policy, tmp_path, seed=0)
    lines = []
    with pytest.raises(UserError, match=r"policy\.warm_start: .* in 2 attempts of 2 steps"):
        warm_start(hopeless, tmp_path, lines.append)
    assert sum("another initialisation" in line for line in lines) == 1

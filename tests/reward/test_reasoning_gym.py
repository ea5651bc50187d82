from __future__ import annotations

import json

import pytest

from depo import reward
from depo.reward.reasoning_gym import extract_answer

# Of the package's 106 tasks, these have no answer of their own, and composite needs others to be named.
WITHOUT_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour", "composite"}


@pytest.fixture(scope="module", autouse=True)
def needs_the_package() -> None:
    pytest.importorskip("reasoning_gym")


@pytest.fixture(scope="module")
def rg() -> reward.Reward:
    return reward.build({"type": "reasoning_gym"})


def reference(task: str, seed: int = 1) -> tuple[str, str]:
    import reasoning_gym

    entry = reasoning_gym.create_dataset(task, size=1, seed=seed)[0]
    stored = {name: entry[name] for name in ("question", "answer", "metadata")}
    return json.dumps({"task": task, "entry": stored}), entry["answer"]


def test_every_tasks_own_answer_is_correct_after_the_trip_through_json(rg, sample) -> None:
    import reasoning_gym

    tasks = sorted(set(reasoning_gym.factory.DATASETS) - WITHOUT_ANSWER)
    assert len(tasks) >= 90
    failed = []
    for task in tasks:
        stored, answer = reference(task)
        (score,) = rg.score([sample(f"I think <answer>{answer}</answer>", stored)])
        if not score.correct:
            failed.append((task, score))
    assert failed == []


@pytest.mark.parametrize(
    "task", ["basic_arithmetic", "gcd", "leg_counting", "chain_sum", "prime_factorization"]
)
def test_a_wrong_answer_is_wrong_and_an_unreadable_one_too(rg, sample, task: str) -> None:
    stored, answer = reference(task)
    right, wrong, unreadable, empty = rg.score(
        [
            sample(rf"so \boxed{{{answer}}}", stored),
            sample(r"\boxed{-987654321}", stored),
            sample("banana", stored),
            sample("", stored),
        ]
    )
    assert right.correct
    assert right.value >= 0.999
    assert [score.correct for score in (wrong, unreadable, empty)] == [False] * 3
    assert all(0 <= score.value < 0.999 for score in (wrong, unreadable, empty))
    assert empty.unparseable


def test_a_scorer_that_chokes_on_the_answer_makes_it_unparseable(rg, sample) -> None:
    stored, _ = reference("prime_factorization")
    import reasoning_gym

    entry = json.loads(stored)["entry"]
    with pytest.raises(ValueError, match="invalid literal"):
        reasoning_gym.get_score_answer_fn("prime_factorization")("banana", entry)
    (score,) = rg.score([sample("banana", stored)])
    assert (score.correct, score.unparseable) == (False, True)


def test_several_right_answers_are_all_correct(rg, sample) -> None:
    stored, _ = reference("countdown")
    entry = json.loads(stored)["entry"]
    expression = entry["metadata"]["expression"]
    (score,) = rg.score([sample(f"({expression})", stored)])
    assert score.correct


@pytest.mark.parametrize(
    ("stored", "detail"),
    [
        ("42", "reference is no {"),
        ("not json", "reference is no JSON"),
        ('{"task": "gcd", "entry": {}}', "reference's entry is no {"),
        ('{"task": "no_such", "entry": {"question": "", "answer": "", "metadata": {}}}', "no_such"),
        (
            '{"task": "prime_factorization", "entry": {"question": "", "answer": "x", "metadata": {}}}',
            "Error:",
        ),
    ],
)
def test_a_broken_reference_is_unscorable(rg, sample, stored: str, detail: str) -> None:
    (score,) = rg.score([sample("banana", stored)])
    assert score.correct is None
    assert detail in score.detail


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<answer>1</answer> \boxed{2}", "2"),
        ("<answer>0</answer> no <answer>\n1 </answer>.", "1"),
        (" 42 \n", "42"),
        (r"\boxed{}", ""),
    ],
)
def test_the_answer_is_the_box_else_the_tag_else_everything(completion: str, answer: str) -> None:
    assert extract_answer(completion) == answer

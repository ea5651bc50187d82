"""Earlier answers, kept and weighed anew under a policy whose probabilities are known."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_pool import first_round, pool_of

from depo.selection import SelectionSettings, Selector
from depo.selection.answer_rescoring import AnswerRescoring
from depo.selection.picks import observations
from depo.types import Group, Origin, Pick, Prompt, Rollout
from estimators.base import Rescored
from estimators.mopps import MoppsEstimator
from reward.base import Score, unscorable

PROMPTS = pool_of(3).prompts
THEN = {(4, 0): 0.5, (5, 0): 0.3, (6, 6, 0): 0.1, (7, 7, 7): 0.0005}
NOW = {(4, 0): 0.2, (5, 0): 0.6, (6, 6, 0): 0.15, (7, 7, 7): 0.0004}
RIGHT = {(5, 0), (6, 6, 0)}


class Policy:
    """Gives each answer a probability of its own, the tokens sharing it evenly; remembers what was asked."""

    def __init__(self, probabilities: dict[tuple[int, ...], float]) -> None:
        self.probabilities = probabilities
        self.asked: list[tuple[Sequence[int], Sequence[int]]] = []

    def __call__(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> np.ndarray:
        self.asked += sequences
        return np.log([self.probabilities[tuple(tokens)] for _, tokens in sequences])


def logprobs(tokens: tuple[int, ...], probabilities: dict[tuple[int, ...], float]) -> np.ndarray:
    return np.full(len(tokens), np.log(probabilities[tokens]) / len(tokens), dtype=np.float32)


def group(prompt: Prompt, answers: Sequence[tuple[int, ...]], lost: Sequence[int] = ()) -> Group:
    """These answers as the earlier policy gave them; the verifier failed on those at ``lost``."""
    pick = Pick(prompt, Origin.SELECTED, "uniform", True, 0.1, 0.5, 0.5)
    rollouts = [
        Rollout(prompt.key, i, i, np.array(tokens, np.int32), logprobs(tokens, THEN), "stop", 0)
        for i, tokens in enumerate(answers)
    ]
    scores = [
        unscorable("timeout") if i in lost else Score(float(tokens in RIGHT), tokens in RIGHT)
        for i, tokens in enumerate(answers)
    ]
    return Group(pick, rollouts, scores, ["" for _ in answers])


def test_each_answer_counts_once_with_the_probability_it_has_today() -> None:
    policy = Policy(NOW)
    answer_rescoring = AnswerRescoring(16, policy)
    answer_rescoring.remember(
        [group(PROMPTS[0], [(4, 0), (5, 0), (4, 0), (4, 0)]), group(PROMPTS[1], [(5, 0)])]
    )
    answer_rescoring.remember([group(PROMPTS[0], [(6, 6, 0), (5, 0)])])
    first, second, third = answer_rescoring(PROMPTS)
    assert first is not None
    assert (first.right, first.wrong) == pytest.approx((0.6 + 0.15, 0.2))
    assert second is not None
    assert (second.right, second.wrong) == pytest.approx((0.6, 0.0))
    assert third is None
    assert len(policy.asked) == 4
    assert {tuple(prompt) for prompt, _ in policy.asked} == {PROMPTS[0].token_ids}


def test_unlikely_answers_and_those_without_a_verdict_are_neither_kept_nor_paid_for() -> None:
    policy = Policy(NOW)
    answer_rescoring = AnswerRescoring(16, policy)
    answer_rescoring.remember([group(PROMPTS[0], [(7, 7, 7), (5, 0)], lost=[1])])
    assert answer_rescoring(PROMPTS) == [None, None, None]
    assert policy.asked == []


def test_the_latest_answers_are_kept() -> None:
    answer_rescoring = AnswerRescoring(2, Policy(NOW))
    answer_rescoring.remember([group(PROMPTS[0], [(4, 0), (5, 0)])])
    answer_rescoring.remember([group(PROMPTS[0], [(4, 0), (6, 6, 0)])])
    (found, *_) = answer_rescoring(PROMPTS)
    assert found is not None
    assert (found.right, found.wrong) == pytest.approx((0.15, 0.2)), "(5, 0) was given longest ago"


def test_what_has_become_unlikely_counts_once_more_and_is_forgotten() -> None:
    policy = Policy(NOW | {(4, 0): 0.0009})
    answer_rescoring = AnswerRescoring(16, policy)
    answer_rescoring.remember([group(PROMPTS[0], [(4, 0), (5, 0)])])
    first, second = answer_rescoring(PROMPTS[:1])[0], answer_rescoring(PROMPTS[:1])[0]
    assert (first.right, first.wrong) == pytest.approx((0.6, 0.0009))
    assert (second.right, second.wrong) == pytest.approx((0.6, 0.0))
    assert [tokens for _, tokens in policy.asked] == [(4, 0), (5, 0), (5, 0)]


def test_memory_survives_a_checkpoint() -> None:
    answer_rescoring, restored = AnswerRescoring(16, Policy(NOW)), AnswerRescoring(16, Policy(NOW))
    answer_rescoring.remember([group(PROMPTS[0], [(4, 0), (5, 0)]), group(PROMPTS[2], [(7, 7, 7)])])
    restored.load_state_dict(json.loads(json.dumps(answer_rescoring.state_dict())))
    assert restored(PROMPTS) == answer_rescoring(PROMPTS)
    assert restored.state_dict() == answer_rescoring.state_dict()


def test_a_run_resumed_with_answer_rescoring_begins_with_nothing_remembered() -> None:
    before, after = (
        Selector(SelectionSettings(3), None, 0),
        Selector(SelectionSettings(3), None, 0, answer_rescoring=AnswerRescoring(4, Policy(NOW))),
    )
    after.load_state_dict(json.loads(json.dumps(before.state_dict())), pool_of(3))
    assert after.answer_rescoring is not None
    assert after.answer_rescoring(PROMPTS) == [None, None, None]


def test_the_selector_remembers_shows_and_saves() -> None:
    """From the second visit on, an observation carries what was rescored when its prompt was picked."""

    def selector() -> Selector:
        return Selector(SelectionSettings(3), None, 0, answer_rescoring=AnswerRescoring(4, Policy(NOW)))

    original, pool, estimator = selector(), pool_of(3), MoppsEstimator()
    for step, expected in ((1, None), (2, pytest.approx(0.6))):
        subject = original
        if step == 2:
            subject = selector()
            subject.load_state_dict(json.loads(json.dumps(original.state_dict())), pool)
        open_step, picks = first_round(subject, pool, estimator, step)
        assert len(picks) == 3
        groups = [
            Group(pick, (made := group(pick.prompt, [(4, 0), (5, 0)])).rollouts, made.scores, ["", ""])
            for pick in picks
        ]
        for observation in observations(groups, step):
            rescored = observation.rescored
            assert (rescored and rescored.right) == expected
            assert rescored is None or isinstance(rescored, Rescored)
        subject.observe(open_step, groups)

import numpy as np
import pytest

from depo.learner.advantages import advantages_into
from depo.learner.advantages import group as group_baseline
from depo.learner.samples import keep_learner_logprobs, train_samples
from depo.reward.base import Score, unscorable
from depo.rollout.engine import collate, requests_for
from depo.selection.picks import observations
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout


def pick(name: str) -> Pick:
    prompt = Prompt(key=name, text=f"text {name}", token_ids=(1, 2, 3), reference="7")
    return Pick(prompt, Origin.SELECTED, "thompson", False, float("nan"), 0.5, 0.9)


def rollout(key: str, index: int, tokens: int = 2) -> Rollout:
    return Rollout(
        key=key,
        index=index,
        seed=0,
        token_ids=np.arange(tokens, dtype=np.int32) + index,
        logprobs=np.full(tokens, -0.5, dtype=np.float32),
        finish_reason="stop",
        policy_version=0,
    )


def group(name: str, verdicts: list[bool | None], outcome: Outcome) -> Group:
    scores = [unscorable("timeout") if v is None else Score(float(v), v) for v in verdicts]
    rollouts = [rollout(name, i) for i in range(len(verdicts))]
    return Group(pick(name), rollouts, scores, [""] * len(verdicts), outcome)


def test_a_sample_is_seeded_by_what_it_is_not_by_its_company():
    alone = requests_for([pick("b")], range(4), run_seed=1, step=5)
    among = requests_for([pick("a"), pick("b"), pick("c")], range(8), run_seed=1, step=5)
    assert among[1].seeds[:4] == alone[0].seeds
    assert len({seed for request in among for seed in request.seeds}) == 24
    assert requests_for([pick("b")], range(4), run_seed=1, step=6)[0].seeds != alone[0].seeds
    assert requests_for([pick("b")], range(4), run_seed=2, step=5)[0].seeds != alone[0].seeds


def test_collate_restores_request_and_sample_order_whatever_finished_first():
    requests = requests_for([pick("a"), pick("b")], range(3), 0, 0)
    arrived = [
        rollout("b", 2),
        rollout("a", 1),
        rollout("b", 0),
        rollout("a", 2),
        rollout("a", 0),
        rollout("b", 1),
    ]
    ordered = collate(requests, arrived)
    assert [[(r.key, r.index) for r in group] for group in ordered] == [
        [("a", 0), ("a", 1), ("a", 2)],
        [("b", 0), ("b", 1), ("b", 2)],
    ]


def test_a_missing_rollout_is_an_error_not_a_smaller_group():
    requests = requests_for([pick("a")], range(3), 0, 0)
    with pytest.raises(RuntimeError, match="2 of 3"):
        collate(requests, [rollout("a", 0), rollout("a", 1)])


def test_an_unscorable_rollout_is_neither_success_nor_failure():
    (seen,) = observations([group("a", [True, None, False, True], Outcome.TRAINED)], step=3)
    assert (seen.successes, seen.trials) == (2, 3)


def test_an_unscorable_rollout_gets_no_advantage_and_no_row():
    trained = group("a", [True, None, False, False], Outcome.TRAINED)
    advantages_into([trained], group_baseline("none"))
    # mean over the three scorable rewards is 1/3
    np.testing.assert_allclose(trained.advantages, [2 / 3, 0, -1 / 3, -1 / 3])
    batch = train_samples([trained])
    assert len(batch) == 3
    np.testing.assert_allclose([s.advantage for s in batch], [2 / 3, -1 / 3, -1 / 3], rtol=1e-6)
    assert [s.token_ids[s.start] for s in batch] == [0, 2, 3]


def test_rows_hold_trained_and_zero_variance_groups_but_no_surplus():
    groups = [
        group("a", [True, False], Outcome.TRAINED),
        group("b", [True, True], Outcome.ZERO_VARIANCE),
        group("c", [True, False], Outcome.SURPLUS),
        group("d", [None, None], Outcome.UNSCORABLE),
    ]
    advantages_into([groups[0]], group_baseline("none"))
    batch = train_samples(groups)
    assert [s.group for s in batch] == [0, 0, 1, 1]
    np.testing.assert_allclose([s.advantage for s in batch], [0.5, -0.5, 0.0, 0.0])


def test_learner_logprobs_return_to_the_rollouts_they_belong_to():
    groups = [group("a", [True, None, False], Outcome.TRAINED), group("c", [True, False], Outcome.SURPLUS)]
    keep_learner_logprobs(groups, train_samples(groups), [np.array([0.0]), np.array([1.0])])
    assert [None if x is None else x.tolist() for x in groups[0].learner_logprobs] == [[0.0], None, [1.0]]
    assert groups[1].learner_logprobs == [None, None]

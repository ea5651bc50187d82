"""The parity probe, against learners and engines that are plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from depo.rollout.engine import WeightSyncError
from depo.rollout.parity import ParityProbe, choose_sequences, default_tolerance, difference
from depo.types import Prompt

SEQUENCES = [((1, 2), (3, 4, 5)), ((6,), (7, 8))]


class ArrayPolicy:
    """Scores are a table; a perturbation adds ``size`` to it."""

    def __init__(self, size: float = 1.0) -> None:
        self.offset = 0.0
        self.size = size

    def score(self, sequences):
        return [np.arange(len(completion)) * -0.5 - 1 + self.offset for _, completion in sequences]

    def perturb(self, seed: int, scale: float) -> None:
        self.offset = self.size * scale

    def restore(self) -> None:
        self.offset = 0.0


class ArrayEngines:
    """Two engines that serve whatever was last copied into each."""

    def __init__(self) -> None:
        self.served = {"engine 0": ArrayPolicy(), "engine 1": ArrayPolicy()}
        self.loads = 0

    def load(self, policy: ArrayPolicy, names: tuple[str, ...] = ("engine 0", "engine 1")) -> None:
        self.loads += 1
        for name in names:
            self.served[name].offset = policy.offset

    def score_each(self, sequences):
        return {name: policy.score(sequences) for name, policy in self.served.items()}


def probe(tolerance: float = 1e-3) -> ParityProbe:
    return ParityProbe(SEQUENCES, tolerance)


def test_result_is_mean_and_largest_difference_over_all_tokens():
    left = [np.array([0.0, 0.0, 0.0]), np.array([0.0])]
    right = [np.array([0.1, -0.3, 0.0]), np.array([0.4])]
    result = difference(left, right)
    assert result.mean_abs == pytest.approx(0.2)  # (0.1 + 0.3 + 0 + 0.4) / 4
    assert result.max_abs == pytest.approx(0.4)


def test_difference_beyond_tolerance_is_an_error_that_says_by_how_much():
    with pytest.raises(WeightSyncError, match=r"engine 1 .*0\.25 nats on average \(0\.5 at most\).*0\.001"):
        probe().check([np.array([0.0, 0.0])], [np.array([0.5, 0.0])], "engine 1")


def test_difference_within_tolerance_passes_and_is_reported():
    assert probe().check([np.array([-1.0])], [np.array([-1.0005])], "engine").mean_abs == pytest.approx(5e-4)


def test_nan_scores_do_not_pass():
    with pytest.raises(WeightSyncError):
        probe().check([np.array([0.0, 0.0])], [np.array([0.0, np.nan])], "engine")


def test_scores_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\[2\] and \[1\]"):
        probe().check([np.zeros(2)], [np.zeros(1)], "engine")


def test_startup_passes_with_a_working_sync_and_leaves_real_weights_everywhere():
    learner, engines = ArrayPolicy(), ArrayEngines()
    result = probe().verify_startup(learner, engines, lambda: engines.load(learner))
    assert result.max_abs == 0
    assert engines.loads == 2
    assert learner.offset == 0
    assert all(policy.offset == 0 for policy in engines.served.values())


def test_startup_catches_a_sync_that_does_nothing():
    learner, engines = ArrayPolicy(), ArrayEngines()
    probe().verify(learner, engines, "unperturbed")  # a plain comparison cannot tell
    with pytest.raises(WeightSyncError, match=r"engine 0 .*perturbed.*1 nats on average"):
        probe().verify_startup(learner, engines, lambda: None)
    assert learner.offset == 0


def test_startup_catches_one_engine_of_two_that_stays_behind():
    learner, engines = ArrayPolicy(), ArrayEngines()
    with pytest.raises(WeightSyncError, match="engine 1"):
        probe().verify_startup(learner, engines, lambda: engines.load(learner, ("engine 0",)))


def test_startup_catches_a_sync_that_works_only_once():
    learner, engines = ArrayPolicy(), ArrayEngines()

    def first_time_only() -> None:
        if engines.loads == 0:
            engines.load(learner)

    with pytest.raises(WeightSyncError, match="at start-up"):
        probe().verify_startup(learner, engines, first_time_only)


def test_startup_perturbs_until_it_shows():
    learner, engines = ArrayPolicy(size=6e-4), ArrayEngines()  # times 4 is the first above two tolerances
    probe().verify_startup(learner, engines, lambda: engines.load(learner))
    assert learner.offset == 0
    moved: list[float] = []
    with pytest.raises(WeightSyncError, match=r"engine 0 .*perturbed.*0\.0024 nats on average"):
        probe().verify_startup(learner, engines, lambda: moved.append(learner.offset))
    assert moved == [pytest.approx(2.4e-3)]
    assert learner.offset == 0


def test_startup_refuses_a_perturbation_that_the_tolerance_hides():
    learner, engines = ArrayPolicy(size=2e-4), ArrayEngines()
    with pytest.raises(WeightSyncError, match=r"moved the learner by 0\.0016 nats"):
        probe().verify_startup(learner, engines, lambda: engines.load(learner))
    assert learner.offset == 0


def test_startup_catches_a_learner_that_does_not_come_back():
    class Forgetful(ArrayPolicy):
        def restore(self) -> None:
            self.offset = 0.1

    learner, engines = Forgetful(), ArrayEngines()
    with pytest.raises(WeightSyncError, match="perturbation was taken back"):
        probe().verify_startup(learner, engines, lambda: engines.load(learner))


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"k{row}", "", tuple(range(row, row + 100)), "") for row in range(count)]


def test_sequences_are_the_same_for_the_same_seed_only():
    first = choose_sequences(prompts(20), 50, seed=1)
    assert first == choose_sequences(prompts(20), 50, seed=1)
    assert first != choose_sequences(prompts(20), 50, seed=2)


def test_sequences_are_pool_prompts_with_continuations_inside_the_vocabulary():
    chosen = choose_sequences(prompts(20), 50, seed=1, count=6, prompt_tokens=10, completion_tokens=200)
    starts = [prompt[0] for prompt, _ in chosen]
    assert len(set(starts)) == 6
    assert all(prompt == tuple(range(prompt[0], prompt[0] + 10)) for prompt, _ in chosen)
    tokens = [token for _, completion in chosen for token in completion]
    assert set(tokens) <= set(range(50))
    assert len(set(tokens)) > 40


@pytest.mark.parametrize(("longest", "lengths"), [(20, (10, 10)), (50, (34, 16)), (500, (64, 16))])
def test_sequences_fit_into_the_context(longest, lengths):
    chosen = choose_sequences(prompts(20), 50, seed=1, longest=longest)
    assert {(len(prompt), len(completion)) for prompt, completion in chosen} == {lengths}


def test_fewer_prompts_than_asked_for_are_all_used():
    assert len(choose_sequences(prompts(2), 50, seed=1)) == 2
    with pytest.raises(ValueError, match="at least one prompt"):
        choose_sequences([], 50, seed=1)


def test_tolerance_depends_on_dtype_and_unknown_dtypes_are_named():
    assert default_tolerance("float32") < default_tolerance("bfloat16")
    assert default_tolerance("bfloat16") < default_tolerance("bfloat16", mixture=True)
    with pytest.raises(ValueError, match="float16"):
        default_tolerance("float16")

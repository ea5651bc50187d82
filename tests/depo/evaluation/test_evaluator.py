"""One evaluator, called three ways: held-out prompts, a recipe's sets, a suite; in memory and on disk.

The engine, the tokenizer and the rewards stand in: a completion follows from prompt, seed and index alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from depo.evaluation.evaluator import (
    Evaluator,
    LoadedBenchmark,
    Task,
    exact_pass_rates,
    requests_of,
    stretches,
    suite_requests,
)
from depo.evaluation.in_training import TrainingEvaluation, TrainingSuite
from depo.evaluation.samples import EvalProgress, SampleStore, SampleWriter
from depo.recipe.schema import Evaluation, MathReward
from depo.recipe.schema.evaluation import Suite
from depo.reward import Sample, Score
from depo.rng import seed64
from depo.rollout.engine import Sampling
from depo.types import Prompt, Request, Rollout

SEED, N = 5, 4
SAMPLING = Sampling(1.0, 8)


class Engine:
    """Says the prompt's last token and the parity of the seed; gives rollouts back in an order of its own."""

    def __init__(self) -> None:
        self.calls: list[list[Request]] = []

    def generate(self, requests, sampling):
        self.calls.append(list(requests))
        rollouts = [
            Rollout(
                request.prompt.key,
                request.first_index + place,
                seed,
                np.array([request.prompt.token_ids[-1], seed % 2], np.int32),
                np.array([-0.5, -0.25], np.float32),
                "stop",
                0,
            )
            for request in requests
            for place, seed in enumerate(request.seeds)
        ]
        return iter(rollouts[::-1])


class Tokenizer:
    eos_token_id = 9

    def batch_decode(self, token_ids, skip_special_tokens):
        return [" ".join(map(str, tokens)) for tokens in token_ids]

    def encode(self, text, add_special_tokens):
        return [int(character) for character in text]


class Reward:
    """Judges by a function of the completion's last word; None is no verdict."""

    def __init__(self, verdict: Callable[[str], bool | None]) -> None:
        self.verdict = verdict
        self.calls: list[int] = []

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.calls.append(len(samples))
        return [Score(1.0, self.verdict(sample.completion)) for sample in samples]


def odd(completion: str) -> bool | None:
    return completion.endswith("1")


def prompts(*lengths: int, first: int = 0) -> list[Prompt]:
    return [
        Prompt(f"k{first + i}", f"text {first + i}", tuple(range(length)), "12")
        for i, length in enumerate(lengths)
    ]


def benchmark(name: str, *lengths: int) -> LoadedBenchmark:
    return LoadedBenchmark(name, prompts(*lengths), MathReward(), "")


def suite_of(*benchmarks: LoadedBenchmark, reward: Reward) -> TrainingSuite:
    suite = Suite.model_validate(
        {
            "name": "s",
            "seed": SEED,
            "sampling": {"n": N, "temperature": 1.0, "max_new_tokens": 8},
            "benchmarks": {one.name: {"source": "b.jsonl"} for one in benchmarks},
        }
    )
    tasks = [Task(one.name, one.qualified, reward) for one in benchmarks]
    return TrainingSuite(suite, benchmarks, tasks, suite_requests(benchmarks, N, SEED))


def evaluation(
    engine: Engine, heldout: Task, sets: Sequence[Task] = (), method: str = "sample", **more
) -> TrainingEvaluation:
    return TrainingEvaluation(
        Evaluation(method=method, n=N, temperature=1.0),
        heldout,
        sets,
        engine=engine,
        scorer=more.pop("scorer", None),
        tokenizer=Tokenizer(),
        max_new_tokens=8,
        seed=SEED,
        counted=more.pop("counted", lambda what, rollouts, total: rollouts),
        **more,
    )


def parities(key: str) -> list[int]:
    """What the engine says of a prompt, sample by sample."""
    return [seed64(SEED, "eval", 0, key, index) % 2 for index in range(N)]


def test_three_ways_of_asking_are_accuracies_of_the_seeds_each_has_always_had():
    engine, judge = Engine(), Reward(odd)
    asked = prompts(3, 9, 5)
    other = prompts(4, 6, first=3)
    run = evaluation(
        engine,
        Task("heldout", asked, judge),
        [Task("one", other, judge)],
        suite=suite_of(benchmark("a", 3, 9), benchmark("b", 5), reward=judge),
    )
    found = run.run().scalars()
    assert sorted(found) == sorted(f"eval/{measure}" for measure in run.measures)
    assert found["eval/all"] == np.mean([np.mean(parities(f"k{i}")) for i in range(3)])
    assert found["eval/one"] == np.mean([np.mean(parities(f"k{i}")) for i in (3, 4)])
    a, b = (np.mean([np.mean(parities(key)) for key in keys]) for keys in (("a/k0", "a/k1"), ("b/k0",)))
    assert (found["eval/s/a/avg"], found["eval/s/b/avg"]) == (a, b)
    assert found["eval/s/avg"] == (a + b) / 2
    assert found["eval/s/b/pass@4"] == float(any(parities("b/k0")))
    lengths = [[len(request.prompt.token_ids) for request in call] for call in engine.calls]
    assert lengths == [[3, 9, 5], [4, 6], [9, 5, 3]], "one call each; suites ask the longest prompts first"
    assert run.run().scalars() == found, "two evaluations are paired"


def test_what_is_asked_is_told_before_the_first_answer():
    told = []

    def counted(what, rollouts, total):
        told.append((what, total))
        return rollouts

    judge = Reward(odd)
    suite = suite_of(benchmark("a", 3, 9), benchmark("b", 5), reward=judge)
    sets = [Task("one", prompts(4, 6, first=3), judge)]
    evaluation(Engine(), Task("heldout", prompts(3, 9, 5), judge), sets, suite=suite, counted=counted).run()
    assert told == [("evaluating heldout", 3 * N), ("evaluating one", 2 * N), ("evaluating s", 3 * N)]


def test_what_it_took_is_counted_and_samples_without_a_verdict_are_left_out():
    judge = Reward(lambda completion: None if completion.startswith("8") else odd(completion))
    run = evaluation(
        Engine(), Task("heldout", prompts(3, 9), judge), [Task("void", prompts(9, first=2), judge)]
    )
    result = run.run()
    assert result.all == np.mean(parities("k0")), "the second prompt has no verdict at all"
    assert result.sets == {}, "nor has the set"
    assert (result.rollouts, result.tokens, result.unscorable) == (3 * N, 3 * N * 2, 2 * N)
    assert result.summary()["unscorable"] == 2 * N


def test_without_held_out_prompts_all_is_the_mean_over_sets():
    judge = Reward(odd)
    sets = [Task("one", prompts(3), judge), Task("two", prompts(4, 6, first=1), judge)]
    run = evaluation(Engine(), Task("heldout", [], judge), sets)
    assert run.measures == ["all", "one", "two"]
    result = run.run()
    assert result.all == (result.sets["one"] + result.sets["two"]) / 2
    assert evaluation(Engine(), Task("heldout", [], judge)).measures == []


def test_named_parts_of_the_held_out_prompts_have_accuracies_of_their_own():
    judge = Reward(odd)
    parts = {"solvable": frozenset({"k0", "k2"}), "absent": frozenset({"elsewhere"})}
    run = evaluation(Engine(), Task("heldout", prompts(3, 9, 5), judge), parts=parts)
    assert run.measures == ["all", "solvable"]
    result = run.run()
    assert result.parts == {
        "solvable": np.mean([np.mean(parities("k0")), np.mean(parities("k2"))]),
        "absent": None,
    }
    assert list(result.scalars()) == ["eval/all", "eval/solvable"]
    assert result.summary()["solvable"] == result.parts["solvable"]


def test_exact_accuracy_is_the_probability_of_the_gold_answer_and_its_end():
    """Whoever scores sequences will do; the engine is not asked."""
    seen = []

    class Scorer:
        def score(self, sequences):
            seen.extend(sequences)
            return [np.log(np.array([0.5, 0.25, 1 / (1 + len(prompt))])) for prompt, _ in sequences]

    asked = prompts(3, 9)
    assert exact_pass_rates(asked, Scorer(), Tokenizer()) == pytest.approx([1 / 32, 1 / 80])
    assert [list(answer) for _, answer in seen] == [[1, 2, 9], [1, 2, 9]]
    engine = Engine()
    result = evaluation(engine, Task("heldout", asked, Reward(odd)), method="exact", scorer=Scorer()).run()
    assert result.all == pytest.approx((1 / 32 + 1 / 80) / 2)
    assert (engine.calls, result.rollouts) == ([], 0)


def test_in_memory_and_on_disk_are_the_same_rows(tmp_path: Path):
    both = [benchmark("a", 3, 9), benchmark("b", 5)]
    tasks = [Task(one.name, one.qualified, Reward(odd)) for one in both]
    requests = suite_requests(both, N, SEED)
    evaluator = Evaluator(tasks, Tokenizer(), SAMPLING)
    rows = evaluator.rows(requests, Engine())
    assert [(row["benchmark"], row["key"], row["sample_index"]) for row in rows] == [
        (name, key, i) for name, key in (("a", "k1"), ("b", "k0"), ("a", "k0")) for i in range(N)
    ], "in the order of requests and samples, whenever they finished"
    store = SampleStore(tmp_path / "samples")
    with EvalProgress("s", 3 * N, 0, quiet=True) as progress:
        rollouts = Engine().generate(requests, SAMPLING)
        SampleWriter(evaluator.judge, store, progress).write(rollouts)
    assert progress.done == 3 * N
    assert store.rows() == sorted(rows, key=lambda row: (row["benchmark"], row["key"], row["sample_index"]))
    assert suite_requests(both, N, SEED, store.done()) == []


def test_an_engine_that_loses_a_rollout_is_caught():
    class Loses(Engine):
        def generate(self, requests, sampling):
            return iter(list(super().generate(requests, sampling))[1:])

    run = evaluation(Loses(), Task("heldout", prompts(3), Reward(odd)))
    with pytest.raises(RuntimeError, match="gave 3 of 4 rollouts"):
        run.run()


def test_each_reward_judges_the_samples_of_its_tasks_in_one_call():
    shared, own = Reward(odd), Reward(lambda completion: not odd(completion))
    loaded = [benchmark(name, 3 + i) for i, name in enumerate("abc")]
    tasks = [Task(one.name, one.qualified, own if one.name == "b" else shared) for one in loaded]
    rows = Evaluator(tasks, Tokenizer(), SAMPLING).rows(suite_requests(loaded, N, SEED), Engine())
    assert (shared.calls, own.calls) == ([2 * N], [N])
    for row in rows:
        assert row["correct"] == ((row["seed"] % 2 == 1) != (row["benchmark"] == "b"))


# -------------------------------------------------------------- what is still to be drawn


def test_stretches_cover_exactly_the_indices():
    assert list(stretches([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
    assert list(stretches([])) == []


def test_only_missing_samples_are_asked_for_with_the_seeds_they_always_had():
    both = [benchmark("a", 3, 9), benchmark("b", 5)]
    everything = {
        (request.prompt.key, request.first_index + i): seed
        for request in suite_requests(both, 4, 0)
        for i, seed in enumerate(request.seeds)
    }
    assert everything["a/k1", 2] == seed64(0, "eval", 0, "a/k1", 2)
    assert len(everything) == 12
    assert len(set(everything.values())) == 12, "the same problem in two benchmarks is drawn independently"
    done = {"a/k0": {0, 1, 3}, "a/k1": {0, 1, 2, 3}}
    rest = suite_requests(both, 4, 0, done)
    asked = {(r.prompt.key, r.first_index + i): seed for r in rest for i, seed in enumerate(r.seeds)}
    assert asked.keys() == {("a/k0", 2), *(("b/k0", i) for i in range(4))}
    assert all(everything[key] == seed for key, seed in asked.items())
    assert [request.seeds for request in requests_of(prompts(3), 2, 7)] == [
        (seed64(7, "eval", 0, "k0", 0), seed64(7, "eval", 0, "k0", 1))
    ]

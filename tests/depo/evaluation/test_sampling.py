"""What is still to be drawn."""

from __future__ import annotations

from depo.evaluation.problems import LoadedBenchmark
from depo.evaluation.sampling import missing_requests, stretches
from depo.recipe.schema import MathReward
from depo.types import Prompt


def benchmark(name: str, *lengths: int) -> LoadedBenchmark:
    prompts = [Prompt(f"k{i}", f"text {i}", tuple(range(length)), "1") for i, length in enumerate(lengths)]
    return LoadedBenchmark(name, prompts, MathReward(), "")


def test_stretches_cover_exactly_the_indices():
    assert list(stretches([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
    assert list(stretches([])) == []


def test_only_missing_samples_are_asked_for_with_the_seeds_they_always_had():
    both = [benchmark("a", 3, 9), benchmark("b", 5)]
    everything = {
        (request.prompt.key, request.first_index + i): seed
        for request in missing_requests(both, 4, 0, {})
        for i, seed in enumerate(request.seeds)
    }
    assert len(everything) == 12
    assert len(set(everything.values())) == 12, "the same problem in two benchmarks is drawn independently"
    done = {("a", "k0"): {0, 1, 3}, ("a", "k1"): {0, 1, 2, 3}}
    rest = missing_requests(both, 4, 0, done)
    asked = {(r.prompt.key, r.first_index + i): seed for r in rest for i, seed in enumerate(r.seeds)}
    assert asked.keys() == {("a/k0", 2), *(("b/k0", i) for i in range(4))}
    assert all(everything[key] == seed for key, seed in asked.items())


def test_all_benchmarks_go_together_longest_prompts_first():
    requests = missing_requests([benchmark("a", 3, 9), benchmark("b", 5)], 2, 0, {})
    assert [len(request.prompt.token_ids) for request in requests] == [9, 5, 3]

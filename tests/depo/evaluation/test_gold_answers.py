"""Every gold answer of the shipped suites, given as a completion, verifies as right."""

from __future__ import annotations

import json

import pytest

from depo.data.prompts import DataReport, unique_problems
from depo.recipe.schema.evaluation import Benchmark, Suite
from depo.recipe.suites import load_suite
from depo.reward import Sample, VerifierPool

# Key by the first 12 digits, and why. Nothing else may fail.
EXCEPTIONS = {
    "c62e66d2cb36": "OlympiadBench: f(x)=ax+b with a sentence on a and b; no verdict can be made of it",
}


def samples_of(name: str, benchmark: Benchmark) -> list[tuple[str, Sample]]:
    """(key, the gold answer as a model would write it) of each problem."""
    found = []
    for problem in unique_problems(benchmark.source, DataReport(name), name):
        completion = f"The answer is $\\boxed{{{problem.reference}}}$."
        found.append((problem.key, Sample(completion, problem.reference, 10, "stop", 100)))
    return found


@pytest.mark.parametrize("name", ["math", "aime", "mgsm"])
def test_gold_answers_verify_against_themselves(test_data, name):
    suite: Suite = load_suite(name, [], test_data)
    with VerifierPool({"type": "math"}, workers=2, timeout=20) as pool:
        for benchmark, settings in suite.benchmarks.items():
            keyed = samples_of(benchmark, settings)
            scores = pool.score([sample for _, sample in keyed])
            failed = {
                key[:12]: sample.reference
                for (key, sample), s in zip(keyed, scores, strict=True)
                if s.correct is not True
            }
            print(
                f"{benchmark}: {len(keyed) - len(failed)} of {len(keyed)} gold answers verify; not: {failed}"
            )
            assert failed.keys() <= EXCEPTIONS.keys(), failed
            assert len(failed) <= 0.01 * len(keyed)


def test_a_gold_answers_full_stop_is_not_part_of_it(test_data):
    """Of the shipped benchmarks, one answer of OlympiadBench has one."""
    suite = load_suite("math", [], test_data, ["olympiadbench"])
    source = suite.benchmarks["olympiadbench"].source
    references = [problem.reference for problem in unique_problems(source, DataReport("o"), "o")]
    ended = [reference for reference in references if reference.endswith(".")]
    assert ended
    with VerifierPool({"type": "math"}, workers=1, timeout=20) as pool:
        plain = [Sample(f"\\boxed{{{one.rstrip('.')}}}", one, 10, "stop", 100) for one in ended]
        assert [score.correct for score in pool.score(plain)] == [True] * len(ended)


@pytest.mark.slow
def test_gold_answers_of_reasoning_gym_verify_by_its_own_scorers():
    pytest.importorskip("reasoning_gym")
    suite = load_suite("reasoning_gym")
    with VerifierPool({"type": "reasoning_gym"}, workers=2, timeout=20) as pool:
        for benchmark, settings in suite.benchmarks.items():
            problems = list(unique_problems(settings.source, DataReport(benchmark), benchmark))
            answers = [str(json.loads(problem.reference)["entry"]["answer"]) for problem in problems]
            scores = pool.score(
                [
                    Sample(f"The answer is $\\boxed{{{a}}}$.", p.reference, 9, "stop", 99)
                    for a, p in zip(answers, problems, strict=True)
                ]
            )
            failed = [a for a, s in zip(answers, scores, strict=True) if s.correct is not True]
            print(f"{benchmark}: {len(answers) - len(failed)} of {len(answers)} gold answers verify")
            assert not failed, benchmark

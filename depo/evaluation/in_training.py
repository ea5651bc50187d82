"""A suite's benchmarks on the policy that a run is training, by the run's own engine.

The same prompts and seeds as ``depo eval`` would take: avg and pass@k per benchmark and over all, by name.
Nothing is written to disk: the run keeps the figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from depo.errors import UserError
from depo.evaluation.measures import pass_at_k_each
from depo.evaluation.problems import LoadedBenchmark, context_for, load_suite_problems, longest_prompt
from depo.evaluation.results import share
from depo.evaluation.samples import Row
from depo.evaluation.sampling import Verifiers, missing_requests, verified
from depo.recipe.schema import PretrainedPolicy, Recipe
from depo.recipe.schema.suite import Suite
from depo.recipe.suites import recipe_suite
from depo.rollout.engine import RolloutEngine, Sampling
from depo.rollout.requests import collate


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """What evaluating a suite gave: measures by name, and what it took."""

    measures: dict[str, float]
    rollouts: int
    tokens: int
    unscorable: int


class TrainingSuite:
    """A suite, loaded once, to be run again and again."""

    def __init__(
        self,
        suite: Suite,
        benchmarks: Sequence[LoadedBenchmark],
        verifiers: Verifiers,
        engine: RolloutEngine,
        tokenizer,
    ) -> None:
        self.suite = suite
        self.benchmarks = benchmarks
        self.verifiers = verifiers
        self.engine = engine
        self.tokenizer = tokenizer
        self.requests = missing_requests(benchmarks, suite.sampling.n, suite.seed, {})

    @property
    def measures(self) -> list[str]:
        """Names of all figures it can come to, those over all benchmarks first."""
        kinds = ["avg", *(f"pass@{k}" for k in self.suite.ks)]
        places = [self.suite.name, *(f"{self.suite.name}/{one.name}" for one in self.benchmarks)]
        return [f"{place}/{kind}" for place in places for kind in kinds]

    def run(self) -> SuiteRun:
        """Draw and verify all samples of the policy being served. The same seeds every time."""
        sampling = Sampling(self.suite.sampling.temperature, self.suite.sampling.max_new_tokens)
        prompts = {request.prompt.key: request.prompt for request in self.requests}
        rollouts = [
            rollout
            for group in collate(self.requests, self.engine.generate(self.requests, sampling))
            for rollout in group
        ]
        rows = verified(rollouts, prompts, self.verifiers, self.tokenizer, sampling.max_new_tokens)
        return SuiteRun(
            measures=named_measures(self.suite, [one.name for one in self.benchmarks], rows),
            rollouts=len(rows),
            tokens=sum(row["tokens"] for row in rows),
            unscorable=sum(row["correct"] is None for row in rows),
        )


def named_measures(suite: Suite, names: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """``SUITE/BENCHMARK/avg`` and ``…/pass@k``, and ``SUITE/avg`` and ``SUITE/pass@k`` over the benchmarks. A
    figure that is unknown everywhere is left out."""
    found: dict[str, float] = {}
    for name in names:
        verdicts: dict[str, list[bool]] = {}
        drawn = Counter(row["key"] for row in rows if row["benchmark"] == name)
        for row in rows:
            if row["benchmark"] == name:
                known = verdicts.setdefault(row["key"], [])
                if row["correct"] is not None:
                    known.append(row["correct"])
        n_N = np.array([len(some) for some in verdicts.values()])
        drawn_N = np.array([drawn[key] for key in verdicts])
        correct_N = np.array([sum(some) for some in verdicts.values()])
        figures = {"avg": share(correct_N, n_N)}
        figures |= {
            # A sample that could not be judged counts as wrong where there are too few others: of a run's
            # policies the same problems must be compared.
            f"pass@{k}": pass_at_k_each(np.where(n_N < k, drawn_N, n_N), correct_N, k)
            for k in suite.ks
        }
        for measure, values_N in figures.items():
            if not np.isnan(values_N).all():
                found[f"{suite.name}/{name}/{measure}"] = float(np.nanmean(values_N))
    for measure in ("avg", *(f"pass@{k}" for k in suite.ks)):
        parts = [found.get(f"{suite.name}/{name}/{measure}") for name in names]
        known = [part for part in parts if part is not None]
        if len(known) == len(names):
            found[f"{suite.name}/{measure}"] = float(np.mean(known))
    return found


def training_suite(
    recipe: Recipe, engine: RolloutEngine, tokenizer, say: Callable[[str], None], stack: ExitStack
) -> TrainingSuite | None:
    """The recipe's suite, loaded; None when it names none. Raises UserError for one that cannot be run."""
    suite = recipe_suite(recipe.evaluation)
    if suite is None:
        return None
    benchmarks = load_suite_problems(suite, tokenizer)
    for one in benchmarks:
        say(f"evaluation suite {suite.name}, {one.name}: {one.rows}")
    if recipe.rollout.engine == "vllm":
        check_context(recipe, suite, benchmarks)
    if isinstance(recipe.policy, PretrainedPolicy):
        try:
            context_for(recipe.policy.model, suite, benchmarks)
        except UserError as error:
            raise UserError(f"evaluation.suite: {suite.name}: {error}") from error
    verifiers = Verifiers(benchmarks, suite, stack)
    verifiers.start()
    return TrainingSuite(suite, benchmarks, verifiers, engine, tokenizer)


def check_context(recipe: Recipe, suite: Suite, benchmarks: Sequence[LoadedBenchmark]) -> None:
    """vLLM's context was laid out for the training prompts: raise UserError when the suite does not fit."""
    limit = recipe.rollout.vllm.max_model_len or recipe.context_length
    longest = longest_prompt(benchmarks)
    needed = longest + suite.sampling.max_new_tokens
    if needed > limit:
        raise UserError(
            f"evaluation.suite: {suite.name} needs {needed:,} tokens of context ({longest:,} for its longest "
            f"problem), the engines have {limit:,}; raise rollout.vllm.max_model_len, or set "
            'evaluation.suite_overrides=["sampling.max_new_tokens=..."]'
        )

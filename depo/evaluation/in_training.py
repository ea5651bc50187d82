"""Accuracy before, during and after training: held-out prompts, the recipe's sets, its suite.

The policy in training is asked by the run's own engine, and the run keeps the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from depo.errors import UserError
from depo.evaluation.evaluator import (
    Evaluator,
    LoadedBenchmark,
    Row,
    Scorer,
    Task,
    Verdicts,
    context_for,
    exact_pass_rates,
    load_benchmarks,
    longest_prompt,
    requests_of,
    suite_requests,
    suite_tasks,
)
from depo.evaluation.measures import pass_at_k_each
from depo.recipe.schema import Evaluation, PretrainedPolicy, Recipe
from depo.recipe.schema.evaluation import Suite
from depo.recipe.suites import recipe_suite
from depo.rollout.engine import RolloutEngine, Sampling
from depo.types import Prompt, Request, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class EvalResult:
    """Accuracies in [0, 1], and what it took.

    ``all`` is the held-out accuracy or, where nothing is held out, the mean over ``sets``; ``parts`` are the
    accuracies on named parts of the held-out prompts, None where a part is empty or without a verdict.
    Unscorable completions are left out of the accuracy and counted.
    """

    all: float | None = None
    parts: dict[str, float | None] = field(default_factory=dict)
    sets: dict[str, float] = field(default_factory=dict)
    rollouts: int = 0
    tokens: int = 0
    unscorable: int = 0
    suite: dict[str, float] = field(default_factory=dict)
    """Measures of the recipe's suite, by name."""
    each: dict[str, list[float | None]] = field(default_factory=dict)
    """Accuracy on every prompt, in order, of ``heldout`` and each of the sets; None without a verdict."""

    def count(self, rows: Sequence[Row]) -> None:
        """Add what these rows took."""
        self.rollouts += len(rows)
        self.tokens += sum(row["tokens"] for row in rows)
        self.unscorable += sum(row["correct"] is None for row in rows)

    def scalars(self) -> dict[str, float]:
        named = {"all": self.all} | self.parts | self.sets | self.suite
        return {f"eval/{name}": value for name, value in named.items() if value is not None}

    def summary(self) -> dict[str, object]:
        return self.parts | {
            "all": self.all,
            "sets": self.sets,
            "suite": self.suite,
            "unscorable": self.unscorable,
        }


@dataclass(frozen=True, slots=True)
class TrainingSuite:
    """A suite, loaded once, to be run again and again."""

    suite: Suite
    benchmarks: Sequence[LoadedBenchmark]
    tasks: Sequence[Task]
    requests: Sequence[Request]

    @property
    def measures(self) -> list[str]:
        """Names of all figures it can come to, those over all benchmarks first."""
        kinds = ["avg", *(f"pass@{k}" for k in self.suite.ks)]
        places = [self.suite.name, *(f"{self.suite.name}/{one.name}" for one in self.benchmarks)]
        return [f"{place}/{kind}" for place in places for kind in kinds]


@dataclass(frozen=True)
class TrainingEvaluation:
    """Runs the evaluator on everything that a recipe wants measured, on the policy being served."""

    config: Evaluation
    heldout: Task
    sets: Sequence[Task]
    engine: RolloutEngine
    scorer: Scorer
    """Knows the policy's log-probabilities, for ``method: exact``."""
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    seed: int
    counted: Callable[[str, Iterable[Rollout], int], Iterable[Rollout]]
    """Passes rollouts on and tells that "evaluating NAME" has come to so many of the total."""
    parts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Named parts of the held-out prompts, by their keys."""
    suite: TrainingSuite | None = None

    @property
    def measures(self) -> list[str]:
        """Names of all that an evaluation can come to."""
        held_out = {prompt.key for prompt in self.heldout.prompts}
        names = [name for name, keys in self.parts.items() if keys & held_out]
        names += [one.name for one in self.sets]
        if names or held_out:
            names.insert(0, "all")
        return names + ([] if self.suite is None else self.suite.measures)

    def problems(self) -> list[tuple[str, Sequence[Prompt]]]:
        """Name and problems of everything but the held-out part."""
        found = [(one.name, one.prompts) for one in self.sets]
        if self.suite is not None:
            found += [(f"{self.suite.suite.name}/{one.name}", one.prompts) for one in self.suite.benchmarks]
        return found

    def run(self) -> EvalResult:
        """Evaluate everything. The same seeds every time, so that two evaluations are paired."""
        result = EvalResult(parts=dict.fromkeys(self.parts))
        if self.heldout.prompts:
            accuracy_N = self._accuracy(self.heldout, result)
            result.all = mean_or_none(accuracy_N)
            for name, keys in self.parts.items():
                inside_N = np.array([prompt.key in keys for prompt in self.heldout.prompts])
                result.parts[name] = mean_or_none(accuracy_N[inside_N])
        for task in self.sets:
            accuracy = mean_or_none(self._accuracy(task, result))
            if accuracy is not None:
                result.sets[task.name] = accuracy
        if result.all is None and result.sets:
            result.all = float(np.mean(list(result.sets.values())))
        if self.suite is not None:
            # With the prompts and seeds that ``depo eval`` would take.
            suite, tasks = self.suite.suite, self.suite.tasks
            sampling = Sampling(suite.sampling.temperature, suite.sampling.max_new_tokens)
            counted = partial(self.counted, f"evaluating {suite.name}")
            rows = Evaluator(tasks, self.tokenizer, sampling).rows(self.suite.requests, self.engine, counted)
            result.count(rows)
            result.suite = named_measures(suite, [task.name for task in tasks], rows)
        return result

    def _accuracy(self, task: Task, result: EvalResult) -> np.ndarray:
        """Accuracy on each prompt (N,), NaN where nothing was scorable."""
        if self.config.method == "exact":
            accuracy_N = exact_pass_rates(task.prompts, self.scorer, self.tokenizer)
        else:
            sampling = Sampling(self.config.temperature, self.max_new_tokens)
            requests = requests_of(task.prompts, self.config.n, self.seed)
            counted = partial(self.counted, f"evaluating {task.name}")
            rows = Evaluator([task], self.tokenizer, sampling).rows(requests, self.engine, counted)
            result.count(rows)
            accuracy_N = Verdicts.of(rows).accuracy_N
        result.each[task.name] = [None if np.isnan(one) else float(one) for one in accuracy_N]
        return accuracy_N


def mean_or_none(values: np.ndarray) -> float | None:
    """Mean over the entries that are not NaN; None when there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def named_measures(suite: Suite, names: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """``SUITE/BENCHMARK/avg`` and ``…/pass@k``, and ``SUITE/avg`` and ``SUITE/pass@k`` over the benchmarks. A
    figure that is unknown everywhere is left out."""
    found: dict[str, float] = {}
    for name in names:
        verdicts = Verdicts.of(row for row in rows if row["benchmark"] == name)
        known_N, drawn_N = verdicts.known_N, verdicts.drawn_N
        figures = {"avg": verdicts.accuracy_N}
        figures |= {
            # A sample that could not be judged counts as wrong where there are too few others: policies of a
            # run must be compared on the same problems.
            f"pass@{k}": pass_at_k_each(np.where(known_N < k, drawn_N, known_N), verdicts.correct_N, k)
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
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None], stack: ExitStack
) -> TrainingSuite | None:
    """The recipe's suite, loaded; None when it names none. Raises UserError for one that cannot be run."""
    suite = recipe_suite(recipe.evaluation)
    if suite is None:
        return None
    benchmarks = load_benchmarks(suite, tokenizer)
    for one in benchmarks:
        say(f"evaluation suite {suite.name}, {one.name}: {one.rows}")
    if recipe.rollout.engine == "vllm":
        check_context(recipe, suite, benchmarks)
    if isinstance(recipe.policy, PretrainedPolicy):
        try:
            context_for(recipe.policy.model, suite, benchmarks)
        except UserError as error:
            raise UserError(f"evaluation.suite: {suite.name}: {error}") from error
    requests = suite_requests(benchmarks, suite.sampling.n, suite.seed)
    return TrainingSuite(suite, benchmarks, suite_tasks(benchmarks, suite, stack), requests)


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

"""Accuracy without sampling, where there is one exact answer.

Accuracy on held-out prompts and benchmarks, before, during and after training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from depo.evaluation.in_training import TrainingSuite
from depo.recipe.schema import Evaluation
from depo.rng import seed64
from depo.rollout.engine import RolloutEngine, Sampling
from depo.rollout.requests import collate, samples_of
from depo.types import Prompt, Request
from depo.workers.learner import RemoteLearner
from reward.base import Reward


def exact_pass_rates(prompts: Sequence[Prompt], learner: RemoteLearner, tokenizer) -> np.ndarray:
    """Probability (N,) of the gold answer and the end token, by teacher forcing (temperature 1)."""
    gold = [
        [*tokenizer.encode(prompt.reference, add_special_tokens=False), tokenizer.eos_token_id]
        for prompt in prompts
    ]
    sequences = [(prompt.token_ids, answer) for prompt, answer in zip(prompts, gold, strict=True)]
    return np.array([np.exp(logprobs_T.sum(dtype=np.float64)) for logprobs_T in learner.score(sequences)])


@dataclass(frozen=True, slots=True)
class EvalSetData:
    """A benchmark ready to run: its prompts and the reward that judges them."""

    name: str
    prompts: Sequence[Prompt]
    reward: Reward


@dataclass(slots=True)
class EvalResult:
    """Accuracies in [0, 1], and what it took.

    ``all`` is the held-out accuracy or, where nothing is held out, the mean over ``sets``; ``solvable``
    covers the held-out prompts of the part of that name, None where there is none. Unscorable completions are
    left out of the accuracy and counted.
    """

    all: float | None = None
    solvable: float | None = None
    sets: dict[str, float] = field(default_factory=dict)
    rollouts: int = 0
    tokens: int = 0
    unscorable: int = 0
    suite: dict[str, float] = field(default_factory=dict)
    """Measures of the recipe's suite, by name."""

    def scalars(self) -> dict[str, float]:
        named = {"all": self.all, "solvable": self.solvable} | self.sets | self.suite
        return {f"eval/{name}": value for name, value in named.items() if value is not None}

    def summary(self) -> dict[str, object]:
        return {
            "solvable": self.solvable,
            "all": self.all,
            "sets": self.sets,
            "suite": self.suite,
            "unscorable": self.unscorable,
        }


class Evaluator:
    """Runs the held-out prompts and the recipe's benchmarks on the policy being served."""

    def __init__(
        self,
        config: Evaluation,
        heldout: EvalSetData,
        sets: Sequence[EvalSetData],
        *,
        engine: RolloutEngine,
        learner: RemoteLearner,
        tokenizer,
        max_new_tokens: int,
        seed: int,
        suite: TrainingSuite | None = None,
        parts: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.config = config
        self.heldout = heldout
        self.sets = sets
        self.engine = engine
        self.learner = learner
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self.suite = suite
        self.solvable = (parts or {}).get("solvable", frozenset())

    @property
    def measures(self) -> list[str]:
        """Names of all that an evaluation can come to."""
        names = [benchmark.name for benchmark in self.sets]
        if self.solvable:
            names.insert(0, "solvable")
        if names or self.heldout.prompts:
            names.insert(0, "all")
        return names + ([] if self.suite is None else self.suite.measures)

    def prompts(self) -> list[tuple[str, Sequence[Prompt]]]:
        """Name and problems of everything but the held-out part."""
        found = [(one.name, one.prompts) for one in self.sets]
        if self.suite is not None:
            found += [(f"{self.suite.suite.name}/{one.name}", one.prompts) for one in self.suite.benchmarks]
        return found

    def run(self) -> EvalResult:
        """Evaluate all sets. The same seeds every time, so that two evaluations are paired."""
        result = EvalResult()
        if self.heldout.prompts:
            accuracy_N = self._accuracy(self.heldout, result)
            solvable = np.array([prompt.key in self.solvable for prompt in self.heldout.prompts])
            result.all = mean_or_none(accuracy_N)
            result.solvable = mean_or_none(accuracy_N[solvable])
        for benchmark in self.sets:
            accuracy = mean_or_none(self._accuracy(benchmark, result))
            if accuracy is not None:
                result.sets[benchmark.name] = accuracy
        if result.all is None and result.sets:
            result.all = float(np.mean(list(result.sets.values())))
        if self.suite is not None:
            done = self.suite.run()
            result.suite = done.measures
            result.rollouts += done.rollouts
            result.tokens += done.tokens
            result.unscorable += done.unscorable
        return result

    def _accuracy(self, data: EvalSetData, result: EvalResult) -> np.ndarray:
        """Per-prompt accuracy (N,), NaN where nothing was scorable."""
        if self.config.method == "exact":
            return exact_pass_rates(data.prompts, self.learner, self.tokenizer)
        return self._sampled(data, result)

    def _sampled(self, data: EvalSetData, result: EvalResult) -> np.ndarray:
        n = self.config.n
        requests = [
            Request(prompt, tuple(seed64(self.seed, "eval", 0, prompt.key, index) for index in range(n)))
            for prompt in data.prompts
        ]
        sampling = Sampling(self.config.temperature, self.max_new_tokens)
        rollouts = collate(requests, self.engine.generate(requests, sampling))
        samples = samples_of(requests, rollouts, self.tokenizer, self.max_new_tokens)
        scores = iter(data.reward.score([sample for group in samples for sample in group]))
        accuracy = []
        for group in rollouts:
            verdicts = [next(scores).correct for _ in group]
            known = [verdict for verdict in verdicts if verdict is not None]
            accuracy.append(np.mean(known) if known else np.nan)
            result.unscorable += len(verdicts) - len(known)
            result.rollouts += len(group)
            result.tokens += sum(len(rollout.token_ids) for rollout in group)
        return np.array(accuracy)


def mean_or_none(values: np.ndarray) -> float | None:
    """Mean over the entries that are not NaN; None when there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None

"""The evaluator: a suite's benchmarks → tasks → requests → rollouts → verdicts → rows → accuracy.

Held-out prompts, a recipe's sets and suites are three ways to call it:

    held-out prompts, sets   one task a call, requests in the order of its prompts
    suites                   all tasks in one call, longest prompts first, keys that begin with a task's name

In training the rollouts stay in memory, ``depo eval`` writes them to disk as they come (see
`depo.evaluation.samples`). N problems, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from depo.data import load_prompts, load_saved, save_prompts
from depo.errors import UserError
from depo.evaluation.measures import share
from depo.files import write_text
from depo.recipe.model_shape import find_config, positions
from depo.recipe.schema import Data, RewardSpec
from depo.recipe.schema.evaluation import Benchmark, Suite
from depo.reward import VerifierPool
from depo.reward.base import Reward, Score
from depo.rng import generator, seed64
from depo.rollout.engine import RolloutEngine, Sampling, collate, samples_of
from depo.trackers.rollouts import null_if_nan
from depo.types import Prompt, Request, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]
"""One completion with its verdict; its keys are the columns of `depo.evaluation.samples.SCHEMA`."""

Counted = Callable[[Iterable[Rollout], int], Iterable[Rollout]]
"""Passes rollouts on, so many in all, and tells how many have come."""


@dataclass(frozen=True, slots=True)
class Task:
    """Problems to ask, and the reward that judges the answers. The seeds of a task's samples follow from the
    keys of its prompts: tasks that may share problems put their name before them (`qualified`)."""

    name: str
    prompts: Sequence[Prompt]
    reward: Reward


class Scorer(Protocol):
    """Anything that knows the policy's log-probabilities: a learner or a rollout engine."""

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Sequence[np.ndarray]:
        """Log-probabilities (temperature 1) of each (prompt ids, completion ids): arrays of (T,), in nats."""
        ...


def requests_of(
    prompts: Iterable[Prompt], n: int, seed: int, done: Mapping[str, set[int]] | None = None
) -> list[Request]:
    """Requests for the samples 0 … n − 1 of each prompt that are not ``done`` (sample indices by prompt key).
    A sample's seed depends on seed, key and index alone."""
    requests = []
    for prompt in prompts:
        there = set() if done is None else done.get(prompt.key, set())
        for first, last in stretches([i for i in range(n) if i not in there]):
            seeds = tuple(seed64(seed, "eval", 0, prompt.key, i) for i in range(first, last + 1))
            requests.append(Request(prompt, seeds, first))
    return requests


def stretches(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of consecutive numbers in an ascending list."""
    start = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[end - 1] + 1:
            yield indices[start], indices[end - 1]
            start = end


class Evaluator:
    """Asks tasks and judges the answers. All tasks go to the engine in one call: a batch or an engine's queue
    never drains between them."""

    def __init__(self, tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> None:
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.asked = {prompt.key: (task, prompt) for task in tasks for prompt in task.prompts}
        self.rewards = list({id(task.reward): task.reward for task in tasks}.values())

    def rows(
        self,
        requests: Sequence[Request],
        engine: RolloutEngine,
        counted: Counted = lambda rollouts, n: rollouts,
    ) -> list[Row]:
        """All rows at once, in the order of requests and samples. ``counted``: see `Counted`."""
        rollouts = counted(engine.generate(requests, self.sampling), sum(one.n for one in requests))
        groups = collate(requests, rollouts)
        return self.judge([rollout for group in groups for rollout in group])

    def judge(self, rollouts: Sequence[Rollout]) -> list[Row]:
        """A row for each rollout, with the verdict of its task's reward."""
        asked = [self.asked[rollout.key] for rollout in rollouts]
        requests = [
            Request(prompt, (rollout.seed,), rollout.index)
            for (_, prompt), rollout in zip(asked, rollouts, strict=True)
        ]
        groups = samples_of(
            requests, [[one] for one in rollouts], self.tokenizer, self.sampling.max_new_tokens
        )
        samples = [sample for (sample,) in groups]
        scores: dict[int, Score] = {}
        for reward in self.rewards:
            mine = [i for i, (task, _) in enumerate(asked) if task.reward is reward]
            if mine:
                scores |= dict(zip(mine, reward.score([samples[i] for i in mine]), strict=True))
        return [
            {
                "benchmark": task.name,
                "key": rollout.key.removeprefix(f"{task.name}/"),
                "sample_index": rollout.index,
                "seed": rollout.seed,
                "completion": samples[i].completion,
                "tokens": len(rollout.token_ids),
                "logprob": float(rollout.logprobs.sum(dtype="float64")),
                "finish_reason": rollout.finish_reason,
                "value": null_if_nan(scores[i].value),
                "correct": scores[i].correct,
                "unparseable": scores[i].unparseable,
                "components": list(scores[i].components.items()),
                "detail": scores[i].detail,
            }
            for i, ((task, _), rollout) in enumerate(zip(asked, rollouts, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Of N problems, each (N,) int: samples drawn, samples with a verdict, samples that are right."""

    drawn_N: np.ndarray
    known_N: np.ndarray
    correct_N: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Verdicts:
        """Problems in the order in which the rows of one task first name them."""
        by_key: dict[str, list[bool | None]] = {}
        for row in rows:
            by_key.setdefault(row["key"], []).append(row["correct"])
        known = [[one for one in verdicts if one is not None] for verdicts in by_key.values()]
        return cls(
            np.array([len(verdicts) for verdicts in by_key.values()]),
            np.array([len(verdicts) for verdicts in known]),
            np.array([sum(verdicts) for verdicts in known]),
        )

    @property
    def accuracy_N(self) -> np.ndarray:
        """Share of right samples (N,) float64, NaN where no sample has a verdict."""
        return share(self.correct_N, self.known_N)


def exact_pass_rates(
    prompts: Sequence[Prompt], scorer: Scorer, tokenizer: PreTrainedTokenizerBase
) -> np.ndarray:
    """Accuracy without sampling, where there is one exact answer: the probability (N,) of the gold answer and
    the end token, by teacher forcing (temperature 1)."""
    gold = [
        [*tokenizer.encode(prompt.reference, add_special_tokens=False), tokenizer.eos_token_id]
        for prompt in prompts
    ]
    sequences = [(prompt.token_ids, answer) for prompt, answer in zip(prompts, gold, strict=True)]
    return np.array([np.exp(logprobs_T.sum(dtype=np.float64)) for logprobs_T in scorer.score(sequences)])


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """A benchmark's prompts in the order of its source, the reward that judges them, and what became of the
    source's rows in words."""

    name: str
    prompts: list[Prompt]
    reward: RewardSpec
    rows: str

    @property
    def qualified(self) -> list[Prompt]:
        """The prompts under keys that begin with the benchmark's name: MGSM's English problems are also
        GSM8K's."""
        return [replace(prompt, key=f"{self.name}/{prompt.key}") for prompt in self.prompts]


def load_benchmark(
    name: str, benchmark: Benchmark, suite: Suite, tokenizer: PreTrainedTokenizerBase
) -> LoadedBenchmark:
    """Read a benchmark's source and put its problems into the words of the suite. Raises UserError for a
    source that is missing, unreadable, empty or without the columns asked for."""
    form = Data(
        train=benchmark.source,
        template=benchmark.template or suite.template,
        system=benchmark.system if benchmark.system is not None else suite.system,
        raw=suite.raw,
        max_prompt_tokens=suite.max_prompt_tokens,
    )
    prompts, report = load_prompts(benchmark.source, form, tokenizer, f"benchmarks.{name}.{benchmark.key}")
    rows = str(report)
    if benchmark.sample is not None and benchmark.sample < len(prompts):
        draw = generator(suite.seed, "eval problems", key=name)
        kept = sorted(draw.choice(len(prompts), benchmark.sample, replace=False))
        prompts, rows = [prompts[i] for i in kept], f"{rows}; {len(kept):,} of them drawn at random"
    return LoadedBenchmark(name, prompts, suite.judge(name)[1], rows)


def load_benchmarks(
    suite: Suite, tokenizer: PreTrainedTokenizerBase, directory: Path | None = None
) -> list[LoadedBenchmark]:
    """All benchmarks of a suite. Those that `save_benchmarks` kept in ``directory`` are read from there: a
    resumed evaluation asks exactly what it asked before, whatever became of the sources."""
    if not suite.raw and not tokenizer.chat_template:
        raise UserError("raw: the model's tokenizer has no chat template; set raw=true")
    found = []
    for name, benchmark in suite.benchmarks.items():
        if directory is not None and problems_file(directory, name).exists():
            rows = rows_file(directory, name).read_text(encoding="utf-8")
            saved = load_saved(problems_file(directory, name))
            found.append(LoadedBenchmark(name, saved, suite.judge(name)[1], rows))
        else:
            found.append(load_benchmark(name, benchmark, suite, tokenizer))
    return found


def save_benchmarks(benchmarks: Sequence[LoadedBenchmark], directory: Path) -> None:
    """Keep the problems that are not yet in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for one in benchmarks:
        if not problems_file(directory, one.name).exists():
            write_text(rows_file(directory, one.name), one.rows)
            save_prompts(problems_file(directory, one.name), one.prompts)


def problems_file(directory: Path, benchmark: str) -> Path:
    return directory / f"{benchmark}.parquet"


def rows_file(directory: Path, benchmark: str) -> Path:
    return directory / f"{benchmark}.txt"


def suite_tasks(benchmarks: Sequence[LoadedBenchmark], suite: Suite, stack: ExitStack) -> list[Task]:
    """The benchmarks with verification workers, one pool for each distinct reward. The workers start in the
    background, while the model loads, and end with ``stack``. Raises UserError for a reward that cannot be
    built."""
    pools: dict[str, VerifierPool] = {}
    tasks = []
    for one in benchmarks:
        spec = one.reward.model_dump()
        distinct = json.dumps(spec, sort_keys=True)
        if distinct not in pools:
            try:
                pool = VerifierPool(spec, **suite.verification.model_dump())
            except ValueError as error:
                raise UserError(f"benchmarks.{one.name}.reward: {error}") from error
            pools[distinct] = stack.enter_context(pool)
        tasks.append(Task(one.name, one.qualified, pools[distinct]))
    for pool in pools.values():
        pool.start()
    return tasks


def suite_requests(
    benchmarks: Sequence[LoadedBenchmark], n: int, seed: int, done: Mapping[str, set[int]] | None = None
) -> list[Request]:
    """What is not yet ``done`` of all benchmarks, longest prompts first: batches are even, and what needs
    most memory comes at once. (The transformers engine sorts by length once more, shortest first.)"""
    prompts = [prompt for one in benchmarks for prompt in one.qualified]
    return sorted(requests_of(prompts, n, seed, done), key=lambda request: -len(request.prompt.token_ids))


def longest_prompt(benchmarks: Sequence[LoadedBenchmark]) -> int:
    """Tokens of the longest problem."""
    return max(len(prompt.token_ids) for one in benchmarks for prompt in one.prompts)


def context_for(model: str, suite: Suite, benchmarks: Sequence[LoadedBenchmark]) -> int:
    """Tokens of the longest sequence that the suite may make. Raises UserError where ``model`` has fewer
    positions, for what comes after the last of them is noise, or vLLM's context is shorter."""
    longest = longest_prompt(benchmarks)
    needed = longest + suite.sampling.max_new_tokens
    laid_out = suite.vllm.max_model_len if suite.engine == "vllm" else None
    if laid_out is not None and needed > laid_out:
        raise UserError(
            f"vllm.max_model_len: {laid_out:,} is less than the {longest:,} tokens of the longest problem "
            f"and sampling.max_new_tokens {suite.sampling.max_new_tokens:,} together; expected at least "
            f"{needed:,}, or null"
        )
    config = find_config(model)
    limit = None if config is None else positions(config)
    if limit is not None and needed > limit:
        room = f"at most {limit - longest:,} fit" if longest < limit else "lower max_prompt_tokens too"
        raise UserError(
            f"sampling.max_new_tokens: {suite.sampling.max_new_tokens:,} and the {longest:,} tokens of the "
            f"longest problem are more than the {limit:,} positions of {model}; {room}"
        )
    return needed

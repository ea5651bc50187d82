"""The benchmarks of a suite: read from their sources or from an evaluation's directory, made into tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from depo.data import load_prompts, load_saved, save_prompts
from depo.errors import UserError
from depo.evaluation.evaluator import Task, requests_of
from depo.recipe.model_shape import find_config, positions
from depo.recipe.schema import Data, RewardSpec
from depo.recipe.schema.evaluation import Benchmark, Suite
from depo.types import Prompt, Request
from reward import VerifierPool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    return LoadedBenchmark(name, prompts, suite.judge(name)[1], str(report))


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
            rows_file(directory, one.name).write_text(one.rows, encoding="utf-8")
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

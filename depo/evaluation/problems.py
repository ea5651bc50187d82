"""The problems of a suite, ready to be asked: read from their sources, or from the evaluation's directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from depo.data import load_prompts, load_saved, save_prompts
from depo.errors import UserError
from depo.recipe.model_shape import find_config, positions
from depo.recipe.schema import Data, RewardSpec
from depo.recipe.schema.suite import Benchmark, Suite
from depo.types import Prompt

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


def load_suite_problems(
    suite: Suite, tokenizer: PreTrainedTokenizerBase, directory: Path | None = None
) -> list[LoadedBenchmark]:
    """All benchmarks of a suite. Those that `save_suite_problems` kept in ``directory`` are read from there:
    a resumed evaluation asks exactly what it asked before, whatever became of the sources."""
    if not suite.raw and not tokenizer.chat_template:
        raise UserError("raw: the model's tokenizer has no chat template; set raw=true")
    return [
        load_saved_benchmark(name, suite, directory)
        if directory is not None and problems_file(directory, name).exists()
        else load_benchmark(name, benchmark, suite, tokenizer)
        for name, benchmark in suite.benchmarks.items()
    ]


def load_saved_benchmark(name: str, suite: Suite, directory: Path) -> LoadedBenchmark:
    rows = rows_file(directory, name).read_text(encoding="utf-8")
    return LoadedBenchmark(name, load_saved(problems_file(directory, name)), suite.judge(name)[1], rows)


def save_suite_problems(benchmarks: Sequence[LoadedBenchmark], directory: Path) -> None:
    """Keep the problems that are not yet in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for one in benchmarks:
        if not problems_file(directory, one.name).exists():
            rows_file(directory, one.name).write_text(one.rows, encoding="utf-8")
            save_prompts(problems_file(directory, one.name), one.prompts)


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


def problems_file(directory: Path, benchmark: str) -> Path:
    return directory / f"{benchmark}.parquet"


def rows_file(directory: Path, benchmark: str) -> Path:
    return directory / f"{benchmark}.txt"


def qualified(benchmark: str, prompt: Prompt) -> Prompt:
    """The prompt under a key that names its benchmark too: MGSM's English problems are also GSM8K's."""
    return replace(prompt, key=f"{benchmark}/{prompt.key}")

"""The problems of a suite, ready to be asked: read from their sources, or from the evaluation's directory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from depo.config import Data, RewardSpec
from depo.config.suite import Benchmark, Suite
from depo.data import load_prompts, load_saved, save_prompts
from depo.errors import UserError
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
    prompts, report = load_prompts(benchmark.source, form, tokenizer, f"benchmarks.{name}.source")
    return LoadedBenchmark(name, prompts, reward_of(benchmark, suite), str(report))


def reward_of(benchmark: Benchmark, suite: Suite) -> RewardSpec:
    return benchmark.reward or suite.reward


def load_suite_problems(
    suite: Suite, tokenizer: PreTrainedTokenizerBase, directory: Path | None = None
) -> list[LoadedBenchmark]:
    """All benchmarks of a suite. With ``directory`` they are kept there, and read from there when they are:
    a resumed evaluation asks exactly what it asked before, whatever became of the sources."""
    if not suite.raw and not tokenizer.chat_template:
        raise UserError("raw: the model's tokenizer has no chat template; set raw=true")
    loaded = []
    for name, benchmark in suite.benchmarks.items():
        stored = None if directory is None else directory / f"{name}.parquet"
        note = None if directory is None else directory / f"{name}.txt"
        if stored is not None and note is not None and stored.exists():
            rows = note.read_text(encoding="utf-8")
            loaded.append(LoadedBenchmark(name, load_saved(stored), reward_of(benchmark, suite), rows))
            continue
        one = load_benchmark(name, benchmark, suite, tokenizer)
        if stored is not None and note is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(one.rows, encoding="utf-8")
            save_prompts(stored, one.prompts)
        loaded.append(one)
    return loaded


def qualified(benchmark: str, prompt: Prompt) -> Prompt:
    """The prompt under a key that names its benchmark too: MGSM's English problems are also GSM8K's."""
    return replace(prompt, key=f"{benchmark}/{prompt.key}")

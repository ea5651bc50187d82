"""What is measured: before, during and after training, and by a suite, which is a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from depo.recipe.schema.block import (
    SCHEMA_VERSION,
    Block,
    Count,
    CountOrZero,
    Many,
    Name,
    NonNegative,
    Processes,
    Seed,
    TemperatureOrZero,
    Tokens,
)
from depo.recipe.schema.data import Columns, FileSource, Source, Template
from depo.recipe.schema.policy import TransformersEngine, VllmEngine, check_draws
from depo.recipe.schema.reward import MathReward, RewardSpec, Verification, check_buffers, check_judge


class EvalSet(Block):
    """A named benchmark."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """What its accuracy is called in metrics and by ``best``."""
    source: Source
    """Where its problems come from, as for ``data.train``."""
    reward: RewardSpec | None = None
    """The recipe's reward when null."""

    @field_validator("name")
    @classmethod
    def is_no_other_measure(cls, value: str) -> str:
        if value in ("all", "solvable") or "/" in value:
            raise ValueError(
                f"{value!r} is no name for a set: all and solvable are measures of their own, and names with "
                "/ are a suite's"
            )
        return value


class EarlyStopping(Block):
    """End a run that no longer improves by ``evaluation.best``."""

    patience: Count
    """Evaluations in a row without an improvement by more than ``min_delta``."""
    min_delta: NonNegative = 0.0
    """What counts as an improvement over the value from which patience began. The best policy is kept
    however small its lead."""


class Evaluation(Block):
    """Accuracy on held-out prompts and benchmarks, before and after training."""

    method: Literal["sample", "exact"] = "sample"
    """``sample``: n completions each. ``exact``: probability of the gold answer by teacher forcing, for
    data with one exact answer."""
    n: Many = 1
    """Completions per problem (``sample`` only)."""
    temperature: TemperatureOrZero = 0.0
    """0 is greedy, and then n must be 1."""
    sets: list[EvalSet] = []
    """Benchmarks to measure beside the held-out prompts."""
    suite: str | None = None
    """A suite of benchmarks as `depo eval` runs it, by name or file, with its own prompts, rewards and
    sampling, beside held-out prompts and ``sets``."""
    suite_data: Path | None = None
    """Directory with local copies of the suite's benchmarks; see docs/evaluation.md."""
    suite_overrides: list[str] = []
    """Keys of the suite to set: ["sampling.n=4", "benchmarks.gsm8k.source.limit=200"]."""
    best: str | None = None
    """Measure by which the best policy so far is kept in ``best/``: all, solvable, a set's name, or a suite's
    (math/avg, math/pass@8, math/gsm8k/avg). Higher is better."""
    early_stopping: EarlyStopping | None = None
    """End the run when it no longer improves; null: never."""
    at_start: bool = True
    """Measure before the first step."""
    at_end: bool = True
    """Measure after the last step."""
    every: CountOrZero = 0
    """Also every so many steps; 0: never."""
    every_rollouts: CountOrZero = 0
    """Also after the step in which training has generated so many more rollouts; 0: never. Compares runs that
    spend different numbers of rollouts on a step."""

    @property
    def yardstick(self) -> dict[str, Any]:
        """All that decides what an evaluation measures; two that differ here cannot be compared."""
        when_and_why = {"best", "early_stopping", "at_start", "at_end", "every", "every_rollouts"}
        return self.model_dump(mode="json", exclude=when_and_why)

    @field_validator("sets")
    @classmethod
    def names_are_unique(cls, value: list[EvalSet]) -> list[EvalSet]:
        names = [one.name for one in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} sets are called {name!r}; give each a name of its own")
        return value

    @model_validator(mode="after")
    def greedy_is_asked_once(self) -> Self:
        if self.method == "sample":
            check_draws(self.n, self.temperature)
        return self

    @model_validator(mode="after")
    def stopping_has_a_measure(self) -> Self:
        if self.early_stopping is not None:
            if self.best is None:
                raise ValueError("evaluation.early_stopping needs evaluation.best: the measure to watch")
            if not (self.every or self.every_rollouts):
                raise ValueError("evaluation.early_stopping needs evaluation.every or every_rollouts")
        if self.suite is None and (self.suite_data is not None or self.suite_overrides):
            raise ValueError("evaluation.suite_data and suite_overrides need evaluation.suite")
        return self


class LocalCopy(Block):
    """Where a benchmark lies under ``--data-dir``."""

    path: Path
    """Relative to the data directory."""
    columns: Columns = Columns()
    """Which columns hold what."""
    where: dict[str, str] = {}
    """Keep only the rows whose columns hold these values."""


class Benchmark(Block):
    """A set of problems with its gold answers. What is null here is the suite's."""

    source: Source
    """Where the problems come from, as for a recipe's ``data.train``."""
    local: LocalCopy | None = None
    """A copy to use instead when ``--data-dir`` is given; only a hub source is replaced."""
    sample: Count | None = None
    """Ask so many of the problems, drawn at random by the seed; null: all."""
    template: Template | None = None
    """Wrapped around each problem; null: the suite's."""
    system: str | None = None
    """System message; null: the suite's."""
    reward: RewardSpec | None = None
    """How its answers are judged; null: the suite's."""
    _key: str = PrivateAttr(default="source")

    @property
    def key(self) -> str:
        """The key that says where the problems come from: ``source``, or ``local`` under ``--data-dir``."""
        return self._key

    def from_data_dir(self, source: FileSource) -> Benchmark:
        """The benchmark with its local copy, which is ``source``, in place of the hub's."""
        found = self.model_copy(update={"source": source})
        found._key = "local"
        return found


class EvalSampling(Block):
    """How completions are drawn: top_p is 1 and there is no top-k, as in training."""

    n: Many = 1
    """Completions per problem."""
    temperature: TemperatureOrZero = 0.0
    """0 is greedy, and then n must be 1."""
    max_new_tokens: Tokens = 4096
    """Longest completion, in tokens."""

    @model_validator(mode="after")
    def greedy_is_asked_once(self) -> Self:
        check_draws(self.n, self.temperature)
        return self


class Suite(Block):
    """Benchmarks that are evaluated together: which problems are put to a model, how, and what is measured.

    Every key can be set on the command line of ``depo eval``, as a recipe's can on ``depo train``'s.
    """

    name: Name
    """Name of the suite, in the default output directory and in the results."""
    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    seed: Seed = 0
    """Samples and bootstrap are keyed by it."""
    benchmarks: Annotated[dict[str, Benchmark], Field(min_length=1)]
    """By name, in the order of the tables."""
    template: Template = "{question}"
    """Wrapped around each problem before the chat template; must contain {question}."""
    system: str | None = None
    """System message, if any."""
    raw: bool = False
    """Give the text to the model as it is, without chat template (base models)."""
    max_prompt_tokens: Tokens = 4096
    """Longer problems are left out and counted."""
    reward: RewardSpec = MathReward()
    """How answers are judged."""
    sampling: EvalSampling = EvalSampling()
    """How completions are drawn."""
    k: Annotated[list[Count], Field(min_length=1)] | None = None
    """The k of pass@k and maj@k; null: powers of two up to n, and n."""
    extrapolate: list[Count] | None = None
    """The k to which coverage is extrapolated; null: 10 n and 100 n."""
    resamples: Many = 1000
    """Resamples of the bootstrap over problems."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates: transformers in this process, or vLLM."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the transformers engine works; auto: cuda where there is one."""
    threads: Processes | None = None
    """CPU threads of the engine; all cores that the process may use when null."""
    transformers: TransformersEngine = TransformersEngine()
    """Settings of the transformers engine."""
    vllm: VllmEngine = VllmEngine()
    """Settings of the vLLM engine."""
    verification: Verification = Verification()
    """The processes that judge."""

    @field_validator("benchmarks")
    @classmethod
    def names_are_plain(cls, value: dict[str, Benchmark]) -> dict[str, Benchmark]:
        for name in value:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name!r}: a benchmark's name has letters, digits, - and _ only")
        return value

    @model_validator(mode="after")
    def enough_samples(self) -> Self:
        for k in self.k or []:
            if k > self.sampling.n:
                raise ValueError(
                    f"k: pass@{k} needs at least {k} samples a problem, sampling.n is {self.sampling.n}"
                )
        return self

    @model_validator(mode="after")
    def rewards_fit(self) -> Self:
        for name, benchmark in self.benchmarks.items():
            key, reward = self.judge(name)
            check_judge(key, reward, f"benchmarks.{name}.source", benchmark.source)
            check_buffers(key, reward, "sampling.max_new_tokens", self.sampling.max_new_tokens)
        return self

    def judge(self, name: str) -> tuple[str, RewardSpec]:
        """The reward of a benchmark, its own or the suite's, with its key."""
        own = self.benchmarks[name].reward
        return ("reward", self.reward) if own is None else (f"benchmarks.{name}.reward", own)

    @property
    def ks(self) -> list[int]:
        """The k of pass@k and maj@k, ascending; where not set, 1, 2, 4, … up to n, and n itself."""
        if self.k is not None:
            return sorted(set(self.k))
        n = self.sampling.n
        return sorted({2**power for power in range(n.bit_length())} | {n})

    @property
    def extrapolated_ks(self) -> list[int]:
        n = self.sampling.n
        return sorted(set([10 * n, 100 * n] if self.extrapolate is None else self.extrapolate))


Suite.model_rebuild()

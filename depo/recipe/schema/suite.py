"""An evaluation suite: which problems are put to a model, how, and what is measured. A file of its own.

Every key can be set on the command line of ``depo eval``, as a recipe's can on ``depo train``'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, PrivateAttr, field_validator, model_validator

from depo.recipe.schema.block import SCHEMA_VERSION, Block, NonNegativeFloat
from depo.recipe.schema.data import Columns, FileSource, Source, source_from_shorthand
from depo.recipe.schema.reward import MathReward, RewardSpec, Verification, check_buffers, check_judge
from depo.recipe.schema.rollout import TransformersEngine, VllmEngine, check_draws


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
    template: str | None = None
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

    @field_validator("source", mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        return source_from_shorthand(value)


class EvalSampling(Block):
    """How completions are drawn: top_p is 1 and there is no top-k, as in training."""

    n: PositiveInt = 1
    """Completions per problem."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy, and then n must be 1."""
    max_new_tokens: PositiveInt = 4096
    """Longest completion, in tokens."""

    @model_validator(mode="after")
    def greedy_is_asked_once(self) -> Self:
        check_draws(self.n, self.temperature)
        return self


class Suite(Block):
    """Benchmarks that are evaluated together."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    """Name of the suite, in the default output directory and in the results."""
    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    seed: int = 0
    """Samples and bootstrap are keyed by it."""
    benchmarks: Annotated[dict[str, Benchmark], Field(min_length=1)]
    """By name, in the order of the tables."""
    template: str = "{question}"
    """Wrapped around each problem before the chat template; must contain {question}."""
    system: str | None = None
    """System message, if any."""
    raw: bool = False
    """Give the text to the model as it is, without chat template (base models)."""
    max_prompt_tokens: PositiveInt = 4096
    """Longer problems are left out and counted."""
    reward: RewardSpec = MathReward()
    """How answers are judged."""
    sampling: EvalSampling = EvalSampling()
    """How completions are drawn."""
    k: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    """The k of pass@k and maj@k; null: powers of two up to n, and n."""
    extrapolate: list[PositiveInt] | None = None
    """The k to which coverage is extrapolated; null: 10 n and 100 n."""
    resamples: PositiveInt = 1000
    """Resamples of the bootstrap over problems."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates: transformers in this process, or vLLM."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the transformers engine works; auto: cuda where there is one."""
    threads: PositiveInt | None = None
    """CPU threads of the engine; all cores that the process may use when null."""
    transformers: TransformersEngine = TransformersEngine()
    """Settings of the transformers engine."""
    vllm: VllmEngine = VllmEngine()
    """Settings of the vLLM engine."""
    verification: Verification = Verification()
    """The processes that judge."""

    @field_validator("template")
    @classmethod
    def has_question(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("must contain {question}")
        return value

    @field_validator("benchmarks")
    @classmethod
    def names_are_plain(cls, value: dict[str, Benchmark]) -> dict[str, Benchmark]:
        for name, benchmark in value.items():
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name!r}: a benchmark's name has letters, digits, - and _ only")
            if benchmark.template is not None and "{question}" not in benchmark.template:
                raise ValueError(f"{name}.template must contain {{question}}")
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

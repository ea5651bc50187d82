"""The recipe schema: every key a user can set, with its default, its unit and its meaning.

Importing this module must stay cheap (no torch, ray, transformers): ``--dry-run`` and ``--help`` depend
on it. Unknown keys are errors. Blocks with a ``type`` key are discriminated unions.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

SCHEMA_VERSION: Final = 1
TABLE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


class Block(BaseModel):
    """Base of every block: unknown keys are errors, fields are documented by the string below them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


# ---------------------------------------------------------------- data sources


class Columns(Block):
    """Which columns of a table hold what. A dot descends into a struct: ``reward_model.ground_truth``."""

    prompt: str | None = None
    """Problem text, or a list of chat messages. Found by name (prompt, question, problem) when null."""
    answer: str | None = None
    """Gold answer. Found by name (answer, ground_truth, reward_model.ground_truth, solution) when null."""
    prior: str | None = None
    """A pass rate in [0, 1] that the data set brings along, if any."""
    question_pattern: str | None = None
    """Regular expression whose group 1 is the problem, for prompts that wrap it in instructions of their own.
    Rows where it is not found are dropped and counted."""

    @field_validator("question_pattern")
    @classmethod
    def has_one_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"must have one group, the problem; found {groups}")
        return value


class FileSource(Block):
    """A local table: .jsonl, .json, .parquet or .csv."""

    type: Literal["file"] = "file"
    path: Annotated[Path, AfterValidator(Path.expanduser)]
    columns: Columns = Columns()
    limit: PositiveInt | None = None
    """Use the first rows only."""


class HubSource(Block):
    """A data set of the Hugging Face hub, read with `datasets`."""

    type: Literal["hub"] = "hub"
    id: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: Columns = Columns()
    limit: PositiveInt | None = None


class ReasoningGymSource(Block):
    """Procedurally generated tasks of the `reasoning_gym` package, verified by its own scorers."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    tasks: list[str] = Field(min_length=1)
    """Names of reasoning_gym data sets, e.g. basic_arithmetic, gcd."""
    size: PositiveInt = 1000
    """Problems per task."""
    seed: int = 0


class ArithmeticSource(Block):
    """Generated sums, differences and products whose difficulty is graded by their number of digits."""

    type: Literal["arithmetic"] = "arithmetic"
    phrasing: Literal["digits", "words"] = "digits"
    """``digits``: "12+7="; ``words``: "What is twelve plus seven?"."""
    operations: list[Literal["+", "-", "*"]] = Field(default=["+"], min_length=1)
    digits: list[PositiveInt] = Field(default=[1, 2, 3], min_length=1)
    """Operand lengths to draw from, one operand length a problem."""
    size: PositiveInt = 1000
    """Distinct problems to generate (fewer when the family is smaller)."""
    seed: int = 0


Source = Annotated[
    FileSource | HubSource | ReasoningGymSource | ArithmeticSource, Field(discriminator="type")
]


def source_from_shorthand(value: Any) -> Any:
    """A bare string is a file when it ends like a table or exists, else a hub id."""
    if not isinstance(value, str):
        return value
    if value.endswith(TABLE_SUFFIXES) or Path(value).exists():
        return {"type": "file", "path": value}
    return {"type": "hub", "id": value}


class Grading(Block):
    """Compose pool and held-out set by *measured* pass rates of the initial policy.

    Only for generated data with one exact answer: the pass rate is the probability of that answer under
    teacher forcing. The shares must add up to 1.
    """

    mastered: Fraction = 0.25
    learnable: Fraction = 0.25
    impossible: Fraction = 0.5
    mastered_above: Fraction = 0.7
    """Pass rate from which a problem counts as mastered."""
    learnable_between: tuple[Fraction, Fraction] = (0.02, 0.35)
    """Pass rates of the learnable middle. What lies between the classes is left out."""
    impossible_below: Fraction = 0.01
    """Pass rate under which a problem counts as impossible."""
    pool: PositiveInt = 1000
    """Prompts in the training pool."""
    heldout: PositiveInt = 400
    """Held-out prompts, composed like the pool."""

    @model_validator(mode="after")
    def shares_add_up(self) -> Self:
        total = self.mastered + self.learnable + self.impossible
        if abs(total - 1) > 1e-9:
            raise ValueError(f"mastered + learnable + impossible must be 1, found {total:g}")
        low, high = self.learnable_between
        if not self.impossible_below <= low < high <= self.mastered_above:
            raise ValueError(
                "the classes must not overlap: impossible_below <= learnable_between[0] < "
                f"learnable_between[1] <= mastered_above, found {self.impossible_below:g}, {low:g}, "
                f"{high:g}, {self.mastered_above:g}"
            )
        return self


class Data(Block):
    """Where prompts come from and how they are put to the policy."""

    train: Source
    heldout: NonNegativeInt | Fraction = 0
    """Prompts set aside from ``train`` for evaluation: a count, or a share when below 1."""
    grade: Grading | None = None
    """Compose pool and held-out set by measured difficulty (generated data only)."""
    template: str = "{question}"
    """Wrapped around the problem text (the last turn of chat messages) before the chat template; must contain
    {question}."""
    system: str | None = None
    """System message, if any; chat messages that bring their own keep it."""
    raw: bool = False
    """Give the text to the policy as it is, without chat template."""
    max_prompt_tokens: PositiveInt = 1024
    """Longer prompts are dropped and counted."""

    @field_validator("train", mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        return source_from_shorthand(value)

    @field_validator("template")
    @classmethod
    def has_question(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("must contain {question}")
        return value


# ---------------------------------------------------------------- policy


class Lora(Block):
    """Low-rank adaptation (`peft`). Targets are named: "all-linear" would also adapt router gates."""

    rank: PositiveInt = 32
    alpha: PositiveFloat = 64.0
    dropout: Fraction = 0.0
    targets: list[str] = Field(default=["q_proj", "k_proj", "v_proj", "o_proj"], min_length=1)


class WarmStart(Block):
    """Supervised fine-tuning of a freshly built policy (`trl.SFTTrainer`) into a stated band."""

    families: dict[str, PositiveFloat] = Field(default={"+1": 0.2, "+2": 0.8}, min_length=1)
    """What the worked examples teach: an operation with an operand length, and its share."""
    problems: PositiveInt = 60_000
    """Worked examples to generate."""
    forgotten_carries: Fraction = 0.85
    """Share of the worked examples whose teacher never carries: what RL then has to put right."""
    batch_size: PositiveInt = 64
    lr: PositiveFloat = 8e-4
    warmup_steps: NonNegativeInt = 30
    """Linear learning-rate warm-up; constant afterwards."""
    beta2: Fraction = 0.98
    """AdamW's decay of the second moment: a short training needs a short memory."""
    max_steps: PositiveInt = 800
    """Of one attempt."""
    attempts: PositiveInt = 3
    """Initialisations to try: now and then one never gets off the plateau of guessing the last digit."""
    check_every: PositiveInt = 25
    """Steps between two measurements of solvable held-out accuracy."""
    band: tuple[Fraction, Fraction] = (0.40, 0.50)
    """Training stops inside this band of solvable held-out accuracy; ending outside is an error."""

    @field_validator("families")
    @classmethod
    def families_are_written_right(cls, families: dict[str, float]) -> dict[str, float]:
        for name in families:
            if not re.fullmatch(r"[-+*][1-9]", name):
                raise ValueError(f"{name!r}: write an operation and an operand length, like +2 or *3")
        return families

    @model_validator(mode="after")
    def band_is_ordered(self) -> Self:
        if self.band[0] >= self.band[1]:
            raise ValueError(f"band[0] {self.band[0]:g} must be smaller than band[1] {self.band[1]:g}")
        return self


class TinyMoePolicy(Block):
    """A small `qwen3_moe` with a character tokenizer, built from scratch: runs anywhere in minutes."""

    type: Literal["tiny_moe"] = "tiny_moe"
    hidden_size: PositiveInt = 128
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    experts: PositiveInt = 8
    experts_per_token: PositiveInt = 2
    expert_size: PositiveInt = 160
    """Intermediate size of one expert."""
    max_positions: PositiveInt = 128
    dtype: Literal["float32"] = "float32"
    warm_start: WarmStart = WarmStart()

    @model_validator(mode="after")
    def shapes_fit(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be divisible by kv_heads {self.kv_heads}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self


class PretrainedPolicy(Block):
    """A causal language model in Hugging Face format: hub id or local directory."""

    type: Literal["pretrained"] = "pretrained"
    model: Annotated[str, AfterValidator(os.path.expanduser)]
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type. Full fine-tuning keeps float32 master weights either way."""
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False


Policy = Annotated[TinyMoePolicy | PretrainedPolicy, Field(discriminator="type")]


# ---------------------------------------------------------------- rollouts


class TransformersEngine(Block):
    """Generation with transformers, in the learner's own process and on its own weights."""

    batch_size: PositiveInt = 64
    """Sequences decoded together."""


class VllmEngine(Block):
    """Generation with vLLM in Ray actors of their own."""

    workers: PositiveInt = 1
    """Engines, one Ray actor each."""
    tensor_parallel: PositiveInt = 1
    """Devices of one engine."""
    gpu_memory_utilization: Fraction = 0.9
    cpu_kv_cache_gib: PositiveFloat = 1.0
    """Memory of one engine's KV cache on a CPU, GiB; on GPUs gpu_memory_utilization decides."""
    max_model_len: PositiveInt | None = None
    """Context limit; prompt limit plus max_new_tokens when null."""
    max_num_seqs: PositiveInt = 256
    enforce_eager: bool | None = None
    """Run the model without compilation or CUDA graphs; null: on CPUs, where compiling costs more than it
    gives back."""
    sync_dir: Path | None = None
    """Where weights are handed over; a memory file system (/dev/shm) when null. Several nodes need a
    directory they all see."""
    parity_tolerance: PositiveFloat | None = None
    """Largest mean |difference| of log-probabilities (nats) that the parity probe accepts; by dtype when
    null."""


class Rollouts(Block):
    """How completions are generated."""

    engine: Literal["transformers", "vllm"] = "transformers"
    max_new_tokens: PositiveInt = 1024
    temperature: PositiveFloat = 1.0
    transformers: TransformersEngine = TransformersEngine()
    vllm: VllmEngine = VllmEngine()


# ---------------------------------------------------------------- rewards


class MathReward(Block):
    """`math-verify` on the last boxed, LaTeX or plain answer."""

    type: Literal["math"] = "math"


class ExactReward(Block):
    """The stripped completion equals the stripped reference."""

    type: Literal["exact"] = "exact"


class FormatReward(Block):
    """The whole completion matches a regular expression."""

    type: Literal["format"] = "format"
    pattern: str = r".*\\boxed\{.+\}.*"


class OverlongReward(Block):
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 down to −1 over the last tokens."""

    type: Literal["overlong"] = "overlong"
    buffer: PositiveInt
    """Tokens before the limit over which the punishment grows."""


class ReasoningGymReward(Block):
    """The scorer that `reasoning_gym` ships with each task."""

    type: Literal["reasoning_gym"] = "reasoning_gym"


class FunctionReward(Block):
    """A function of your own by import path, ``package.module:function``; see docs/rewards.md."""

    type: Literal["function"] = "function"
    path: str
    """Module and name, with a colon between them."""
    correct_at: float = 1.0
    """Value from which a sample counts as correct, when the function returns plain numbers."""


class PluginReward(Block):
    """A reward registered by a package under the entry-point group ``depo.rewards``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


class WeightedReward(Block):
    """A weighted sum. Correctness is the first part's."""

    type: Literal["weighted"] = "weighted"
    parts: list[WeightedPart] = Field(min_length=1)


RewardSpec = Annotated[
    MathReward
    | ExactReward
    | FormatReward
    | OverlongReward
    | ReasoningGymReward
    | FunctionReward
    | PluginReward
    | WeightedReward,
    Field(discriminator="type"),
]


class WeightedPart(Block):
    weight: float = 1.0
    reward: RewardSpec


class Verification(Block):
    """Killable worker processes in which rewards are computed."""

    workers: PositiveInt = 2
    timeout: PositiveFloat = 5.0
    """Seconds one sample may take before it is unscorable."""


# ---------------------------------------------------------------- estimators and selection


class UniformEstimator(Block):
    """No estimate: every prompt looks alike (GRPO, DAPO)."""

    type: Literal["uniform"] = "uniform"


class BetaEstimator(Block):
    """Discounted Beta posterior per prompt (MoPPS, arXiv 2507.04632)."""

    type: Literal["beta"] = "beta"
    prior_successes: PositiveFloat = 1.0
    prior_failures: PositiveFloat = 1.0
    discount: Fraction = 0.5
    """What an old count keeps at the next visit of the same prompt (MoPPS's λ)."""


class PluginEstimator(Block):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    type: Literal["plugin"] = "plugin"
    name: str
    options: dict[str, Any] = {}


EstimatorSpec = Annotated[UniformEstimator | BetaEstimator | PluginEstimator, Field(discriminator="type")]


class SelectionBase(Block):
    audit: Fraction = 0.05
    """Share of every batch drawn uniformly from the pool to grade the estimator."""
    refill: bool = True
    """Generate further waves until the batch is full of groups with signal (DAPO's dynamic sampling)."""
    max_waves: PositiveInt = 4
    """Waves per step at most, the first included."""
    window: PositiveInt = 400
    """Uniformly drawn groups over which the estimator is graded."""
    min_window: NonNegativeInt = 200
    """Selection stays uniform until this many groups have been graded (warm-up). 0: select from the first
    step, and never fail open."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Of the one-sided tests that end the warm-up and that let selection fail open."""

    @model_validator(mode="after")
    def window_fits(self) -> Self:
        if self.min_window > self.window:
            raise ValueError(f"min_window {self.min_window} exceeds window {self.window}")
        return self


class UniformSelection(SelectionBase):
    """Prompts in shuffled order, pass after pass."""

    type: Literal["uniform"] = "uniform"


class ThompsonSelection(SelectionBase):
    """Draw a pass rate from each belief, take the prompts most likely to give a mixed group under it."""

    type: Literal["thompson"] = "thompson"
    candidates: PositiveInt = 8192
    """Prompts considered per wave, drawn uniformly from the pool."""


Selection = Annotated[UniformSelection | ThompsonSelection, Field(discriminator="type")]


# ---------------------------------------------------------------- learner


class ClippedLoss(Block):
    clip_low: NonNegativeFloat = 0.2
    clip_high: NonNegativeFloat = 0.2


class GrpoLoss(ClippedLoss):
    """Mean over sequences of the mean over tokens (arXiv 2402.03300, eq. 3)."""

    type: Literal["grpo"] = "grpo"


class DapoLoss(ClippedLoss):
    """Mean over all tokens, asymmetric clipping (arXiv 2503.14476, eq. 8)."""

    type: Literal["dapo"] = "dapo"
    clip_high: NonNegativeFloat = 0.28


class DrGrpoLoss(ClippedLoss):
    """Sum over tokens by a constant length, advantages not scaled (arXiv 2503.20783)."""

    type: Literal["dr_grpo"] = "dr_grpo"


class GspoLoss(Block):
    """Sequence-level ratio and clipping (arXiv 2507.18071, eq. 5–7)."""

    type: Literal["gspo"] = "gspo"
    clip_low: NonNegativeFloat = 3e-4
    clip_high: NonNegativeFloat = 4e-4


class CispoLoss(Block):
    """Clipped, detached importance weights on a REINFORCE term (arXiv 2506.13585, eq. 4–5)."""

    type: Literal["cispo"] = "cispo"
    clip_high: PositiveFloat = 5.0
    """Largest importance weight (an absolute cap, as in TRL)."""


Loss = Annotated[GrpoLoss | DapoLoss | DrGrpoLoss | GspoLoss | CispoLoss, Field(discriminator="type")]


class NoCorrection(Block):
    """Trust the engine's distribution to be the learner's."""

    type: Literal["none"] = "none"


class TisCorrection(Block):
    """Truncated importance sampling: weight min(ratio, cap), per token."""

    type: Literal["tis"] = "tis"
    cap: PositiveFloat = 2.0


class MisCorrection(Block):
    """Masked importance sampling: weight ratio, or 0 where ratio exceeds the cap, per token."""

    type: Literal["mis"] = "mis"
    cap: PositiveFloat = 2.0


class IcePopCorrection(Block):
    """IcePop: weight ratio inside [low, high], 0 outside, per token."""

    type: Literal["icepop"] = "icepop"
    low: PositiveFloat = 0.5
    high: PositiveFloat = 5.0

    @model_validator(mode="after")
    def ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be smaller than high {self.high:g}")
        return self


Correction = Annotated[
    NoCorrection | TisCorrection | MisCorrection | IcePopCorrection, Field(discriminator="type")
]


class Learner(Block):
    """The update."""

    loss: Loss = DapoLoss()
    correction: Correction = TisCorrection()
    """For the mismatch between engine and learner: exp(learner_old − engine), detached."""
    advantage_scale: Literal["group", "none"] | None = None
    """Divide advantages by the group's standard deviation; null: by the loss ("none" for dr_grpo)."""
    zero_variance: Literal["exclude", "include"] = "exclude"
    """Whether groups without signal count in the loss's denominator ("include" is TRL's behaviour)."""
    lr: PositiveFloat = 1e-6
    warmup_steps: NonNegativeInt = 0
    """Linear learning-rate warm-up, in steps."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up, over the run's steps."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    """Passes over the batch per step."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass."""
    tokens_per_microbatch: PositiveInt = 16_384
    """Padded tokens of one forward and backward pass, at most."""
    kl_coef: NonNegativeFloat = 0.0
    """Weight of the k3 KL penalty to the initial policy; 0 needs no reference policy."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Batch(Block):
    """What one step trains on."""

    prompts: PositiveInt = 64
    """Groups a step."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts per group."""


# ---------------------------------------------------------------- evaluation, tracking, run


class EvalSet(Block):
    """A named benchmark."""

    name: str
    source: Source
    reward: RewardSpec | None = None
    """The recipe's reward when null."""

    @field_validator("source", mode="before")
    @classmethod
    def shorthand(cls, value: Any) -> Any:
        return source_from_shorthand(value)


class Evaluation(Block):
    """Accuracy on held-out prompts and benchmarks, before and after training."""

    method: Literal["sample", "exact"] = "sample"
    """``sample``: n completions each. ``exact``: probability of the gold answer by teacher forcing, for
    data with one exact answer."""
    n: PositiveInt = 1
    """Completions per problem (``sample`` only)."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    sets: list[EvalSet] = []
    at_start: bool = True
    at_end: bool = True
    every: NonNegativeInt = 0
    """Also every so many steps; 0: never."""


class Checkpoints(Block):
    every: NonNegativeInt = 50
    """Steps between checkpoints; 0: only at the end."""
    keep: PositiveInt = 2
    """Newest checkpoints kept."""


class Tracking(Block):
    tensorboard: bool = False
    rollouts: bool = True
    """Write every rollout to rollouts/*.parquet."""


class Resources(Block):
    threads: PositiveInt | None = None
    """CPU threads of the learner; all cores when null."""
    learner_gpus: NonNegativeInt | None = None
    """0 or 1; null: 1 when the cluster has one."""
    address: str | None = None
    """Ray cluster; RAY_ADDRESS, else a local Ray, when null."""


class Recipe(Block):
    """One training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    schema_version: Literal[1] = SCHEMA_VERSION
    seed: int = 0
    steps: PositiveInt
    policy: Policy
    data: Data
    batch: Batch = Batch()
    rollout: Rollouts = Rollouts()
    reward: RewardSpec = MathReward()
    verification: Verification = Verification()
    estimator: EstimatorSpec = BetaEstimator()
    selection: Selection = ThompsonSelection()
    learner: Learner = Learner()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoints = Checkpoints()
    tracking: Tracking = Tracking()
    resources: Resources = Resources()

    @property
    def context_length(self) -> int:
        """Longest sequence this recipe allows, in tokens."""
        return self.data.max_prompt_tokens + self.rollout.max_new_tokens

    @model_validator(mode="after")
    def minibatches_divide_prompts(self) -> Self:
        if self.batch.prompts % self.learner.minibatches:
            raise ValueError(
                f"batch.prompts {self.batch.prompts} must be divisible by learner.minibatches "
                f"{self.learner.minibatches}"
            )
        return self

    @model_validator(mode="after")
    def context_fits(self) -> Self:
        limit = self.rollout.vllm.max_model_len
        if self.rollout.engine == "vllm" and limit is not None and self.context_length > limit:
            raise ValueError(
                f"data.max_prompt_tokens + rollout.max_new_tokens = {self.context_length} exceeds "
                f"rollout.vllm.max_model_len {limit}"
            )
        if isinstance(self.policy, TinyMoePolicy) and self.context_length > self.policy.max_positions:
            raise ValueError(
                f"data.max_prompt_tokens + rollout.max_new_tokens = {self.context_length} exceeds "
                f"policy.max_positions {self.policy.max_positions}"
            )
        return self

    @model_validator(mode="after")
    def selection_has_beliefs(self) -> Self:
        if self.selection.type == "thompson" and self.estimator.type == "uniform":
            raise ValueError("selection.type thompson needs an estimator; estimator.type is uniform")
        return self

    @model_validator(mode="after")
    def grading_is_possible(self) -> Self:
        generated = isinstance(self.data.train, ArithmeticSource)
        if self.data.grade is not None and not (generated and isinstance(self.reward, ExactReward)):
            raise ValueError("data.grade needs data.train.type arithmetic and reward.type exact")
        if isinstance(self.policy, TinyMoePolicy) and self.data.grade is None:
            raise ValueError(
                "policy.type tiny_moe needs data.grade: its pool is composed after the warm start"
            )
        if (
            isinstance(self.policy, TinyMoePolicy)
            and isinstance(self.data.train, ArithmeticSource)
            and self.data.train.phrasing != "digits"
        ):
            raise ValueError(
                "policy.type tiny_moe needs data.train.phrasing digits: its tokenizer knows only digits "
                "and + - * ="
            )
        if self.evaluation.method == "exact" and not isinstance(self.reward, ExactReward):
            raise ValueError("evaluation.method exact needs reward.type exact")
        return self

    @model_validator(mode="after")
    def reward_fits_data(self) -> Self:
        if isinstance(self.reward, ReasoningGymReward) != isinstance(self.data.train, ReasoningGymSource):
            raise ValueError("reward.type reasoning_gym and data.train.type reasoning_gym go together")
        return self


WeightedReward.model_rebuild()
Recipe.model_rebuild()

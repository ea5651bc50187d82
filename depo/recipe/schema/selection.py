"""What is believed about prompts, and which of them are rolled out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from depo.estimators.encoder_options import EncoderOptions, EncoderSetup
from depo.recipe.schema.block import (
    BelowOne,
    Block,
    Count,
    CountOrZero,
    Few,
    FewOrZero,
    Fraction,
    NonNegative,
    Plugin,
    Positive,
    Seed,
)


class UniformEstimator(Block):
    """No estimate: every prompt looks alike (GRPO, DAPO)."""

    type: Literal["uniform"] = "uniform"


class MoppsEstimator(Block):
    """Discounted Beta posterior per prompt (MoPPS, arXiv 2507.04632)."""

    type: Literal["mopps"] = "mopps"
    prior_successes: Positive = 1.0
    """Successes with which a prompt starts (α₀). A pass rate from the data set keeps the sum of both
    counts."""
    prior_failures: Positive = 1.0
    """Failures with which a prompt starts (β₀)."""
    discount: Fraction = 0.5
    """What an old count keeps at the next visit of the same prompt (MoPPS's λ)."""


class SpoEstimator(Block):
    """Counts per prompt that fade as the policy moves (SPO, arXiv 2509.13232)."""

    type: Literal["spo"] = "spo"
    start: Fraction = 0.5
    """Pass rate with which a prompt starts, where the data set has none (v₀)."""
    kl_half: Positive = 0.06
    """KL divergence of the policy, in nats a token, after which a count is worth half."""
    keep_min: BelowOne = 0.875
    """Least that a count keeps at a visit; 1/(1 − this) counts are there at the start."""
    keep_max: BelowOne = 0.96
    """Most that it keeps."""

    @model_validator(mode="after")
    def bounds_are_ordered(self) -> Self:
        if self.keep_min > self.keep_max:
            raise ValueError(f"keep_min {self.keep_min:g} exceeds keep_max {self.keep_max:g}")
        return self


class HybridEstimator(Block):
    """The pool's population, tilted by what is known of a prompt, times its discounted counts."""

    type: Literal["hybrid"] = "hybrid"
    text: Literal["ngrams", "encoder", "none"] = "ngrams"
    """What reads the prompts' texts: hashed n-grams (no torch), heads on a frozen encoder (needs
    ``text_model``), or nothing."""
    text_model: str | None = None
    """BERT-family encoder: Hugging Face id or local directory (`depo fetch minilm DIR`)."""
    memory: Positive = 3000.0
    """Groups over which the regression and its worth are learned."""
    noise: Annotated[float, Field(strict=True, ge=1e-9, lt=0.5)] = 0.0005
    """Chance that a verdict is wrong: keeps one wrong verdict from contradicting a belief beyond repair."""
    seed: Annotated[Seed, Field(ge=0)] = 0
    """The encoder's random draws are keyed by it."""

    @model_validator(mode="after")
    def text_model_goes_with_encoder(self) -> Self:
        if (self.text == "encoder") != (self.text_model is not None):
            raise ValueError("text_model goes with text: encoder, and only with that")
        return self


class GresoEstimator(Block):
    """Keep probabilities from runs of zero-variance groups (GRESO, arXiv 2506.02177). Not calibrated."""

    type: Literal["greso"] = "greso"
    p_easy: Fraction = 0.5
    """Keep probability after all-right groups, at the start; it adjusts itself."""
    p_hard: Fraction = 0.5
    """The same after all-wrong groups."""
    target_easy: Fraction = 1 / 12
    """Share of all-right groups in a step from which p_easy falls, and below which it rises."""
    target_hard: Fraction = 1 / 6
    """The same of all-wrong groups and p_hard."""
    adjustment: Fraction = 0.01
    """How far p_easy and p_hard move after a step."""
    p_min: Fraction = 0.05
    """Lowest value of p_easy and p_hard."""
    p_max: Fraction = 0.95
    """Highest value of p_easy and p_hard."""

    @model_validator(mode="after")
    def bounds_hold(self) -> Self:
        for name, value in (("p_easy", self.p_easy), ("p_hard", self.p_hard)):
            if not self.p_min <= value <= self.p_max:
                raise ValueError(
                    f"{name} must lie between p_min {self.p_min} and p_max {self.p_max}, found {value}"
                )
        return self


class DpsEstimator(Block):
    """Filter over all wrong, informative and all right, with learned transitions (DPS, arXiv 2603.10887)."""

    type: Literal["dps"] = "dps"
    prior_count: Positive = 0.3
    """Dirichlet prior count of every transition; the paper has 1."""
    discount: Fraction = 0.9
    """What a prompt's learned transition counts keep at each transition."""
    confusion: Annotated[float, Field(strict=True, ge=0.0, lt=1 / 3)] = 0.05
    """Chance that a group shows the outcome of a neighbouring state; the paper has 0."""
    steps_per_transition: Count = 1
    """Policy steps that make one transition of a prompt not visited; the paper has 1."""


class OracleEstimator(Block):
    """Takes the pass rate that the data set brings along for the truth. Benchmarks only."""

    type: Literal["oracle"] = "oracle"
    live: bool = False
    """Ask the policy about each candidate, at each round; that is not counted as rollouts."""
    samples: FewOrZero = 0
    """Completions that tell the pass rate of a candidate. 0: the probability of the gold answer by teacher
    forcing, for data with one exact answer."""


class DepoPreset(Block):
    type: Literal["depo"] = "depo"
    model: str
    """BERT-family encoder: Hugging Face id or local directory (`depo fetch minilm DIR`)."""
    preset: Literal["paper", "repaired"] = "paper"
    """``paper``: as published. ``repaired``: replay, beta-binomial likelihood, a lighter ranking per pair in
    logits on pairs beyond chance, no dropout, both ends of long prompts, embeddings of several layers,
    n-grams beside them, predictions with averaged weights."""


encoder_keys: dict[str, Any] = {
    name: (field.rebuild_annotation(), Field(default=field.default, description=field.description))
    if name in EncoderSetup.model_fields
    else (field.rebuild_annotation() | None, Field(default=None, description=field.description))
    for name, field in EncoderOptions.model_fields.items()
    if name != "model"
}
EncoderKeys: Any = create_model("EncoderKeys", __base__=Block, **encoder_keys)


class DepoEstimator(EncoderKeys, DepoPreset):
    """DEPO's difficulty estimator (arXiv 2602.06375): a pretrained encoder with two heads, trained online.

    Null means: as the preset has it. The presets and the reasons are in `estimators/encoder_options.py`.
    """


class PluginEstimator(Plugin):
    """An estimator registered by a package under the entry-point group ``depo.estimators``."""

    group = "depo.estimators"


EstimatorSpec = Annotated[
    UniformEstimator
    | DepoEstimator
    | MoppsEstimator
    | SpoEstimator
    | GresoEstimator
    | DpsEstimator
    | HybridEstimator
    | OracleEstimator
    | PluginEstimator,
    Field(discriminator="type"),
]


class SelectionBase(Block):
    audit: Fraction = 0.05
    """Share of every batch drawn uniformly from the pool to grade the estimator."""
    prefill_probe: bool = False
    """Show the estimator what one prefill by today's policy tells about each candidate (perplexity, entropy
    of the first token, last hidden state), at each round. Costs a prefill of every candidate; hybrid makes
    use of it."""
    pilot: FewOrZero = 0
    """Rollouts that a group begins with; the rest of it is generated only where these are neither all right
    nor all wrong (Pilot-Commit, arXiv 2605.26606). 0: all at once."""
    evict_mastered: bool = False
    """Never pick a prompt again whose group, or whose pilots, were all right, as long as enough others are
    left (Pilot-Commit)."""
    refill: bool = False
    """Generate further rounds until the batch is full of informative groups (DAPO's dynamic sampling)."""
    max_rounds: Few = 4
    """Rounds per step at most, the first included."""
    window: Count = 400
    """Uniformly drawn groups over which the estimator is graded."""
    min_window: CountOrZero = 200
    """Selection stays uniform until this many groups have been graded (warm-up). 0: select from the first
    step, and never fail open."""
    warmup_steps: CountOrZero = 0
    """Selection stays uniform for this many steps whatever the estimator is worth (DEPO's warm-up)."""
    confidence: Annotated[float, Field(strict=True, gt=0.5, lt=1.0)] = 0.95
    """Level of the one-sided tests that end the warm-up and that let selection fail open."""

    @model_validator(mode="after")
    def window_fits(self) -> Self:
        if self.min_window > self.window:
            raise ValueError(f"min_window {self.min_window} exceeds window {self.window}")
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """What ``depo.selection.build_selector`` takes. It is handed the means to ask the policy."""
        return self.model_dump(exclude={"prefill_probe", "pilot"})


class UniformSelection(SelectionBase):
    """Prompts in shuffled order, pass after pass."""

    type: Literal["uniform"] = "uniform"


class RuleSelection(SelectionBase):
    """What the rules that go by an estimator share."""

    candidates: Count | Literal["auto"] = "auto"
    """Prompts considered per round, at least batch.prompts, drawn uniformly from the pool (``skip``: the next
    ones in its order). auto: 8 · batch.prompts."""
    cooldown: CountOrZero = 0
    """Steps during which a prompt just visited is passed over, as long as there are others."""
    revisit_after: Count | Literal["auto"] | None = "auto"
    """Steps after which a prompt not visited gets a reserved place; auto: 4 · pool / batch.prompts, the time
    of four passes; null: never."""
    revisit_share: Fraction = 0.05
    """Largest share of a first round that such prompts get."""

    @model_validator(mode="after")
    def rule_keeps_places(self) -> Self:
        if self.audit + (self.revisit_share if self.revisit_after is not None else 0.0) > 1:
            raise ValueError(
                f"audit {self.audit} and revisit_share {self.revisit_share} must not add up to more than 1"
            )
        return self


class ThompsonSelection(RuleSelection):
    """Draw pass rates from each belief, take the prompts most likely to give an informative group under
    them."""

    type: Literal["thompson"] = "thompson"
    draws: Few = 16
    """The score is the mean over so many draws. 1 is Thompson sampling; with more, it comes closer to
    `greedy`."""
    per_token: bool = False
    """Divide the score by the tokens that a rollout of the prompt is expected to take. Prompts with short
    answers come first."""
    headroom: NonNegative = 0.0
    """Weigh the chance of an informative group by (1 − p)^headroom: the larger, the more hard prompts come
    before easy ones that are as informative. 1 in the recommended method."""


class OptimisticSelection(RuleSelection):
    """Thompson's draws, the best of several, until a prompt is known; the belief itself afterwards."""

    type: Literal["optimistic"] = "optimistic"
    sure_after: CountOrZero = 3
    """Visits after which a prompt's belief is used as it is, without draws."""
    draws: Few = 2
    """Draws for the other prompts; the best one counts."""
    revisit_after: Count | Literal["auto"] | None = None
    """As for the other rules, but off by default: this rule returns to little-known prompts by itself."""


class WindowSelection(RuleSelection):
    """Prompts drawn uniformly among those whose mean pass rate lies in a window (DEPO, arXiv 2602.06375)."""

    type: Literal["window"] = "window"
    low: Fraction = 0.15
    """Lowest mean pass rate of the window."""
    high: Fraction = 0.85
    """Highest mean pass rate of the window."""

    @model_validator(mode="after")
    def window_is_open(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        return self


class ThresholdSelection(RuleSelection):
    """Prompts drawn uniformly among those with p_informative at or above a threshold."""

    type: Literal["threshold"] = "threshold"
    p_informative: Fraction = 0.3
    """The threshold: lowest probability of an informative group."""


class SkipSelection(RuleSelection):
    """The pool in its order, each prompt kept with probability p_informative (GRESO, arXiv 2506.02177)."""

    type: Literal["skip"] = "skip"


class GumbelSelection(RuleSelection):
    """Drawn without replacement with probability ∝ (p_informative / expected tokens)^(1/temperature)."""

    type: Literal["gumbel"] = "gumbel"
    temperature: Positive = 0.25
    """Low values come close to taking the highest; high ones to a uniform draw."""


class PrioritizedSelection(RuleSelection):
    """Drawn without replacement with probability ∝ √(p(1 − p)) + floor at the mean (SPO, arXiv
    2509.13232)."""

    type: Literal["prioritized"] = "prioritized"
    floor: Positive = 0.05
    """Weight of a prompt that is surely right or wrong."""


class GreedySelection(RuleSelection):
    """The highest p_informative (DPS, arXiv 2603.10887). Returns to the same few prompts: for comparison."""

    type: Literal["greedy"] = "greedy"


class PluginSelection(Plugin, RuleSelection):
    """A rule registered by a package under the entry-point group ``depo.rules``."""

    group = "depo.rules"


Selection = Annotated[
    UniformSelection
    | ThompsonSelection
    | OptimisticSelection
    | WindowSelection
    | ThresholdSelection
    | SkipSelection
    | GumbelSelection
    | GreedySelection
    | PrioritizedSelection
    | PluginSelection,
    Field(discriminator="type"),
]

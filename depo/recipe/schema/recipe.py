"""The whole recipe, and what its blocks demand of each other."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from depo.recipe.schema.block import (
    SCHEMA_VERSION,
    AtMost,
    Block,
    Count,
    CountOrZero,
    Name,
    Processes,
    Seconds,
    Seed,
)
from depo.recipe.schema.data import ArithmeticSource, Data
from depo.recipe.schema.evaluation import Evaluation
from depo.recipe.schema.guards import Guards
from depo.recipe.schema.learner import Batch, BeliefBaseline, GroupBaseline, Learner
from depo.recipe.schema.policy import Policy, Rollouts, TinyMoePolicy
from depo.recipe.schema.reward import (
    ExactReward,
    MathReward,
    RewardSpec,
    Verification,
    check_buffers,
    check_judge,
)
from depo.recipe.schema.selection import (
    EstimatorSpec,
    HybridEstimator,
    OracleEstimator,
    RuleSelection,
    Selection,
    ThompsonSelection,
)


class Checkpoints(Block):
    every: CountOrZero = 50
    """Steps between checkpoints; 0: only at the end."""
    keep: Count = 2
    """Newest checkpoints kept."""


class TrackerSpec(Block):
    """A tracker; its name alone is short for this block."""

    group: ClassVar[str] = "depo.trackers"
    extras: ClassVar[tuple[str, ...]] = ("tensorboard", "wandb", "mlflow", "trackio")
    name: str
    """``tensorboard``, ``wandb``, ``mlflow``, ``trackio``, or what a package registered under the entry-point
    group ``depo.trackers``."""
    options: dict[str, Any] = {}
    """What the tracker takes as keywords, besides the run directory: docs/metrics.md."""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Tracking(Block):
    """What keeps metrics and rollouts, beside metrics.jsonl. A name or a list is short for ``trackers``:
    ``tracking: [wandb, {name: mlflow, options: {experiment: sums}}]``."""

    rollouts: bool = True
    """Write every rollout to rollouts/*.parquet."""
    trackers: list[TrackerSpec] = []
    """Where the metrics of each step go as well."""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        if isinstance(value, list | str):
            return {"trackers": [value] if isinstance(value, str) else value}
        if isinstance(value, dict) and isinstance(value.get("tensorboard"), bool):  # of earlier versions
            rest = {key: one for key, one in value.items() if key != "tensorboard"}
            added = ["tensorboard"] if value["tensorboard"] else []
            return {**rest, "trackers": [*rest.get("trackers", []), *added]}
        return value

    @field_validator("trackers")
    @classmethod
    def each_is_there_once(cls, trackers: list[TrackerSpec]) -> list[TrackerSpec]:
        seen = {"jsonl": "metrics.jsonl is always written", "rollouts": "that is tracking.rollouts"}
        for one in trackers:
            if one.name in seen:
                raise ValueError(f"{one.name} is not for this list: {seen[one.name]}")
            seen[one.name] = "it is in there already"
        return trackers


class Resources(Block):
    threads: Processes | None = None
    """CPU threads of each rank of the learner; null: the cores that the process may use, shared out."""
    learner_gpus: Annotated[CountOrZero, AtMost(1, "a rank of the learner works on one GPU")] | None = None
    """GPUs that Ray sets aside for each rank of the learner, 0 or 1; null: 1 when the cluster has one. With 0
    it has none to itself and works on the first one that its process sees, beside the vLLM engine there: that
    is how they share one GPU, with a rollout.vllm.gpu_memory_utilization that leaves the learner its memory
    (0.3, for instance). A cluster of one's own with an older Ray must then have been started with
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 in its environment, or Ray hides the GPUs from the learner."""
    call_timeout: Seconds | None = None
    """Seconds to wait for an answer of the learner or of an engine before the run is ended, to be resumed;
    null: 20 times the longest such call of the run, at least 10 minutes, and an hour for the first."""
    address: str | None = None
    """Ray cluster; RAY_ADDRESS, else a local Ray, when null."""


METHOD: dict[str, dict[str, Any]] = {
    "batch": {"prompts": 256, "group_size": 2},
    "selection": {"headroom": 1.0},
    "learner": {"baseline": {"type": "belief"}, "min_advantage": 0.5},
}
"""What goes unsaid where ``hybrid`` chooses by Thompson sampling, and no other baseline is asked for: pairs,
each rollout compared with what was believed of its prompt (docs/baseline.md)."""


class Recipe(Block):
    """One training run."""

    name: Name
    """Name of the run; the recipe file's own name where the file has no such key. Its directory is
    runs/NAME-TIMESTAMP, if --run-dir does not name another."""
    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    seed: Seed = 0
    """All randomness of the run is keyed by it."""
    steps: Count
    """Updates, at most; the learning-rate schedule spans them."""
    max_rollouts: Count | None = None
    """Stop after the step in which so many rollouts have been generated; null: after ``steps``."""
    policy: Policy
    """What is trained."""
    data: Data
    """Where prompts come from, and how they are put to the policy."""
    batch: Batch = Batch()
    """Groups a step, and rollouts a group."""
    rollout: Rollouts = Rollouts()
    """How completions are generated."""
    reward: RewardSpec = MathReward()
    """How completions are scored."""
    verification: Verification = Verification()
    """The processes that score."""
    estimator: EstimatorSpec = HybridEstimator()
    """What is believed about prompts. Where hybrid chooses by selection thompson, and no other baseline is
    asked for, what else goes unsaid makes the recommended method: 256 pairs a step, learner.baseline belief,
    learner.min_advantage 0.5 and selection.headroom 1."""
    selection: Selection = ThompsonSelection()
    """Which prompts are rolled out."""
    learner: Learner = Learner()
    """How the policy is updated."""
    evaluation: Evaluation = Evaluation()
    """What is measured before, during and after training."""
    guards: Guards = Guards()
    """When a run that learns nothing, or diverges, warns and ends."""
    checkpoint: Checkpoints = Checkpoints()
    """How often the run is saved, and how much is kept."""
    tracking: Tracking = Tracking()
    """Where metrics and rollouts go."""
    resources: Resources = Resources()
    """Threads, GPUs and the Ray cluster."""

    @property
    def graded_on(self) -> Literal["informative", "pass_rate"]:
        """What predictions are held against (see ``depo.selection.gate``)."""
        alone = isinstance(self.learner.baseline, BeliefBaseline) or self.batch.group_size == 1
        return "pass_rate" if alone else "informative"

    @property
    def contrast(self) -> int:
        """The number of rollouts for which ``p_informative`` is asked: the group, or its pilots. Where each
        rollout stands alone, two: p_informative is then 2p(1 − p), twice the variance of a reward, and the
        square of the expected update grows with that."""
        group = self.selection.pilot or self.batch.group_size
        return group if self.graded_on == "informative" else 2

    @property
    def context_length(self) -> int:
        """Longest sequence this recipe allows, in tokens."""
        return self.data.max_prompt_tokens + self.rollout.max_new_tokens

    @model_validator(mode="before")
    @classmethod
    def hybrid_is_a_whole_method(cls, value: Any) -> Any:
        """Fill in `METHOD`. ``batch.prompts`` follows the group size: who sets one of them sets both."""
        if not isinstance(value, dict):
            return value
        said = {key: value.get(key, {}) for key in ("estimator", *METHOD)}
        if not all(isinstance(block, dict) for block in said.values()):
            return value  # built of blocks that have their defaults
        types = [
            said["estimator"].get("type", "hybrid"),
            said["selection"].get("type", "thompson"),
            type_of(said["learner"].get("baseline", "belief")),
        ]
        if types != ["hybrid", "thompson", "belief"]:
            return value
        filled = {key: unsaid | said[key] for key, unsaid in METHOD.items()}
        if "group_size" in said["batch"] and "prompts" not in said["batch"]:
            del filled["batch"]["prompts"]
        filled["selection"]["type"] = "thompson"
        return value | filled

    @model_validator(mode="after")
    def minibatches_divide_prompts(self) -> Self:
        if self.batch.prompts % self.learner.minibatches:
            raise ValueError(
                f"batch.prompts {self.batch.prompts} must be divisible by learner.minibatches "
                f"{self.learner.minibatches}"
            )
        return self

    @model_validator(mode="after")
    def engine_and_learner_can_overlap(self) -> Self:
        ahead, learner_gpus = self.rollout.max_off_policy_steps, self.resources.learner_gpus
        if not ahead:
            return self
        needs = f"rollout.max_off_policy_steps {ahead} needs engines that work while the learner does"
        if self.rollout.engine == "transformers":
            raise ValueError(
                f"{needs}: rollout.engine transformers is the learner's own process; set rollout.engine "
                "vllm, or max_off_policy_steps 0"
            )
        if learner_gpus == 0 and self.learner.device != "cpu":
            raise ValueError(
                f"{needs}: with resources.learner_gpus 0 they share a GPU; set it to 1, or "
                "max_off_policy_steps 0"
            )
        return self

    @model_validator(mode="after")
    def context_fits(self) -> Self:
        limits: dict[str, int | None] = {}
        if self.rollout.engine == "vllm":
            limits["rollout.vllm.max_model_len"] = self.rollout.vllm.max_model_len
        if isinstance(self.policy, TinyMoePolicy):
            limits["policy.max_positions"] = self.policy.max_positions
        for key, limit in limits.items():
            if limit is not None and self.context_length > limit:
                raise ValueError(
                    f"data.max_prompt_tokens + rollout.max_new_tokens = {self.context_length} exceeds "
                    f"{key} {limit}"
                )
        return self

    @model_validator(mode="after")
    def selection_has_beliefs(self) -> Self:
        if self.selection.type != "uniform" and self.estimator.type == "uniform":
            raise ValueError(
                f"selection.type {self.selection.type} needs an estimator; estimator.type is uniform"
            )
        return self

    @model_validator(mode="after")
    def baseline_has_what_it_needs(self) -> Self:
        believed = isinstance(self.learner.baseline, BeliefBaseline)
        if believed and self.estimator.type in ("uniform", "greso"):
            raise ValueError(
                "learner.baseline belief needs an estimator of pass rates, such as hybrid or mopps; "
                f"estimator.type is {self.estimator.type}"
            )
        if self.batch.group_size == 1 and isinstance(self.learner.baseline, GroupBaseline):
            raise ValueError(
                "batch.group_size 1 needs learner.baseline belief: a single rollout has no group to be "
                "compared with"
            )
        return self

    @model_validator(mode="after")
    def estimator_uses_what_the_policy_shows(self) -> Self:
        if self.selection.prefill_probe and self.estimator.type not in ("hybrid", "plugin"):
            raise ValueError(
                "selection.prefill_probe true needs estimator.type hybrid, which makes use of what the "
                f"policy shows; estimator.type is {self.estimator.type}"
            )
        return self

    @model_validator(mode="after")
    def pilots_are_part_of_a_group(self) -> Self:
        pilot, size = self.selection.pilot, self.batch.group_size
        if pilot and not 2 <= pilot < size:
            raise ValueError(
                f"selection.pilot {pilot} must be at least 2, to be mixed, and smaller than batch.group_size "
                f"{size}; 0 is for no pilots"
            )
        return self

    @model_validator(mode="after")
    def candidates_fill_a_batch(self) -> Self:
        rule = self.selection
        chosen = rule.candidates if isinstance(rule, RuleSelection) else "auto"
        if chosen != "auto" and chosen < self.batch.prompts:
            raise ValueError(
                f"selection.candidates {chosen} must be at least batch.prompts "
                f"{self.batch.prompts}: a round is chosen among them"
            )
        return self

    @model_validator(mode="after")
    def grading_is_possible(self) -> Self:
        generated = isinstance(self.data.train, ArithmeticSource)
        exact = isinstance(self.reward, ExactReward)
        whole = isinstance(self.reward, ExactReward) and self.reward.after is None
        if self.data.grade is not None:
            if not (generated and exact):
                raise ValueError("data.grade needs data.train.type arithmetic and reward.type exact")
            if not whole and not self.data.grade.samples:
                raise ValueError(
                    "data.grade needs samples above 0 with reward.after: the probability of an answer behind "
                    "some work cannot be computed"
                )
        if isinstance(self.policy, TinyMoePolicy):
            if self.data.grade is None:
                raise ValueError(
                    "policy.type tiny_moe needs data.grade: its pool is composed after the warm start"
                )
            assert isinstance(self.data.train, ArithmeticSource)
            assert isinstance(self.reward, ExactReward)
            written = self.policy.warm_start.written
            if self.reward.after != ("#" if written else None):
                raise ValueError(
                    'policy.warm_start.written needs reward.after "#", and answers alone a reward without it'
                )
            if self.data.train.phrasing != ("columns" if written else "digits"):
                raise ValueError(
                    "policy.type tiny_moe needs data.train.phrasing columns with policy.warm_start.written, "
                    "and else digits: its tokenizer knows no words"
                )
        if self.evaluation.method == "exact" and not whole:
            raise ValueError("evaluation.method exact needs reward.type exact, without after")
        oracle = self.estimator if isinstance(self.estimator, OracleEstimator) else None
        if oracle is not None and oracle.live and not oracle.samples and not whole:
            raise ValueError(
                "estimator.live of the oracle needs reward.type exact, without after, or estimator.samples"
            )
        return self

    @model_validator(mode="after")
    def rewards_fit(self) -> Self:
        limit = self.rollout.max_new_tokens
        check_judge("reward", self.reward, "data.train", self.data.train)
        check_buffers("reward", self.reward, "rollout.max_new_tokens", limit)
        for index, one in enumerate(self.evaluation.sets):
            key, own = f"evaluation.sets.{index}", one.reward
            if own is None or self.evaluation.method == "exact":  # which asks for the gold answer itself
                check_judge("reward", self.reward, f"{key}.source", one.source)
            else:
                check_judge(f"{key}.reward", own, f"{key}.source", one.source)
                check_buffers(f"{key}.reward", own, "rollout.max_new_tokens", limit)
        return self


Recipe.model_rebuild()


def type_of(block: Any) -> Any:
    """Of a block that is written out, built, or a bare name."""
    return block.get("type") if isinstance(block, dict) else getattr(block, "type", block)

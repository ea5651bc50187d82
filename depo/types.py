"""What flows through one training step: Prompt → Request → Rollout → Group → TrainSample.

Shapes use these letters: P prompts, G rollouts of one group, T completion tokens, L tokens of a whole sample.
Plain dataclasses, no torch: they travel between Ray actors and are written to Parquet as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from depo.reward.base import Sample, Score


class Origin(StrEnum):
    """Why a rollout was asked for."""

    SELECTED = "selected"  # the selector's choice, first round of a step
    AUDIT = "audit"  # drawn uniformly from the pool to grade the estimator
    REFILL = "refill"  # the selector's choice in a later round, replacing groups that were not informative
    EVAL = "eval"  # evaluation


class Outcome(StrEnum):
    """What a rollout was worth. Every generated rollout has exactly one."""

    TRAINED = "trained"
    ZERO_VARIANCE = "zero_variance"  # its group was all right or all wrong
    SURPLUS = "surplus"  # its group was informative, but the batch was already full
    NEGLIGIBLE = "negligible"  # its advantage was below learner.min_advantage, and it was not drawn
    UNSCORABLE = "unscorable"  # verification timed out or crashed
    CANCELLED = "cancelled"  # it was made ahead, and the run ended before its step
    STALE = "stale"  # its group has a rollout of a policy older than rollout.max_off_policy_steps allows
    LOST = "lost"  # it was under way in an engine that died


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem of the pool.

    ``key`` is the SHA-256 (hex) of the normalised ``text``. ``text`` is the problem as the data set
    states it (what an estimator reads); ``token_ids`` is what the engine is given, with template and
    chat format applied. ``prior`` is a pass rate in [0, 1] that the data set brings along, if any.
    """

    key: str
    text: str
    token_ids: tuple[int, ...]
    reference: str
    prior: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """``n`` completions of one prompt, sample indices ``first_index … first_index + n − 1``.

    ``seeds`` (n,) are 64-bit and keyed by (run seed, purpose, step, prompt key, sample index), so that
    a sample does not depend on what else is in the batch or in which order it runs. ``tokens``: expected of a
    completion; None: nothing is known.
    """

    prompt: Prompt
    seeds: tuple[int, ...]
    first_index: int = 0
    tokens: float | None = None

    @property
    def n(self) -> int:
        return len(self.seeds)

    def single(self, start: int = 0, end: int | None = None) -> list[Request]:
        """Each completion by itself, of those from ``start`` to ``end`` in this request."""
        return [
            Request(self.prompt, (seed,), self.first_index + offset, self.tokens)
            for offset, seed in enumerate(self.seeds[start:end], start)
        ]


@dataclass(slots=True)
class Rollout:
    """One sampled completion.

    ``token_ids`` (T,) int32 includes the end token when one was produced. ``logprobs`` (T,) float32 are
    the engine's log-probabilities of those tokens under the distribution they were drawn from.
    ``finish_reason`` is "stop" (end token) or "length" (cut at the limit). ``routes`` (T − 1, L, K), uint8 or
    uint16, are the K experts that each of the L routed layers chose for all tokens but the last, which is
    never fed back; None where they were not asked for.
    """

    key: str
    index: int
    seed: int
    token_ids: np.ndarray
    logprobs: np.ndarray
    finish_reason: str
    policy_version: int
    routes: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Pick:
    """A prompt chosen for this step, with what was believed about it when it was chosen.

    ``uniform`` says that the prompt was drawn uniformly from the pool, so that its outcome is an
    unbiased sample (audit slice, warm-up, failed-open selection, or no estimator at all).
    ``propensity`` is the probability of this pick by the uniform draw alone; NaN where unknown.
    ``features`` (F,) are the prefill probe of the prompt at that time, where it was asked for.
    ``predicted_mean`` and ``predicted_sd`` are of its pass rate. All that is predicted is NaN where no
    estimate was made.
    """

    prompt: Prompt
    origin: Origin
    selector: str
    uniform: bool
    propensity: float
    predicted_mean: float
    predicted_informative: float
    features: np.ndarray | None = None
    predicted_sd: float = math.nan


@dataclass(slots=True)
class Group:
    """The G rollouts of one pick, in sample order, with their scores.

    ``advantages`` (G,) are filled once it is verified; ``left_out`` are the indices of rollouts whose
    advantage is small and that are not trained on. ``learner_logprobs`` (G arrays of (T,)) are of trained
    groups only.
    """

    pick: Pick
    rollouts: list[Rollout]
    scores: list[Score]
    completions: list[str]
    outcome: Outcome | None = None
    advantages: np.ndarray | None = None
    left_out: frozenset[int] = frozenset()
    learner_logprobs: list[np.ndarray | None] | None = None

    @classmethod
    def zip(
        cls,
        picks_P: Sequence[Pick],
        rollouts_PG: Sequence[list[Rollout]],
        samples_PG: Sequence[Sequence[Sample]],
        scores: Sequence[Score],
    ) -> list[Group]:
        """P groups out of parallel lists; ``scores`` is flat, of length P·G, in sample order."""
        flat = iter(scores)
        return [
            cls(
                pick,
                rollouts_G,
                [next(flat) for _ in rollouts_G],
                [sample.completion for sample in samples_G],
            )
            for pick, rollouts_G, samples_G in zip(picks_P, rollouts_PG, samples_PG, strict=True)
        ]

    def extend(self, more: Group) -> None:
        """Add the further rollouts of the same pick."""
        self.rollouts += more.rollouts
        self.scores += more.scores
        self.completions += more.completions

    @property
    def policy_version(self) -> int:
        """The oldest that made one of its rollouts."""
        return min(rollout.policy_version for rollout in self.rollouts)

    @property
    def correct(self) -> list[bool]:
        """Verdicts of the scorable rollouts only."""
        return [score.correct for score in self.scores if score.correct is not None]

    @property
    def successes(self) -> int:
        return sum(self.correct)

    @property
    def trials(self) -> int:
        return len(self.correct)

    @property
    def mixed(self) -> bool:
        """Some are right and some are wrong: by the verdicts, never by a shaped reward's noise."""
        verdicts = {score.correct for score in self.scores}
        return True in verdicts and False in verdicts

    @property
    def informative(self) -> bool:
        """Some rollout has an advantage to train on. Before advantages are there: whether it is mixed."""
        if self.advantages is None:
            return self.mixed
        return any(i not in self.left_out for i in np.flatnonzero(self.advantages))

    @property
    def signal(self) -> float:
        """What there is to learn from it: Σ A² over the rollouts that are not left out."""
        if self.advantages is None:
            return 0.0
        kept = [i for i in range(len(self.advantages)) if i not in self.left_out]
        return float(np.square(self.advantages[kept], dtype=np.float64).sum())

    def outcome_of(self, index: int) -> Outcome:
        """Outcome of one rollout: the group's, except for one that is unscorable or left out."""
        if self.scores[index].correct is None:
            return Outcome.UNSCORABLE
        assert self.outcome is not None
        if self.outcome == Outcome.TRAINED and index in self.left_out:
            return Outcome.NEGLIGIBLE
        return self.outcome

    @property
    def mean_logprob(self) -> float:
        """Mean token log-probability over the group, nats per token."""
        total = sum(float(rollout.logprobs.sum()) for rollout in self.rollouts)
        tokens = sum(len(rollout.token_ids) for rollout in self.rollouts)
        return total / max(tokens, 1)


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One sequence of L tokens, and which of them the policy is trained on.

    A prompt with its completion is the case in which ``loss_mask`` is a suffix. Several turns are one sample
    too: the policy's own tokens are trained on, those of the tools that answer it are not. An update takes a
    sequence of samples; its mini-batches never split a ``group``.
    """

    token_ids: np.ndarray  # [L] int32
    loss_mask: np.ndarray  # [L] bool, True on tokens that are trained on; never on the first
    logprobs: np.ndarray  # [L] float32, the engine's, nats; without meaning where the mask is False
    advantage: float | np.ndarray = 0.0  # one for all trained tokens, or [L] float32
    group: int = 0  # index of its group in the update
    index: int = 0  # its place among the rollouts of its group
    key: str = ""  # of its prompt
    policy_version: int = 0
    routes: np.ndarray | None = None
    """[n, layers, K] uint8 or uint16: experts of the n tokens that end with the last but one, as in
    ``Rollout``. n is L − 1, or what follows the prompt: L − 1 − ``start``. None where none were recorded."""

    @classmethod
    def of_completion(
        cls,
        prompt_ids: Sequence[int] | np.ndarray,
        completion_ids: Sequence[int] | np.ndarray,
        logprobs: np.ndarray | None = None,
        **fields: Any,
    ) -> TrainSample:
        """A prompt (P,) and a completion (T,), all of which is trained on; ``logprobs`` (T,), default 0."""
        prompt, completion = len(prompt_ids), len(completion_ids)
        values = np.zeros(completion, dtype=np.float32) if logprobs is None else logprobs
        return cls(
            token_ids=np.concatenate(
                [np.asarray(prompt_ids, np.int32), np.asarray(completion_ids, np.int32)]
            ),
            loss_mask=np.arange(prompt + completion) >= prompt,
            logprobs=np.concatenate([np.zeros(prompt, dtype=np.float32), values]),
            **fields,
        )

    @property
    def start(self) -> int:
        """Position of the first trained token: L where there is none."""
        return int(self.loss_mask.argmax()) if self.loss_mask.any() else len(self.loss_mask)

    @property
    def trained(self) -> int:
        """Number T of trained tokens."""
        return int(np.count_nonzero(self.loss_mask))

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(slots=True)
class UpdateResult:
    """What an update gives back: scalar metrics, and old log-probabilities of each sample's trained tokens (N
    arrays of (T,)) as the learner computed them before its first optimizer step. ``layers``: routing by name,
    a value for each routed layer."""

    metrics: dict[str, float] = field(default_factory=dict)
    old_logprobs: Sequence[np.ndarray] = ()
    layers: dict[str, list[float]] = field(default_factory=dict)

    @property
    def policy_kl(self) -> float:
        """Nats a token from the policy before to the one after; 0 where that is unknown: not measured, or not
        finite, as in a step that was skipped for it."""
        measured = self.metrics.get("policy_kl", 0.0)
        return measured if math.isfinite(measured) else 0.0

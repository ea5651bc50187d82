"""What a run watches after each step; docs/reliability.md says what each guard means and what to do."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ValidationInfo, field_validator, model_validator

from depo.recipe.schema.block import Block, Count, NonNegative


class Guard(Block):
    """A figure that is looked at after every step. Steps at or beyond the limit are counted while they follow
    one another; a step without the figure, such as one without an update, neither counts nor interrupts."""

    limit: NonNegative
    """From this value on a step counts."""
    warn: Count = 3
    """Such steps in a row until the run warns."""
    end: Count | None = 20
    """Such steps in a row until the run ends with exit status 1; null: it only warns."""

    @model_validator(mode="after")
    def warns_first(self) -> Self:
        if self.end is not None and self.end < self.warn:
            raise ValueError(f"end {self.end} must be at least warn {self.warn}: a run is warned first")
        return self


class RelativeGuard(Guard):
    """A guard whose figure is measured against what this run had before."""

    window: Count
    """What the comparison is made of. Of ``reward_collapse``: newest uniformly drawn groups. Of the others:
    the first updates, whose median is the level; until then the guard is silent."""


class Guards(Block):
    """When a run warns, and when it ends. Every guard can be switched off (``guards.truncated=null``), or
    made one that only warns (``guards.truncated.end=null``). A key that is not given keeps its default."""

    truncated: Guard | None = Guard(limit=0.95, warn=3, end=20)
    """Share of completions that were cut off at rollout.max_new_tokens."""
    unparseable: Guard | None = Guard(limit=0.95, warn=3, end=20)
    """Share of completions without a readable answer."""
    unscorable: Guard | None = Guard(limit=0.1, warn=1, end=None)
    """Share of completions without a verdict."""
    no_verdict: Guard | None = Guard(limit=0.5, warn=2, end=5)
    """The same share, where it is so large that the run must end."""
    reward_collapse: RelativeGuard | None = RelativeGuard(limit=0.5, warn=3, end=20, window=96)
    """Pass rate of uniformly drawn prompts, as a share of its best level so far. Prompts that a rule chose
    do not count. The upper end of its 95 % interval is compared with the lower end of the best one."""
    no_signal: Guard | None = Guard(limit=1.0, warn=3, end=20)
    """Share of groups without an advantage to train on: all right, all wrong, or just as expected."""
    entropy_collapse: RelativeGuard | None = RelativeGuard(limit=0.05, warn=5, end=50, window=10)
    """Entropy of the trained tokens, as a share of its level at the start."""
    entropy_explosion: RelativeGuard | None = RelativeGuard(limit=8.0, warn=3, end=20, window=10)
    """The same, upwards."""
    mismatch_kl: Guard | None = Guard(limit=0.2, warn=3, end=20)
    """KL between learner and engine on the trained tokens, in nats a token."""
    clip_fraction: Guard | None = Guard(limit=0.7, warn=5, end=20)
    """Share of trained tokens whose ratio lies outside the clip range."""
    grad_norm: RelativeGuard | None = RelativeGuard(limit=25.0, warn=3, end=10, window=10)
    """Gradient norm before clipping, as a multiple of its level at the start."""
    policy_kl: Guard | None = Guard(limit=1.0, warn=1, end=10)
    """KL from the policy before an update to the one after it, in nats a token."""
    skipped_updates: Guard | None = Guard(limit=0.01, warn=1, end=None)
    """Share of an update's optimizer steps that were left out, as their gradient was not finite."""
    not_finite: Guard | None = Guard(limit=1.0, warn=3, end=10)
    """The same share, where nothing of the update is left."""
    no_gradient: Guard | None = Guard(limit=1e-8, warn=3, end=10)
    """Gradient norm before clipping: the policy answers to nothing any more."""
    frozen_policy: Guard | None = Guard(limit=0.01, warn=3, end=10)
    """Share of watched weights that an update changed."""
    routing_collapse: Guard | None = Guard(limit=1.0, warn=1, end=None)
    """1 while some layers of a mixture of experts use less than half of the experts that they began with."""

    @field_validator("*", mode="before")
    @classmethod
    def keeps_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[str(info.field_name)].default
        return default.model_dump() | value if isinstance(value, dict) else value

"""The contract of a difficulty estimator: text and counts in, a belief about the pass rate out.

Estimators *believe*; which prompts to roll out is the selector's business. N is the number of
candidates, F of features, G the group size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True)
class Rescored:
    """Answers that the policy gave to a prompt before, and how likely they are today: the probability of
    those that were right, and of those that were wrong, each answer counted once. The rest of 1 is what it
    might answer otherwise."""

    right: float
    wrong: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt that might be rolled out. ``prior``: a pass rate in [0, 1] the data set brings along."""

    key: str
    text: str
    prior: float | None = None
    features: np.ndarray | None = None  # (F,)
    rescored: Rescored | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """When the question is asked: group size G, policy step, KL travelled since the start (nats)."""

    group_size: int
    step: int
    kl_travelled: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """A finished group: ``successes`` of ``trials`` scorable rollouts were correct."""

    key: str
    text: str
    successes: int
    trials: int
    step: int
    mean_logprob: float = float("nan")
    origin: str = "selected"
    propensity: float = float("nan")
    prior: float | None = None  # the candidate's, when the prompt was picked
    features: np.ndarray | None = None  # the candidate's, when the prompt was picked
    rescored: Rescored | None = None  # the same


@dataclass(frozen=True, slots=True)
class Estimates:
    """Beliefs about N candidates; float64 arrays of shape (N,).

    ``mean`` and ``sd`` describe the success probability p. ``p_all_wrong`` = E[(1−p)^G], ``p_all_right``
    = E[p^G], and ``p_informative`` = 1 − both: the probability that a group has any advantage at all.
    ``sample(rng)`` draws p of shape (N,) from the belief, independently between prompts.
    """

    mean: np.ndarray
    sd: np.ndarray
    p_informative: np.ndarray
    p_all_wrong: np.ndarray
    p_all_right: np.ndarray
    sample: Callable[[np.random.Generator], np.ndarray]


@dataclass(slots=True)
class State:
    """What an estimator remembers: JSON values and named arrays (written as safetensors). Never pickle."""

    schema_version: int
    values: Mapping[str, object] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@runtime_checkable
class Prepares(Protocol):
    """An estimator that can do expensive parts of ``predict`` ahead of time."""

    def prepare(self, candidates: Sequence[Candidate], step: int) -> None:
        """Called while the learner updates, with candidates of the coming ``step``. Changes no prediction."""
        ...


class Estimator(Protocol):
    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates: ...

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """Learn from finished groups; returns metrics to log."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...

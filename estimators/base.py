"""The contract of a difficulty estimator: text and counts in, a belief about the pass rate out.

Estimators *believe*; the selector chooses. An estimator made of parts keeps one `State`, in which each part
has a prefix (``joined``, ``part``). N is the number of candidates, F of features, G the group size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt that might be rolled out. ``prior``: a pass rate in [0, 1] the data set brings along."""

    key: str
    text: str
    prior: float | None = None
    features: np.ndarray | None = None  # (F,)


def recorded_rate(prompt: Candidate | Observation) -> float | None:
    """Its ``prior``. Raises ValueError when that is NaN or outside [0, 1]."""
    if prompt.prior is not None and not 0 <= prompt.prior <= 1:
        raise ValueError(f"prompt {prompt.key}: prior must lie in [0, 1], found {prompt.prior}")
    return prompt.prior


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

    def require_version(self, expected: int, owner: str) -> None:
        """Raises ValueError for the state of another version; ``owner`` is what the message calls it."""
        if self.schema_version != expected:
            raise ValueError(f"{owner}: state has schema_version {self.schema_version}, expected {expected}")


class Estimator(Protocol):
    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates: ...

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """Learn from finished groups; returns metrics to log."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def joined(own: State, parts: Mapping[str, State]) -> State:
    """``own`` with every part's version, values and arrays added under ``NAME/…``."""
    values, arrays = dict(own.values), dict(own.arrays)
    for name, state in parts.items():
        values[f"{name}/schema_version"] = state.schema_version
        values |= {f"{name}/{key}": value for key, value in state.values.items()}
        arrays |= {f"{name}/{key}": array for key, array in state.arrays.items()}
    return State(own.schema_version, values, arrays)


def part(state: State, name: str) -> State:
    """The part stored under ``name``. Raises ValueError when there is none."""
    prefix = f"{name}/"
    if f"{prefix}schema_version" not in state.values:
        raise ValueError(f"state holds no part {name!r}")
    values = {
        key.removeprefix(prefix): value for key, value in state.values.items() if key.startswith(prefix)
    }
    arrays = {
        key.removeprefix(prefix): array for key, array in state.arrays.items() if key.startswith(prefix)
    }
    return State(int(str(values.pop("schema_version"))), values, arrays)


def tally(observations: Sequence[Observation]) -> dict[str, tuple[int, int]]:
    """Successes and trials by prompt key, in order of first appearance.

    Groups of one prompt in the same call are added up, so that their order does not matter. Groups
    without a scorable rollout (trials 0) say nothing and are left out. Raises ValueError for counts that
    cannot be: negative, not whole, or more successes than trials.
    """
    counts: dict[str, tuple[int, int]] = {}
    for observation in observations:
        successes, trials = observation.successes, observation.trials
        if not 0 <= successes <= trials or successes != int(successes) or trials != int(trials):
            raise ValueError(
                f"prompt {observation.key}: successes and trials must be whole numbers with "
                f"0 <= successes <= trials, found {successes} of {trials}"
            )
        if trials:
            earlier = counts.get(observation.key, (0, 0))
            counts[observation.key] = (earlier[0] + int(successes), earlier[1] + int(trials))
    return counts

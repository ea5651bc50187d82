"""What every rollout was worth: where it came from, what became of it, and what choosing prompts saved.

Each generated rollout has one origin and one outcome; both breakdowns add up to what was generated, in
rollouts and in tokens. Evaluation is counted apart. An *effective group* is informative
and was trained on: surplus groups are informative too, but nobody learned from them, so they count as waste.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depo.report.statistics import wilson_interval
from depo.types import Group, Origin, Outcome, Prompt

SCHEMA_VERSION = 3

TRAINING_ORIGINS = (Origin.SELECTED, Origin.AUDIT, Origin.REFILL)

UNGROUPED = (Outcome.CANCELLED, Outcome.LOST)

TWO_SIDED = 1.959963984540054  # standard errors of a 95 % interval
RECENT_VERSIONS = 2  # policy versions for which recorded rollouts are remembered, to catch double recording


@dataclass(frozen=True, slots=True)
class Saved:
    """Rollouts saved against uniform sampling, with their 95 % interval; None while no uniformly drawn
    group has been informative, as then nothing is known about what uniform sampling would have needed."""

    rollouts: float | None
    low: float | None
    high: float | None


class Ledger:
    """``group_size`` is G, the rollouts that one group would cost under uniform sampling. ``by_signal``: a
    group is worth its Σ A², as where single rollouts teach more or less; else it is effective or not.
    ``epochs``: how often an update goes through what it trains on."""

    def __init__(self, group_size: int, by_signal: bool = False, epochs: int = 1) -> None:
        self.group_size = group_size
        self.by_signal = by_signal
        self.epochs = epochs
        self.signal = {"trained": 0.0, "uniform": 0.0, "uniform_squares": 0.0}  # of uniform groups: sums
        self.rollouts: Counter[tuple[Origin, Outcome]] = Counter()
        self.tokens: Counter[tuple[Origin, Outcome]] = Counter()
        self.evaluation: Counter[str] = Counter()  # rollouts, tokens
        self.groups: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.probed_tokens = 0
        self.visits: Counter[str] = Counter()  # groups by prompt key
        self._recorded: dict[int, set[tuple[str, int, int]]] = {}  # by policy version

    # ------------------------------------------------------------ recording

    def record(self, groups: Sequence[Group]) -> None:
        """Count finished groups, all of them or none. Raises ValueError when a group has no outcome, when
        its scores do not match its rollouts, or when a rollout has been recorded before."""
        new: dict[int, set[tuple[str, int, int]]] = {}
        for group in groups:
            key = group.pick.prompt.key
            if group.outcome is None:
                raise ValueError(f"prompt {key}: the group has no outcome; assign it before recording")
            if group.pick.origin not in TRAINING_ORIGINS:
                raise ValueError(f"prompt {key}: origin {group.pick.origin} is not recorded as training")
            if len(group.rollouts) != len(group.scores):
                raise ValueError(f"prompt {key}: {len(group.rollouts)} rollouts, {len(group.scores)} scores")
            for rollout in group.rollouts:
                identity, version = (rollout.key, rollout.index, rollout.seed), rollout.policy_version
                if identity in new.setdefault(version, set()) or identity in self._recorded.get(version, ()):
                    raise ValueError(f"prompt {key}: rollout {rollout.index} is recorded twice")
                new[version].add(identity)
        for group in groups:
            self._record_group(group)
        for version, identities in new.items():
            self._recorded.setdefault(version, set()).update(identities)
        for version in sorted(self._recorded)[:-RECENT_VERSIONS]:
            del self._recorded[version]

    def _record_group(self, group: Group) -> None:
        origin = group.pick.origin
        for index, rollout in enumerate(group.rollouts):
            self.rollouts[origin, group.outcome_of(index)] += 1
            self.tokens[origin, group.outcome_of(index)] += len(rollout.token_ids)
        self.prompt_tokens += len(group.pick.prompt.token_ids)
        self.visits[group.pick.prompt.key] += 1
        self.groups["generated"] += 1
        self.groups["informative"] += group.informative
        self.groups["effective"] += group.informative and group.outcome == Outcome.TRAINED
        if group.outcome == Outcome.TRAINED:
            self.signal["trained"] += group.signal
        if group.pick.uniform:  # without verdicts as well: uniform sampling would have paid for it, too
            self.groups["uniform"] += 1
            self.groups["uniform_informative"] += group.informative
            self.signal["uniform"] += group.signal
            self.signal["uniform_squares"] += group.signal**2

    def record_ungrouped(self, origin: Origin, outcome: Outcome, rollouts: int, tokens: int) -> None:
        """Count rollouts that were generated, at least in part, and make no group: cancelled on purpose, or
        lost with their engine. Raises ValueError for other outcomes, and for evaluation."""
        if outcome not in UNGROUPED:
            raise ValueError(f"outcome {outcome} is recorded with its group")
        if origin not in TRAINING_ORIGINS:
            raise ValueError(f"origin {origin} is not recorded as training")
        self.rollouts[origin, outcome] += rollouts
        self.tokens[origin, outcome] += tokens

    def record_probe(self, prompts: Sequence[Prompt]) -> None:
        """Count the prefill of candidates that are looked at before some of them are chosen."""
        self.probed_tokens += sum(len(prompt.token_ids) for prompt in prompts)

    def record_evaluation(self, rollouts: int, tokens: int) -> None:
        """Count rollouts outside training."""
        self.evaluation.update(rollouts=rollouts, tokens=tokens)

    # ------------------------------------------------------------ reading

    def cost(self) -> dict[str, float | None]:
        """What one effective group has cost so far, in rollouts and in generated tokens; None before the
        first."""
        effective = self.groups["effective"]
        return {
            "rollouts_per_effective_group": ratio(self.generated, effective),
            "tokens_per_effective_group": ratio(self.generated_tokens, effective),
        }

    @property
    def generated(self) -> int:
        """Rollouts."""
        return sum(self.rollouts.values())

    @property
    def generated_tokens(self) -> int:
        return sum(self.tokens.values())

    @property
    def trained_tokens(self) -> int:
        """Once for each epoch."""
        trained = (n for (_, outcome), n in self.tokens.items() if outcome == Outcome.TRAINED)
        return sum(trained) * self.epochs

    @property
    def prefilled_tokens(self) -> int:
        """Of each group's prompt once, and of the candidates that were probed."""
        return self.prompt_tokens + self.probed_tokens

    @property
    def prompts_seen(self) -> int:
        """Distinct prompts with at least one group."""
        return len(self.visits)

    def saved(self) -> Saved:
        """What uniform sampling would have needed for as many effective groups, at the rate of informative
        groups among all uniformly drawn ones, minus what was generated:

            saved = G · effective / rate − generated

        The interval is that of the rate (Wilson, 95 %): the larger the rate, the less was saved. By signal,
        Σ A² of all trained groups stands for the effective ones, and its mean over uniformly drawn groups for
        the rate, with a normal interval.
        """
        drawn, informative = self.groups["uniform"], self.groups["uniform_informative"]
        if self.by_signal:
            if drawn < 2 or not self.signal["uniform"]:
                return Saved(None, None, None)
            mean = self.signal["uniform"] / drawn
            variance = max(self.signal["uniform_squares"] / drawn - mean**2, 0.0)
            error = TWO_SIDED * math.sqrt(variance / (drawn - 1))
            if error >= mean:
                return Saved(None, None, None)
            needed = self.group_size * self.signal["trained"]
            at = [needed / rate - self.generated for rate in (mean, mean + error, mean - error)]
            return Saved(*at)
        if not informative:
            return Saved(None, None, None)
        low_rate, high_rate = wilson_interval(informative, drawn)
        needed = self.group_size * self.groups["effective"]
        return Saved(
            rollouts=needed * drawn / informative - self.generated,
            low=needed / high_rate - self.generated,
            high=needed / low_rate - self.generated,
        )

    def summary(self) -> dict[str, Any]:
        """Everything above as JSON values; every origin and outcome is named, also those with 0."""
        saved = self.saved()
        groups = {name: self.groups[name] for name in ("generated", "informative", "effective")}
        drawn, informative = self.groups["uniform"], self.groups["uniform_informative"]
        return {
            "rollouts": {
                "generated": self.generated,
                "saved": saved.rollouts,
                "saved_interval": None if saved.rollouts is None else [saved.low, saved.high],
                **breakdowns(self.rollouts),
            },
            "tokens": {
                "generated": self.generated_tokens,
                "trained": self.trained_tokens,
                "prompt": self.prompt_tokens,  # each group's prompt once
                "probed": self.probed_tokens,
                **breakdowns(self.tokens),
            },
            "groups": {
                **groups,
                "effective_ratio": ratio(groups["effective"], groups["generated"]),
                **self.cost(),
                "uniform": {"drawn": drawn, "informative": informative, "rate": ratio(informative, drawn)},
            },
            "prompts": {"seen": self.prompts_seen},
            "evaluation": {unit: self.evaluation[unit] for unit in ("rollouts", "tokens")},
        }

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """JSON. Which rollouts were recorded last is not part of it: a resumed run starts a new step."""
        return {
            "schema_version": SCHEMA_VERSION,
            "group_size": self.group_size,
            "rollouts": [[*pair, n] for pair, n in self.rollouts.items()],
            "tokens": [[*pair, n] for pair, n in self.tokens.items()],
            "evaluation": dict(self.evaluation),
            "groups": dict(self.groups),
            "signal": dict(self.signal),
            "prompt_tokens": self.prompt_tokens,
            "probed_tokens": self.probed_tokens,
            "visits": dict(self.visits),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError when the state is of another version or group size."""
        for name, expected in (("schema_version", SCHEMA_VERSION), ("group_size", self.group_size)):
            if state[name] != expected:
                raise ValueError(f"ledger state has {name} {state[name]}, expected {expected}")
        self.rollouts = Counter({(Origin(a), Outcome(b)): n for a, b, n in state["rollouts"]})
        self.tokens = Counter({(Origin(a), Outcome(b)): n for a, b, n in state["tokens"]})
        self.evaluation = Counter(state["evaluation"])
        self.groups = Counter(state["groups"])
        self.signal = dict(state["signal"])
        self.prompt_tokens = state["prompt_tokens"]
        self.probed_tokens = state.get("probed_tokens", 0)
        self.visits = Counter(state["visits"])
        self._recorded = {}


def breakdowns(counts: Mapping[tuple[Origin, Outcome], int]) -> dict[str, dict[str, int]]:
    """The same counts by outcome and by origin."""
    by_outcome = {outcome.value: 0 for outcome in Outcome}
    by_origin = {origin.value: 0 for origin in TRAINING_ORIGINS}
    for (origin, outcome), n in counts.items():
        by_outcome[outcome.value] += n
        by_origin[origin.value] += n
    return {"by_outcome": by_outcome, "by_origin": by_origin}


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

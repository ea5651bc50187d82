"""The picks of a step, round after round.

A first round of B picks, a small audit share of which is drawn uniformly whatever the estimator says, and
another of which goes to prompts that have waited too long; the rest is the rule's choice (``rules``). With
``refill``, further rounds until B groups are informative. Selection is uniform until the estimator has proved
itself on uniformly drawn groups, and falls back to that when it has gone bad (``gate``).

    step = selector.begin(context)
    picks = selector.pick(step, pool, estimator, groups)       # until that is []
    selector.observe(step, groups)
    trained = selector.assign(step, groups)

Several steps may be open at once. They share what has been observed (gate, visits, yields) and the
pool's position. A step's picks depend on what was observed before they were picked, and on what was
taken from the pool in its order. They do not depend on what else is open: two open steps may hold the same
prompt. Outcomes depend on the step's own groups alone.

Every draw is keyed by (seed, purpose, step, picks already there): no call depends on calls before it.
N: candidates, B: prompts a batch, G: group size, F: features.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from depo.estimators.base import Candidate, Context
from depo.rng import generator
from depo.selection.gate import Calibration, Graded
from depo.selection.open_step import OpenStep
from depo.selection.picks import (
    REVISIT,
    UNIFORM,
    Pool,
    Predictor,
    SelectionSettings,
    as_candidates,
    audited,
    beliefs,
    described,
    next_unused,
    overdue,
    yields,
)
from depo.selection.rules import Considered, InPoolOrder, Rule, build_rule, top
from depo.selection.visits import Visits
from depo.types import Group, Origin, Outcome, Pick, Prompt

SCHEMA_VERSION = 5
LOWEST_YIELD = 1 / 8  # a refill round is at most this many times larger than what is missing

PrefillProbe = Callable[[Sequence[Prompt]], np.ndarray]
"""N prompts → what one prefill of each tells, (N, F)."""


@dataclass(frozen=True)
class Offer:
    """What a round may be made of: places given away beforehand, then the rule's choice of ``candidates``,
    with ``rng`` for its draws. ``used``: keys of all prompts that are not open to choice any more."""

    audit: list[Prompt]
    overdue: list[Prompt]
    candidates: list[Prompt]
    used: Set[str]
    rng: np.random.Generator

    @property
    def prompts(self) -> list[Prompt]:
        return [*self.audit, *self.overdue, *self.candidates]


class Selector:
    """``rule`` None: uniform selection. ``prefill_probe`` is asked about each candidate once a step, None:
    not used. Raises ValueError for a rule with a name that is taken."""

    def __init__(
        self,
        settings: SelectionSettings,
        rule: Rule | None,
        seed: int,
        prefill_probe: PrefillProbe | None = None,
    ) -> None:
        if rule is not None and rule.name in (UNIFORM, REVISIT):
            raise ValueError(f"no rule may be called {rule.name!r}: picks that no rule made are")
        self.settings = settings
        self.rule = rule
        self.seed = seed
        self.calibration = Calibration(
            settings.window, settings.min_window, settings.confidence, settings.graded_on
        )
        # Who picked a group and whether it was informative, audit left out: the yield that sizes refill
        # rounds.
        self._recent: deque[tuple[str, bool]] = deque(maxlen=settings.window)
        self.visits = Visits(settings.fewest_trials)
        self.evicted: set[str] = set()
        self.prefill_probe = prefill_probe
        self.open_steps: list[OpenStep] = []
        """In the order in which they began. A step is closed by ``assign``, once the same groups are observed
        as well: ``assign(step, [])`` gives a step up."""
        self._step = 0  # the latest one observed

    # ---------------------------------------------------------------- picks

    def rule_at(self, step: int) -> str:
        """Who picks in a step that begins now: the rule's name, or "uniform" while the gate is closed and
        during the warm-up."""
        chooses = self.rule is not None and self.calibration.open and step > self.settings.warmup_steps
        return self.rule.name if self.rule is not None and chooses else UNIFORM

    def begin(self, context: Context) -> OpenStep:
        """Open ``context.step``."""
        self.open_steps.append(OpenStep(context, self.rule_at(context.step)))
        return self.open_steps[-1]

    def pick(
        self, step: OpenStep, pool: Pool, estimator: Predictor, done: Sequence[Group] = ()
    ) -> list[Pick]:
        """The next round of this step; [] when the step has what it needs. ``done`` holds the groups of its
        earlier rounds. No prompt is picked twice in a step.

        Raises ValueError when the estimator's beliefs are not probabilities, and for groups of another step.
        """
        done = step.in_request_order(done)
        n = min(self._round_size(step, done), len(pool) - len(step.picks))
        if n <= 0:
            return []
        origin = Origin.REFILL if step.rounds else Origin.SELECTED
        if step.rule == UNIFORM:
            closed = step.used | self.evicted
            if len(pool) - len(closed) < n:
                closed = step.used
            prompts = next_unused(pool, n, closed)
            picks = self._described(step, prompts, estimator, origin, UNIFORM, 1 / len(pool))
        else:
            offer = self._offer(pool, n, step.context.step, step.used, reserve=not step.rounds)
            self._ask_policy(step, offer.prompts)  # about all of them in one call
            propensity = self.settings.audit / len(pool)
            picks = self._described(step, offer.audit, estimator, Origin.AUDIT, UNIFORM, propensity)
            picks += self._described(step, offer.overdue, estimator, origin, REVISIT, math.nan)
            picks += self._chosen(step, offer, pool, n - len(picks), estimator, origin)
        step.rounds += 1
        step.picks += picks
        return picks

    def _round_size(self, step: OpenStep, done: Sequence[Group]) -> int:
        """B at first. Then what is missing by the yield to expect of whoever picks now; at most B: no round
        needs more memory than the first."""
        if not step.rounds:
            return self.settings.batch
        missing = self.settings.batch - sum(group.informative for group in done)
        if missing <= 0 or not self.settings.refill or step.rounds >= self.settings.max_rounds:
            return 0
        return min(math.ceil(missing / self.expected_yield(step.rule, done)), self.settings.batch)

    def expected_yield(self, rule: str, done: Sequence[Group] = ()) -> float:
        """Share of informative groups among recent picks by ``rule``, those in ``done`` included; in [1/8,
        1]."""
        informative = [
            was_informative for who, was_informative in [*self._recent, *yields(done)] if who == rule
        ]
        return max(sum(informative) / len(informative), LOWEST_YIELD) if informative else 1.0

    def _offer(self, pool: Pool, round_size: int, step: int, used: Set[str], reserve: bool) -> Offer:
        """What a round of the rule may be made of, ``used`` apart. ``reserve``: audit and overdue as well."""
        audit: list[Prompt] = []
        late: list[Prompt] = []
        if reserve:
            audit = audited(self.settings, pool, round_size, self.seed, step)
            late = overdue(self.settings, pool, self.visits, round_size, self.seed, step, audit)
            late = late[: round_size - len(audit)]
        used = used | {prompt.key for prompt in [*audit, *late]}
        rng = generator(self.seed, "select", step, index=len(used))
        return Offer(audit, late, self._considered(pool, used, step, rng), used, rng)

    def _considered(self, pool: Pool, used: Set[str], step: int, rng: np.random.Generator) -> list[Prompt]:
        """The candidates of a round. More are drawn for those that the step has already, and for those that
        rest."""
        resting = self._resting(step)
        size = min(self.settings.considered + len(used | resting), len(pool))
        if isinstance(self.rule, InPoolOrder):
            return [prompt for prompt in pool.peek(size) if prompt.key not in used]
        drawn = [prompt for prompt in pool.candidates(size, rng) if prompt.key not in used]
        if resting:
            drawn.sort(key=lambda prompt: prompt.key in resting)  # stable: those that rest only fill up
        return drawn[: self.settings.considered]

    def _resting(self, step: int) -> set[str]:
        """Keys of the prompts to pass over while there are others: those visited within the last ``cooldown``
        steps, and those of which nothing could be verified."""
        resting = self.visits.resting(step) | self.evicted
        if self.settings.cooldown:
            resting |= self.visits.since(step - self.settings.cooldown)
        return resting

    def _chosen(
        self, step: OpenStep, offer: Offer, pool: Pool, n: int, estimator: Predictor, origin: Origin
    ) -> list[Pick]:
        """The n candidates that the rule scores highest, those that rest last."""
        assert self.rule is not None
        prompts, rng = offer.candidates, offer.rng
        candidates = self._ask_policy(step, prompts)
        estimates = beliefs(estimator, candidates, step.context)
        considered = Considered(
            estimates,
            step.context.group_size,
            tokens=lambda: self.visits.tokens(prompts),
            visits=lambda: self.visits.counts(prompts),
        )
        scores_N = np.asarray(self.rule(considered, rng), dtype=np.float64)
        if scores_N.shape != (len(prompts),):
            raise ValueError(
                f"rule {self.rule.name}: expected ({len(prompts)},) scores, found shape {scores_N.shape}"
            )
        resting = self._resting(step.context.step)
        last_N = np.array([prompt.key in resting for prompt in prompts], dtype=bool) if resting else None
        rows = top(scores_N, n, rng, last_N)
        if isinstance(self.rule, InPoolOrder) and (passed := self.rule.passed(scores_N, rows)):
            # Prompts in between that this step had already have had their turn as well.
            ahead = [prompt.key for prompt in pool.peek(min(passed + len(offer.used), len(pool)))]
            pool.next(ahead.index(prompts[passed - 1].key) + 1)
        return described(prompts, candidates, estimates, origin, step.rule, math.nan, rows)

    def _described(
        self,
        step: OpenStep,
        prompts: Sequence[Prompt],
        estimator: Predictor,
        origin: Origin,
        selector: str,
        propensity: float,
    ) -> list[Pick]:
        """All of these prompts as picks, with what is believed about them."""
        candidates = self._ask_policy(step, prompts)
        estimates = beliefs(estimator, candidates, step.context)
        return described(prompts, candidates, estimates, origin, selector, propensity)

    def _ask_policy(self, step: OpenStep, prompts: Sequence[Prompt]) -> list[Candidate]:
        """These as the policy shows them, each asked about once a step."""
        new = [prompt for prompt in prompts if prompt.key not in step.candidates]
        if new:
            features = None if self.prefill_probe is None else self.prefill_probe(new)
            step.candidates |= {candidate.key: candidate for candidate in as_candidates(new, features)}
        return [step.candidates[prompt.key] for prompt in prompts]

    # ---------------------------------------------------------------- outcomes

    def observe(self, step: OpenStep, groups: Sequence[Group]) -> None:
        """Grade the predictions of the uniformly drawn groups, note what the rule's own picks yielded, and
        remember the visits. A step's groups may be observed in several calls.

        Groups with too few scorable rollouts (``fewest_trials``) grade nothing. Raises ValueError for a group
        of another step, and for one that has been observed.
        """
        groups = step.in_request_order(groups)
        for group in groups:
            if group.pick.prompt.key in step.observed:
                raise ValueError(f"the group of prompt {group.pick.prompt.key} has been observed already")
        for group in groups:
            if group.pick.uniform and group.trials >= self.settings.fewest_trials:
                self.calibration.add(
                    Graded(
                        group.pick.predicted_informative,
                        group.pick.predicted_mean,
                        group.successes,
                        group.trials,
                        self.visits.count(group.pick.prompt.key),
                        step.blind,
                    )
                )
        self._recent.extend(yields(groups))
        self.visits.record(groups, step.context.step)
        if self.settings.evict_mastered:
            self.evicted |= {group.pick.prompt.key for group in groups if 0 < group.trials == group.successes}
        step.observed |= {group.pick.prompt.key for group in groups}
        self._step = max(self._step, step.context.step)
        self._close(step)

    def assign(self, step: OpenStep, groups: Sequence[Group], oldest: int = 0) -> list[Group]:
        """Set each group's outcome; returns, in request order, the groups to train on: the first B that are
        informative, whatever order they finished in. Groups with a rollout of a policy version before
        ``oldest`` are stale. Call it once all of the step's groups are there. Raises ValueError for a group
        of another step."""
        groups = step.in_request_order(groups)
        trained: list[Group] = []
        for group in groups:
            if group.trials < self.settings.fewest_trials:
                group.outcome = Outcome.UNSCORABLE
            elif group.policy_version < oldest:
                group.outcome = Outcome.STALE
            elif not group.informative:
                by_variance = self.settings.graded_on == "informative" and not group.mixed
                group.outcome = Outcome.ZERO_VARIANCE if by_variance else Outcome.NEGLIGIBLE
            elif len(trained) == self.settings.batch:
                group.outcome = Outcome.SURPLUS
            else:
                group.outcome = Outcome.TRAINED
                trained.append(group)
        step.assigned = {group.pick.prompt.key for group in groups}
        self._close(step)
        return trained

    def _close(self, step: OpenStep) -> None:
        if step.over:
            self.open_steps = [other for other in self.open_steps if other is not step]

    # ---------------------------------------------------------------- metrics, state

    def metrics(self) -> dict[str, float]:
        """Figures after the latest step observed. ``selection/active`` is 1 while the rule chooses and 0
        while selection is uniform; ``selection/resting`` counts the prompts that a rule passes over for want
        of verdicts. For ``calibration/`` see ``Calibration.metrics``, for ``coverage/`` ``Visits.coverage``.
        """
        rule = self.rule_at(self._step)
        calibration = {f"calibration/{name}": value for name, value in self.calibration.metrics().items()}
        return {
            "selection/active": float(rule != UNIFORM),
            "selection/expected_yield": self.expected_yield(rule),
            "selection/resting": float(len(self.visits.resting(self._step))),
            **calibration,
            **{f"coverage/{name}": value for name, value in self.visits.coverage(self._step).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON, steps that are open included."""
        return {
            "schema_version": SCHEMA_VERSION,
            "calibration": self.calibration.state_dict(),
            "recent": [[rule, bool(informative)] for rule, informative in self._recent],
            "visits": self.visits.state_dict(),
            "evicted": sorted(self.evicted),
            "step": self._step,
            "open_steps": [step.state_dict() for step in self.open_steps],
        }

    def load_state_dict(self, state: Mapping[str, Any], pool: Pool) -> None:
        """``pool`` holds the prompts of open steps, which are in ``open_steps`` afterwards. Raises ValueError
        for the state of another version, and for an open step with a prompt that is not in the pool."""
        if state["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"selector state has schema_version {state['schema_version']}, expected {SCHEMA_VERSION}"
            )
        self.calibration.load_state_dict(state["calibration"])
        self._recent.clear()
        self._recent.extend((rule, bool(informative)) for rule, informative in state["recent"])
        self.visits.load_state_dict(state["visits"])
        self.evicted = set(state["evicted"])
        self._step = int(state["step"])
        prompts = {prompt.key: prompt for prompt in pool.by_key} if state["open_steps"] else {}
        self.open_steps = [OpenStep.from_state(step, prompts) for step in state["open_steps"]]


def build_selector(
    spec: Mapping[str, Any],
    batch: int,
    seed: int,
    prefill_probe: PrefillProbe | None = None,
) -> Selector:
    """The selector that ``spec`` describes, as a recipe's ``selection`` block does.

    ``spec`` is ``{"type": RULE, **options of the rule, **fields of SelectionSettings}``; "uniform" is no
    rule. ``{"type": "plugin", "name": NAME, "options": {…}, …}`` names a rule that the recipe schema does not
    know. ``batch``: prompts of a step. Raises ValueError for a rule or options that do not exist.
    """
    names = {field.name for field in fields(SelectionSettings)}
    settings = SelectionSettings(**{key: value for key, value in spec.items() if key in names}, batch=batch)
    options = {key: value for key, value in spec.items() if key not in names and key != "type"}
    name = str(spec["type"])
    if name == "plugin":
        name, options = str(options["name"]), dict(options.get("options", {}))
    if name == UNIFORM and options:
        raise ValueError(f"uniform selection does not take these options: {', '.join(options)}")
    rule = None if name == UNIFORM else build_rule(name, options)
    return Selector(settings, rule, seed, prefill_probe)

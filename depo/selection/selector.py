"""One step's picks, round after round.

A first round of B picks, a small audit share of which is drawn uniformly whatever the estimator says, and
another of which goes to prompts that have waited too long; the rest is the rule's choice (``rules``). With
``refill``, further rounds until B groups carry signal. Selection is uniform until the estimator has proved
itself on uniformly drawn groups, and falls back to that when it has gone bad (``calibration``).

Every draw is keyed by (seed, purpose, step, groups already there): no call depends on calls before it.
N: candidates, B: prompts a batch, G: group size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from depo.recipe import schema
from depo.rng import generator
from depo.selection.answer_rescoring import AnswerRescoring
from depo.selection.gate import Calibration, Graded
from depo.selection.picks import (
    REVISIT,
    UNIFORM,
    Pool,
    as_candidates,
    audited,
    beliefs,
    described,
    next_unused,
    overdue,
    yields,
)
from depo.selection.rules import RULES, View, top
from depo.selection.visits import Visits
from depo.types import Group, Origin, Outcome, Pick, Prompt
from estimators.base import Candidate, Context, Estimator

SCHEMA_VERSION = 3


LOWEST_YIELD = 1 / 8  # a refill round is at most this many times larger than what is missing


Look = Callable[[Sequence[Prompt]], np.ndarray]
"""N prompts → the prefill probe of them, (N, F)."""


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
    """``look`` and ``recall`` are asked for what the policy shows of the candidates, each once a step: its
    view of the prompt, and what it makes of its earlier answers. None: not used."""

    def __init__(
        self,
        selection: schema.Selection,
        batch: schema.Batch,
        seed: int,
        look: Look | None = None,
        answer_rescoring: AnswerRescoring | None = None,
    ) -> None:
        self.selection = selection
        self.batch = batch
        self.seed = seed
        self.calibration = Calibration(selection.window, selection.min_window, selection.confidence)
        # Who picked a group and whether it was informative, audit left out: the yield that sizes refill
        # rounds.
        self._recent: deque[tuple[str, bool]] = deque(maxlen=selection.window)
        self.visits = Visits()
        self.look = look
        self.answer_rescoring = answer_rescoring
        self._candidates: dict[str, Candidate] = {}  # as the policy saw them in this step
        self._order: dict[str, int] = {}  # prompt key → position among this step's picks
        self._rounds = 0
        self._step = 0

    def rule_at(self, step: int) -> str:
        """Who picks: the rule of the recipe, or "uniform" while the gate is closed and during the warm-up."""
        chooses = self.calibration.open and step > self.selection.warmup_steps
        return self.selection.type if chooses else UNIFORM

    @property
    def rule(self) -> str:
        """Who picks in the current step."""
        return self.rule_at(self._step)

    def pick(self, pool: Pool, estimator: Estimator, context: Context, done: Sequence[Group]) -> list[Pick]:
        """The next round of this step; [] when the step has what it needs. ``done`` holds the groups of the
        step's earlier rounds: none of their prompts is picked again.

        Raises ValueError when the estimator's beliefs are not probabilities.
        """
        if not done:
            self._rounds, self._order, self._candidates = 0, {}, {}
        self._step = context.step
        used = self._order.keys() | {group.pick.prompt.key for group in done}
        n = min(self._round_size(done), len(pool) - len(used))
        if n <= 0:
            return []
        self._rounds += 1
        origin = Origin.REFILL if done else Origin.SELECTED
        if self.rule == UNIFORM:
            prompts = next_unused(pool, n, used)
            picks = self._described(prompts, estimator, context, origin, UNIFORM, 1 / len(pool))
        else:
            offer = self._offer(pool, n, context.step, used, reserve=not done)
            self._look_at(offer.prompts)  # at all of them in one call
            propensity = self.selection.audit / len(pool)
            picks = self._described(offer.audit, estimator, context, Origin.AUDIT, UNIFORM, propensity)
            picks += self._described(offer.overdue, estimator, context, origin, REVISIT, math.nan)
            picks += self._chosen(offer, pool, n - len(picks), estimator, context, origin)
        for pick in picks:
            self._order[pick.prompt.key] = len(self._order)
        return picks

    def preview(self, pool: Pool, step: int) -> list[Candidate]:
        """The candidates whose beliefs ``pick`` will ask for in the first round of ``step``, each once, so
        that an estimator can prepare them while the learner updates; without the prefill probe, which is
        not known before the update. Call it once the step before has been observed: what it says depends
        on the gate and on the visits so far. Changes nothing."""
        n = min(self.batch.prompts, len(pool))
        if self.rule_at(step) == UNIFORM:
            return as_candidates(pool.peek(n))
        return as_candidates(self._offer(pool, n, step, used=set(), reserve=True).prompts)

    def _round_size(self, done: Sequence[Group]) -> int:
        """B at first. Then what is missing by the yield to expect of whoever picks now; at most B, so that
        no round needs more memory than the first."""
        if not done:
            return self.batch.prompts
        missing = self.batch.prompts - sum(group.informative for group in done)
        if missing <= 0 or not self.selection.refill or self._rounds >= self.selection.max_rounds:
            return 0
        return min(math.ceil(missing / self.expected_yield(done)), self.batch.prompts)

    def expected_yield(self, done: Sequence[Group] = ()) -> float:
        """Share of informative groups among the current rule's recent picks, this step's included; in [1/8,
        1]."""
        now = self.rule
        informative = [
            was_informative for rule, was_informative in [*self._recent, *yields(done)] if rule == now
        ]
        return max(sum(informative) / len(informative), LOWEST_YIELD) if informative else 1.0

    def _offer(self, pool: Pool, round_size: int, step: int, used: Set[str], reserve: bool) -> Offer:
        """What a round of the rule may be made of, ``used`` apart. ``reserve``: audit and overdue as well."""
        assert isinstance(self.selection, schema.RuleSelection)
        audit: list[Prompt] = []
        late: list[Prompt] = []
        if reserve:
            audit = audited(self.selection, pool, round_size, self.seed, step)
            late = overdue(self.selection, self.batch, pool, self.visits, round_size, self.seed, step, audit)
            late = late[: round_size - len(audit)]
        used = used | {prompt.key for prompt in [*audit, *late]}
        rng = generator(self.seed, "select", step, index=len(used))
        return Offer(audit, late, self._considered(pool, used, step, rng), used, rng)

    def _chosen(
        self, offer: Offer, pool: Pool, n: int, estimator: Estimator, context: Context, origin: Origin
    ) -> list[Pick]:
        """The n candidates that the rule scores highest, those that rest last."""
        prompts, rng = offer.candidates, offer.rng
        candidates = self._look_at(prompts)
        estimates = beliefs(estimator, candidates, context)
        view = View(
            estimates,
            context.group_size,
            tokens=lambda: self.visits.tokens(prompts),
            visits=lambda: self.visits.counts(prompts),
        )
        scores_N = RULES[self.selection.type](view, self.selection, rng)
        resting = self._resting(context.step)
        last_N = np.array([prompt.key in resting for prompt in prompts], dtype=bool) if resting else None
        rows = top(scores_N, n, rng, last_N)
        if self.selection.type == "skip":
            enough = bool((scores_N[rows] > 1).all())  # of the candidates kept; else all had their turn
            self._pass_over(pool, offer.used, prompts[: rows.max(initial=-1) + 1] if enough else prompts)
        return described(prompts, candidates, estimates, origin, self.selection.type, math.nan, rows)

    def _described(
        self,
        prompts: Sequence[Prompt],
        estimator: Estimator,
        context: Context,
        origin: Origin,
        selector: str,
        propensity: float,
    ) -> list[Pick]:
        """All of these prompts as picks, with what is believed about them."""
        candidates = self._look_at(prompts)
        estimates = beliefs(estimator, candidates, context)
        return described(prompts, candidates, estimates, origin, selector, propensity)

    def _look_at(self, prompts: Sequence[Prompt]) -> list[Candidate]:
        """These as the policy shows them, each looked at once a step."""
        new = [prompt for prompt in prompts if prompt.key not in self._candidates]
        if new:
            features = None if self.look is None else self.look(new)
            rescored = None if self.answer_rescoring is None else self.answer_rescoring(new)
            seen = as_candidates(new, features, rescored)
            self._candidates |= {candidate.key: candidate for candidate in seen}
        return [self._candidates[prompt.key] for prompt in prompts]

    def _considered(self, pool: Pool, used: Set[str], step: int, rng: np.random.Generator) -> list[Prompt]:
        """The candidates of a round. ``skip`` takes the next ones in the pool's order, the others a uniform
        draw. More are drawn for those that the step has already, and for those that rest."""
        assert isinstance(self.selection, schema.RuleSelection)
        resting = self._resting(step)
        size = min(self.selection.candidates + len(used | resting), len(pool))
        if self.selection.type == "skip":
            return [prompt for prompt in pool.peek(size) if prompt.key not in used]
        drawn = [prompt for prompt in pool.candidates(size, rng) if prompt.key not in used]
        if resting:
            drawn.sort(key=lambda prompt: prompt.key in resting)  # stable: those that rest only fill up
        return drawn[: self.selection.candidates]

    def _resting(self, step: int) -> set[str]:
        """Keys of the prompts to pass over while there are others: those visited within the last ``cooldown``
        steps, and those of which nothing could be verified."""
        assert isinstance(self.selection, schema.RuleSelection)
        resting = self.visits.resting(step)
        if self.selection.cooldown:
            resting |= self.visits.since(step - self.selection.cooldown)
        return resting

    def _pass_over(self, pool: Pool, used: Set[str], passed: list[Prompt]) -> None:
        """Move the pool on past these: what ``skip`` skipped has had its turn, as in one of GRESO's epochs,
        and so have prompts in between that this step had already."""
        if passed:
            ahead = [prompt.key for prompt in pool.peek(min(len(passed) + len(used), len(pool)))]
            pool.next(ahead.index(passed[-1].key) + 1)

    def observe(self, groups: Sequence[Group]) -> None:
        """Grade the predictions of the uniformly drawn groups, note what the rule's own picks yielded, and
        remember the visits.

        Groups with fewer than two scorable rollouts grade nothing. Raises ValueError for a group that was
        not picked in this step.
        """
        groups = self._in_request_order(groups)
        for group in groups:
            if group.pick.uniform and group.trials >= 2:
                self.calibration.add(
                    Graded(
                        group.pick.predicted_informative,
                        group.pick.predicted_mean,
                        group.successes,
                        group.trials,
                        self.visits.count(group.pick.prompt.key),
                    )
                )
        self._recent.extend(yields(groups))
        self.visits.record(groups, self._step)
        if self.answer_rescoring is not None:
            self.answer_rescoring.remember(groups)

    def assign(self, groups: Sequence[Group]) -> list[Group]:
        """Set each group's outcome; returns, in request order, the groups to train on: the first B with
        signal, whatever order they finished in. Raises ValueError for a group not picked in this step."""
        trained: list[Group] = []
        for group in self._in_request_order(groups):
            if group.trials < 2:
                group.outcome = Outcome.UNSCORABLE
            elif not group.informative:
                group.outcome = Outcome.ZERO_VARIANCE
            elif len(trained) == self.batch.prompts:
                group.outcome = Outcome.SURPLUS
            else:
                group.outcome = Outcome.TRAINED
                trained.append(group)
        return trained

    def _in_request_order(self, groups: Sequence[Group]) -> list[Group]:
        strangers = [group.pick.prompt.key for group in groups if group.pick.prompt.key not in self._order]
        if strangers:
            raise ValueError(f"prompt {strangers[0]} was not picked in this step")
        return sorted(groups, key=lambda group: self._order[group.pick.prompt.key])

    def metrics(self) -> dict[str, float]:
        """``selection/active`` is 1 while the rule chooses and 0 while selection is uniform;
        ``selection/resting`` counts the prompts that a rule passes over for want of verdicts. For
        ``calibration/`` see ``Calibration.metrics``, for ``coverage/`` ``Visits.coverage``."""
        calibration = {f"calibration/{name}": value for name, value in self.calibration.metrics().items()}
        return {
            "selection/active": float(self.rule != UNIFORM),
            "selection/expected_yield": self.expected_yield(),
            "selection/resting": float(len(self.visits.resting(self._step))),
            **calibration,
            **{f"coverage/{name}": value for name, value in self.visits.coverage(self._step).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON, taken between two steps: what is kept within a step is not part of it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "calibration": self.calibration.state_dict(),
            "recent": [[rule, bool(informative)] for rule, informative in self._recent],
            "visits": self.visits.state_dict(),
            "recall": None if self.answer_rescoring is None else self.answer_rescoring.state_dict(),
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"selector state has schema_version {state['schema_version']}, expected {SCHEMA_VERSION}"
            )
        self.calibration.load_state_dict(state["calibration"])
        self._recent.clear()
        self._recent.extend((rule, bool(informative)) for rule, informative in state["recent"])
        self.visits.load_state_dict(state["visits"])
        if self.answer_rescoring is not None:
            self.answer_rescoring.load_state_dict(state["recall"] or {})  # null: resumed from a run without
        self._step = int(state["step"])
        self._rounds, self._order, self._candidates = 0, {}, {}

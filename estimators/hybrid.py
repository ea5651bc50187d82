"""Difficulty as item response theory in motion: what a prompt is like, and how far the policy has come.

A prompt is out of the policy's reach, or the logit of its pass rate at policy step t is

    z_i(t) + D(t)

where z_i says how easy the prompt is and D, the policy's *ability*, is shared by all prompts: one number to
learn from every revisit. A belief is weights on a grid of z and on *never* (`LogitGrid`). Four things are
learned, online, from counts of k successes in n trials:

1. *Population.* How z is distributed over prompts nobody has tried: a histogram fitted to first visits
   (`Population`). Most pools have two humps, which no Beta prior has.
2. *Prior.* What is known of a prompt beforehand (its text, a pass rate recorded elsewhere) becomes a pass
   rate m_i by regression (`PromptPrior`), and tilts the population by exp(w · (m_i − m̄) · z): as w rollouts
   at the rate m_i instead of the average m̄ would. How many rollouts it is worth is inferred (`ModelAverage`).
3. *History.* Each group multiplies its binomial likelihood into the prompt's belief. Between visits the
   belief spreads as a random walk, at a rate inferred from revisits (`Movement`).
4. *Ability.* D goes on at its recent pace, corrected to where the revisited prompts' outcomes are most
   likely, held back by a random-walk prior (Holt's linear trend with a likelihood in the middle).

The prefill probe of a prompt (``features``) moves its belief. Answer rescoring (``rescored``) bounds its pass
rate. Neither is ever out of date, as a history is when the policy learns fast. A history counts as far as it
holds beside them (`Today`).

What a selector needs (mean, p_informative, draws) are sums over the grid. Why one D for all: in a recorded
training run prompts of every difficulty but the very hardest moved by 0.6 to 0.8 logits in 28 visits.

Shapes: N candidates or groups, M grid points, V visited prompts, W prior worths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Context, Estimates, Observation, State, joined, part, tally
from estimators.first_visits import Population, PromptPrior, text_head
from estimators.logit_grid import SPACING, LogitGrid, Movement, normalised
from estimators.moments import informative_probability, require_group_size
from estimators.online_learning import ModelAverage
from estimators.today import Before, Today, was_asked

SCHEMA_VERSION = 5
PRIOR_WORTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # rollouts
TILT_LOGITS = 4.0  # beyond, a prior says no more than "very easy" or "very hard"
NEWTON_STEPS = 5
POPULATION_WINDOW = 1024  # first visits
NEVER = 0.05  # what the prior gives to prompts out of reach, as odds
TREND_GAIN = 0.1  # share of a correction of D that changes its pace
TREND_STEPS = 10  # a trend is not drawn out further than this
FAR = 3.0  # logits of ability, beyond which the grid is moved


class HybridEstimator:
    """See the module's docstring for the model, `depo.recipe.schema.HybridEstimator` for the settings."""

    def __init__(
        self,
        text: str = "ngrams",
        text_model: str | None = None,
        history: bool = True,
        drift: bool = True,
        ability_step: float = 0.03,
        memory: float = 3000.0,
        noise: float = 0.0005,
        seed: int = 0,
    ) -> None:
        if not ability_step > 0:
            raise ValueError(f"ability_step must be positive, found {ability_step}")
        self.history = history
        self.drift = drift
        self.ability_step = float(ability_step)
        self.grid = LogitGrid(noise)
        rate_M = self.grid.rates()
        base_M = np.sqrt(rate_M * (1 - rate_M))
        base_M[0] = NEVER * base_M.sum()
        self.population = Population(base_M, weight=4.0, window=POPULATION_WINDOW)
        self.prior = PromptPrior(text_head(text, text_model, seed), memory)
        self.worth = ModelAverage(PRIOR_WORTHS, memory)
        self.movement = Movement(self.grid, memory)
        self.today = Today(self.grid, memory)
        self.ability = 0.0  # as the grid counts it …
        self.origin = 0.0  # … from this much since the start
        self.trend = 0.0  # of ability, logits per policy step
        self._ability_moved_at = 0
        self._row: dict[str, int] = {}
        self._belief_VM = np.zeros((0, len(self.grid)), dtype=np.float32)  # with room to grow
        self._visited_at_V = np.zeros(0, dtype=np.int64)
        self._revisited_V = np.zeros(0, dtype=bool)
        self._prepared: dict[str, np.ndarray] = {}  # beliefs (M,) by key …
        self._prepared_for = 0  # … at this step

    # ---------------------------------------------------------------- belief

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """Beliefs about N candidates at ``context.step``. Raises ValueError for a prior outside [0, 1]."""
        group_size = require_group_size(context.group_size)
        before = self._before_asking(candidates, context.step)
        belief_NM = self.today.updated(before, candidates, self._outcomes(group_size), self.ability)
        return self._estimates(belief_NM, group_size)

    def prepare(self, candidates: Sequence[Candidate], step: int) -> None:
        """Work out beforehand what is believed of these at ``step``; kept until something new is learned."""
        keys = [candidate.key for candidate in candidates]
        self._prepared = dict(zip(keys, self._worked_out(candidates, step), strict=True))
        self._prepared_for = step

    def _before_asking(self, prompts: Sequence[Candidate | Observation], step: int) -> Before:
        again = [i for i, one in enumerate(prompts) if one.key in self._row and was_asked(one)]
        stranger_KM = self._strangers([prompts[i] for i in again])
        return Before(self._beliefs(prompts, step), np.array(again, dtype=np.int64), stranger_KM)

    def _beliefs(self, candidates: Sequence[Candidate | Observation], step: int) -> np.ndarray:
        """(N, M), without the prefill probe: prepared where that was done for this step, else worked out."""
        prepared = self._prepared if self._prepared_for == step else {}
        missing = iter(self._worked_out([one for one in candidates if one.key not in prepared], step))
        rows = [prepared[one.key] if one.key in prepared else next(missing) for one in candidates]
        return np.array(rows).reshape(-1, len(self.grid))

    def _worked_out(self, candidates: Sequence[Candidate | Observation], step: int) -> np.ndarray:
        """(N, M): a prompt's history, else the population tilted by what is known of the prompt."""
        belief_NM = np.empty((len(candidates), len(self.grid)))
        row_N = np.array([self._row.get(candidate.key, -1) for candidate in candidates], dtype=np.int64)
        again_N = row_N >= 0
        if again_N.any():
            belief_NM[again_N] = self._belief_now(row_N[again_N], step)
        if not again_N.all():
            belief_NM[~again_N] = self._strangers([candidates[i] for i in np.flatnonzero(~again_N).tolist()])
        return belief_NM

    def _strangers(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """(N, M): the population tilted by what is known of a prompt beforehand."""
        tilt_NM = self._tilt(self.prior.pass_rate(prompts), self.worth.mean)
        return normalised(self.population.histogram_M * tilt_NM)

    def _estimates(self, belief_NM: np.ndarray, group_size: int) -> Estimates:
        rate_M = self.grid.rates(self.ability)
        functions_M5 = np.column_stack([rate_M, rate_M**2, self._outcomes(group_size)])
        mean_N, square_N, wrong_N, informative_N, right_N = (belief_NM @ functions_M5).T
        return Estimates(
            mean=np.clip(mean_N, 0.0, 1.0),
            sd=np.sqrt(np.maximum(square_N - mean_N**2, 0.0)),
            p_informative=np.clip(informative_N, 0.0, 1.0),
            p_all_wrong=np.clip(wrong_N, 0.0, 1.0),
            p_all_right=np.clip(right_N, 0.0, 1.0),
            sample=lambda rng: self.grid.draw(belief_NM, rng, self.ability),
        )

    def _belief_now(self, row_N: np.ndarray, step: int) -> np.ndarray:
        """Beliefs (N, M) about visited prompts, after the walk since their last visit."""
        elapsed_N = np.maximum(step - self._visited_at_V[row_N], 0)
        last_NM = self._belief_VM[row_N].astype(np.float64)
        return normalised(self.movement.spread(last_NM, elapsed_N, self.ability))

    def _tilt(self, pass_rate_N: np.ndarray, worth: float) -> np.ndarray:
        """What w = ``worth`` rollouts at the rate m instead of m̄ say about z: (N, M), up to a factor."""
        logit_M = np.append(-TILT_LOGITS, self.grid.points_L + self.ability).clip(-TILT_LOGITS, TILT_LOGITS)
        exponent_NM = np.outer(worth * (pass_rate_N - self.prior.mean), logit_M)
        return np.exp(exponent_NM - exponent_NM.max(axis=1, initial=0.0, keepdims=True))

    # ---------------------------------------------------------------- learning

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """Learn from finished groups; the order they come in does not matter.

        Raises ValueError for impossible counts, before anything is learned.
        """
        counts = tally(observations)
        first_of = {observation.key: observation for observation in reversed(observations)}
        self._learn_from_today([first_of[key] for key in sorted(counts)], counts, context)
        self._prepared = {}
        again = [key for key in sorted(counts) if key in self._row]
        first = [key for key in sorted(counts) if key not in self._row]
        if again:
            self._learn_from_revisits(again, np.array([counts[key] for key in again]), context.step)
        if first:
            seen = [first_of[key] for key in first]
            self._learn_from_first_visits(seen, np.array([counts[key] for key in first]), context.step)
        self._recentre()
        return {
            "prompts_visited": float(len(self._row)),
            "ability": self.origin + self.ability,
            "walk_variance": self.movement.variance,
            "escape_rate": self.movement.escape,
            "never": float(self.population.histogram_M[0]),
            "prior_worth": self.worth.mean,
            "history_trust": self.today.history.mean,
            "probe_trust": self.today.view.trust.mean,
            "known_trust": self.today.known.trust.mean,
        }

    def _outcomes(self, group_size: int) -> np.ndarray:
        """P(all wrong, informative, all right | state), (M, 3), for groups of ``group_size``."""
        rate_M = self.grid.rates(self.ability)
        wrong_M, right_M = (1.0 - rate_M) ** group_size, rate_M**group_size
        return np.column_stack([wrong_M, informative_probability(rate_M, group_size), right_M])

    def _learn_from_today(
        self, observations: Sequence[Observation], counts: dict[str, tuple[int, int]], context: Context
    ) -> None:
        """Compare what the policy showed of whole groups with what came out; fewer verdicts make another
        kind of outcome."""
        group_size = context.group_size
        asked = [one for one in observations if was_asked(one) and counts[one.key][1] == group_size]
        if not asked:
            return
        before = self._before_asking(asked, context.step)
        successes_N, trials_N = np.array([counts[one.key] for one in asked]).T
        self.today.observe(before, asked, self._outcomes(group_size), self.ability, successes_N, trials_N)

    def _learn_from_revisits(self, keys: list[str], counts_N2: np.ndarray, step: int) -> None:
        successes_N, trials_N = counts_N2.T
        row_N = np.array([self._row[key] for key in keys])
        before_NM = self._belief_now(row_N, step)
        if self.drift:
            self._move_ability(before_NM, successes_N, trials_N, step)
        likelihood_NM = self.grid.likelihood(successes_N, trials_N, self.ability)

        self.movement.revisit(keys, likelihood_NM, step, self.ability)
        self._belief_VM[row_N] = normalised(before_NM * likelihood_NM)
        self._visited_at_V[row_N] = step
        self._revisited_V[row_N] = True

    def _move_ability(
        self, belief_NM: np.ndarray, successes_N: np.ndarray, trials_N: np.ndarray, step: int
    ) -> None:
        """The most likely D given these outcomes, by Newton's method.

        log posterior(D) = Σ_i log Σ_z belief_i(z) L_i(z + D) − (D − D_before)² / 2τ², with τ growing as the
        square root of the steps since the last move. The slope is taken as if no verdict were wrong and all
        states moved with D. At the grid's ends, and for *never*, that is too much: where all that is seen is
        all wrong, D drifts, by some −7 in 1,000 steps.
        """
        elapsed = max(step - self._ability_moved_at, 1)
        variance = self.ability_step**2 * elapsed
        self._ability_moved_at = step
        self.ability += self.trend * min(elapsed, TREND_STEPS)
        before = self.ability
        for _ in range(NEWTON_STEPS):
            rate_M = self.grid.rates(self.ability)
            posterior_NM = normalised(belief_NM * self.grid.likelihood(successes_N, trials_N, self.ability))
            residual_NM = successes_N[:, None] - trials_N[:, None] * rate_M
            score_N = (posterior_NM * residual_NM).sum(axis=1)
            binomial_N = trials_N * (posterior_NM @ (rate_M * (1.0 - rate_M)))
            missing_N = (posterior_NM * residual_NM**2).sum(axis=1) - score_N**2
            # Louis (1982): observed = complete − missing information; kept positive far from the maximum.
            information = max(float((binomial_N - missing_N).sum()), 0.1 * float(binomial_N.sum()))
            slope = float(score_N.sum()) - (self.ability - before) / variance
            self.ability += float(np.clip(slope / (information + 1.0 / variance), -0.5, 0.5))
        self.trend += TREND_GAIN * (self.ability - before) / elapsed

    def _recentre(self) -> None:
        """Keep the grid where the pass rates are: ability that has grown beyond `FAR` becomes part of what
        prompts are like. No pass rate changes by that, but for those at the grid's ends."""
        if abs(self.ability) < FAR:
            return
        points = round(self.ability / SPACING)
        self.ability -= points * SPACING
        self.origin += points * SPACING
        self.population.recentre(self.grid, points)
        self.movement.recentre(points)
        self._belief_VM = self.grid.moved(self._belief_VM, points)

    def _learn_from_first_visits(
        self, observations: list[Observation], counts_N2: np.ndarray, step: int
    ) -> None:
        successes_N, trials_N = counts_N2.T
        likelihood_NM = self.grid.likelihood(successes_N, trials_N, self.ability)
        pass_rate_N = self.prior.pass_rate(observations)
        population_M = self.population.histogram_M
        self.worth.score(
            np.column_stack(
                [
                    (normalised(population_M * self._tilt(pass_rate_N, worth)) * likelihood_NM).sum(axis=1)
                    for worth in self.worth.values_S
                ]
            )
        )
        keys = [observation.key for observation in observations]
        tilt_NM = self._tilt(pass_rate_N, self.worth.mean)
        self.population.observe(keys, likelihood_NM, tilt_NM)
        self.prior.fit(observations, successes_N, trials_N)
        if not self.history:
            return
        for key in keys:
            self._row[key] = len(self._row)
        self._grow(len(self._row))
        new_N = [self._row[key] for key in keys]
        self._visited_at_V[new_N] = step
        # The population remembers its newest visits alone: of a large step, not all.
        self._belief_VM[new_N] = normalised(self.population.histogram_M * tilt_NM * likelihood_NM)
        self._see_first_visits_anew()
        self.movement.first_visit(keys, self._belief_VM[new_N].astype(np.float64), step)

    def _see_first_visits_anew(self) -> None:
        """Prompts visited once so far are believed to be what today's population makes of that visit."""
        once = [
            (i, self._row[key])
            for i, key in enumerate(self.population.keys)
            if key in self._row and not self._revisited_V[self._row[key]]
        ]
        if once:
            remembered, rows = (list(column) for column in zip(*once, strict=True))
            self._belief_VM[rows] = self.population.posteriors()[remembered]

    def _grow(self, rows: int) -> None:
        if rows > len(self._belief_VM):
            room = max(2 * rows, 64) - len(self._belief_VM)
            self._belief_VM = np.pad(self._belief_VM, ((0, room), (0, 0)))
            self._visited_at_V = np.pad(self._visited_at_V, (0, room))
            self._revisited_V = np.pad(self._revisited_V, (0, room))

    # ---------------------------------------------------------------- state

    def state_dict(self) -> State:
        """Everything learned; settings belong to the recipe."""
        visited = len(self._row)
        parts = {
            "population": self.population.state_dict(),
            "prior": self.prior.state_dict(),
            "worth": self.worth.state_dict(),
            "movement": self.movement.state_dict(),
            "today": self.today.state_dict(),
        }
        own = State(
            schema_version=SCHEMA_VERSION,
            values={
                "keys": list(self._row),
                "ability": self.ability,
                "origin": self.origin,
                "trend": self.trend,
                "ability_moved_at": self._ability_moved_at,
            },
            arrays={
                "beliefs": self._belief_VM[:visited].copy(),
                "visited_at": self._visited_at_V[:visited].copy(),
                "revisited": self._revisited_V[:visited].copy(),
            },
        )
        return joined(own, parts)

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its parts do not fit together."""
        state.require_version(SCHEMA_VERSION, "hybrid estimator")
        self._prepared = {}
        keys = state.values["keys"]
        belief_VM = np.array(state.arrays["beliefs"], dtype=np.float32)
        if not isinstance(keys, list) or belief_VM.shape != (len(keys), len(self.grid)):
            raise ValueError(
                "hybrid estimator: state needs a list of keys and beliefs of shape "
                f"(keys, {len(self.grid)}), found {belief_VM.shape}"
            )
        self._row = {key: row for row, key in enumerate(keys)}
        self._belief_VM = belief_VM
        self._visited_at_V = np.array(state.arrays["visited_at"], dtype=np.int64)
        self._revisited_V = np.array(state.arrays["revisited"], dtype=bool)
        self.ability = float(str(state.values["ability"]))
        self.origin = float(str(state.values["origin"]))
        self.trend = float(str(state.values["trend"]))
        self._ability_moved_at = int(str(state.values["ability_moved_at"]))
        self.population.load_state_dict(part(state, "population"))
        self.prior.load_state_dict(part(state, "prior"))
        self.worth.load_state_dict(part(state, "worth"))
        self.movement.load_state_dict(part(state, "movement"))
        self.today.load_state_dict(part(state, "today"))

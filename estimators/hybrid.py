"""What is believed of a prompt: what its pool is like, tilted by what is known of it, times what it showed.

Let z be the logit of a prompt's pass rate p. By Bayes' rule, with x_i what is known of prompt i before any
rollout (text, a recorded pass rate, the prefill probe of today's policy), and S_i successes and F_i failures,

    belief_i(z)  ∝  population(z) · tilt_i(z) · p(z)^S_i (1 − p(z))^F_i

on a grid of logits, and a point apart for prompts out of reach altogether, *never*. Where each factor comes
from:

1. *Counts* grow old, for the policy learns. At each policy step they keep e^(−1/span) of themselves.
2. *Tilt.* One regression (`PromptRegression`) says from x_i which pass rate m_i to expect, and which spread
   v_i = 4 p (1 − p); m̄ and v̄ on average. Of all ways to tilt a population by the two, an exponential family
   assumes least, and it reads like counts, a successes and b failures (which may be negative):

       tilt_i(z) = p(z)^a (1 − p(z))^b       a, b = w ((v_i − v̄) ± (m_i − m̄))

   Without the spread it would be w rollouts at the rate m_i instead of m̄.

3. *Span and w* are not set but learned. Every group is first predicted, with every pair of them, and each
   pair is scored by the probability it gave to the counts. Beliefs are averaged over pairs by their posterior
   (`ModelAverage`). So a text that tells nothing gets no say, and a policy that stands still forgets nothing.
   First visits and revisits have a posterior each: beside counts, a regression is worth less than alone.
4. *Population.* The histogram under which the latest groups are most likely, by EM. A group was chosen for
   what was known of its prompt, k_i(z) = tilt · old counts, so the sample is biased; Vardi's estimate (Annals
   of Statistics 13, 1985) takes that out:

       population(z) ∝ Σ_i responsibility_i(z) / Σ_i k_i(z) / Z_i          Z_i = Σ_z population(z) · k_i(z)

   with responsibility_i ∝ population · k_i · likelihood_i, which adds up to 1. As the policy learns, the
   population moves up, and with it all prompts whose counts have grown old: drift needs no other model.

What a selector and a baseline need (mean, sd, p_informative, draws) are sums over the grid.

Shapes: N candidates or groups, M grid points, *never* first, V visited prompts, R spans, S pairs (w, span), W
latest groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, joined, part, tally
from depo.estimators.moments import informative_probability, require_group_size
from depo.estimators.regression import PromptRegression

SCHEMA_VERSION = 7
LOGITS, SPACING = 8.0, 0.4
TILT_LOGITS = 4.0  # beyond, a regression says no more than "very easy" or "very hard"
SPANS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0, np.inf)  # policy steps
WORTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # rollouts
STEPS = 4  # policy steps whose groups the population is fitted to; but to
LATEST, WINDOW = 256, 1024  # so many groups at least, and at most
EM_ROUNDS = 5  # steps towards the fit at each call
START = 4.0  # groups that the population before any visit counts for
NEVER = 0.05  # what that gives to prompts out of reach, as odds
NEGLIGIBLE = 0.01  # posterior weight below which a pair is left out of an average


class ModelAverage:
    """Which of S pairs (w, row of `SPANS`) predicts best; groups fade with ``memory``."""

    def __init__(self, pairs: Sequence[tuple[float, int]], memory: float) -> None:
        self.worth_S = np.array([worth for worth, _ in pairs])
        self.span_S = np.array([span for _, span in pairs])
        self.memory = memory
        self.score_S = np.zeros(len(pairs))

    @property
    def weight_S(self) -> np.ndarray:
        """The posterior, negligible ones at 0; equal before the first group."""
        weight_S = np.exp(self.score_S - self.score_S.max())
        weight_S[weight_S < NEGLIGIBLE * weight_S.max()] = 0.0
        return weight_S / weight_S.sum()

    def add(self, probability_NS: np.ndarray) -> None:
        """Probabilities that every pair gave to N outcomes, up to a factor for each outcome."""
        self.score_S *= np.exp(-len(probability_NS) / self.memory)
        self.score_S += np.log(np.maximum(probability_NS, np.finfo(float).tiny)).sum(axis=0)


class HybridEstimator:
    """See the module's docstring for the model, `depo.recipe.schema.HybridEstimator` for the settings."""

    def __init__(
        self,
        text: str = "ngrams",
        text_model: str | None = None,
        memory: float = 3000.0,
        noise: float = 0.0005,
        seed: int = 0,
    ) -> None:
        if not 0 < noise < 0.5:
            raise ValueError(f"noise must lie in (0, 0.5), found {noise}")
        logit = np.arange(-LOGITS, LOGITS + SPACING / 2, SPACING)
        self.noise = noise
        self.logit_M = np.append(-np.inf, logit)
        self.rate_M = self.observed(np.append(0.0, 1.0 / (1.0 + np.exp(-logit))))
        self.log_2M = np.stack([np.log(self.rate_M), np.log1p(-self.rate_M)])  # of right and wrong
        tilting_M = 1.0 / (1.0 + np.exp(-self.logit_M.clip(-TILT_LOGITS, TILT_LOGITS)))
        self.tilting_2M = np.stack([np.log(tilting_M), np.log1p(-tilting_M)])
        self.regression = PromptRegression(text, text_model, memory, seed)
        self.first = ModelAverage([(worth, 0) for worth in WORTHS], memory)  # without counts, spans are alike
        self.again = ModelAverage(list(product(WORTHS, range(len(SPANS)))), memory)
        start_M = np.sqrt(self.rate_M * (1.0 - self.rate_M))
        start_M[0] = NEVER * start_M.sum()
        self.start_M = START * normalised(start_M)
        self.population_M = normalised(start_M)
        self._latest_W2M = np.zeros((0, 2, len(start_M)), dtype=np.float32)  # known beforehand, likelihood
        self._latest_at_W = np.zeros(0, dtype=np.int64)  # step
        self._row: dict[str, int] = {}
        self._counts_VR2 = np.zeros((0, len(SPANS), 2))  # with room to grow
        self._visited_at_V = np.zeros(0, dtype=np.int64)

    def observed(self, rate: np.ndarray) -> np.ndarray:
        """Rates at which verdicts come out right when one in 1 / noise is wrong: one wrong verdict cannot
        contradict a belief beyond repair."""
        return self.noise + (1.0 - 2.0 * self.noise) * rate

    # ---------------------------------------------------------------- belief

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        """Beliefs about N candidates at ``context.step``. Raises ValueError for a prior outside [0, 1]."""
        group_size = require_group_size(context.group_size)
        belief_NM = self.beliefs(candidates, context.step)
        rate_M = self.rate_M
        functions = [
            rate_M,
            rate_M**2,
            (1.0 - rate_M) ** group_size,
            informative_probability(rate_M, group_size),
            rate_M**group_size,
        ]
        mean_N, square_N, wrong_N, informative_N, right_N = (belief_NM @ np.column_stack(functions)).T
        return Estimates(
            mean=np.clip(mean_N, 0.0, 1.0),
            sd=np.sqrt(np.maximum(square_N - mean_N**2, 0.0)),
            p_informative=np.clip(informative_N, 0.0, 1.0),
            p_all_wrong=np.clip(wrong_N, 0.0, 1.0),
            p_all_right=np.clip(right_N, 0.0, 1.0),
            sample=partial(self.draw, np.cumsum(belief_NM, axis=1)),
        )

    def beliefs(self, candidates: Sequence[Candidate | Observation], step: int) -> np.ndarray:
        """(N, M)"""
        belief_NM = np.zeros((len(candidates), len(self.rate_M)))
        for average, rows in self._visits(candidates):
            deviation_N2, counts_NR2 = self._told([candidates[i] for i in rows], step)
            for s in np.flatnonzero(average.weight_S):
                known_NM = self._known(average.worth_S[s] * deviation_N2, counts_NR2[:, average.span_S[s]])
                belief_NM[rows] += average.weight_S[s] * normalised(self.population_M * known_NM)
        return belief_NM

    def _visits(self, prompts: Sequence[Candidate | Observation]) -> list[tuple[ModelAverage, np.ndarray]]:
        """Rows of those not visited before, and of the others, each with the pairs that go for them."""
        again_N = np.array([prompt.key in self._row for prompt in prompts], dtype=bool)
        both = ((self.first, np.flatnonzero(~again_N)), (self.again, np.flatnonzero(again_N)))
        return [(average, rows) for average, rows in both if len(rows)]

    def _told(self, prompts: Sequence[Candidate | Observation], step: int) -> tuple[np.ndarray, np.ndarray]:
        """(m − m̄, v − v̄), (N, 2), and the counts as they are worth at ``step``, (N, R, 2)."""
        counts_NR2 = np.zeros((len(prompts), len(SPANS), 2))
        rows = np.array([self._row.get(prompt.key, -1) for prompt in prompts], dtype=np.int64)
        elapsed_N = np.maximum(step - self._visited_at_V[rows[rows >= 0]], 0)
        kept_NR = np.exp(-elapsed_N[:, None] / np.array(SPANS))
        counts_NR2[rows >= 0] = self._counts_VR2[rows[rows >= 0]] * kept_NR[:, :, None]
        return self.regression.predict(prompts) - self.regression.mean_2, counts_NR2

    def _known(self, tilt_N2: np.ndarray, counts_N2: np.ndarray) -> np.ndarray:
        """What is known of prompts apart from the population, (N, M): tilt times likelihood, at most 1."""
        rate_N, spread_N = tilt_N2.T
        pseudo_N2 = np.column_stack([spread_N + rate_N, spread_N - rate_N])
        log_NM = pseudo_N2 @ self.tilting_2M + counts_N2 @ self.log_2M
        return np.exp(log_NM - log_NM.max(axis=1, keepdims=True))

    def draw(self, cumulated_NM: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A pass rate from each belief, (N,), by cumulated weights: a point, then anywhere in its cell."""
        threshold_N = rng.random(len(cumulated_NM)) * cumulated_NM[:, -1]
        point_N = np.minimum((cumulated_NM <= threshold_N[:, None]).sum(axis=1), len(self.rate_M) - 1)
        logit_N = self.logit_M[point_N] + (rng.random(len(cumulated_NM)) - 0.5) * SPACING
        return self.observed(1.0 / (1.0 + np.exp(-logit_N)))

    # ---------------------------------------------------------------- learning

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """Learn from finished groups; the order they come in does not matter.

        Raises ValueError for impossible counts, before anything is learned.
        """
        counts = tally(observations)
        first_of = {observation.key: observation for observation in reversed(observations)}
        groups = [first_of[key] for key in sorted(counts)]
        if groups:
            counts_N2 = np.array([counts[group.key] for group in groups], dtype=np.float64)
            counts_N2[:, 1] -= counts_N2[:, 0]  # right and wrong
            self._learn(groups, counts_N2, context.step)
        span_S = np.exp(-1.0 / np.array(SPANS))[self.again.span_S]
        return {
            "prompts_visited": float(len(self._row)),
            "never": float(self.population_M[0]),
            "first_worth": float(self.first.weight_S @ self.first.worth_S),
            "worth": float(self.again.weight_S @ self.again.worth_S),
            "count_kept": float(self.again.weight_S @ span_S),
        }

    def _learn(self, groups: Sequence[Observation], counts_N2: np.ndarray, step: int) -> None:
        likelihood_NM = self._known(np.zeros((len(groups), 2)), counts_N2)
        known_NM = np.empty_like(likelihood_NM)
        before_NR2 = np.empty((len(groups), len(SPANS), 2))
        for average, rows in self._visits(groups):
            deviation_N2, before_NR2[rows] = self._told([groups[i] for i in rows], step)
            probability_NS = np.empty((len(rows), len(average.worth_S)))
            for s, (worth, span) in enumerate(zip(average.worth_S, average.span_S, strict=True)):
                joint_NM = self.population_M * self._known(worth * deviation_N2, before_NR2[rows, span])
                probability_NS[:, s] = (normalised(joint_NM) * likelihood_NM[rows]).sum(axis=1)
            average.add(probability_NS)
            counted_N2 = np.einsum("s,nsc->nc", average.weight_S, before_NR2[rows][:, average.span_S])
            known_NM[rows] = self._known((average.weight_S @ average.worth_S) * deviation_N2, counted_N2)
        self._fit_population(np.stack([known_NM, likelihood_NM], axis=1), step)
        self.regression.fit(groups, counts_N2[:, 0], counts_N2.sum(axis=1))
        for group in groups:
            self._row.setdefault(group.key, len(self._row))
        if (room := 2 * len(self._row) - len(self._visited_at_V)) > len(self._row):
            self._counts_VR2 = np.pad(self._counts_VR2, ((0, room), (0, 0), (0, 0)))
            self._visited_at_V = np.pad(self._visited_at_V, (0, room))
        rows_N = [self._row[group.key] for group in groups]
        self._counts_VR2[rows_N] = before_NR2 + counts_N2[:, None, :]
        self._visited_at_V[rows_N] = step

    def _fit_population(self, new_N2M: np.ndarray, step: int) -> None:
        """See point 4 of the module's docstring."""
        at_W = np.append(self._latest_at_W, np.full(len(new_N2M), step))
        window = min(max(LATEST, int((at_W > step - STEPS).sum())), WINDOW)
        self._latest_at_W = at_W[-window:]
        self._latest_W2M = np.concatenate([self._latest_W2M, new_N2M], dtype=np.float32)[-window:]
        known_WM, likelihood_WM = self._latest_W2M[:, 0], self._latest_W2M[:, 1]
        for _ in range(EM_ROUNDS):
            prior_WM = self.population_M * known_WM
            responsible_M = normalised(prior_WM * likelihood_WM).sum(axis=0)
            sampled_M = (known_WM / prior_WM.sum(axis=1, keepdims=True)).sum(axis=0)
            self.population_M = normalised((self.start_M + responsible_M) / (START + sampled_M))

    # ---------------------------------------------------------------- state

    def state_dict(self) -> State:
        """Everything learned; settings belong to the recipe."""
        visited = len(self._row)
        own = State(
            schema_version=SCHEMA_VERSION,
            values={"keys": list(self._row)},
            arrays={
                "counts": self._counts_VR2[:visited].copy(),
                "visited_at": self._visited_at_V[:visited].copy(),
                "population": self.population_M.copy(),
                "latest": self._latest_W2M.copy(),
                "latest_at": self._latest_at_W.copy(),
                "first": self.first.score_S.copy(),
                "again": self.again.score_S.copy(),
            },
        )
        return joined(own, {"regression": self.regression.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its parts do not fit together."""
        state.require_version(SCHEMA_VERSION, "hybrid estimator")
        keys, counts_VR2 = state.values["keys"], np.array(state.arrays["counts"], dtype=np.float64)
        if not isinstance(keys, list) or counts_VR2.shape != (len(keys), len(SPANS), 2):
            raise ValueError(
                "hybrid estimator: state needs a list of keys and counts of shape "
                f"(keys, {len(SPANS)}, 2), found {counts_VR2.shape}"
            )
        self.regression.load_state_dict(part(state, "regression"))
        self._row = {key: row for row, key in enumerate(keys)}
        self._counts_VR2 = counts_VR2
        self._visited_at_V = np.array(state.arrays["visited_at"], dtype=np.int64)
        self.population_M = np.array(state.arrays["population"], dtype=np.float64)
        self._latest_W2M = np.array(state.arrays["latest"], dtype=np.float32)
        self._latest_at_W = np.array(state.arrays["latest_at"], dtype=np.int64)
        self.first.score_S = np.array(state.arrays["first"], dtype=np.float64)
        self.again.score_S = np.array(state.arrays["again"], dtype=np.float64)


def normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)

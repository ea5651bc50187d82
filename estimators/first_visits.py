"""What is believed of a prompt before anyone has tried it: how easy prompts of this pool are (`Population`),
and what is known of this one (`PromptPrior`). Both are learned from first visits.

Shapes: N first visits, W of them remembered, M states, C = 3 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Observation, State, joined, part, recorded_rate
from estimators.logit_grid import LogitGrid, normalised
from estimators.online_learning import OnlineRidge
from estimators.text_head import HashedNgramHead, TextHead

POPULATION_VERSION, PRIOR_VERSION = 1, 2
EM_ROUNDS = 20
RIDGE_PENALTY = 20.0  # rows of an average prompt


class Population:
    """How easy the prompts of a pool are: a histogram, by nonparametric empirical Bayes.

    It is fitted by EM so that it explains the counts of recent first visits, each seen through its binomial
    noise. Selection makes these a biased sample: prompts whose tilt (what is known of them beforehand)
    promises signal are visited sooner. With prior_i ∝ population · tilt_i the maximum-likelihood histogram
    under such biased sampling is Vardi's (Annals of Statistics 13, 1985); without tilts this is ordinary EM:

        population(z) ∝ Σ_i responsibility_i(z) / Σ_i tilt_i(z) / Z_i      Z_i = Σ_z population(z) · tilt_i(z)

    ``base_M`` (M,) is the histogram before any visit, worth ``weight`` visits; the newest ``window`` first
    visits count.
    """

    def __init__(self, base_M: np.ndarray, weight: float, window: int) -> None:
        if not (weight > 0 and window > 0):
            raise ValueError(f"weight and window must be positive, found {weight} and {window}")
        self.base_M = weight * normalised(base_M)
        self.weight = weight
        self.window = window
        self.keys: list[str] = []
        self._likelihood_WM = np.zeros((0, len(base_M)), dtype=np.float32)
        self._tilt_WM = np.zeros((0, len(base_M)), dtype=np.float32)
        self.histogram_M = normalised(self.base_M)

    def observe(self, keys: Sequence[str], likelihood_NM: np.ndarray, tilt_NM: np.ndarray) -> None:
        """Learn from N first visits; both arrays (N, M), each row up to a factor."""
        self.keys = [*self.keys, *keys][-self.window :]
        self._likelihood_WM = np.concatenate([self._likelihood_WM, likelihood_NM], dtype=np.float32)
        self._tilt_WM = np.concatenate([self._tilt_WM, tilt_NM], dtype=np.float32)
        self._likelihood_WM = self._likelihood_WM[-self.window :]
        self._tilt_WM = self._tilt_WM[-self.window :]
        likelihood_WM, tilt_WM = self._likelihood_WM, self._tilt_WM
        for _ in range(EM_ROUNDS):
            prior_WM = self.histogram_M * tilt_WM
            responsibility_M = normalised(prior_WM * likelihood_WM).sum(axis=0)
            sampled_M = (tilt_WM / prior_WM.sum(axis=1, keepdims=True)).sum(axis=0)
            self.histogram_M = normalised((self.base_M + responsibility_M) / (self.weight + sampled_M))

    def recentre(self, grid: LogitGrid, points: int) -> None:
        """Place every prompt ``points`` grid points further up."""
        self.histogram_M = grid.moved(self.histogram_M[None], points)[0]
        self._likelihood_WM = grid.seen_from(self._likelihood_WM, points)
        self._tilt_WM = grid.seen_from(self._tilt_WM, points)

    def posteriors(self) -> np.ndarray:
        """What is believed about the remembered prompts after their first visit, in the light of today's
        histogram: (W, M), in the order of ``keys``."""
        return normalised(self.histogram_M * self._tilt_WM * self._likelihood_WM)

    def state_dict(self) -> State:
        return State(
            POPULATION_VERSION,
            values={"keys": list(self.keys)},
            arrays={
                "likelihood": self._likelihood_WM.copy(),
                "tilt": self._tilt_WM.copy(),
                "histogram": self.histogram_M.copy(),
            },
        )

    def load_state_dict(self, state: State) -> None:
        keys = state.values["keys"]
        assert isinstance(keys, list)
        self.keys = list(keys)
        self._likelihood_WM = np.array(state.arrays["likelihood"], dtype=np.float32)
        self._tilt_WM = np.array(state.arrays["tilt"], dtype=np.float32)
        self.histogram_M = np.array(state.arrays["histogram"], dtype=np.float64)


class PromptPrior:
    """What is known of a prompt beforehand, as one pass rate.

    Two sources, each optional: the prompt's text, read by ``head``, and a pass rate recorded elsewhere
    (``Candidate.prior``). A ridge regression on first visits weighs them against each other. It always sees a
    head's prediction from *before* that head learned the outcome: so it learns what the text is worth on
    prompts not seen yet, and an overfitted head gets little weight.
    """

    def __init__(self, head: TextHead | None, memory: float) -> None:
        self.head = head
        self.regression = OnlineRidge(RIDGE_PENALTY, memory)

    @property
    def mean(self) -> float:
        """Pass rate of an average prompt at its first visit."""
        return self.regression.mean

    def pass_rate(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """Predicted pass rates (N,) in [0, 1].

        Raises ValueError for a recorded pass rate outside [0, 1].
        """
        if not prompts:
            return np.zeros(0)
        return self.regression.predict(self._columns(prompts))

    def fit(self, prompts: Sequence[Observation], successes_N: np.ndarray, trials_N: np.ndarray) -> None:
        """Learn from first visits: the regression first, then the text head whose prediction it used."""
        self.regression.fit(self._columns(prompts), successes_N / trials_N)
        if self.head is not None:
            self.head.fit(prompts)

    def _columns(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """(N, C): text head's pass rate, recorded pass rate, whether there is one."""
        text_N = np.full(len(prompts), 0.5)
        if self.head is not None:
            text_N = self.head.pass_rate(
                [prompt.text for prompt in prompts], [prompt.key for prompt in prompts]
            )
        recorded = [recorded_rate(prompt) for prompt in prompts]
        recorded_N = np.array([0.5 if rate is None else rate for rate in recorded])
        known_N = np.array([float(rate is not None) for rate in recorded])
        return np.column_stack([text_N, recorded_N, known_N])

    def state_dict(self) -> State:
        own = State(PRIOR_VERSION, arrays={"moments": self.regression.moments_KK.copy()})
        return own if self.head is None else joined(own, {"text": self.head.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state belongs to another kind of text head."""
        self.regression.set_moments(np.array(state.arrays["moments"], dtype=np.float64))
        if self.head is not None:
            self.head.load_state_dict(part(state, "text"))


def text_head(kind: str, model: str | None, seed: int) -> TextHead | None:
    """``none``, ``ngrams`` (numpy only), or ``encoder``: ``model``, frozen, with all other repairs.

    Raises ValueError for another kind, and for an encoder that is missing or not to be loaded.
    """
    if kind == "none":
        return None
    if kind == "ngrams":
        return HashedNgramHead(seed=seed)
    if kind == "encoder" and model is not None:
        from estimators.depo import EncoderHead  # torch and transformers
        from estimators.encoder_options import encoder_options

        # Frozen: each text is read once, and on recorded pass rates fine-tuning added next to nothing
        # (benchmarks/log/estimators.md).
        return EncoderHead(encoder_options("repaired", {"model": model, "seed": seed, "frozen": True}))
    raise ValueError(
        f"text must be ngrams, none, or encoder together with text_model; found {kind!r} and "
        f"text_model {model!r}"
    )
